//! Puts the parts together, and takes them apart in the right order.
//!
//! One current-thread runtime for everything that waits, one thread for the outbox.
//!
//! ```text
//! end:  ports stop -> intake commits what it holds -> driver writes acked down, says goodbye
//!       -> outbox folds its log and closes
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use fieldpost_mqtt as mqtt;
use fieldpost_protocol::{DeviceStatus, Severity, Topic};
use fieldpost_service::Service;
use tokio::sync::{mpsc, watch};

use crate::alerts::Alerts;
use crate::clock::{self, Now};
use crate::commands::Desk;
use crate::config::Config;
use crate::control;
use crate::driver::{
    self, Afar, Alive, Broker, Checks, Driver, End, Inputs, PACKET_MAX, Port, moment_at_start,
};
use crate::engine::{self, Engine};
use crate::history::{History, Kept};
use crate::home_assistant::Announcer;
use crate::intake::{Counted, EVENTS_MAX, Intake};
use crate::live::Live;
use crate::outbox::{self, Outbox, OutboxThread};
use crate::rules::Rules;
use crate::sources::Sources;

/// Publishes without a puback that a session allows.
pub(crate) const INFLIGHT_MAX: u16 = 96;
/// ... of which batches leave so many to hellos and heartbeats.
pub(crate) const INFLIGHT_RESERVED: usize = 4;
/// Port events that wait for the driver; more are dropped and counted.
const PORT_EVENTS_MAX: usize = 64;
/// Commits that wait for the driver to hear of them; then the intake waits.
const COMMITTED_MAX: usize = 16;

