//! What was sent, accepted, refused and stored, and what is to be said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fieldpost_demo::judge::{self, read_only};
use fieldpost_demo::ledger::{SOURCE, TIME_TOLERANCE_MS};
use fieldpost_protocol::{Metrics, Value, decode_readings};

use crate::rig::Rig;

/// Seconds of lines that a killed gateway may take along: what waits for the next commit, 1 s, and
/// what a loaded machine has not got round to.
const LOST_SECONDS: f64 = 3.0;
/// A time that a bridge has told is right to half of the way there and back: a hello or its answer
/// may be held up by a stalled network, and its transaction by a locked storage, for 15 s each.
const BRIDGE_CLOCK_MS: i64 = 15_000;
/// Examples of what is wrong that are shown.
const SHOWN_MAX: usize = 5;
/// Seconds of lines that the board may send into a port before it sees that nobody has it open.
const UNSEEN_SECONDS: f64 = 0.5;

/// Lines that the outbox file has held, read from outside. Each segment is read once, so that a
/// look stays cheap; nothing is trimmed in the time that a soak takes.
pub(super) struct Account {
    outbox: PathBuf,
    rate: f64,
    accepted: BTreeSet<u64>,
    last_segment: i64,
    /// By epoch, at the last look.
    acked: BTreeMap<[u8; 16], i64>,
    /// Rows that were not in storage when the outbox had them as acked.
    acked_too_early: u64,
    /// Lines sent when a gateway was killed, or the port unplugged.
    losses: Vec<u64>,
    /// What a gateway last said that it has refused, by process.
    refused: BTreeMap<u64, u64>,
}

impl Account {
    pub(super) fn new(outbox: &Path, rate: f64) -> Account {
        Account {
            outbox: outbox.to_owned(),
            rate,
            accepted: BTreeSet::new(),
            last_segment: 0,
            acked: BTreeMap::new(),
            acked_too_early: 0,
            losses: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Takes in what the file holds now, and holds against storage what it calls acked.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        self.look_at_acked(&self.outbox.with_file_name("bridge.db"))?;
        let mut conn = read_only(&self.outbox)?;
        // One snapshot: a seal between two queries would hide rows from both.
        let snapshot = conn.transaction()?;
        let mut segments = snapshot
            .prepare("SELECT id, last - first + 1, body FROM segment WHERE id > ?1 ORDER BY id")?;
        let mut rows = segments.query([self.last_segment])?;
        while let Some(row) = rows.next()? {
            let (n, body): (i64, Vec<u8>) = (row.get(1)?, row.get(2)?);
            for reading in decode_readings(&body, n as u64)? {
                if &*reading.source == SOURCE {
                    self.accepted.extend(line_of(&reading.metrics));
                }
            }
            self.last_segment = row.get(0)?;
        }
        let mut tail = snapshot.prepare("SELECT body FROM tail WHERE source = ?1")?;
        let mut rows = tail.query([SOURCE])?;
        while let Some(row) = rows.next()? {
            self.accepted.extend(line_of(&Metrics::from_json(&row.get::<_, String>(0)?)?));
        }
        Ok(())
    }

    /// What the outbox has written down as acked has to be in storage: whoever says so before
    /// the commit is found out here, and not in the end, when a state has mended it.
    fn look_at_acked(&mut self, storage: &Path) -> anyhow::Result<()> {
        let outbox = read_only(&self.outbox)?;
        let mut streams = outbox.prepare(
            "SELECT epoch.epoch, acked FROM stream JOIN epoch ON epoch.id = stream.epoch
             WHERE stream = 'readings'",
        )?;
        let mut rows = streams.query([])?;
        // The outbox first: storage only grows.
        let storage = read_only(storage)?;
        let mut stored = storage.prepare(
            "SELECT count(*) FROM reading JOIN epoch ON epoch.ref = reading.epoch
             WHERE epoch.epoch = ?1 AND seq <= ?2",
        )?;
        while let Some(row) = rows.next()? {
            let (epoch, acked): ([u8; 16], i64) = (row.get(0)?, row.get(1)?);
            if self.acked.insert(epoch, acked) == Some(acked) {
                continue;
            }
            let stored: i64 = stored.query_row((&epoch[..], acked), |row| row.get(0))?;
            self.acked_too_early += (acked - stored).max(0) as u64;
        }
        Ok(())
    }

    /// Lines accepted, at the last look.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.len() as u64
    }

