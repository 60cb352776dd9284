//! A rig whose programs die, and what has to be stored all the same.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use fieldpost_demo::judge::{self, Found};
use fieldpost_demo::world::Settings;
use fieldpost_tests::rig::{Rig, SOON, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::{Cause, Step};

/// Lines a second of the board.
pub(super) const RATE: f64 = 200.0;

/// How often it is looked what the outbox holds while a kill is waited for.
const NOTE_EVERY: Duration = Duration::from_millis(150);

/// See the module.
pub(super) struct Crash {
    pub(super) rig: Rig,
    pub(super) random: fastrand::Rng,
    /// Each line that an outbox file has held, and at which kill it was seen first.
    pub(super) accepted: BTreeMap<u64, String>,
}

/// Short intervals, so that much happens between two kills. At this rate a commit's group is
/// large enough to be sealed, but the first one after a start is not.
pub(super) fn quick() -> Settings {
    let mut settings = crate::settings();
    settings.gateway = vec![
        ("outbox", "commit_interval = \"400ms\"".to_owned()),
        ("publish", "publish_interval = \"200ms\"".to_owned()),
        ("publish", "live_interval = \"200ms\"".to_owned()),
        ("system", "enabled = false".to_owned()),
    ];
    settings
}

/// The seed of a test: SEED, or one of its own; printed, so that the run can be had again.
pub(super) fn seeded(what: &str) -> fastrand::Rng {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{what}: SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

impl Crash {
    /// A broker and a bridge that run; the board is plugged in, the gateway does not run.
    pub(super) fn new(what: &str, settings: Settings) -> anyhow::Result<Crash> {
        Crash::of(what, Rig::new(settings)?)
    }

    /// The same with a rig that the caller has made.
    pub(super) fn of(what: &str, rig: Rig) -> anyhow::Result<Crash> {
        let mut crash = Crash { rig, random: seeded(what), accepted: BTreeMap::new() };
        crash.rig.world.start_bridge()?;
        crash.rig.plug(RATE)?;
        Ok(crash)
    }

    /// From its next start on the program kills itself at the `n`-th hit of `point`.
    pub(super) fn arm(&mut self, program: &'static str, point: &str, n: u64) {
        let seen = self.seen(program).display().to_string();
        let _ = std::fs::remove_file(&seen);
        self.rig.world.environment = vec![
            (program, "FAIL_POINT_KILL", format!("{point}:{n}")),
            (program, "FAIL_POINT_SEEN", seen),
        ];
    }

    pub(super) fn disarm(&mut self) {
        self.rig.world.environment.clear();
    }

    fn seen(&self, program: &str) -> std::path::PathBuf {
        self.rig.world.dir().join(format!("{program}.seen"))
    }

    /// Waits until the program has killed itself at `point`.
    pub(super) fn wait_killed(&mut self, program: &'static str, point: &str) -> anyhow::Result<()> {
        let seen = self.seen(program);
        let mut end = None;
        let mut noted = Instant::now();
        // A trim comes a minute after the start.
        let ended = wait_until(&format!("the {program}'s end at {point}"), 3 * SOON, || {
            // Also before the kill: what it takes back has been promised. A file that is
            // damaged on purpose has nothing to say.
            if noted.elapsed() >= NOTE_EVERY {
                let _ = self.note(&format!("before {point}"));
                noted = Instant::now();
            }
            end = self.rig.world.ended()?;
            Ok(end.is_some())
        });
        let seen = std::fs::read_to_string(seen).unwrap_or_default();
        ended.with_context(|| format!("reached: {}", seen.replace('\n', " ")))?;
        let (name, status) = end.context("it has ended")?;
        ensure!(
            name == program && status.signal() == Some(Signal::KILL.as_raw()),
            "{point}: the {name} ended with {status}"
        );
        ensure!(seen.lines().any(|name| name == point), "{point} was never reached");
        let world = &mut self.rig.world;
        let process = if program == "gateway" { &mut world.gateway } else { &mut world.bridge };
        *process = None;
        self.disarm();
        Ok(())
    }

    /// Takes note of what the outbox file holds now: it has to be stored in the end.
    pub(super) fn note(&mut self, at: &str) -> anyhow::Result<()> {
        for line in held(&self.rig.world.outbox())? {
            self.accepted.entry(line).or_insert_with(|| at.to_owned());
        }
        Ok(())
    }

    /// Kills the gateway at a point, as `step` says how.
    pub(super) fn kill_gateway_at(&mut self, (point, cause): Step) -> anyhow::Result<()> {
        let hit = self.hit(cause);
        if cause == Cause::New {
            ensure!(self.accepted.is_empty(), "{point}: only an empty outbox may be removed");
            for suffix in ["", "-wal", "-shm", ".lock"] {
                let _ =
                    std::fs::remove_file(format!("{}{suffix}", self.rig.world.outbox().display()));
            }
        }
        self.arm("gateway", point, hit);
        self.rig.world.start_gateway()?;
        match cause {
            Cause::Runs(_) | Cause::New => {}
            Cause::Ends => {
                self.wait_new_lines()?;
                let gateway = self.rig.world.gateway.as_ref().context("started above")?;
                signal(gateway.id(), Signal::TERM)?;
            }
            Cause::Replug => {
                self.wait_new_lines()?;
                self.rig.board = None;
                self.rig.plug(RATE)?;
            }
        }
        self.wait_killed("gateway", point)?;
        self.note(point)?;
        println!("gateway killed at hit {hit} of {point}");
        Ok(())
    }

    /// Kills the bridge at a point, as `step` says how. The gateway runs.
    pub(super) fn kill_bridge_at(&mut self, (point, cause): Step) -> anyhow::Result<()> {
        let hit = self.hit(cause);
        self.arm("bridge", point, hit);
        let online = self.rig.world.times_online()?;
        self.rig.world.start_bridge()?;
        match cause {
            Cause::Ends => {
                self.rig.world.wait_bridge_online(online)?;
                let bridge = self.rig.world.bridge.as_ref().context("started above")?;
                signal(bridge.id(), Signal::TERM)?;
            }
            Cause::Replug => {
                self.rig.board = None;
                self.rig.plug(RATE)?;
            }
            _ => {}
        }
        self.wait_killed("bridge", point)?;
        self.note(point)?;
        println!("bridge killed at hit {hit} of {point}");
        Ok(())
    }

    fn hit(&mut self, cause: Cause) -> u64 {
        match cause {
            Cause::Runs(most) => self.random.u64(1..=most),
            _ => 1,
        }
    }

    /// Waits for a few more lines in the outbox.
    pub(super) fn wait_new_lines(&self) -> anyhow::Result<()> {
        let sent = self.rig.ledger.len();
        let outbox = self.rig.world.outbox();
        wait_until("accepting new lines", SOON, || {
            // A damaged file may still stand there.
            Ok(held(&outbox).is_ok_and(|lines| lines.last().is_some_and(|&line| line > sent)))
        })
    }

    /// With programs that run: waits until all that was accepted at the kills is stored.
    pub(super) fn wait_settled(&self) -> anyhow::Result<()> {
        let (storage, ledger) = (self.rig.world.storage(), &self.rig.ledger);
        let mut lost = Vec::new();
        wait_until("storing what was accepted", SOON, || {
            let found = judge::stored(&storage, ledger)?;
            ensure!(found.wrong_count == 0, "wrong rows: {:?}", found.wrong);
            ensure!(found.duplicates() == 0, "{} duplicates", found.duplicates());
            lost = self.lost(&found);
            Ok(lost.is_empty())
        })
        .with_context(|| format!("accepted and not stored: {lost:?}"))
    }

    /// The first few lines that were accepted and are not stored.
    fn lost<'c>(&'c self, found: &Found) -> Vec<(&'c u64, &'c String)> {
        self.accepted.iter().filter(|(line, _)| !found.lines.contains_key(line)).take(5).collect()
    }

    /// With programs that run: the board falls silent, and all that it has sent of late and all
    /// that was accepted before is stored.
    pub(super) fn quiet(&mut self) -> anyhow::Result<Found> {
        // A line of the present epoch, so that there is a last one to wait for.
        self.wait_new_lines()?;
        if let Some(board) = &self.rig.board {
            board.pause();
        }
        let (ledger, outbox) = (self.rig.ledger.clone(), self.rig.world.outbox());
        // The board may be in the middle of its last line.
        wait_until("accepting the last line", SOON, || {
            Ok(held(&outbox)?.last().is_some_and(|&line| line == ledger.len()))
        })?;
        self.note("silence")?;
        self.wait_settled()?;
        let storage = self.rig.world.storage();
        let mut found = Found::default();
        wait_until("hearing of every row", SOON, || {
            found = judge::stored(&storage, &ledger)?;
            Ok(found.waiting == 0)
        })?;
        Ok(found)
    }

    /// With programs that run: drains, and judges everything. Storage has to show so many rows as
    /// missing, none of them the board's.
    pub(super) fn finish(mut self, missing: u64) -> anyhow::Result<()> {
        let found = self.quiet()?;
        let (sent, accepted, stored) =
            (self.rig.ledger.len(), self.accepted.len() as u64, found.stored());
        println!("{sent} sent, {accepted} accepted, {stored} stored, {} missing", found.missing);
        assert_eq!(found.wrong, Vec::<String>::new());
        assert_eq!((found.wrong_count, found.duplicates(), found.waiting), (0, 0, 0));
        assert_eq!(found.missing, missing);
        let open = "SELECT count(*) FROM dead_letters WHERE state = 'open'";
        let storage = judge::read_only(&self.rig.world.storage())?;
        let open: i64 = storage.query_row(open, [], |row| row.get(0))?;
        assert_eq!(open, 0, "dead letters");
        assert_eq!(self.lost(&found), []);
        assert!(stored >= accepted);
        Ok(())
    }
}

/// The lines that an outbox file holds; of one that is not whole yet, none.
pub(super) fn held(outbox: &Path) -> anyhow::Result<std::collections::BTreeSet<u64>> {
    if !outbox.exists() {
        return Ok(Default::default());
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('tail', 'segment')";
    let tables: i64 = judge::read_only(outbox)?.query_row(tables, [], |row| row.get(0))?;
    if tables == 2 { judge::accepted(outbox) } else { Ok(Default::default()) }
}

/// Sends a signal to a process that the world has started.
pub(super) fn signal(id: u32, signal: Signal) -> anyhow::Result<()> {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        bail!("{id} is no process")
    };
    Ok(kill_process(pid, signal)?)
}
