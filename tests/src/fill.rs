//! Fills an outbox with the gateway's own code.

use std::path::Path;

use fieldpost_demo::world::DEVICE;
use fieldpost_gateway::clock::Now;
use fieldpost_gateway::outbox::{Outbox, Settings, WhenFull};
use fieldpost_gateway::serial::Measured;
use fieldpost_protocol::Metrics;

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
