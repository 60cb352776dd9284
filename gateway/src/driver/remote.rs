//! The driver and what is desired from afar: taken, tried, reported.

use std::path::PathBuf;
use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_mqtt::Qos;
use fieldpost_protocol::{CommandOutcome, Metrics, Topic};
use serde_json::json;

use super::Driver;
use crate::clock;
use crate::config::{Config, Desired, JSON_BYTES_MAX};
use crate::outbox::{Ending, Gone};
use crate::remote::{NO_ACK, Offer, Remote, TRIAL};

/// What could not be written down is tried again after it.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Mistakes that are told, and what of each.
const WHY_MAX: usize = 100;
const WHY_CHARS_MAX: usize = 500;

/// See the module.
#[derive(Debug)]
pub(crate) struct Afar {
    remote: Remote,
    path: PathBuf,
    boot: String,
    /// Why what is kept does not run: the file has changed since.
    unfit: Option<Vec<String>>,
    /// The newest message that nobody has looked at.
    incoming: Option<Vec<u8>>,
    /// One with mistakes that came in a trial, which it does not end: refused after it.
    later: Option<Vec<u8>>,
    /// Since when the trial runs in this process.
    tried_at: Duration,
    /// A state has answered a hello of the trial.
    answered: bool,
    /// Not written down yet, and when that was tried.
    unsaved: Option<Duration>,
}

impl Afar {
    /// What runs at a start: the file, and over it what is kept, or still in its trial.
    pub(crate) fn at_start(local: Config) -> (Afar, Config) {
        let (path, boot) = (Remote::path(&local.outbox.path), clock::boot_id());
        let remote = if local.remote.enabled { Remote::load(&path) } else { Remote::default() };
        let (tried_at, unsaved) = (clock::boottime(), None);
        let mut afar = Afar {
            remote,
            path,
            boot,
            unfit: None,
            incoming: None,
            later: None,
            tried_at,
            answered: false,
            unsaved,
        };
        let mut changed = afar.remote.end_trial(&afar.boot, clock::boottime_ms(), NO_ACK);
        if afar.remote.is_trial()
            && let Some(desired) = afar.remote.running().cloned()
            && let Err(why) = merged(&local, Some(&desired))
        {
            afar.remote.refuse(desired.version, why);
            changed = true;
        }
        if changed && let Err(error) = afar.remote.save(&afar.path) {
            afar.unsaved = Some(clock::boottime());
            tracing::error!(path = %afar.path.display(), %error, "the end of a trial could not be written down");
        }
        let config = match merged(&local, afar.remote.running()) {
            Ok(config) => config,
            Err(why) => {
                tracing::error!(
                    "what is desired from afar does not fit the file: {}",
                    why.join("; ")
                );
                afar.unfit = Some(why);
                local
            }
        };
        (afar, config)
    }

    /// For a trial that waits for it.
    pub(super) fn handle_port_opened(&mut self, port: &str) {
        self.remote.handle_opened(port);
    }

    /// It was open: it has to be so again before a trial is kept.
    pub(super) fn handle_port_lost(&mut self, port: &str) {
        self.remote.handle_lost(port);
    }
}

/// The file, and over it what is desired; checked as the file itself is.
fn merged(local: &Config, desired: Option<&Desired>) -> Result<Config, Vec<String>> {
    let Some(desired) = desired else { return local.only_file().map_err(told) };
    let config = local.overlaid(desired).map_err(told)?;
    if config.broker != local.broker {
        config.check_files().map_err(told)?;
        if let Some(options) = crate::run::session_options(&config) {
            options.check().map_err(|error| vec![format!("broker: {error}")])?;
        }
    }
    Ok(config)
}

