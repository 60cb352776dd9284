//! What is desired of devices, on its way to `config/desired`: retained there, all of it again on each
//! connection, since a broker may have lost what it kept; and once more where a device begins to report
//! another version: somebody else has published there. One that still reports what it did when this was
//! set is not there, or about to take it.

use std::collections::BTreeMap;
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
use crate::store::sqlite::{DesiredTable, Report};

/// How soon the bridge sees what a person has set.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Each so many looks, what devices report is held against what is desired: two who disagree about a device
/// turn it about no faster.
const COMPARED_EVERY: u32 = 30;
/// Read at a time, and held at most.
const READ_MAX: u32 = 64;

type Ready = (DeviceId, Vec<u8>);
/// The version that was desired of each device at the last look, and the one that it reported.
type Seen = BTreeMap<DeviceId, (u64, String)>;

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
    let (mut looks, mut seen) = (0u32, Seen::new());
    while stopped.recv_timeout(LOOK_AFTER) == Err(sync::RecvTimeoutError::Timeout) {
        if again.swap(false, Ordering::Relaxed) {
            change = 0;
        }
        let mut passed = pass(path, &mut table, &mut change, sender);
        looks = looks.wrapping_add(1);
        if let (Ok(true), Some(table), true) =
            (&passed, &table, looks.is_multiple_of(COMPARED_EVERY))
        {
            passed = compare(table, &mut seen, sender);
        }
        match passed {
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
        none => none.insert(DesiredTable::open_beside(path).map_err(|error| error.to_string())?),
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

/// Hands on what a device has begun not to report. What is seen for the first time has just been handed
/// on; so has what was set since the last look, and its device may be about to report it.
fn compare(
    table: &DesiredTable,
    seen: &mut Seen,
    sender: &mpsc::Sender<Ready>,
) -> Result<bool, String> {
    let all = table.reports().map_err(|error: StoreError| error.to_string())?;
    let mut now = Seen::new();
    for Report { device, desired, reports, differs } in all {
        let (reports, is_new) = match seen.get(&device) {
            None => (reports, false),
            // Held against that report at the next look.
            Some((set_before, reported)) if *set_before != desired => (reported.clone(), false),
            Some((_, reported)) => {
                let has_changed = *reported != reports;
                (reports, has_changed && differs)
            }
        };
        now.insert(device.clone(), (desired, reports));
        if !is_new {
            continue;
        }
        let desired = table.get(&device).map_err(|error: StoreError| error.to_string())?;
        let Some(desired) = desired else { continue };
        tracing::warn!(
            %device, version = desired.version,
            "it reports another version than is desired; has somebody published there? It is published again"
        );
        if sender.blocking_send((device, desired.to_json().into_bytes())).is_err() {
            return Ok(false);
        }
    }
    *seen = now;
    Ok(true)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::store::sqlite::SqliteStore;

    /// How many locks the kernel knows on a file, and on the index of its log.
    fn locks(path: &Path) -> usize {
        let index = path.with_extension("db-shm");
        let inodes = [path, &index].map(|file| format!(":{} ", file.metadata().unwrap().ino()));
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().filter(|line| inodes.iter().any(|inode| line.contains(inode))).count()
    }

    #[test]
    fn looking_beside_the_bridge_gives_up_none_of_its_locks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("storage.db");
        SqliteStore::init(&path, None, 0).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        store.identity().unwrap();
        let held = locks(&path);
        assert!(held >= 2, "one on the file and one on the index of its log: {held}");
        let (mut table, mut change) = (None, 0);
        let (sender, _ready) = mpsc::channel(8);
        for _ in 0..2 {
            assert_eq!(pass(&path, &mut table, &mut change, &sender), Ok(true));
            assert_eq!(locks(&path), held);
        }
        drop(table);
        assert_eq!(locks(&path), held);
    }

    /// A storage of one device, and what a look at it hands on.
    struct Bench {
        _folder: tempfile::TempDir,
        table: DesiredTable,
        db: rusqlite::Connection,
        seen: Seen,
        sender: mpsc::Sender<Ready>,
        ready: mpsc::Receiver<Ready>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("storage.db");
            SqliteStore::init(&path, None, 0).unwrap();
            let table = DesiredTable::open_to_set(&path).unwrap();
            let db = rusqlite::Connection::open(&path).unwrap();
            db.execute("INSERT INTO device (id, first_seen) VALUES ('pi-1', 0)", []).unwrap();
            let (sender, ready) = mpsc::channel(8);
            Bench { _folder: folder, table, db, seen: Seen::new(), sender, ready }
        }

        /// Returns its version.
        fn set(&mut self) -> u64 {
            let config = |_, _: Option<&_>| Ok::<_, StoreError>(Default::default());
            self.table.change(&"pi-1".parse().unwrap(), 0, config).unwrap().version
        }

        fn look(&mut self, reports: Option<&str>) -> Option<String> {
            self.db.execute("UPDATE device SET reported = ?1", [reports]).unwrap();
            assert_eq!(compare(&self.table, &mut self.seen, &self.sender), Ok(true));
            self.ready.try_recv().ok().map(|(_, payload)| String::from_utf8(payload).unwrap())
        }
    }

    #[test]
    fn what_a_device_begins_to_report_otherwise_is_published_once_more_and_each_time_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.look(Some(r#"{"version": 3}"#)), None, "nothing is desired");
        assert_eq!(bench.set(), 4);
        let desired = Some(r#"{"config":{},"version":4}"#.to_owned());
        for (json, sent) in [
            (Some(r#"{"version": 4, "state": "trial"}"#), false),
            (Some(r#"{"version": 99, "state": "kept"}"#), true),
            (Some(r#"{"version": 99, "state": "kept", "why": []}"#), false),
            (Some(r#"{"version": null, "state": "refused"}"#), true),
            (Some(r#"{"version": 4, "state": "kept"}"#), false),
            (Some(r#"{"version": 99}"#), true),
            (None, false),
            (Some("[1]"), true),
            (Some("{"), false),
        ] {
            assert_eq!(bench.look(json), desired.clone().filter(|_| sent), "{json:?}");
        }
    }

    #[test]
    fn what_was_just_set_is_not_taken_for_what_somebody_else_has_published() {
        let mut bench = Bench::new();
        let (none, seven) = (Some(r#"{"version": null}"#), Some(r#"{"version": 7}"#));
        bench.set();
        assert_eq!(bench.look(none), None, "the first that is set, of a device that is away");
        assert_eq!(bench.look(none), None);
        assert_eq!(bench.look(Some(r#"{"version": 1}"#)), None);
        // It is away again, and much is set.
        for _ in 0..3 {
            bench.set();
            assert_eq!(bench.look(Some(r#"{"version": 1}"#)), None);
            assert_eq!(bench.look(Some(r#"{"version": 1}"#)), None);
        }
        // It takes one, and at the look the next is on its way.
        bench.db.execute("UPDATE desired SET version = 7", []).unwrap();
        assert_eq!(bench.look(seven), None);
        assert_eq!(bench.set(), 8);
        assert_eq!(bench.look(seven), None);
        assert_eq!(bench.look(Some(r#"{"version": 8}"#)), None);
        // Somebody publishes right after it: at the next look.
        assert_eq!(bench.set(), 9);
        let other = Some(r#"{"version": 2}"#);
        assert_eq!(bench.look(other), None);
        assert_eq!(bench.look(other), Some(r#"{"config":{},"version":9}"#.to_owned()));
        assert_eq!(bench.look(other), None);
    }
}
