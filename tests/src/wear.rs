//! What a gateway writes to its card: counted by the kernel at the block device, below the file
//! system and its journal.
//!
//! ```text
//! board -> gateway -> outbox.db on ext4 on a loop device    <- sectors written are counted here
//!             \-> broker -> bridge, on another disk: sync acks come, old segments are let go
//! ```

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use fieldpost_demo::world::{Programs, Settings};

use crate::disk::Disk;
use crate::rig::{Rig, SOON, pass};

/// The kernel counts in these, whatever the device has (Documentation/block/stat.rst).
const SECTOR_BYTES: u64 = 512;
/// After the start, before it is counted.
const SETTLE: Duration = Duration::from_secs(5);
/// More than SQLite's log holds before it begins again from its start (1,000 pages of 1 KiB).
const LOG_BYTES: i64 = 1_500_000;
/// Short, so that what is let go is part of what is measured: with the default of seven days the same
/// comes a week later.
const RETENTION: &str = "5m";
const DISK_MIB: u32 = 64;
const MB: f64 = 1e6;
const DAY: f64 = 86_400.0;

/// Runs a gateway with a simulated board, a broker and a bridge, and counts what reaches the block
/// device under the outbox.
///
/// Without --dir each case gets an ext4 of its own on a loop device (takes root), and all run at the
/// same time. With --dir they run one after the other, and whatever else writes to that device is
/// counted, too: the minute before tells how much that is.
#[derive(Debug, Parser)]
#[command(name = "wear", bin_name = "scripts/wear")]
struct Cli {
    /// How long each case runs.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Readings a second; several, with commas.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    rate: Vec<f64>,
    /// [outbox] commit_interval; several, with commas.
    #[arg(long, value_delimiter = ',', default_value = "1s,10s,60s")]
    commit_interval: Vec<String>,
    /// Mount options of the loop devices; give it again for several.
    #[arg(long, default_values_t = ["relatime".to_owned()])]
    mount: Vec<String>,
    /// A folder on the card that is meant.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What is measured at once.
#[derive(Debug, Clone)]
pub struct Case {
    /// Readings a second.
    pub rate: f64,
    /// `[outbox] commit_interval`.
    pub commit_interval: String,
    /// Mount options.
    pub mount: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Worn {
    /// How long it was counted.
    pub time: Duration,
    /// Readings accepted meanwhile.
    pub readings: u64,
    /// Bytes written to the device meanwhile.
    pub bytes: u64,
}

impl Worn {
    /// Bytes written for a reading.
    pub fn per_reading(&self) -> f64 {
        self.bytes as f64 / self.readings.max(1) as f64
    }

    /// 1,000,000 bytes written in a day that goes on like this.
    pub fn mb_per_day(&self) -> f64 {
        self.bytes as f64 / MB / self.time.as_secs_f64() * DAY
    }
}

/// Measures one case on a loop device of its own.
///
/// # Errors
/// Without root, and when the programs do not run.
pub fn on_loop(programs: Programs, case: &Case, time: Duration) -> anyhow::Result<Worn> {
    let disk = Disk::with_options(DISK_MIB, &case.mount)?;
    in_folder(programs, case, time, &disk.path())
}

fn in_folder(programs: Programs, case: &Case, time: Duration, dir: &Path) -> anyhow::Result<Worn> {
    let mut settings = Settings::new(programs);
    settings.outbox_dir = Some(dir.to_owned());
    settings.gateway.push(("outbox", format!("commit_interval = \"{}\"", case.commit_interval)));
    settings.gateway.push(("outbox", format!("retention_age = \"{RETENTION}\"")));
    // Its own readings would be commits of their own.
    settings.gateway.push(("system", "enabled = false".to_owned()));
    let mut rig = Rig::new(settings)?;
    rig.start(case.rate)?;
    rig.wait_accepting()?;
    stretch_log(&rig.world.outbox())?;
    pass(SETTLE);
    let (begun, lines, before) = (Instant::now(), rig.ledger.len(), bytes_written(dir)?);
    pass(time);
    let (took, bytes) = (begun.elapsed(), bytes_written(dir)? - before);
    let readings = rig.ledger.len() - lines;
    // A run that lost something measures something else.
    let found = rig.drain()?;
    ensure!(
        found.missing == 0 && found.stored() == rig.ledger.len(),
        "not all is stored: {found:?}"
    );
    Ok(Worn { time: took, readings, bytes })
}

/// Makes the outbox's log as long as it gets. While it grows, each commit also writes its new size to
/// the file system's journal, 13 KiB more; that ends after some hundred commits of a gateway's life, at
/// one a minute after hours.
fn stretch_log(outbox: &Path) -> anyhow::Result<()> {
    let conn = rusqlite::Connection::open(outbox)?;
    conn.busy_timeout(SOON)?;
    conn.execute_batch(&format!(
        "CREATE TABLE stretch (x); INSERT INTO stretch VALUES (zeroblob({LOG_BYTES})); DROP TABLE stretch;"
    ))?;
    Ok(conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?)
}

/// Bytes written so far to the device that holds a folder.
///
/// # Errors
/// Where the folder's file system is on no block device.
pub fn bytes_written(dir: &Path) -> anyhow::Result<u64> {
    let device = std::fs::metadata(dir)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = format!("/sys/dev/block/{major}:{minor}/stat");
    let text = std::fs::read_to_string(&stat)
        .with_context(|| format!("reading {stat}: {} is on no block device", dir.display()))?;
    let sectors = text.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
    Ok(sectors.with_context(|| format!("{stat} has no seventh number"))? * SECTOR_BYTES)
}

/// The program.
pub fn main() -> ExitCode {
    match wear(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wear: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "a program: its table")]
fn wear(cli: &Cli) -> anyhow::Result<()> {
    let time = Duration::from_secs(cli.seconds);
    let mut cases = Vec::new();
    for mount in &cli.mount {
        for commit_interval in &cli.commit_interval {
            for rate in &cli.rate {
                let (commit_interval, mount) = (commit_interval.clone(), mount.clone());
                cases.push(Case { rate: *rate, commit_interval, mount });
            }
        }
    }
    println!("{} s each, old segments let go after {RETENTION}", cli.seconds);
    println!(
        "| mount | commit_interval | readings/s | bytes per reading | MB per day | GB per year |"
    );
    println!("|---|---|---|---|---|---|");
    let row = |case: &Case, worn: &Worn| {
        println!(
            "| {} | {} | {} | {:.0} | {:.1} | {:.1} |",
            case.mount,
            case.commit_interval,
            case.rate,
            worn.per_reading(),
            worn.mb_per_day(),
            worn.mb_per_day() * 365.25 / 1e3
        );
    };
    if let Some(dir) = &cli.dir {
        let before = bytes_written(dir)?;
        pass(Duration::from_secs(60));
        let idle = (bytes_written(dir)? - before) as f64 / MB * DAY / 60.0;
        println!("without the gateway this device takes {idle:.1} MB per day:");
        for case in &cases {
            let own = tempfile::tempdir_in(dir)?;
            row(case, &in_folder(Programs::Myself, case, time, own.path())?);
        }
        return Ok(());
    }
    let running = cases.into_iter().map(|case| {
        std::thread::spawn(move || on_loop(Programs::Myself, &case, time).map(|worn| (case, worn)))
    });
    // All are started before the first is waited for.
    let running: Vec<_> = running.collect();
    for case in running {
        let measured = case.join().map_err(|_| anyhow::anyhow!("a case has panicked"))?;
        let (case, worn) = measured?;
        row(&case, &worn);
    }
    Ok(())
}