/// Runs the gateway until `shutdown` turns true; `service` hears of it. True: a command asks to start it
/// again.
///
/// # Errors
/// When the outbox cannot be opened, the broker's settings are unusable, or the outbox
/// cannot go on.
pub async fn run(
    config: Config,
    service: Service,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<bool> {
    let now = Now::read();
    let (mut outbox, recovered) = open_outbox(&config, now)?;
    let (afar, config) = Afar::at_start(config);
    let config = Arc::new(config);
    outbox.change_retention(&config.outbox);
    let mut alerts = Alerts::default();
    if let Some(message) = recovered.damage() {
        alerts.raise(now.boot_ms, "outbox_damaged", None, Severity::Critical, message);
    }
    let (epoch, _) = outbox.epoch();
    let streams = outbox.streams().context("reading the outbox's streams")?;
    let holes = outbox.holes().context("looking for holes in the outbox")?;
    alerts.raise_holes(now.boot_ms, &holes);
    let trusted = outbox.trusted();
    let left = outbox.left_started().context("looking for commands that were left")?;
    let raised = outbox.raised().context("looking for alerts that are raised")?;
    let rules = Rules::new(config.rules.clone(), raised, now.boot_ms);
    if recovered.damaged.is_some() {
        rules.begin_anew();
    }
    let kept = outbox.history().unwrap_or_else(|error| {
        tracing::warn!(%error, "the connectivity history cannot be read, and begins anew");
        Kept::default()
    });
    let mut history = History::new(kept, moment_at_start(now));
    if config.broker.is_some() {
        history.handle_start(moment_at_start(now));
    }
    let noted = outbox.announced().context("looking for entries at Home Assistant")?;
    let announcer = Announcer::new(driver::about(&config), noted);
    let used_bytes = outbox.used_bytes().context("asking the outbox's size")?;
    let waiting: u64 = streams.iter().map(|info| info.last - info.acked).sum();
    tracing::info!(
        outbox = %outbox.path().display(), waiting, sealed = recovered.sealed, sync = outbox::sync_call(), "outbox open"
    );
    let (outbox, outbox_end) = OutboxThread::start(outbox);

    let (session, session_events) = match start_session(&config)? {
        Some((session, events)) => (Some(session), Some(events)),
        None => (None, None),
    };
    let (readings_in, readings) = mpsc::channel((config.outbox.queue_readings / 2).max(1));
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (committed_in, committed) = mpsc::channel(COMMITTED_MAX);
    let (port_events_in, port_events) = mpsc::channel(PORT_EVENTS_MAX);
    let commit_interval = watch::Sender::new(config.outbox.commit_interval);
    let (live, counted) = (Live::default(), Arc::new(Counted::default()));
    let intake = Intake {
        readings,
        events,
        outbox: outbox.clone(),
        committed: committed_in,
        live: live.clone(),
        rules: rules.clone(),
        full_logged: false,
        counted: counted.clone(),
        commit_interval: commit_interval.subscribe(),
        pending_max: (config.outbox.queue_readings / 2).max(1),
    };
    let mut intake = tokio::spawn(intake.run());

    let mut sources = Sources::new(config.outbox.path.clone(), readings_in, port_events_in);
    sources.follow(&config.ports, &config.system).await;
    let ports = sources.ports().map(|(port, counters)| Port::new(port, counters.clone())).collect();
    let (mut desk, commands) = Desk::new(config.commands.clone(), sources.boards());
    left.into_iter().for_each(|left| desk.recall(left));
    let (checks_in, checks) = mpsc::channel(1);
    let control = config
        .control
        .socket
        .clone()
        .map(|path| tokio::spawn(control::run(path, sources.releasers(), checks_in)));

    let settings = engine::Settings {
        publish_interval: config.publish.publish_interval,
        batch_readings_max: config.publish.batch_readings_max,
        ..engine::Settings::default()
    };
    let seed = u64::from_le_bytes(clock::random_id()[..8].try_into().expect("8 of 16 bytes"));
    let mut engine = Engine::new(settings, epoch, streams, trusted, seed);
    engine.handle_holes(&holes);
    let mut driver = Driver {
        topics: config.publish.topics.clone(),
        device: config.device.id.clone(),
        engine,
        outbox: outbox.clone(),
        session,
        connection: None,
        broker: Broker::new(address_of(&config)),
        events: events_in,
        alerts,
        rules,
        ports,
        live,
        announcer,
        counted: counted.clone(),
        epoch,
        epoch_of: 0,
        streams_of: 0,
        base: None,
        cloud_skew_ms: None,
        time_owed: None,
        started: now,
        last_heartbeat: None,
        last_live: None,
        last_trim_ms: now.boot_ms,
        used_bytes,
        status_file_failed: false,
        full_ms: None,
        ports_changed: false,
        told_acked: Vec::new(),
        alive: Alive::new(service),
        ending: false,
        desk,
        afar,
        sources,
        commit_interval,
        session_is_old: false,
        log_until: None,
        resend: None,
        resend_token: 0,
        restart: false,
        leaving: None,
        history,
        history_failed: false,
        checks: Checks::default(),
        config: config.clone(),
    };
    let mut inputs = Inputs {
        session: session_events,
        committed,
        ports: port_events,
        commands,
        checks,
        shutdown,
    };
    // The ports' tasks come by once: a port that can be opened at once is open.
    tokio::task::yield_now().await;
    // Neither a network nor a port is waited for: it records from here on.
    driver.alive.service.ready();
    let end = driver.run(&mut inputs).await;
    driver.alive.service.stopping();

    // The driver no longer listens to commits, so the last ones must not wait for it. The
    // session's events it keeps: a session that nobody listens to says no goodbye.
    let Inputs { session: session_events, committed, .. } = inputs;
    drop(committed);
    if let Some(control) = control {
        control.abort();
        // So that its socket is gone when the process is.
        let _ = control.await;
    }
    driver.sources.stop().await;
    driver.finish().await.ok();
    drop((driver, session_events));
    let flushed = (&mut intake).await;
    drop(outbox);
    let closed = outbox_end.await;
    tracing::info!(accepted = counted.accepted.load(Ordering::Relaxed), "stopped");
    let restart = matches!(end, Ok(End::Restart));
    match end {
        Ok(End::Shutdown | End::Restart) => {}
        Ok(End::Outbox(error)) => {
            anyhow::bail!("{error}; start the gateway again, it will move the file aside")
        }
        Err(gone) => return Err(gone.into()),
    }
    flushed.context("the intake ended by a panic")??;
    closed.context("the outbox's thread ended by a panic")?.context("closing the outbox")?;
    Ok(restart)
}

/// Opens the outbox of a configuration: also for the commands that look into it.
///
/// # Errors
/// As [`Outbox::open`], with the file named.
pub fn open_outbox(config: &Config, now: Now) -> anyhow::Result<(Outbox, outbox::Recovered)> {
    let settings = outbox::Settings {
        path: config.outbox.path.clone(),
        device: config.device.id.clone(),
        retention_age_ms: config.outbox.retention_age.as_millis() as i64,
        retention_bytes: config.outbox.retention_size,
        size_bytes_max: config.outbox.size_max,
        when_full: config.outbox.when_full,
        recorder: config.broker.is_none(),
    };
    Ok(Outbox::open(settings, now)?)
}

pub(crate) fn address_of(config: &Config) -> String {
    config
        .broker
        .as_ref()
        .map_or(String::new(), |broker| format!("{}:{}", broker.host, broker.port))
}

pub(crate) type Started = (mqtt::Session, mpsc::Receiver<mqtt::Event>);

pub(crate) fn start_session(config: &Config) -> anyhow::Result<Option<Started>> {
    let Some(options) = session_options(config) else {
        tracing::info!("no [broker]: this gateway records locally");
        return Ok(None);
    };
    // A certificate that cannot be used is no reason to stop recording: the session tells.
    let started = mqtt::Session::start(options).context("the [broker] settings cannot be used")?;
    Ok(Some(started))
}

/// How the session is to be; `None` without a `[broker]`.
pub fn session_options(config: &Config) -> Option<mqtt::Options> {
    let broker = config.broker.as_ref()?;
    let tls = match &broker.tls {
        None => mqtt::Tls::Off,
        Some(tls) => mqtt::Tls::On { ca: tls.ca.clone(), client: tls.client.clone() },
    };
    let topics = &config.publish.topics;
    let device = &config.device.id;
    Some(mqtt::Options {
        host: broker.host.clone(),
        port: broker.port,
        tls,
        login: broker.login.clone(),
        client_id: device.to_string(),
        keep_alive: broker.keep_alive,
        subscriptions: topics.gateway_filters(device),
        will: Some(mqtt::Will {
            topic: topics.name(&Topic::Status(device.clone())),
            payload: DeviceStatus::default().to_json(),
            retain: true,
        }),
        packet_bytes_max: PACKET_MAX,
        inflight_max: INFLIGHT_MAX,
        manual_puback: false,
        ..mqtt::Options::default()
    })
}
