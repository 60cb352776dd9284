//! The driver and commands: what comes is judged, recorded, done, and its outcome recorded.

use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_mqtt::Qos;
use fieldpost_protocol::{
    Command, CommandId, CommandOutcome, EventKind, LiveCommandAck, Metrics, Topic, Value, id_of,
    unknown_keys,
};

use super::{Driver, End};
use crate::clock::{self, Now};
use crate::commands::{Begun, Builtin, Done, rest};
use crate::config::{duration_text, parse_duration};
use crate::engine::{Guards, Judge, Verdict};
use crate::outbox::{AppendError, Ending, Finished, Gone, Outbox, Taken};

/// At an end, for the answers of boards.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// A pause of sending that names no time.
const PAUSE_DEFAULT: Duration = Duration::from_secs(3_600);
/// ... and the longest.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Beyond it, a person has forgotten.
const RELEASE_MAX: Duration = Duration::from_secs(3_600);
const RELEASE_DEFAULT: Duration = Duration::from_secs(60);

impl Driver {
    /// A message on `commands`. Why it is passed over, if it is, for the log.
    pub(super) fn handle_command(&mut self, payload: &[u8], retained: bool) -> Option<String> {
        if retained {
            return Some("a retained command is never run: publish it without `retain`".to_owned());
        }
        let why = match Command::decode(payload) {
            Ok(command) => {
                self.name_unknown_keys(&command, payload);
                let Err(why) = self.desk.put(command.clone()) else { return None };
                let why = format!("{why}; it is dropped, and has to be sent again");
                self.say_undecided(&command, &why);
                return Some(why);
            }
            Err(error) => error.to_string(),
        };
        let ack = LiveCommandAck {
            id: id_of(payload),
            name: None,
            outcome: Some(CommandOutcome::Rejected),
            detail: Some(why.clone()),
            ..self.live_ack()
        };
        self.publish_ack(&ack);
        Some(why)
    }

    /// Whoever has misspelt `strict` or `args` learns it, and the command runs without.
    fn name_unknown_keys(&mut self, command: &Command, payload: &[u8]) {
        let unknown = unknown_keys(payload);
        if unknown.is_empty() {
            return;
        }
        let name = &command.name;
        // Whoever sends it a thousand times wears out no card.
        tracing::debug!(id = ?command.id, name, ?unknown, "a command has keys that nobody reads; they are passed over");
        let known = "known are id, name, args, expires, target, strict and v";
        let why = format!("passed over, since nobody reads them: {}; {known}", unknown.join(", "));
        self.say_undecided(command, &why);
    }

    /// Judges what can be judged, and does what may be done.
    pub(super) async fn serve_commands(&mut self) -> Result<(), Gone> {
        // What would start now could not be answered any more.
        while self.leaving.is_none()
            && !self.restart
            && let Some(command) = self.desk.next()
        {
            self.serve(command).await?;
        }
        Ok(())
    }