fn told(errors: crate::config::ConfigErrors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn pass_over(version: Option<u64>) {
    tracing::warn!(
        version,
        "config/desired has another content under a version that is known; it is passed over: give it another version"
    );
}

impl Driver {
    /// A message on `config/desired`; only the newest counts.
    pub(super) fn handle_desired(&mut self, payload: &[u8]) -> Option<String> {
        if !self.config.remote.enabled {
            return Some("[remote] enabled = false: nothing is set from afar".to_owned());
        }
        self.afar.incoming = Some(payload.to_vec());
        None
    }

    /// Tries what came.
    pub(super) async fn serve_desired(&mut self) -> Result<(), Gone> {
        let Some(payload) = self.afar.incoming.take() else { return Ok(()) };
        let desired = match Desired::parse(&payload) {
            Ok(desired) => desired,
            Err((version, errors)) => {
                self.refuse_desired(version, told(errors), payload).await;
                return Ok(());
            }
        };
        let version = desired.version;
        match self.afar.remote.offer(&desired) {
            Offer::Known => return Ok(()),
            Offer::Refused => {
                tracing::info!(
                    version,
                    "config/desired has a version that was refused; it is not tried again: give it another version"
                );
                return Ok(());
            }
            Offer::Changed => {
                pass_over(version);
                return Ok(());
            }
            Offer::Kept => return self.go_back().await,
            Offer::New => {}
        }
        let config = match merged(&self.config, Some(&desired)) {
            Ok(config) => config,
            Err(why) => {
                self.refuse_desired(version, why, payload).await;
                return Ok(());
            }
        };
        self.afar.later = None;
        let before = self.afar.remote.clone();
        let is_open = |name: &str| self.ports.iter().any(|port| *port.name == *name && port.open);
        let ports = config.ports.iter().map(|port| (port.name.clone(), is_open(&port.name)));
        self.afar.remote.begin(desired, &self.afar.boot, clock::boottime_ms(), TRIAL, ports);
        if !self.save_desired().await {
            // It could not be undone after a crash.
            (self.afar.remote, self.afar.unsaved) = (before, None);
            return Ok(());
        }
        point!("desired.before_applied");
        tracing::info!(version, "the configuration that is desired from afar is tried");
        self.afar.unfit = None;
        self.apply(config).await?;
        self.note_open_ports();
        point!("desired.applied");
        (self.afar.tried_at, self.afar.answered) = (clock::boottime(), false);
        self.engine.sync_now(self.afar.tried_at);
        self.publish_reported();
        Ok(())
    }

    /// What is desired is what is kept: nothing has to be proved.
    async fn go_back(&mut self) -> Result<(), Gone> {
        let was_trial = self.afar.remote.is_trial();
        self.afar.remote.go_back();
        self.afar.later = None;
        tracing::info!(
            version = self.afar.remote.fate().version,
            "what is desired from afar is what was kept before: that is in effect"
        );
        self.save_desired().await;
        if was_trial {
            self.apply_kept().await?;
        }
        self.publish_reported();
        Ok(())
    }

    /// What is kept, or the file alone where that has changed since and they do not fit.
    async fn apply_kept(&mut self) -> Result<(), Gone> {
        let config = match merged(&self.config, self.afar.remote.running()) {
            Ok(config) => Ok(config),
            Err(why) => {
                self.afar.unfit = Some(why);
                merged(&self.config, None)
            }
        };
        match config {
            Ok(config) => drop(self.apply(config).await?),
            Err(why) => tracing::error!("the file was good at the start: {}", why.join("; ")),
        }
        Ok(())
    }

    async fn refuse_desired(&mut self, version: Option<u64>, why: Vec<String>, payload: Vec<u8>) {
        if self.afar.remote.is_trial() {
            self.afar.later = Some(payload);
            return;
        }
        if let Some(version) = version.filter(|version| self.afar.remote.has_kept(*version)) {
            return pass_over(Some(version));
        }
        let known = self.afar.remote.fate();
        if known.state == "refused" && known.version == version && known.why == why {
            return;
        }
        tracing::warn!(version, "config/desired is refused: {}", why.join("; "));
        self.afar.remote.refuse(version, why);
        self.save_desired().await;
        self.publish_reported();
    }

    /// A state has answered a hello of that moment.
    pub(super) async fn judge_trial(&mut self, asked_at: Duration) {
        if asked_at >= self.afar.tried_at && !self.session_is_old {
            self.afar.answered = true;
            self.keep_desired().await;
        }
    }

    /// What the trial waits for.
    fn trial_lacks(&self) -> Option<String> {
        if !self.afar.answered || !self.engine.is_acked_since(self.afar.tried_at) {
            return Some(NO_ACK.to_owned());
        }
        let is_wanted = |name: &&String| self.ports.iter().any(|port| *port.name == ***name);
        let lost = self.afar.remote.closed_ports().iter().find(is_wanted);
        lost.map(|name| format!("port {name}, which was open before, did not open"))
    }

    /// Those that a change has not closed, and that so do not open either.
    fn note_open_ports(&mut self) {
        for port in self.ports.iter().filter(|port| port.open) {
            self.afar.remote.handle_opened(&port.name);
        }
    }

    /// Keeps what storage has answered with, once it has acknowledged rows, too, if any wait, and no port
    /// was lost.
    async fn keep_desired(&mut self) {
        if self.afar.remote.is_trial() && self.trial_lacks().is_none() {
            self.afar.remote.keep();
            self.afar.incoming = self.afar.incoming.take().or(self.afar.later.take());
            tracing::info!(
                version = self.afar.remote.fate().version,
                "storage answers: the configuration is kept"
            );
            self.save_desired().await;
            self.publish_reported();
        }
    }

    /// Undoes what storage has not answered with in time, and writes down what could not be.
    pub(super) async fn tick_desired(&mut self, now: Duration) -> Result<(), Gone> {
        if self.afar.unsaved.is_some_and(|at| now >= at + SAVE_AGAIN_AFTER) {
            self.save_desired().await;
        }
        self.keep_desired().await;
        let lacks = self.trial_lacks().unwrap_or_default();
        if !self.afar.remote.end_trial(&self.afar.boot, now.as_millis() as i64, &lacks) {
            return Ok(());
        }
        self.afar.incoming = self.afar.incoming.take().or(self.afar.later.take());
        let fate = self.afar.remote.fate();
        tracing::warn!(version = fate.version, "{}", fate.why.join("; "));
        self.save_desired().await;
        self.apply_kept().await?;
        self.publish_reported();
        Ok(())
    }

    /// The command `config.reload`: the file as it stands now, and what is desired over it.
    pub(super) async fn reload(&mut self) -> Result<Ending, Gone> {
        let refused = |why: Vec<String>| Ending::because(CommandOutcome::Rejected, why.join("; "));
        let local = match self.config.read_again() {
            Ok(local) => local,
            Err(errors) => return Ok(refused(told(errors))),
        };
        let checked = local.check_files().map(drop).map_err(told);
        let remote = match (self.config.remote.enabled, local.remote.enabled) {
            (true, false) => Remote::default(),
            (false, true) => Remote::load(&self.afar.path),
            _ => self.afar.remote.clone(),
        };
        let config = checked.and_then(|()| merged(&local, remote.running()));
        let config = match config {
            Ok(config) => config,
            Err(why) => return Ok(refused(why)),
        };
        (self.afar.unfit, self.afar.remote) = (None, remote);
        let left = self.apply(config).await?;
        self.note_open_ports();
        // A trial has to be answered with what runs now.
        (self.afar.tried_at, self.afar.answered) = (clock::boottime(), false);
        if self.afar.remote.is_trial() {
            self.engine.sync_now(self.afar.tried_at);
        }
        self.publish_reported();
        let detail = if left.is_empty() {
            "the file was read again".to_owned()
        } else {
            format!("the file was read again; only a start changes {}", left.join(", "))
        };
        tracing::info!("{detail}");
        Ok(Ending {
            outcome: CommandOutcome::Succeeded,
            detail: Some(detail),
            result: Metrics::default(),
        })
    }

    /// Not in this thread, which also reads the ports.
    async fn save_desired(&mut self) -> bool {
        let (remote, path) = (self.afar.remote.clone(), self.afar.path.clone());
        let saved = tokio::task::spawn_blocking(move || remote.save(&path)).await;
        let saved = saved.map_err(std::io::Error::other).flatten();
        if let Err(error) = &saved {
            tracing::error!(path = %self.afar.path.display(), %error, "what is desired from afar could not be written down");
        }
        self.afar.unsaved = saved.is_err().then(clock::boottime);
        saved.is_ok()
    }

    /// What runs, retained: at each connection and each change.
    pub(super) fn publish_reported(&mut self) {
        let mut fate = self.afar.remote.fate();
        if let Some(why) = &self.afar.unfit {
            (fate.state, fate.why) = ("refused", why.clone());
        }
        let cut = |why: &String| why.chars().take(WHY_CHARS_MAX).collect::<String>();
        let why: Vec<String> = fate.why.iter().take(WHY_MAX).map(cut).collect();
        let mut report = json!({
            "version": fate.version, "state": fate.state, "why": why, "config": self.config.redacted_json(),
        });
        if report.to_string().len() > JSON_BYTES_MAX {
            report["config"] = serde_json::Value::Null;
        }
        let payload = report.to_string().into_bytes();
        point!("send.reported.before");
        self.publish(Topic::ConfigReported(self.device.clone()), payload, Qos::AtLeastOnce, true);
        point!("send.reported.after");
    }
}
