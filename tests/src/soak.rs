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
mod interrupt;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use fieldpost_demo::world::{Programs, Settings};

use crate::rig::{pass, wait_until};
use crate::wired::{Wired, impatient};
use account::{Account, Verdict};
use fault::{Faults, Soaked};
use interrupt::Interrupts;

/// How often a line tells how far it is.
const WORD: Duration = Duration::from_secs(10);
/// How often the books are looked into.
const ACCOUNT: Duration = Duration::from_secs(1);
/// How long the first lines may run in peace.
const PEACE: Duration = Duration::from_secs(2);
/// How often it is looked whether a fault begins or ends.
const LOOK: Duration = Duration::from_millis(50);
/// What a shell shows for a program that a Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Runs gateway, mosquitto and bridge on this machine, lets random faults happen to them while a
/// simulated board sends, and counts.
///
/// Its status is 0 if whatever the gateway has accepted is stored once, as it was sent; 1 if
/// anything is lost, duplicated or wrong, and then its folder is kept.
#[derive(Debug, Parser)]
#[command(
    name = "soak",
    bin_name = "scripts/soak",
    after_help = "Ctrl-C ends the faults, drains and judges; a second one ends at once."
)]
struct Cli {
    /// How long the faults go on.
    #[arg(long, default_value_t = 2.0, value_parser = minutes)]
    minutes: f64,
    /// Which faults come, when, and how long they last; without it one is chosen, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Lines a second.
    #[arg(long, default_value_t = 300.0, value_parser = rate)]
    rate: f64,
    /// How long everything may take to arrive once the faults are over.
    #[arg(long, default_value_t = 180)]
    drain_seconds: u32,
}

fn minutes(text: &str) -> Result<f64, String> {
    within(text, 0.01, 100_000.0)
}

/// More than this, and a loaded machine refuses readings: then there is nothing to be judged.
fn rate(text: &str) -> Result<f64, String> {
    within(text, 10.0, 2_000.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("it has to be a number from {least} to {most}"))
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match soak(&cli) {
        Ok(verdict) if verdict.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) if error.is::<interrupt::Twice>() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(cli: &Cli) -> anyhow::Result<Verdict> {
    let interrupts = Interrupts::watch()?;
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
    let verdict = run(&mut soaked, cli, seed, &interrupts);
    let is_of_interest = match &verdict {
        Ok(verdict) => !verdict.is_good(),
        Err(error) => !error.is::<interrupt::Twice>(),
    };
    if is_of_interest {
        let Soaked { wired, .. } = soaked;
        eprintln!("soak: kept for a look: {}", wired.rig.keep().display());
    }
    verdict
}

fn run(
    soaked: &mut Soaked,
    cli: &Cli,
    seed: u64,
    interrupts: &Interrupts,
) -> anyhow::Result<Verdict> {
    soaked.wired.run(cli.rate).context("before any fault")?;
    let mut faults = Faults::new(seed);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(cli.minutes * 60.0);
    let (mut next_fault, mut next_word) = (begin + PEACE, begin + WORD);
    let mut next_account = begin;
    while Instant::now() < end && !interrupts.asked() {
        faults.heal_due(soaked)?;
        if Instant::now() >= next_fault {
            next_fault = Instant::now() + faults.begin_one(soaked)?;
        }
        if Instant::now() >= next_word {
            next_word += WORD;
            let line = soaked.progress()?;
            say(&format!(
                "{:>4} s {:>4} faults {line}{}",
                begin.elapsed().as_secs(),
                faults.begun(),
                faults.active()
            ));
        }
        if Instant::now() >= next_account {
            next_account = Instant::now() + ACCOUNT;
            soaked.account.look()?;
        }
        pass(LOOK);
    }
    faults.heal_all(soaked)?;
    say(&format!(
        "the faults are over{}: {}",
        if interrupts.asked() { ", as you asked" } else { "" },
        faults.summary()
    ));
    let drained = drain(soaked, cli, interrupts)?;
    let verdict = soaked.account.judge(&soaked.wired.rig, drained)?;
    say(&verdict.text());
    Ok(verdict)
}

/// The board falls silent, and what the outbox has gets its time to arrive. Returns whether all
/// of it did.
fn drain(soaked: &mut Soaked, cli: &Cli, interrupts: &Interrupts) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let Soaked { wired, account, .. } = soaked;
    let rig = &wired.rig;
    let board = rig.board.as_ref().context("it is plugged in again")?;
    let sent = rig.ledger.len();
    let mut wait = |what: &str, done: &mut dyn FnMut(&mut Account) -> anyhow::Result<bool>| {
        wait_until(what, Duration::from_secs(cli.drain_seconds.into()), || {
            interrupts.check()?;
            account.look()?;
            done(account)
        })
    };
    // The verdict says what is not there, if anything.
    let drained = wait("accepting new lines", &mut |account| Ok(account.last() > sent))
        .inspect(|()| board.pause())
        // The board may be in the middle of its last line.
        .and_then(|()| {
            wait("accepting the last line", &mut |account| Ok(account.last() == rig.ledger.len()))
        })
        .and_then(|()| wait("storing all of it", &mut |account| account.is_settled(rig)));
    match drained {
        Ok(()) => say(&format!("drained in {:.1} s", begin.elapsed().as_secs_f64())),
        Err(error) if error.is::<interrupt::Twice>() => return Err(error),
        Err(error) => {
            board.pause();
            say(&format!("NOT drained: {error:#}"));
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whoever reads may have gone: the verdict is the status, too.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_soak_of_no_time_or_of_more_lines_than_a_port_carries_is_refused() {
        Cli::command().debug_assert();
        for arguments in
            [["--minutes", "0"], ["--minutes", "nan"], ["--minutes", "two"], ["--rate", "0"]]
        {
            let error = Cli::try_parse_from(["soak"].iter().chain(&arguments)).unwrap_err();
            assert!(error.to_string().contains("invalid value"), "{error}");
        }
        assert!(Cli::try_parse_from(["soak", "--minutes", "0.5", "--rate", "1000"]).is_ok());
    }
}