    /// The last of them, 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.accepted.last().copied().unwrap_or(0)
    }

    /// Lines may be lost before acceptance here, `sent` having been sent.
    pub(super) fn lost_lines_at(&mut self, sent: u64) {
        self.losses.push(sent);
    }

    /// Reads what the gateway says that it has refused.
    pub(super) fn hear(&mut self, status: &Path) {
        let Ok(text) = std::fs::read_to_string(status) else { return };
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&text) else { return };
        let count = |name: &str| status["readings"][name].as_u64().unwrap_or(0);
        let refused = count("refused_by_ports") + count("refused_full") + count("refused_in_doubt");
        self.refused.insert(status["pid"].as_u64().unwrap_or(0), refused);
    }

    /// Whether all that was accepted is stored, and storage waits for nothing.
    pub(super) fn is_settled(&self, rig: &Rig) -> anyhow::Result<bool> {
        // Reading all of it would take the machine away from those who are still storing.
        if stored(rig)? < self.accepted() {
            return Ok(false);
        }
        let found = judge::stored(&rig.world.storage(), &rig.ledger)?;
        Ok(found.waiting == 0 && self.accepted.iter().all(|line| found.lines.contains_key(line)))
    }

    /// The end: everything against everything.
    pub(super) fn judge(&mut self, rig: &Rig, drained: bool) -> anyhow::Result<Verdict> {
        self.look()?;
        self.hear(&rig.world.dir().join("status.json"));
        let found = judge::stored(&rig.world.storage(), &rig.ledger)?;
        let sent = rig.ledger.len();
        let lost: Vec<u64> = (1..=sent).filter(|line| !self.accepted.contains(line)).collect();
        let not_stored = self.accepted.iter().filter(|line| !found.lines.contains_key(line));
        let unaccepted = found.lines.keys().filter(|line| !self.accepted.contains(line)).count();
        let (wrong, examples, off_ms) = wrong_rows(rig)?;
        let letters = "SELECT count(*) FROM dead_letters WHERE state = 'open'";
        let letters: i64 =
            read_only(&rig.world.storage())?.query_row(letters, [], |row| row.get(0))?;
        Ok(Verdict {
            drained,
            letters: letters as u64,
            sent,
            accepted: self.accepted(),
            refused: self.refused.values().sum(),
            stored: found.stored(),
            not_stored: not_stored.count() as u64,
            acked_too_early: self.acked_too_early,
            missing: found.missing,
            waiting: found.waiting,
            duplicated: found.duplicates(),
            wrong: wrong + unaccepted as u64,
            examples,
            off_ms,
            unexplained: lost.iter().filter(|line| !self.explains(**line)).count() as u64,
            lost: lost.len() as u64,
            losses: self.losses.len() as u64,
        })
    }

    /// Whether a gateway was killed, or the port unplugged, while this line was on its way.
    fn explains(&self, line: u64) -> bool {
        let before = (self.rate * LOST_SECONDS) as u64;
        let after = (self.rate * UNSEEN_SECONDS) as u64;
        self.losses.iter().any(|sent| line + before >= *sent && line <= sent + after)
    }
}

