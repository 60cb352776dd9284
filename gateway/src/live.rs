//! The newest values of each source, for `devices/<id>/live/<source>`.
//!
//! Not durable and not counted: a dashboard's picture. It stays current behind any backlog,
//! since it never passes through the outbox.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fieldpost_protocol::Metrics;

use crate::serial::Measured;

/// Sources that are kept; beyond it a new one shows only when the gateway starts anew.
const SOURCES_MAX: usize = 256;

#[derive(Debug)]
struct Newest {
    boot_ms: i64,
    metrics: Metrics,
    fresh: bool,
}

/// Shared by the intake, which updates, and the driver, which publishes.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Mutex<BTreeMap<Arc<str>, Newest>>>);

impl Live {
    /// Takes what was just measured.
    pub fn update(&self, readings: &[Measured]) {
        let mut newest = self.0.lock().expect("nobody panics while holding it");
        for reading in readings {
            if newest.len() >= SOURCES_MAX && !newest.contains_key(&reading.source) {
                continue;
            }
            let value =
                Newest { boot_ms: reading.boot_ms, metrics: reading.metrics.clone(), fresh: true };
            newest.insert(reading.source.clone(), value);
        }
    }

    /// What has changed since the last call: source, CLOCK_BOOTTIME milliseconds, values.
    pub fn take(&self) -> Vec<(Arc<str>, i64, Metrics)> {
        let mut newest = self.0.lock().expect("nobody panics while holding it");
        let mut fresh = Vec::new();
        for (source, value) in newest.iter_mut() {
            if std::mem::take(&mut value.fresh) {
                fresh.push((source.clone(), value.boot_ms, value.metrics.clone()));
            }
        }
        fresh
    }
}
