//! An installation on mosquitto whose network can be made bad.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use fieldpost_demo::judge::{Found, read_only};
use fieldpost_demo::world::{External, Settings};

use crate::mosquitto::Mosquitto;
use crate::proxy::Proxy;
use crate::rig::{Rig, SOON, wait_until};

/// See the module.
pub struct Wired {
    /// Gateway, bridge and board.
    pub rig: Rig,
    /// The broker.
    pub mosquitto: Mosquitto,
    /// Between gateway and broker.
    pub near: Proxy,
    /// Between broker and bridge.
    pub far: Proxy,
}

impl Wired {
    /// A broker that runs; gateway, bridge and board do not yet.
    ///
    /// # Errors
    /// What [`Rig::on_mosquitto`] runs into.
    pub fn new(mut settings: Settings) -> anyhow::Result<Wired> {
        let dir = tempfile::tempdir()?;
        let mosquitto = Mosquitto::start(dir.path())?;
        let near = Proxy::start(mosquitto.address())?;
        let far = Proxy::start(mosquitto.address())?;
        settings.external = Some(External { gateway: near.address(), bridge: far.address() });
        Ok(Wired { rig: Rig::in_dir(dir, settings)?, mosquitto, near, far })
    }

    /// Starts everything, and waits until a hundred lines are stored.
    ///
    /// # Errors
    /// When they are not.
    pub fn run(&mut self, rate: f64) -> anyhow::Result<()> {
        self.rig.run(rate)
    }

    /// The rest of the way without faults: all that was sent has to be stored, once.
    ///
    /// # Errors
    /// When it is not.
    pub fn settle(&mut self) -> anyhow::Result<Found> {
        self.near.heal();
        self.far.heal();
        self.rig.settle()
    }
}

/// Dead connections are noticed as soon as the configuration allows: within two keep-alives of 5 s.
pub fn impatient(mut settings: Settings) -> Settings {
    settings.gateway.push(("broker", "keep_alive = \"5s\"".to_owned()));
    settings.bridge.push(("broker", "keep_alive_seconds = 5".to_owned()));
    settings
}

impl Rig {
    /// Starts bridge, gateway and a board, in this order.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(&mut self, rate: f64) -> anyhow::Result<()> {
        self.world.start_bridge()?;
        self.world.start_gateway()?;
        self.plug(rate)
    }

    /// Starts them, and waits until a hundred lines are stored.
    ///
    /// # Errors
    /// When they are not.
    pub fn run(&mut self, rate: f64) -> anyhow::Result<()> {
        self.start(rate)?;
        self.wait_stored(100)
    }

    /// Drains, and holds what is stored against what was sent: every line once, nothing wrong,
    /// nothing missing, nothing waiting.
    ///
    /// # Errors
    /// What differs.
    pub fn settle(&mut self) -> anyhow::Result<Found> {
        let found = self.drain()?;
        let sent = (1..=self.ledger.len()).collect();
        exactly(&found, &sent)?;
        Ok(found)
    }

    /// The same where the gateway was away for a while, and lines were lost before acceptance:
    /// every line that its outbox holds.
    ///
    /// # Errors
    /// What differs.
    pub fn settle_accepted(&mut self) -> anyhow::Result<Found> {
        let found = self.drain()?;
        exactly(&found, &self.accepted()?)?;
        Ok(found)
    }

    /// Storage's own books: of all readings that were ever claimed each is stored, in an
    /// open dead letter, waiting or missing.
    ///
    /// # Errors
    /// When they do not add up.
    pub fn books_add_up(&self) -> anyhow::Result<()> {
        let mut conn = read_only(&self.world.storage())?;
        let snapshot = conn.transaction()?;
        let sum = |sql: &str| snapshot.query_row(sql, [], |row| row.get::<_, i64>(0));
        let of = |what: &str, table: &str| {
            sum(&format!("SELECT coalesce(sum({what}), 0) FROM {table} WHERE stream = 'readings'"))
        };
        let claimed = of("claimed", "stream")?;
        let stored = sum("SELECT count(*) FROM reading")?;
        let letters = sum("SELECT coalesce(sum((run.value ->> 1) - (run.value ->> 0) + 1), 0)
             FROM dead_letter, json_each(seqs) run WHERE dropped IS NULL")?;
        let (waiting, missing) = (of("n", "waiting")?, of("n", "missing")?);
        ensure!(
            claimed == stored + letters + waiting + missing,
            "claimed {claimed}, stored {stored}, dead letters {letters}, waiting {waiting}, missing {missing}"
        );
        Ok(())
    }

    /// Waits until the gateway's or the bridge's log has more lines that hold `text` than `before`.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_said(&self, name: &str, text: &str, before: usize) -> anyhow::Result<()> {
        wait_until(text, SOON, || Ok(self.times_said(name, text)? > before))
            .with_context(|| format!("in the log of the {name}"))
    }

    /// How many lines of the gateway's or the bridge's log hold `text`.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn times_said(&self, name: &str, text: &str) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.world.log(name)).unwrap_or_default();
        Ok(log.lines().filter(|line| line.contains(text)).count())
    }

    /// The message of an alert that the gateway's status file shows as raised now.
    ///
    /// # Errors
    /// A status file that is no JSON.
    pub fn raised(&self, alert: &str) -> anyhow::Result<Option<String>> {
        let Ok(text) = std::fs::read_to_string(self.world.dir().join("status.json")) else {
            return Ok(None);
        };
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let alerts = status["alerts"].as_array().map_or(&[][..], Vec::as_slice);
        let found = alerts.iter().find(|raised| raised["name"] == alert);
        Ok(found.map(|raised| raised["message"].as_str().unwrap_or_default().to_owned()))
    }

    /// Waits until an alert is raised, and returns its message.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_raised(&self, alert: &str) -> anyhow::Result<String> {
        let mut message = None;
        wait_until(alert, SOON, || {
            message = self.raised(alert)?;
            Ok(message.is_some())
        })?;
        message.context("it was raised just now")
    }

    /// Waits until an alert is over.
    ///
    /// # Errors
    /// After `within`.
    pub fn wait_cleared(&self, alert: &str, within: Duration) -> anyhow::Result<()> {
        wait_until(&format!("the end of {alert}"), within, || Ok(self.raised(alert)?.is_none()))
    }
}

/// Storage has these lines, each once, and nothing is wrong, missing or waiting.
///
/// # Errors
/// What differs.
pub fn exactly(found: &Found, lines: &BTreeSet<u64>) -> anyhow::Result<()> {
    let absent: Vec<&u64> = lines.iter().filter(|line| !found.lines.contains_key(line)).collect();
    ensure!(
        absent.is_empty(),
        "of {} lines {} are not stored: {:?}...",
        lines.len(),
        absent.len(),
        &absent[..absent.len().min(20)]
    );
    let more: Vec<&u64> = found.lines.keys().filter(|line| !lines.contains(line)).collect();
    ensure!(more.is_empty(), "{} lines are stored that nobody accepted: {more:?}", more.len());
    let (twice, wrong) = (found.duplicates(), found.wrong_count);
    ensure!(twice == 0, "{twice} rows too many");
    ensure!(wrong == 0, "{wrong} rows are wrong: {:?}", found.wrong);
    let (missing, waiting) = (found.missing, found.waiting);
    ensure!((missing, waiting) == (0, 0), "{missing} missing, {waiting} waiting");
    Ok(())
}
