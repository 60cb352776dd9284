//! What is desired of devices, on its way to `config/desired`: retained there, all of it again on each
//! connection, since a broker may have lost what it kept.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as sync;
use std::thread::JoinHandle;
use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_protocol::{DeviceId, Topic};
use tokio::sync::mpsc;

use super::{Driver, Sent};
use crate::store::StoreError;
use crate::store::sqlite::DesiredTable;

/// How soon the bridge sees what a person has set.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Read at a time, and held at most.
const READ_MAX: u32 = 64;

type Ready = (DeviceId, Vec<u8>);

/// A thread that reads what was set since, and never writes.
pub(crate) struct DesiredThread {
    ready: mpsc::Receiver<Ready>,
    /// The connection did not take it yet.
    waits: Option<Ready>,
    again: Arc<AtomicBool>,
    stop: sync::Sender<()>,
    thread: JoinHandle<()>,
}

impl DesiredThread {
    /// Starts it on a storage that is there.
    pub(crate) fn start(storage: &Path) -> std::io::Result<Self> {
        let (sender, ready) = mpsc::channel(READ_MAX as usize);
        let (stop, stopped) = sync::channel();
        let again = Arc::new(AtomicBool::new(false));
        let (path, from_start) = (storage.to_owned(), again.clone());
        let run = move || read(&path, &sender, &from_start, &stopped);
        let thread = std::thread::Builder::new().name("desired".into()).spawn(run)?;
        Ok(DesiredThread { ready, waits: None, again, stop, thread })
    }

    /// Ends it, if there is one. Before the storage closes, which folds its log only for its last user.
    pub(crate) fn end(of: Option<DesiredThread>) {
        let Some(DesiredThread { ready, stop, thread, .. }) = of else { return };
        drop((stop, ready));
        let _ = thread.join();
    }
}

fn read(
    path: &Path,
    sender: &mpsc::Sender<Ready>,
    again: &AtomicBool,
    stopped: &sync::Receiver<()>,
) {
    let (mut table, mut change, mut failed) = (None, 0, None);
    while stopped.recv_timeout(LOOK_AFTER) == Err(sync::RecvTimeoutError::Timeout) {
        if again.swap(false, Ordering::Relaxed) {
            change = 0;
        }
        match pass(path, &mut table, &mut change, sender) {
            Ok(true) => failed = None,
            Ok(false) => return,
            Err(why) => {
                table = None;
                if failed.as_ref() != Some(&why) {
                    tracing::error!("what is desired of devices cannot be read: {why}");
                }
                failed = Some(why);
            }
        }
    }
}

/// Hands on all that was set since. `false` where nobody listens.
fn pass(
    path: &Path,
    table: &mut Option<DesiredTable>,
    change: &mut i64,
    sender: &mpsc::Sender<Ready>,
) -> Result<bool, String> {
    let table = match table {
        Some(table) => table,
        none => none.insert(DesiredTable::open(path).map_err(|error| error.to_string())?),
    };
    loop {
        let rows = table.after(*change, READ_MAX).map_err(|error: StoreError| error.to_string())?;
        if rows.is_empty() {
            return Ok(true);
        }
        for (at, device, desired) in rows {
            *change = at;
            if sender.blocking_send((device, desired.to_json().into_bytes())).is_err() {
                return Ok(false);
            }
        }
    }
}

impl Driver {
    /// With what is desired of devices.
    pub(crate) fn with_desired(mut self, desired: DesiredThread) -> Self {
        self.desired = Some(desired);
        self
    }

    /// Another connection to the broker: all of it again.
    pub(super) fn desire_again(&self) {
        if let Some(desired) = &self.desired {
            desired.again.store(true, Ordering::Relaxed);
        }
    }

    /// Publishes what is ready, until the connection takes no more.
    pub(super) fn flush_desired(&mut self) {
        let Some(mut desired) = self.desired.take() else { return };
        while let Some((device, payload)) =
            desired.waits.take().or_else(|| desired.ready.try_recv().ok())
        {
            let topic = Topic::ConfigDesired(device.clone());
            point!("send.desired.before");
            let sent = self.publish(&topic, payload.clone(), true);
            point!("send.desired.after");
            match sent {
                Sent::Taken => tracing::info!(%device, "its desired configuration is published"),
                Sent::NotNow => {
                    desired.waits = Some((device, payload));
                    break;
                }
                Sent::Never(error) => {
                    tracing::error!(%device, "its desired configuration cannot be published: {error}")
                }
            }
        }
        self.desired = Some(desired);
    }
}
