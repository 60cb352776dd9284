//! The one place where the sync engine meets socket, disk and clock.
//!
//! One task, one loop: do what the engine asks for, then wait for the next thing to happen.

mod alerts;
mod alive;
mod apply;
mod broker;
mod check;
mod commands;
mod health;
mod history;
mod home_assistant;
mod publish;
mod remote;
mod resend;
mod throttle;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fieldpost_mqtt::{Connection, Event as SessionEvent, Session};
use fieldpost_protocol::{
    Clock, DeviceId, Epoch, Nonce, PACKET_BYTES_MAX, Seq, Severity, StreamKey, Topics,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::alerts::Alerts;
use crate::clock::{self, Now};
use crate::commands::{Desk, Done};
use crate::config::Config;
use crate::engine::{Engine, Notice};
use crate::history::History;
use crate::home_assistant::Announcer;
use crate::intake::{Committed, Counted};
use crate::live::Live;
use crate::outbox::{Gone, NewEvent, OutboxThread, Snapshot, Trusted};
use crate::rules::Rules;
use crate::serial::{Counters, PortConfig, PortEvent};
use crate::sources::Sources;
pub(crate) use alive::Alive;
pub(crate) use broker::Broker;
pub(crate) use check::{Checks, Said};
pub(crate) use history::moment_at_start;
pub(crate) use home_assistant::about;
pub(crate) use remote::Afar;
use resend::Resend;

/// How often health, live values and heartbeat are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often the outbox is asked whether something may go.
const TRIM_INTERVAL_MS: i64 = 60_000;

/// A port as the driver knows it.
pub(crate) struct Port {
    pub(crate) name: Arc<str>,
    pub(crate) path: PathBuf,
    /// Somebody has tried to open it: before that it is neither open nor lost.
    pub(crate) tried: bool,
    pub(crate) open: bool,
    /// Closed because somebody has asked for it.
    pub(crate) released: bool,
    /// What a person should do about its lines, and how many were taken when it was said.
    pub(crate) hint: Option<(String, u64)>,
    /// What a person should do about the machine.
    pub(crate) site_hints: Vec<String>,
    pub(crate) counters: Arc<Counters>,
}

impl Port {
    pub(crate) fn new(config: &PortConfig, counters: Arc<Counters>) -> Self {
        let (name, path) = (config.name.clone(), config.place.path().to_owned());
        let (tried, open, released) = (false, false, false);
        let (hint, site_hints) = (None, Vec::new());
        Port { name, path, tried, open, released, hint, site_hints, counters }
    }
}

/// The channels that the driver listens on.
pub(crate) struct Inputs {
    pub(crate) session: Option<mpsc::Receiver<SessionEvent>>,
    pub(crate) committed: mpsc::Receiver<Committed>,
    pub(crate) ports: mpsc::Receiver<PortEvent>,
    pub(crate) commands: mpsc::Receiver<Done>,
    pub(crate) checks: mpsc::Receiver<mpsc::Sender<Said>>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Why the driver ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to.
    Shutdown,
    /// A command asks for it.
    Restart,
    /// The outbox cannot go on; the next start mends it.
    Outbox(String),
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) config: Arc<Config>,
    pub(crate) topics: Topics,
    pub(crate) device: DeviceId,
    pub(crate) engine: Engine,
    pub(crate) outbox: OutboxThread,
    pub(crate) session: Option<Session>,
    pub(crate) connection: Option<Connection>,
    pub(crate) broker: Broker,
    pub(crate) events: mpsc::Sender<NewEvent>,
    pub(crate) alerts: Alerts,
    pub(crate) rules: Rules,
    pub(crate) ports: Vec<Port>,
    pub(crate) live: Live,
    pub(crate) announcer: Announcer,
    pub(crate) counted: Arc<Counted>,
    pub(crate) epoch: Epoch,
    /// The snapshots of the outbox that epoch and streams come from.
    pub(crate) epoch_of: u64,
    pub(crate) streams_of: u64,
    pub(crate) base: Option<(i64, Clock)>,
    /// Unix minus boot time at the bridge, as last learned.
    pub(crate) cloud_skew_ms: Option<i64>,
    /// What a bridge told of the time and the disk refused, with the round trip.
    pub(crate) time_owed: Option<(i64, Duration)>,
    pub(crate) started: Now,
    pub(crate) last_heartbeat: Option<Duration>,
    pub(crate) last_live: Option<Duration>,
    pub(crate) last_trim_ms: i64,
    pub(crate) used_bytes: u64,
    pub(crate) status_file_failed: bool,
    /// When the outbox was full last.
    pub(crate) full_ms: Option<i64>,
    /// The status file does not have it yet.
    pub(crate) ports_changed: bool,
    /// What the outbox was told last.
    pub(crate) told_acked: Vec<(StreamKey, Seq)>,
    /// What the service manager is told.
    pub(crate) alive: Alive,
    /// The last report says that this gateway has stopped.
    pub(crate) ending: bool,
    pub(crate) desk: Desk,
    pub(crate) afar: Afar,
    pub(crate) sources: Sources,
    pub(crate) commit_interval: watch::Sender<Duration>,
    /// The session is not that of the configuration: another one has to begin.
    pub(crate) session_is_old: bool,
    /// Until when more is logged than at the start.
    pub(crate) log_until: Option<Duration>,
    /// Readings that are published once more.
    pub(crate) resend: Option<Resend>,
    /// Of the last batch of any resend: a puback of an earlier one's is none of the next.
    pub(crate) resend_token: u64,
    /// A command asks to start again.
    pub(crate) restart: bool,
    /// How it is to end, and until when answers are waited for.
    pub(crate) leaving: Option<(End, Duration)>,
    pub(crate) history: History,
    /// It was logged that the history cannot be written.
    pub(crate) history_failed: bool,
    pub(crate) checks: Checks,
}

