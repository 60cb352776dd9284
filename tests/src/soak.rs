//! The soak: random faults on the real programs while a board sends, then a verdict.
//!
//! ```text
//! board -> gateway -> proxy -> mosquitto -> proxy -> bridge -> storage
//!   |         kill -9   stall    kill -9     stall    kill -9   locked
//!   unplugged           cut      stopped     cut
//! ```
//!
//! The seed decides which faults come, how long each lasts and when the next one begins; what
//! the programs make of them is up to the machine. What was accepted is read from the outbox
//! file, never asked of the gateway.

mod account;
mod fault;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use fieldpost_demo::world::{Programs, Settings};

use crate::rig::{pass, wait_until};
use crate::wired::{Wired, impatient};
use account::{Account, Verdict};
use fault::{Faults, Soaked};

/// How often a line tells how far it is.
const WORD: Duration = Duration::from_secs(10);
/// How long the first lines may run in peace.
const PEACE: Duration = Duration::from_secs(2);
/// How often it is looked whether a fault begins or ends.
const LOOK: Duration = Duration::from_millis(50);
/// How long everything may take to arrive once the faults are over.
const DRAIN_WITHIN: Duration = Duration::from_secs(180);

/// Random faults on the real programs, then a verdict: its status is 0 only if nothing is stored
/// twice or wrong, and whatever was accepted is stored or shown as missing.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Cli {
    /// How long the faults go on.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Which faults; without it one is chosen, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Lines a second.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match soak(&cli) {
        Ok(verdict) if verdict.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(cli: &Cli) -> anyhow::Result<Verdict> {
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..));
    say(&format!("soak --minutes {} --seed {seed} --rate {}", cli.minutes, cli.rate));
    let mut wired = Wired::new(impatient(Settings::new(Programs::Myself)))?;
    // As Debian ships it: what it has pubacked is gone with a kill -9.
    wired.mosquitto.stop()?;
    wired.mosquitto.set("persistence", "true");
    let place = format!("{}/", wired.rig.world.dir().display());
    wired.mosquitto.set("persistence_location", &place);
    wired.mosquitto.run()?;
    let account = Account::new(&wired.rig.world.outbox(), cli.rate);
    let mut soaked = Soaked { wired, account, rate: cli.rate };
    let verdict = run(&mut soaked, cli, seed);
    if !verdict.as_ref().is_ok_and(Verdict::is_good) {
        let Soaked { wired, .. } = soaked;
        eprintln!("soak: kept for a look: {}", wired.rig.keep().display());
    }
    verdict
}

fn run(soaked: &mut Soaked, cli: &Cli, seed: u64) -> anyhow::Result<Verdict> {
    soaked.wired.run(cli.rate).context("before any fault")?;
    let mut faults = Faults::new(seed);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(cli.minutes * 60.0);
    let (mut next_fault, mut next_word) = (begin + PEACE, begin + WORD);
    while Instant::now() < end {
        faults.heal_due(soaked)?;
        if Instant::now() >= next_fault {
            next_fault = Instant::now() + faults.begin_one(soaked)?;
        }
        if Instant::now() >= next_word {
            next_word += WORD;
            let line = soaked.progress()?;
            say(&format!(
                "{:>4} s  {:>3} faults  {line}{}",
                begin.elapsed().as_secs(),
                faults.begun(),
                faults.active()
            ));
        }
        pass(LOOK);
    }
    faults.heal_all(soaked)?;
    say(&format!("the faults are over: {}", faults.summary()));
    drain(soaked)?;
    let verdict = soaked.account.judge(&soaked.wired.rig)?;
    say(&verdict.text());
    Ok(verdict)
}

/// The board falls silent, and what the outbox has gets its time to arrive.
fn drain(soaked: &mut Soaked) -> anyhow::Result<()> {
    let begin = Instant::now();
    soaked.wired.rig.wait_accepting()?;
    let board = soaked.wired.rig.board.as_ref().context("it is plugged in again")?;
    board.pause();
    let Soaked { wired, account, .. } = soaked;
    wait_until("accepting the last line", DRAIN_WITHIN, || {
        account.look()?;
        Ok(account.has(wired.rig.ledger.len()))
    })?;
    let arrived = wait_until("draining", DRAIN_WITHIN, || account.is_settled(&wired.rig));
    match arrived {
        Ok(()) => say(&format!("drained in {:.1} s", begin.elapsed().as_secs_f64())),
        // The verdict says what is not there.
        Err(error) => say(&format!("NOT drained: {error:#}")),
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what this program is for")]
fn say(line: &str) {
    println!("{line}");
}