    async fn serve(&mut self, command: Command) -> Result<(), Gone> {
        let judged_at = clock::boottime();
        let cloud_ms = self.engine.cloud_ms(judged_at);
        let unix_ms = cloud_ms.or_else(|| self.unix_ms(clock::boottime_ms()));
        let allowed = self.desk.allowed().check(&command.name, &command.args);
        let asked = command.clone();
        let job = move |outbox: &mut Outbox| {
            outbox.take_command(
                &asked,
                unix_ms,
                |epoch, record| {
                    let judge = Judge { epoch, cloud_ms, guards: Guards::default() };
                    judge.judge(&asked, record, allowed)
                },
                Now::read(),
            )
        };
        point!("command.before_taken");
        let taken = self.record(job).await?;
        let Some(Taken { verdict, no, told, dropped, doubtful }) = taken else {
            self.drop_command(&command, "the outbox cannot be written");
            return Ok(());
        };
        point!("command.taken");
        if let Some(why) = dropped {
            self.drop_command(&command, &why);
            return Ok(());
        }
        if let Some(kind) = told {
            self.tell_ack(&kind, &command.name);
        }
        match (verdict, command.id.clone()) {
            _ if doubtful => {
                self.desk.doubt(command);
                return self.reject_doubtful().await;
            }
            (Verdict::LeaveToBridge, _) => {
                let why = "left to the bridge, which gives it an id and issues it; if none runs, nothing happens";
                self.say_undecided(&command, why);
            }
            (Verdict::Hold, _) if self.desk.hold(command.clone()) => {
                let why = "held: it expires, and no bridge has told the time yet";
                self.say_undecided(&command, why);
            }
            (Verdict::Hold, _) => self.drop_command(&command, "too many wait for the time"),
            (Verdict::Start, Some(id)) => {
                tracing::info!(%id, name = command.name, "a command runs");
                let expires = command.expires;
                // The disk may have taken its time.
                let rest = rest(expires, cloud_ms, clock::boottime().saturating_sub(judged_at));
                self.begin(id, &command, no, rest).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A command whose start is in doubt did not run, and never will: once that is recorded.
    async fn reject_doubtful(&mut self) -> Result<(), Gone> {
        if let Some(command) = self.desk.doubtful().cloned() {
            let unix_ms = self.unix_ms(clock::boottime_ms());
            let asked = command.clone();
            let job =
                move |outbox: &mut Outbox| outbox.reject_doubtful(&asked, unix_ms, Now::read());
            let Some(Some(kind)) = self.record(job).await? else { return Ok(()) };
            self.desk.settle();
            self.tell_ack(&kind, &command.name);
        }
        Ok(())
    }

    /// Does what was recorded as started.
    async fn begin(
        &mut self,
        id: CommandId,
        command: &Command,
        no: u32,
        rest: Option<Duration>,
    ) -> Result<(), Gone> {
        let name = &command.name;
        let builtin = match self.desk.begin(id.clone(), command, no, rest) {
            Begun::ByBoard => return Ok(()),
            Begun::ByGateway(builtin) => builtin,
            Begun::Not(ending) => {
                return self.handle_done(Done::by_gateway(id, name, ending)).await;
            }
        };
        if builtin == Builtin::Resend {
            let begun = self.begin_resend(id.clone(), &command.args).await?;
            let Err(why) = begun else { return Ok(()) };
            let ending = Ending::because(CommandOutcome::Rejected, why);
            return self.handle_done(Done::by_gateway(id, name, ending)).await;
        }
        if builtin == Builtin::ConfigReload {
            let ending = self.reload().await?;
            return self.handle_done(Done::by_gateway(id, name, ending)).await;
        }
        match self.do_builtin(builtin, &command.args) {
            Some(ending) => self.handle_done(Done::by_gateway(id, name, ending)).await,
            // Its outcome is told by the next start.
            None => Ok(()),
        }
    }

    /// A command has ended: its outcome is recorded, however often that has to be tried.
    pub(super) async fn handle_done(&mut self, done: Done) -> Result<(), Gone> {
        self.desk.free(&done);
        self.finish_command(done).await
    }

    /// What has to be tried again, and what is over.
    pub(super) async fn tick_commands(&mut self, now: Duration) -> Result<(), Gone> {
        if self.log_until.is_some_and(|until| now >= until) {
            self.log_until = None;
            let _ = crate::log::set(None);
        }
        self.reject_doubtful().await?;
        let mut owed = self.desk.owed.len();
        while owed > 0
            && let Some(done) = self.desk.owed.pop_front()
        {
            self.finish_command(done).await?;
            // What the disk refuses now, it refuses of the others, too.
            owed = if self.desk.owed.len() < owed { owed - 1 } else { 0 };
        }
        Ok(())
    }

    fn drop_command(&mut self, command: &Command, why: &str) {
        let why = format!("{why}; it has to be sent again");
        let topic = self.topics.name(&Topic::Commands(self.device.clone()));
        self.broker.note_drop(clock::boottime(), &topic, &why);
        self.say_undecided(command, &why);
    }

    /// Judges no command any more; those that run have a moment to be answered.
    pub(super) async fn leave(&mut self, end: End) -> Result<(), Gone> {
        self.fail_resend("the gateway ended before all was published").await?;
        let open = self.desk.open();
        if open > 0 {
            tracing::info!(
                open,
                "the answers of commands that run are waited for, {ANSWERED_WITHIN:?} at most"
            );
        }
        self.leaving = Some((end, clock::boottime() + ANSWERED_WITHIN));
        Ok(())
    }

    /// Whether nothing is waited for any more.
    pub(super) fn has_left(&mut self) -> Option<End> {
        let (open, now) = (self.desk.open(), clock::boottime());
        self.leaving.take_if(|(_, by)| open == 0 || now >= *by).map(|(end, _)| end)
    }

    async fn finish_command(&mut self, done: Done) -> Result<(), Gone> {
        let (id, ending) = (done.id.clone(), done.ending.clone());
        let job = move |outbox: &mut Outbox| match outbox.finish_command(&id, &ending, Now::read())
        {
            // In the epoch that has begun: whichever comes first counts.
            Err(AppendError::InDoubt(_)) => outbox.finish_command(&id, &ending, Now::read()),
            told => told,
        };
        point!("command.done");
        match self.record(job).await? {
            Some(Finished::Told(kind)) => {
                point!("command.finished");
                tracing::info!(id = %done.id, outcome = done.ending.outcome.as_str(), "a command has ended");
                self.tell_ack(&kind, &done.name);
            }
            Some(Finished::NotKnown) => {
                tracing::error!(id = %done.id, "the outbox does not know a command that has ended");
            }
            Some(Finished::NoRoom) | None => self.desk.owed.push_back(done),
        }
        Ok(())
    }

    /// Runs a job that appends, and hears of what it has appended. `None`: it failed, and nothing of it
    /// is there.
    async fn record<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Outbox) -> Result<T, AppendError> + Send + 'static,
    ) -> Result<Option<T>, Gone> {
        let job = |outbox: &mut Outbox| {
            let result = job(outbox);
            (result, outbox.snapshot(true), outbox.current_rows())
        };
        let (result, snapshot, rows) = self.outbox.call(job).await?;
        let now = clock::boottime();
        self.follow(now, snapshot);
        for (key, last) in rows {
            self.engine.handle_appended(now, key, last);
        }
        match result {
            Ok(value) => {
                self.desk.failing = false;
                Ok(Some(value))
            }
            Err(error) => {
                // Outcomes are tried again twice a second: once is enough for a log on the same card.
                if !std::mem::replace(&mut self.desk.failing, true) {
                    tracing::error!(%error, "a command could not be recorded: what has not begun is dropped, an outcome is tried again");
                }
                Ok(None)
            }
        }
    }

    fn do_builtin(&mut self, builtin: Builtin, args: &Metrics) -> Option<Ending> {
        let done = |detail: Option<String>| Ending {
            outcome: CommandOutcome::Succeeded,
            detail,
            result: Metrics::default(),
        };
        let ending = match builtin {
            Builtin::Ping => {
                let uptime_s = (clock::boottime_ms() - self.started.boot_ms) / 1_000;
                let version = env!("CARGO_PKG_VERSION").into();
                let result =
                    vec![("uptime_s".into(), uptime_s.into()), ("version".into(), version)];
                Ok(Ending { result: Metrics::new(result).unwrap_or_default(), ..done(None) })
            }
            Builtin::SyncNow => {
                self.engine.sync_now(clock::boottime());
                Ok(done(None))
            }
            Builtin::SyncPause => time(args, PAUSE_DEFAULT, PAUSE_MAX).map(|time| {
                let now = clock::boottime();
                self.engine.pause_readings(now, Some(now + time));
                done(Some(format!("no readings are sent for {}; events are", duration_text(time))))
            }),
            Builtin::SyncResume => {
                self.engine.pause_readings(clock::boottime(), None);
                Ok(done(None))
            }
            Builtin::SerialReopen | Builtin::SerialRelease => self
                .release(builtin, args)
                .map(|port| done(Some(format!("port {port} was asked to close")))),
            Builtin::LogLevel => time(args, PAUSE_DEFAULT, PAUSE_MAX).and_then(|time| {
                let level = text(args, "level").unwrap_or_default();
                crate::log::set(level.parse().ok())?;
                self.log_until = Some(clock::boottime() + time);
                Ok(done(Some(format!("the level is {level} for {}", duration_text(time)))))
            }),
            Builtin::Restart => {
                self.restart = true;
                return None;
            }
            Builtin::ConfigReload | Builtin::Resend => Err("not known to this version".to_owned()),
        };
        Some(ending.unwrap_or_else(|why| Ending::because(CommandOutcome::Rejected, why)))
    }

    fn release(&mut self, builtin: Builtin, args: &Metrics) -> Result<String, String> {
        let port = text(args, "port").unwrap_or_default();
        let releasers = self.sources.releasers();
        let releasers = releasers.borrow();
        let names = || releasers.iter().map(|it| &*it.port).collect::<Vec<_>>().join(", ");
        let releaser = releasers.iter().find(|releaser| *releaser.port == *port);
        let releaser = releaser
            .ok_or_else(|| format!("there is no serial port {port}; there are: {}", names()))?;
        match builtin {
            Builtin::SerialReopen => releaser.release(REOPEN_AFTER),
            _ => releaser.release(time(args, RELEASE_DEFAULT, RELEASE_MAX)?),
        }
        Ok(port.to_owned())
    }

    fn live_ack(&self) -> LiveCommandAck {
        let time = self.unix_ms(clock::boottime_ms());
        let (id, name, outcome, detail) = (None, None, None, None);
        LiveCommandAck { time, id, name, outcome, detail, result: Metrics::default() }
    }

    /// For whoever looks on; what counts is the event.
    fn tell_ack(&mut self, kind: &EventKind, name: &str) {
        if let EventKind::CommandAck { id, outcome, detail, result, .. } = kind {
            let ack = LiveCommandAck {
                id: Some(id.clone()),
                name: Some(name.to_owned()),
                outcome: Some(*outcome),
                detail: detail.clone(),
                result: result.clone(),
                ..self.live_ack()
            };
            self.publish_ack(&ack);
        }
    }

    /// What has no outcome yet, for whoever looks on.
    fn say_undecided(&mut self, command: &Command, why: &str) {
        let (id, name) = (command.id.clone(), Some(command.name.clone()));
        let ack = LiveCommandAck { id, name, detail: Some(why.to_owned()), ..self.live_ack() };
        self.publish_ack(&ack);
    }

    /// What ended while nobody could look on: at a start, before there is a connection.
    pub(super) fn say_late_outcomes(&mut self) {
        for ack in std::mem::take(&mut self.desk.unsaid) {
            self.publish_ack(&ack);
        }
    }

    fn publish_ack(&mut self, ack: &LiveCommandAck) {
        if self.connection.is_none() && ack.outcome.is_some() {
            self.desk.keep_unsaid(ack.clone());
            return;
        }
        let topic = Topic::Live(self.device.clone(), "command_acks".to_owned());
        point!("send.live_command_ack.before");
        self.publish(topic, ack.to_json(), Qos::AtMostOnce, false);
        point!("send.live_command_ack.after");
    }
}

/// Long enough that the board sees it.
const REOPEN_AFTER: Duration = Duration::from_millis(500);

fn text<'a>(args: &'a Metrics, name: &str) -> Option<&'a str> {
    match args.get(name) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

fn time(args: &Metrics, default: Duration, max: Duration) -> Result<Duration, String> {
    let Some(text) = text(args, "time") else { return Ok(default) };
    let time = parse_duration(text).map_err(|why| format!("time = {text:?}: {why}"))?;
    if time > max {
        return Err(format!("time = {text:?} is too long; at most {}", duration_text(max)));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_too_long_is_refused_in_the_words_in_which_one_writes_it() {
        let args = |json| Metrics::from_json(json).unwrap();
        let said = |json| time(&args(json), PAUSE_DEFAULT, PAUSE_MAX).map(duration_text);
        assert_eq!(said(r#"{"time":"0s"}"#).as_deref(), Ok("0s"));
        assert_eq!(said(r#"{"time":"90m"}"#).as_deref(), Ok("90m"));
        assert!(said(r#"{"time":"8d"}"#).unwrap_err().ends_with("at most 7d"));
    }
}
