//! A world with a board, in a folder that goes away, and waiting with a deadline.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fieldpost_demo::board::Board;
use fieldpost_demo::judge::{self, Found, OutboxWatch, Watch};
use fieldpost_demo::ledger::Ledger;
use fieldpost_demo::world::{External, Settings, World};

use crate::broker::Broker;
use crate::mosquitto::Mosquitto;

/// How long something may take that takes a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Waits until `done` says so. No sleeps: it looks every 20 ms.
///
/// # Errors
/// After `within`, with what was waited for; or what `done` ran into.
pub fn wait_until(
    what: &str,
    within: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    while !done().with_context(|| format!("waiting for {what}"))? {
        ensure!(Instant::now() < deadline, "{what} did not happen within {within:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Lets time pass that is itself the fault: an outage of so many seconds.
pub fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    {
        std::thread::park_timeout(rest);
    }
}

/// Chance for a random test. Its seed is printed, and `SEED=n` replays it as far as a test of
/// running programs can be replayed.
///
/// # Panics
/// When `SEED` is set and no number.
pub fn chance() -> fastrand::Rng {
    let given = std::env::var("SEED").ok();
    let seed =
        given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("SEED is a number"));
    eprintln!("SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// See the module. On a panic, or with `KEEP=1`, the folder stays, and its place is printed.
pub struct Rig {
    /// The installation.
    pub world: World,
    /// What the board has sent.
    pub ledger: Ledger,
    /// The board, once it is plugged in.
    pub board: Option<Board>,
    /// The broker, where the rig owns one that is not the world's.
    mosquitto: Option<Mosquitto>,
    dir: Option<tempfile::TempDir>,
}

impl Rig {
    /// A broker that runs; gateway, bridge and board do not yet.
    ///
    /// # Errors
    /// What [`World::new`] runs into.
    pub fn new(settings: Settings) -> anyhow::Result<Rig> {
        Rig::in_dir(tempfile::tempdir()?, settings)
    }

    /// The same on the broker of the caller's choice, which the rig owns.
    ///
    /// # Errors
    /// What [`Rig::new`] and [`Rig::on_mosquitto`] run into.
    pub fn on(broker: Broker, settings: Settings) -> anyhow::Result<Rig> {
        match broker {
            Broker::Embedded => Rig::new(settings),
            Broker::Mosquitto => {
                let (mut rig, mosquitto) = Rig::on_mosquitto(settings)?;
                rig.mosquitto = Some(mosquitto);
                Ok(rig)
            }
        }
    }

    /// Stops the broker: connections break, and everything that it held is gone.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop_broker(&mut self) -> anyhow::Result<()> {
        match &mut self.mosquitto {
            Some(mosquitto) => mosquitto.stop(),
            None => {
                self.world.stop_broker();
                Ok(())
            }
        }
    }

    /// Starts it again, on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_broker(&mut self) -> anyhow::Result<()> {
        match &mut self.mosquitto {
            Some(mosquitto) => mosquitto.run(),
            None => self.world.start_broker(),
        }
    }

    /// A certificate for one more person. mosquitto lets each name in once, and gets the operator's
    /// paragraph with this name.
    ///
    /// # Errors
    /// When the certificate cannot be made, or mosquitto does not read its rules again.
    pub fn admit(&mut self, person: &str) -> anyhow::Result<()> {
        let devices = vec![person.to_owned()];
        let request = fieldpost_certs::Request { devices, ..Default::default() };
        fieldpost_certs::issue(&self.world.dir().join("certs"), &request)?;
        let Some(mosquitto) = &mut self.mosquitto else { return Ok(()) };
        let rules = std::fs::read_to_string(mosquitto.acl())?;
        let paragraph = rules.split("\n\n").find(|it| it.starts_with("user operator\n"));
        let paragraph = paragraph.context("the operator has a paragraph")?.trim_end();
        let more = paragraph.replacen("operator", person, 1);
        std::fs::write(mosquitto.acl(), format!("{}\n\n{more}\n", rules.trim_end()))?;
        mosquitto.reload()
    }

    /// The same on a mosquitto of its own instead of the embedded broker.
    ///
    /// # Errors
    /// Where mosquitto is not installed, and what [`World::new`] runs into.
    pub fn on_mosquitto(mut settings: Settings) -> anyhow::Result<(Rig, Mosquitto)> {
        let dir = tempfile::tempdir()?;
        let mosquitto = Mosquitto::start(dir.path())?;
        let address = mosquitto.address();
        settings.external = Some(External { gateway: address, bridge: address });
        Ok((Rig::in_dir(dir, settings)?, mosquitto))
    }

    /// In a folder that the caller has made, and perhaps put a broker into.
    ///
    /// # Errors
    /// What [`World::new`] runs into.
    pub fn in_dir(dir: tempfile::TempDir, settings: Settings) -> anyhow::Result<Rig> {
        let world = World::new(dir.path(), settings)?;
        let (board, mosquitto) = (None, None);
        Ok(Rig { world, ledger: Ledger::default(), board, mosquitto, dir: Some(dir) })
    }

    /// Plugs a board in that sends `rate` lines a second.
    ///
    /// # Errors
    /// What [`Board::start`] runs into.
    pub fn plug(&mut self, rate: f64) -> anyhow::Result<()> {
        self.board = Some(Board::start(&self.world.port(), rate, self.ledger.clone())?);
        Ok(())
    }

    /// Waits until the board has sent so many lines.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_sent(&self, lines: u64) -> anyhow::Result<()> {
        wait_until("sending", SOON, || Ok(self.ledger.len() >= lines))
    }

    /// Waits until storage has so many rows of the board's.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_stored(&self, rows: u64) -> anyhow::Result<()> {
        let mut watch = Watch::new(&self.world.storage(), self.ledger.clone());
        wait_until("storing", SOON, || {
            watch.look()?;
            Ok(watch.stored() >= rows)
        })
    }

    /// The lines that the outbox file holds now.
    ///
    /// # Errors
    /// An outbox that cannot be read.
    pub fn accepted(&self) -> anyhow::Result<BTreeSet<u64>> {
        judge::accepted(&self.world.outbox())
    }

    /// What the gateway's status file says, where there is one.
    ///
    /// # Errors
    /// A status file that is none.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        let Ok(text) = std::fs::read_to_string(self.world.status()) else {
            return Ok(serde_json::Value::Null);
        };
        Ok(serde_json::from_str(&text)?)
    }

    /// Whether storage has an alert in this state, `raised` or `cleared`.
    ///
    /// # Errors
    /// A storage that cannot be read.
    pub fn stored_alert(&self, alert: &str, state: &str) -> anyhow::Result<bool> {
        let conn = judge::read_only(&self.world.storage())?;
        let sql = "SELECT count(*) FROM alerts WHERE name = ?1 AND state = ?2";
        Ok(conn.query_row(sql, [alert, state], |row| row.get::<_, i64>(0))? > 0)
    }

    /// Waits until a line is accepted that is sent from now on: the gateway has its port open.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_accepting(&self) -> anyhow::Result<()> {
        let sent = self.ledger.len();
        wait_until("accepting", SOON, || {
            // There may be no outbox yet.
            Ok(self.accepted().is_ok_and(|lines| lines.last().is_some_and(|last| *last > sent)))
        })
    }

    /// Stops the board, waits until the last line that it has sent is accepted and all that
    /// was accepted is stored, and returns what storage then has.
    ///
    /// # Errors
    /// When it does not drain within twice [`SOON`].
    pub fn drain(&mut self) -> anyhow::Result<Found> {
        if let Some(board) = self.board.as_ref().filter(|board| board.is_sending()) {
            // Without a new line there may be no last one to wait for: what is sent while a gateway
            // closes its port is read by nobody.
            self.wait_accepting()?;
            board.pause();
        }
        let mut outbox = OutboxWatch::new(&self.world.outbox());
        // The board may be in the middle of its last line.
        let mut sent = self.ledger.len();
        wait_until("accepting the last line", SOON, || {
            sent = self.ledger.len();
            Ok(judge::accepted(&self.world.outbox())?.contains(&sent))
        })?;
        let mut watch = Watch::new(&self.world.storage(), self.ledger.clone());
        let mut last = 0;
        wait_until("draining", 2 * SOON, || {
            watch.look()?;
            last = watch.stored();
            Ok(last >= outbox.look()?)
        })
        .with_context(|| format!("{last} rows stored"))?;
        judge::stored(&self.world.storage(), &self.ledger)
    }
}

impl Rig {
    /// Ends everything, and keeps the folder.
    pub fn keep(mut self) -> std::path::PathBuf {
        self.dir.take().map_or_else(Default::default, tempfile::TempDir::keep)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if (std::thread::panicking() || std::env::var_os("KEEP").is_some())
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept for a look: {}", dir.keep().display());
        }
    }
}