/// Rows whose value or source is not what was sent, or whose time is further off than its clock
/// may be: how many, examples, and the furthest of all.
fn wrong_rows(rig: &Rig) -> anyhow::Result<(u64, Vec<String>, i64)> {
    let storage = read_only(&rig.world.storage())?;
    let mut rows =
        storage.prepare("SELECT time, clock, metrics FROM readings WHERE source = ?1")?;
    let mut rows = rows.query([SOURCE])?;
    let (mut count, mut examples, mut furthest_ms) = (0, Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (time_ms, clock, metrics): (i64, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let metrics = Metrics::from_json(&metrics)?;
        let sent = line_of(&metrics).and_then(|n| Some((n, rig.ledger.line(n)?)));
        let wrong = match sent {
            None => Some(format!("a row that nobody sent: {metrics:?}")),
            Some((n, sent)) => {
                let off_ms = time_ms - sent.time_ms;
                furthest_ms = furthest_ms.max(off_ms.abs());
                let may_be_ms =
                    TIME_TOLERANCE_MS + if clock == "ntp" { 0 } else { BRIDGE_CLOCK_MS };
                let late = (off_ms.abs() > may_be_ms)
                    .then(|| format!("line {n}: its time ({clock}) is off by {off_ms} ms"));
                late.or_else(|| sent.differs(n, &metrics))
            }
        };
        if let Some(wrong) = wrong {
            count += 1;
            if examples.len() < SHOWN_MAX {
                examples.push(wrong);
            }
        }
    }
    Ok((count, examples, furthest_ms))
}

/// Rows of the board's that storage has.
pub(super) fn stored(rig: &Rig) -> anyhow::Result<u64> {
    let sql = "SELECT count(*) FROM reading WHERE source IN (SELECT ref FROM source WHERE id = ?1)";
    let storage = read_only(&rig.world.storage())?;
    Ok(storage.query_row(sql, [SOURCE], |row| row.get::<_, i64>(0))? as u64)
}

fn line_of(metrics: &Metrics) -> Option<u64> {
    match metrics.get("n") {
        Some(Value::Int(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// What a soak came to.
#[derive(Debug)]
pub(super) struct Verdict {
    drained: bool,
    letters: u64,
    sent: u64,
    accepted: u64,
    refused: u64,
    stored: u64,
    not_stored: u64,
    acked_too_early: u64,
    missing: u64,
    waiting: u64,
    duplicated: u64,
    wrong: u64,
    examples: Vec<String>,
    off_ms: i64,
    lost: u64,
    unexplained: u64,
    losses: u64,
}

impl Verdict {
    /// Nothing lost, nothing twice, nothing wrong. No fault here destroys an outbox or a storage:
    /// nothing has a reason to be missing, or to become a dead letter.
    pub(super) fn is_good(&self) -> bool {
        let lost = self.not_stored + self.missing + self.waiting + self.letters + self.unexplained;
        let spoiled = self.duplicated + self.wrong + self.acked_too_early;
        self.drained && self.stored > 0 && lost + spoiled == 0
    }

    /// For a person.
    pub(super) fn text(&self) -> String {
        let Verdict { sent, accepted, refused, stored, missing, duplicated, wrong, .. } = self;
        let mut text = format!(
            "sent                    {sent}\n\
             accepted                {accepted}\n\
             refused                 {refused}\n\
             stored                  {stored}\n\
             missing                 {missing}\n\
             duplicated              {duplicated}\n\
             wrong                   {wrong}\n\
             lost before acceptance  {} (at {} kills of the gateway and unplugged ports; {} elsewhere)\n\
             times off by            {} ms at most\n",
            self.lost, self.losses, self.unexplained, self.off_ms
        );
        for (what, n) in [
            ("accepted, not stored   ", self.not_stored),
            ("acked, not stored then ", self.acked_too_early),
            ("waiting                ", self.waiting),
            ("dead letters           ", self.letters),
        ] {
            if n > 0 {
                text.push_str(&format!("{what} {n}\n"));
            }
        }
        for example in &self.examples {
            text.push_str(&format!("wrong: {example}\n"));
        }
        text.push_str(if self.is_good() {
            "good: whatever was accepted is stored once, as it was sent"
        } else {
            "NOT GOOD: see above, and the logs"
        });
        text
    }
}
