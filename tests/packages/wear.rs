//! What a commit costs the card.

use std::time::Duration;

use fieldpost_tests::wear::{Case, on_loop};

use crate::settings;

/// docs/wear.md rests on it. 5.8 kB were measured; pages of 4 KiB instead of 1 need 8.7.
const BYTES_PER_COMMIT_MAX: f64 = 8.0 * 1024.0;

#[test]
fn a_commit_of_one_reading_writes_less_than_8_kib_to_the_block_device() -> anyhow::Result<()> {
    // A commit for each reading, many in a short time.
    let commit_interval = "50ms".to_owned();
    let case = Case { rate: 10.0, commit_interval, mount: "relatime".to_owned() };
    let worn = on_loop(settings().programs, &case, Duration::from_secs(30))?;
    println!("{} bytes for {} commits: {:.0} each", worn.bytes, worn.readings, worn.per_reading());
    assert!(worn.readings >= 100, "{worn:?}");
    assert!(worn.per_reading() < BYTES_PER_COMMIT_MAX, "{worn:?}");
    Ok(())
}
