//! Fills an outbox with the gateway's own code.

use std::path::Path;

use fieldpost_demo::world::DEVICE;
use fieldpost_gateway::clock::Now;
use fieldpost_gateway::outbox::{Outbox, Settings, WhenFull};
use fieldpost_gateway::serial::Measured;
use fieldpost_protocol::Metrics;

use crate::series::series;

/// Opens an outbox of the demo's device, with the shipped defaults but for its size.
///
/// # Errors
/// An outbox that cannot be opened.
pub fn open(path: &Path, size_bytes_max: u64, now: Now) -> anyhow::Result<Outbox> {
    let settings = Settings {
        path: path.to_owned(),
        device: DEVICE.parse()?,
        retention_age_ms: 7 * 86_400_000,
        retention_bytes: 64_000_000,
        size_bytes_max,
        when_full: WhenFull::Refuse,
        recorder: false,
    };
    Ok(Outbox::open(settings, now)?.0)
}

/// Fills an outbox with so many readings of a series, a thousand to a commit.
///
/// # Errors
/// An outbox that cannot be written.
pub fn backlog(path: &Path, readings: u64) -> anyhow::Result<()> {
    let now = Now::read();
    let mut outbox = open(path, 1_000_000_000, now)?;
    let rows: Vec<Measured> = series("room", 1_000)
        .into_iter()
        .map(|reading| Measured {
            source: reading.source,
            boot_ms: now.boot_ms + reading.offset_ms,
            metrics: reading.metrics,
        })
        .collect();
    for _ in 0..readings / 1_000 {
        outbox.append(&rows, &[], now)?;
    }
    Ok(outbox.close()?)
}

/// Fills an outbox of so many bytes until it refuses, with what no column can compress.
/// Returns how many readings that took.
///
/// # Errors
/// An outbox that cannot be written.
pub fn until_full(path: &Path, size_bytes_max: u64) -> anyhow::Result<usize> {
    let now = Now::read();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut filled = 0;
    // Each start seals the tail of the one before, which makes a little room.
    loop {
        let mut outbox = open(path, size_bytes_max, now)?;
        let before = filled;
        for (group, metrics) in [(100, 20), (1, 20), (1, 1)] {
            loop {
                let rows: Vec<Measured> =
                    (0..group).map(|_| noise(&mut rng, metrics, now.boot_ms)).collect();
                let appended = outbox.append(&rows, &[], now)?;
                filled += appended.readings;
                if appended.refused_full > 0 {
                    break;
                }
            }
        }
        outbox.close()?;
        if filled - before < 10 {
            return Ok(filled);
        }
    }
}

fn noise(rng: &mut fastrand::Rng, metrics: usize, boot_ms: i64) -> Measured {
    let metrics = (0..metrics).map(|i| (format!("m{i}").into(), rng.i64(..).into())).collect();
    let metrics = Metrics::new(metrics).expect("different names");
    Measured { source: "noise".into(), boot_ms, metrics }
}