impl Driver {
    /// Runs until it is asked to end, or cannot go on.
    #[allow(
        clippy::disallowed_methods,
        reason = "a driver: it turns the engine's moments into timers"
    )]
    pub(crate) async fn run(&mut self, inputs: &mut Inputs) -> Result<End, Gone> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.pump().await?;
            if self.restart && self.leaving.is_none() {
                self.leave(End::Restart).await?;
            }
            if let Some(end) = self.has_left() {
                return Ok(end);
            }
            if std::mem::take(&mut self.session_is_old) {
                inputs.session = self.renew_session().await;
            }
            let wake = Instant::now() + self.timeout();
            let shutting_down = matches!(self.leaving, Some((End::Shutdown, _)));
            tokio::select! {
                _ = inputs.shutdown.wait_for(|down| *down), if !shutting_down => {
                    self.leave(End::Shutdown).await?;
                }
                Some(event) = recv(&mut inputs.session) => self.handle_session(event).await?,
                committed = inputs.committed.recv() => {
                    // The intake ends before us only if the outbox's thread has.
                    if let Some(end) = self.handle_committed(committed.ok_or(Gone)?) {
                        return Ok(end);
                    }
                }
                Some(event) = inputs.ports.recv() => self.handle_port(event),
                Some(done) = inputs.commands.recv() => self.handle_done(done).await?,
                Some(asked) = inputs.checks.recv() => self.begin_check(asked),
                _ = ticks.tick() => self.tick().await?,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Until the engine has something to send. A connection that takes nothing now wakes us
    /// with its next puback; the engine's moment may have passed meanwhile.
    fn timeout(&self) -> Duration {
        let at = self.engine.poll_timeout().filter(|_| self.has_room());
        at.map_or(TICK, |at| at.saturating_sub(clock::boottime()))
    }

    /// Does what the engine asks for, until it asks for nothing.
    async fn pump(&mut self) -> Result<(), Gone> {
        self.handle_notices().await?;
        self.serve_commands().await?;
        self.serve_desired().await?;
        self.send_all().await?;
        self.go_on_resending().await?;
        self.go_on_announcing().await?;
        self.tell_alerts();
        Ok(())
    }

    fn handle_committed(&mut self, committed: Committed) -> Option<End> {
        let now = clock::boottime();
        let boot_ms = clock::boottime_ms();
        match committed {
            Committed::Rows { snapshot, rows, full } => {
                self.follow(now, snapshot);
                for (key, last) in rows {
                    self.engine.handle_appended(now, key, last);
                }
                if let Some(full) = full {
                    self.judge_full(boot_ms, full);
                }
                self.alerts.clear(boot_ms, "outbox_failing", None, "the outbox is written again");
            }
            Committed::Failing(error) => {
                let message = format!(
                    "{error}. Readings wait in memory and are refused once the queue is full"
                );
                self.alerts.raise(boot_ms, "outbox_failing", None, Severity::Critical, message);
            }
            Committed::InDoubt(error) => {
                let message = format!("{error}. Its readings count as refused");
                self.alerts.raise(boot_ms, "outbox_failing", None, Severity::Critical, message);
            }
            Committed::Damaged(error) => return Some(End::Outbox(error)),
        }
        None
    }

    /// Takes the present epoch first: a hello says whose it is, and all others have ended. What an
    /// older snapshot says, which waited in the intake's queue, is not taken.
    fn follow(&mut self, now: Duration, snapshot: Snapshot) {
        let Snapshot { no, epoch, streams } = snapshot;
        if no > self.epoch_of && epoch != self.epoch {
            self.epoch = epoch;
            self.base = None;
            self.engine.handle_epoch(now, epoch);
        }
        self.epoch_of = self.epoch_of.max(no);
        if let Some(streams) = streams.filter(|_| no > self.streams_of) {
            self.streams_of = no;
            self.engine.handle_streams(&streams);
        }
    }

    async fn handle_notices(&mut self) -> Result<(), Gone> {
        while let Some(notice) = self.engine.poll_notice() {
            let boot_ms = clock::boottime_ms();
            match notice {
                Notice::Trust(trusted) => {
                    let Trusted { store, r#gen } = trusted;
                    let r#gen = r#gen.map(tracing::field::display);
                    tracing::info!(%store, "gen" = r#gen, "the storage is new here, or another incarnation: it is asked what it has");
                    let written = self.on_outbox("the trusted storage", move |outbox| outbox.trust(trusted)).await?;
                    self.tell_again_unless(written.is_some());
                }
                Notice::OtherStore(store) => {
                    let message = format!(
                        "a bridge answers for storage {store}, which is not the one this gateway trusts; nothing is let \
                         go on its word. If the storage was replaced on purpose: fieldpost-gateway trust-store {store}"
                    );
                    self.note_not_counted(&message);
                    self.alerts.raise(boot_ms, "other_store", None, Severity::Critical, message);
                }
                Notice::NoCommonVersion(versions) => self.alerts.raise(
                    boot_ms,
                    "no_common_version",
                    None,
                    Severity::Critical,
                    format!("the bridge reads versions {versions:?}, this gateway writes 1; nothing is sent. Update the older one"),
                ),
                Notice::Confirmed(confirmed) => {
                    self.note_answered();
                    let written = self.outbox.call(move |outbox| outbox.set_confirmed(&confirmed)).await?;
                    self.tell_again_unless(written);
                }
                Notice::CloudTime { skew_ms, rtt } => {
                    self.judge_trial(clock::boottime().saturating_sub(rtt)).await;
                    self.learn_time(skew_ms, rtt).await?;
                }
                Notice::Stuck { key, seq } => self.alerts.raise(
                    boot_ms,
                    "row_stuck",
                    Some(&key.to_string()),
                    Severity::Critical,
                    format!("row {seq} of {key} gets no sync ack although it is sent alone; look at the bridge's log"),
                ),
            }
        }
        Ok(())
    }

    /// The bridge's time becomes the base of epochs that have none, and is held against one
    /// that has.
    async fn learn_time(&mut self, skew_ms: i64, rtt: Duration) -> Result<(), Gone> {
        self.cloud_skew_ms = Some(skew_ms);
        self.desk.judge_held();
        let now = Now::read();
        let (skew, clock) =
            if now.synchronised { (now.skew_ms(), Clock::Ntp) } else { (skew_ms, Clock::Bridge) };
        let job = move |outbox: &mut crate::outbox::Outbox| {
            let fixed = outbox.fix_bases(skew, clock);
            (fixed, outbox.base(), outbox.epoch_start_ms())
        };
        let (fixed, base, start_ms) = self.outbox.call(job).await?;
        match fixed {
            Ok(()) => self.time_owed = None,
            Err(error) => {
                if self.time_owed.replace((skew_ms, rtt)).is_none() {
                    tracing::error!(%error, "the time could not be written down; it is tried again");
                }
            }
        }
        self.base = base;
        let Some((base_ms, clock)) = base else { return Ok(()) };
        let off_ms = (base_ms - start_ms) - skew_ms;
        let tolerance_ms = 1_000 + rtt.as_millis() as i64 / 2;
        if off_ms.abs() <= tolerance_ms {
            self.alerts.clear(
                now.boot_ms,
                "clock_differs",
                None,
                "gateway and bridge agree on the time",
            );
        } else if clock == Clock::Bridge {
            tracing::warn!(off_ms, "the bridge's time has changed: a new epoch begins");
            let snapshot = self.outbox.call(move |outbox| {
                outbox.end_epoch(now);
                outbox.snapshot(false)
            });
            let snapshot = snapshot.await?;
            self.follow(clock::boottime(), snapshot);
        } else {
            let message = format!(
                "this gateway's clock ({}) and the bridge's differ by {off_ms} ms",
                clock.as_str()
            );
            self.alerts.raise(now.boot_ms, "clock_differs", None, Severity::Warning, message);
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), Gone> {
        let now = clock::boottime();
        self.judge_health(now);
        self.judge_connection(now);
        self.tell_alive(now);
        self.broker.tick(now);
        if let Some((skew_ms, rtt)) = self.time_owed {
            // Without it the rows of an epoch cannot leave.
            self.learn_time(skew_ms, rtt).await?;
        }
        self.tell_acked().await?;
        self.tick_commands(now).await?;
        self.tick_rules(now.as_millis() as i64).await?;
        self.tick_desired(now).await?;
        self.tick_checks(now);
        self.tick_history(false).await?;
        self.publish_live(now);
        self.announcer.tick(now);
        if now.as_millis() as i64 - self.last_trim_ms >= TRIM_INTERVAL_MS {
            self.last_trim_ms = now.as_millis() as i64;
            self.trim().await?;
        }
        let due = self.last_heartbeat.is_none_or(|last| now >= last + self.config.status.heartbeat);
        if due {
            self.last_heartbeat = Some(now);
            self.report().await?;
        } else if std::mem::take(&mut self.ports_changed) {
            // Whoever has just plugged in a board looks here.
            self.write_status();
        }
        Ok(())
    }

    /// Lets the outbox know what storage has: it is what makes room first. In memory, so a
    /// tick's delay is all that it may lag.
    async fn tell_acked(&mut self) -> Result<(), Gone> {
        let acked = self.engine.acked_streams();
        if acked != self.told_acked {
            self.told_acked.clone_from(&acked);
            let written = self.outbox.call(move |outbox| outbox.set_acked(&acked)).await?;
            self.tell_again_unless(written);
        }
        Ok(())
    }

    fn tell_again_unless(&mut self, written: bool) {
        if !written {
            self.told_acked.clear();
        }
    }

    async fn trim(&mut self) -> Result<(), Gone> {
        let unix_ms = self.unix_ms(clock::boottime_ms());
        let job = move |outbox: &mut crate::outbox::Outbox| {
            let trimmed = outbox.trim(clock::wall_ms());
            let forgotten = unix_ms.map_or(Ok(()), |now| outbox.forget_commands(now));
            // Also after an error: a commit in doubt may have happened.
            let changed = trimmed.as_ref().map_or(true, |it| it.readings + it.events > 0);
            (trimmed.and_then(|it| forgotten.map(|()| it)), outbox.snapshot(changed))
        };
        let (trimmed, snapshot) = self.outbox.call(job).await?;
        self.follow(clock::boottime(), snapshot);
        match trimmed {
            // Commits come in between.
            Ok(trimmed) if trimmed.more => self.last_trim_ms -= TRIM_INTERVAL_MS,
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the outbox could not be trimmed; it is tried again in a minute")
            }
        }
        Ok(())
    }

    /// Writes down what the next start should know, and says goodbye.
    pub(crate) async fn finish(&mut self) -> Result<(), Gone> {
        self.tell_acked().await?;
        self.ending = true;
        self.note_end().await?;
        self.report().await?;
        self.publish_offline();
        if let Some(session) = self.session.take() {
            session.close().await;
        }
        Ok(())
    }

    async fn on_outbox<T: std::marker::Send + 'static>(
        &self,
        what: &'static str,
        job: impl FnOnce(&mut crate::outbox::Outbox) -> rusqlite::Result<T>
        + std::marker::Send
        + 'static,
    ) -> Result<Option<T>, Gone> {
        match self.outbox.call(job).await? {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                tracing::error!(%error, "{what}: the outbox could not be read or written");
                Ok(None)
            }
        }
    }

    fn nonce() -> Nonce {
        Nonce(clock::random_id())
    }
}

/// Waits for ever where there is no session.
async fn recv(session: &mut Option<mpsc::Receiver<SessionEvent>>) -> Option<SessionEvent> {
    match session {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

/// The largest message that a session of ours takes.
pub(crate) const PACKET_MAX: usize = PACKET_BYTES_MAX;
