//! A bridge from its configuration to its end.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use fieldpost_embedded_broker::{self as broker, EmbeddedBroker, TlsPaths};
use fieldpost_mqtt as mqtt;
use fieldpost_protocol::{BridgeStatus, Instance, PACKET_BYTES_MAX, Topic};
use fieldpost_service::Service;
use tokio::sync::watch;

use crate::clock;
use crate::config::Config;
use crate::driver::{Alive, COMMIT_WITHIN, DesiredThread, Driver, Inputs, Role, StorageThread};
use crate::store::Identity;
use crate::store::sqlite::{OpenError, SqliteStore};

/// Runs a bridge until `shutdown` holds true.
///
/// # Errors
/// A storage or certificate that cannot be used, a storage thread that has ended. A broker
/// that cannot be reached is no error: it is tried again.
pub async fn run(config: Config, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    run_told(config, COMMIT_WITHIN, Service::default(), shutdown).await
}

/// As [`run`], with another time than 10 s after which a message that is not committed is
/// forgotten: for tests.
///
/// # Errors
/// As [`run`].
#[doc(hidden)]
pub async fn run_within(
    config: Config,
    commit_within: Duration,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    run_told(config, commit_within, Service::default(), shutdown).await
}

async fn run_told(
    config: Config,
    commit_within: Duration,
    mut service: Service,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    check_files(&config)?;
    service.status(Duration::ZERO, "opening the storage; a large one that is due is checked");
    let Some(store) = open(&config.storage, shutdown.clone()).await? else { return Ok(()) };
    let Identity { store: id, r#gen } = store.identity()?;
    let instance = Instance(clock::random_id().context("asking the system for randomness")?);
    let version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let status = BridgeStatus { online: false, instance, store: id, r#gen, version, time: None };
    tracing::info!(name = config.name, storage = %config.storage.display(), store = %id, "starting");

    let start = |role: Role| {
        mqtt::Session::start(options(&config, role, &status))
            .with_context(|| format!("the [broker] settings of {}-{}", config.name, role.as_str()))
    };
    let (readings, readings_events) = start(Role::Readings)?;
    let (events, events_events) = start(Role::Events)?;
    let (out, out_events) = start(Role::Out)?;
    let storage = StorageThread::start(store, instance, commit_within)
        .context("starting the storage thread")?;
    let desired = DesiredThread::start(&config.storage).context("starting a thread")?;
    let topics = config.broker.topics.clone();
    let sessions = [readings, events, out];
    let alive = Alive::new(service);
    let driver = Driver::new(topics, config.name, sessions, storage, status, commit_within, alive);
    let driver = driver.with_desired(desired);
    let inputs =
        Inputs { readings: readings_events, events: events_events, out: out_events, shutdown };
    Ok(driver.run(inputs).await?)
}

/// Opens the storage, and checks it where that is due: from a damaged file nothing is ever
/// sync-acked. `None`: told to end meanwhile.
async fn open(
    path: &Path,
    mut shutdown: watch::Receiver<bool>,
) -> anyhow::Result<Option<SqliteStore>> {
    let is_check_due = SqliteStore::is_check_due(path);
    let store = SqliteStore::open(path)?;
    if !is_check_due {
        return Ok(Some(store));
    }
    tracing::info!(storage = %path.display(), "checking the whole storage");
    let interrupt = store.interrupt_handle();
    let mut check = tokio::task::spawn_blocking(move || (store.check(), store));
    // The guard that wait_for() returns may not cross threads.
    let told = async { shutdown.wait_for(|end| *end).await.map(drop) };
    let (checked, store) = tokio::select! {
        done = &mut check => done?,
        Ok(()) = told => {
            interrupt.interrupt();
            // Whether it was sound is of no interest any more.
            let _ = check.await;
            return Ok(None);
        }
    };
    match checked {
        // Somebody may have deleted rows by hand, and the gateways go on.
        Err(error @ OpenError::Gaps { .. }) => tracing::error!("storage_gaps: {error}"),
        checked => checked?,
    }
    Ok(Some(store))
}

/// As [`run`], and `service` hears of it; with `embedded` first a broker in this process, by
/// `[embedded_broker]`.
///
/// The bridge connects to its port by `broker.host` and the certificates of `[broker]`, as
/// every other client does.
///
/// # Errors
/// As [`run`], and a broker that cannot listen.
pub async fn run_with_broker(
    mut config: Config,
    embedded: bool,
    service: Service,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if !embedded {
        return run_told(config, COMMIT_WITHIN, service, shutdown).await;
    }
    let settings = config.embedded_broker.clone();
    let tls = settings.tls.map(|tls| TlsPaths { ca: tls.ca, cert: tls.cert, key: tls.key });
    let settings = broker::Config { listen: settings.listen, tls, expose: settings.expose };
    // It blocks until it answers, and again until it is gone.
    let broker = tokio::task::spawn_blocking(|| EmbeddedBroker::start(settings))
        .await?
        .context("starting the embedded broker")?;
    config.broker.port = broker.local_addr().port();
    tracing::warn!(
        listen = %broker.local_addr(),
        "embedded broker: any client may speak for any device; use mosquitto for anything but a closed box"
    );
    let result = run_told(config, COMMIT_WITHIN, service, shutdown).await;
    tokio::task::spawn_blocking(|| broker.stop()).await?;
    result
}

/// Checks that every file that the configuration names can be read.
///
/// # Errors
/// Names the first that cannot.
pub fn check_files(config: &Config) -> anyhow::Result<()> {
    let Some(tls) = &config.broker.tls else { return Ok(()) };
    if let Some(ca) = &tls.ca {
        readable("broker.ca", ca)?;
    }
    if let Some(client) = &tls.client {
        for (key, mqtt::ClientCertificate { cert, key: private }) in
            [("readings", &client.readings), ("events", &client.events), ("out", &client.out)]
        {
            readable(&format!("the certificate of {key}"), cert)?;
            readable(&format!("the key of {key}"), private)?;
        }
    }
    for role in [Role::Readings, Role::Events, Role::Out] {
        let (host, client_id) = (config.broker.host.clone(), config.name.clone());
        let options =
            mqtt::Options { host, client_id, tls: tls_of(config, role), ..Default::default() };
        options.check().with_context(|| format!("[broker], connection {}", role.as_str()))?;
    }
    Ok(())
}

fn readable(what: &str, path: &Path) -> anyhow::Result<()> {
    mqtt::check_is_file(path).and_then(|()| File::open(path)).map(drop).with_context(|| {
        format!("{what}, {}, cannot be read; correct [broker] in bridge.toml", path.display())
    })
}

fn tls_of(config: &Config, role: Role) -> mqtt::Tls {
    match &config.broker.tls {
        None => mqtt::Tls::Off,
        Some(tls) => {
            let pair = tls.client.as_ref().map(|client| match role {
                Role::Readings => &client.readings,
                Role::Events => &client.events,
                Role::Out => &client.out,
            });
            mqtt::Tls::On {
                ca: tls.ca.clone().map_or(mqtt::Ca::System, mqtt::Ca::File),
                client: pair.cloned(),
            }
        }
    }
}

fn options(config: &Config, role: Role, offline: &BridgeStatus) -> mqtt::Options {
    let broker = &config.broker;
    let will = mqtt::Will {
        topic: broker.topics.name(&Topic::BridgeStatus(config.name.clone())),
        payload: offline.to_json(),
        retain: true,
    };
    mqtt::Options {
        host: broker.host.clone(),
        port: broker.port,
        tls: tls_of(config, role),
        login: broker.login.clone(),
        client_id: format!("{}-{}", config.name, role.as_str()),
        keep_alive: broker.keep_alive,
        subscriptions: match role {
            Role::Readings => broker.topics.bridge_reading_filters(),
            Role::Events => broker.topics.bridge_event_filters(),
            Role::Out => Vec::new(),
        },
        will: (role == Role::Out).then_some(will),
        packet_bytes_max: PACKET_BYTES_MAX,
        manual_puback: role != Role::Out,
        ..mqtt::Options::default()
    }
}
