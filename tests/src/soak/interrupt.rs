//! Ctrl-C and its kin: the first asks for an end with a verdict, a second one for an end at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Asked twice: the soak ends where it stands, and cleans up.
#[derive(Debug)]
pub(super) struct Twice;

impl std::fmt::Display for Twice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted twice")
    }
}

impl std::error::Error for Twice {}

/// How often somebody has asked.
pub(super) struct Interrupts(Arc<AtomicU32>);

impl Interrupts {
    /// Takes over SIGINT, SIGTERM and SIGHUP: none of them may leave programs or a folder behind.
    pub(super) fn watch() -> anyhow::Result<Interrupts> {
        let times = Arc::new(AtomicU32::new(0));
        let count = times.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut int, mut term, mut hup) = {
            let _guard = runtime.enter();
            let of = |kind| signal(kind).context("taking over a signal");
            (of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?)
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = int.recv() => {}
                        _ = term.recv() => {}
                        _ = hup.recv() => {}
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        })?;
        Ok(Interrupts(times))
    }

    /// Once or more.
    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// For waits that may be long.
    ///
    /// # Errors
    /// [`Twice`].
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) > 1 { Err(Twice.into()) } else { Ok(()) }
    }
}
