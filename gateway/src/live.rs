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

/// Metrics that one message shows of a source, or nearly; with more, the newest line's alone.
const METRICS_MAX: usize = 256;

#[derive(Debug)]
struct Newest {
    boot_ms: i64,
    metrics: Metrics,
    fresh: bool,
}

/// The newer values, and those of the older ones that they lack.
fn over(older: &Metrics, newer: Metrics) -> Metrics {
    let lacking = |name: &str| newer.get(name).is_none();
    let mut kept = older.iter().filter(|(name, _)| lacking(name)).peekable();
    if kept.peek().is_none() || older.len() >= METRICS_MAX {
        return newer;
    }
    let both = kept.chain(newer.iter()).map(|(name, value)| (name.clone(), value.clone()));
    Metrics::new(both.collect()).unwrap_or(newer)
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
            let (boot_ms, mut metrics) = (reading.boot_ms, reading.metrics.clone());
            // A source may say its metrics on several lines.
            if let Some(before) = newest.get(&reading.source).filter(|before| before.fresh) {
                metrics = over(&before.metrics, metrics);
            }
            newest.insert(reading.source.clone(), Newest { boot_ms, metrics, fresh: true });
        }
    }

    /// What was measured since the last call: source, CLOCK_BOOTTIME milliseconds of its newest line, the
    /// newest value of each metric.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(source: &str, boot_ms: i64, json: &str) -> Measured {
        let metrics = Metrics::from_json(json).unwrap();
        Measured { source: source.into(), boot_ms, metrics }
    }

    #[test]
    fn several_lines_of_a_source_are_one_picture_until_it_was_shown() {
        let live = Live::default();
        live.update(&[measured("room", 1, r#"{"co2":400,"temp":20}"#)]);
        live.update(&[measured("room", 2, r#"{"hum":80}"#), measured("room", 3, r#"{"temp":21}"#)]);
        let picture = |json| vec![("room".into(), 3, Metrics::from_json(json).unwrap())];
        assert_eq!(live.take(), picture(r#"{"co2":400,"hum":80,"temp":21}"#));
        assert_eq!(live.take(), []);
        // What is not said any more is not shown for ever.
        live.update(&[measured("room", 3, r#"{"temp":22}"#)]);
        assert_eq!(live.take(), picture(r#"{"temp":22}"#));
    }

    #[test]
    fn names_without_end_are_no_picture() {
        let live = Live::default();
        for no in 0..10 * METRICS_MAX {
            live.update(&[measured("room", 1, &format!(r#"{{"m{no}":1}}"#))]);
        }
        assert!(live.take()[0].2.len() <= METRICS_MAX);
    }
}
