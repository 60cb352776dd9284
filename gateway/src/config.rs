//! The configuration: `gateway.toml`, with overrides from the environment.
//!
//! Whoever edits it sees all mistakes at once: each is named with its key, its value, what is
//! allowed and what to do next. A key that nobody knows is a mistake, since a misspelt
//! `retention_size` would otherwise be a default in silence.
//!
//! `FIELDPOST_<SECTION>_<KEY>` replaces a key of the file: `FIELDPOST_BROKER_PASSWORD`,
//! `FIELDPOST_DEVICE_ID`. Ports and `[meta]` stand in the file only.

mod alert;
mod allowed;
mod commands;
mod desired;
mod error;
mod files;
mod keys;
mod overlay;
mod port;
mod read;
mod section;
mod units;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fieldpost_protocol::{DeviceId, Meta, Topics};

use crate::commands::Allowed;
pub use crate::outbox::WhenFull;
use crate::rules::Rule;
pub use crate::serial::{Checksum, Format, PortConfig};
pub use allowed::SOCKET_PATH_BYTES_MAX;
pub use desired::Desired;
pub(crate) use desired::JSON_BYTES_MAX;
pub use error::{ConfigError, ConfigErrors};
pub use fieldpost_mqtt::{Ca, ClientCertificate, Login, Password};
pub use section::Setting;
pub(crate) use units::duration_text;
pub use units::{parse_duration, parse_size};

/// The documented template. As it stands it is a valid configuration.
pub const TEMPLATE: &str = include_str!("../../config/gateway.toml");

/// A configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this gateway is.
    pub device: Device,
    /// Where readings become durable.
    pub outbox: Outbox,
    /// When and where batches leave.
    pub publish: Publish,
    /// The broker. Without one the gateway is a local recorder.
    pub broker: Option<Broker>,
    /// The serial ports, no name and no path twice.
    pub ports: Vec<PortConfig>,
    /// The gateway's own measurements.
    pub system: System,
    /// What may be called.
    pub commands: Arc<Allowed>,
    /// When the gateway raises an alert by itself.
    pub alerts: Alerts,
    /// ... because of what it measures.
    pub rules: Vec<Rule>,
    /// What it says about itself.
    pub status: Status,
    /// How a person at the machine talks to it.
    pub control: Control,
    /// What may be set from afar.
    pub remote: Remote,
    /// How it announces its metrics to Home Assistant.
    pub home_assistant: HomeAssistant,
    /// What the numbers mean: name, location, units.
    pub meta: Meta,
    /// What is allowed and yet deserves a look. Each is a sentence for a person.
    pub warnings: Vec<String>,
    /// Every key in effect, secrets hidden: see [`Config::redacted`].
    effective: Vec<Setting>,
    /// What it was read from.
    local: Local,
}

/// The file as it was read, and the environment. Its text may hold a password.
#[derive(Clone)]
struct Local {
    file: Option<PathBuf>,
    text: Arc<str>,
    environment: Vec<(String, String)>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("file", &self.file).finish_non_exhaustive()
    }
}

/// `[device]`
#[derive(Debug, Clone)]
pub struct Device {
    /// The `<id>` in every topic, and the common name of its certificate.
    pub id: DeviceId,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub location: Option<String>,
}

/// `[outbox]`
#[derive(Debug, Clone)]
pub struct Outbox {
    /// The SQLite file.
    pub path: PathBuf,
    /// At most one commit of readings in this time, 50 ms to 60 s.
    pub commit_interval: Duration,
    /// How long sync-acked readings are kept.
    pub retention_age: Duration,
    /// How many bytes of sync-acked readings are kept.
    pub retention_size: u64,
    /// How many bytes the outbox may have.
    pub size_max: u64,
    /// What happens to readings then.
    pub when_full: WhenFull,
    /// Readings between the ports and the outbox. What finds them full is refused.
    pub queue_readings: usize,
}

/// `[publish]`
#[derive(Debug, Clone)]
pub struct Publish {
    /// How long readings wait for company. Zero: they leave with each commit.
    pub publish_interval: Duration,
    /// Readings in a batch, 1 to 1,000.
    pub batch_readings_max: usize,
    /// At most one live message per source in this time; `None` for no live values.
    pub live_interval: Option<Duration>,
    /// The topic tree, with its prefix.
    pub topics: Topics,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `None` is MQTT in the clear.
    pub tls: Option<Tls>,
    /// User name and password, where the broker wants them.
    pub login: Option<Login>,
    /// MQTT keep-alive, whole seconds, 5 s to 1 h.
    pub keep_alive: Duration,
}

/// How the broker is verified, and how it verifies us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The CAs that may have signed the broker's certificate.
    pub ca: Ca,
    /// Our certificate chain and its key, PEM.
    pub client: Option<ClientCertificate>,
}

/// `[system]`
#[derive(Debug, Clone)]
pub struct System {
    /// Whether the source `system` exists: temperature, load, memory, disk.
    pub enabled: bool,
    /// Time between its readings.
    pub interval: Duration,
}

/// `[alerts]`
#[derive(Debug, Clone)]
pub struct Alerts {
    /// An alert after batches were PUBACKed and not sync-acked for so long.
    pub no_sync_ack_after: Duration,
    /// An alert after the clock was not synchronised for so long.
    pub clock_unsynced_after: Duration,
}

/// `[status]`
#[derive(Debug, Clone)]
pub struct Status {
    /// The local status file; `None` for none.
    pub file: Option<PathBuf>,
    /// Time between two messages on `devices/<id>/status`.
    pub heartbeat: Duration,
}

/// `[control]`
#[derive(Debug, Clone)]
pub struct Control {
    /// The Unix socket for `fieldpost-gateway release`; `None` for none.
    pub socket: Option<PathBuf>,
}

/// `[remote]`
#[derive(Debug, Clone)]
pub struct Remote {
    /// Whether `config/desired` is taken at all.
    pub enabled: bool,
    /// The sections that it may set.
    pub allow: Vec<&'static str>,
}

/// `[home_assistant]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAssistant {
    /// Whether metrics are announced.
    pub enabled: bool,
    /// The first levels of the topics, as Home Assistant has them.
    pub prefix: String,
    /// Home Assistant calls a metric unavailable when its source was silent for so long.
    pub expire_after: Option<Duration>,
}

#[cfg(test)]
mod tests;

impl Config {
    /// Reads a file, with overrides from `env` (see [`process_environment`]).
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(
        path: &Path,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigErrors> {
        let (file, text) = (Some(path.to_owned()), files::read(path)?.into());
        Local { file, text, environment: env.collect() }.read()
    }

    /// The same from text.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn parse(
        text: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigErrors> {
        Local { file: None, text: text.into(), environment: env.collect() }.read()
    }

    /// The file as it stands now, with the environment of the start.
    ///
    /// # Errors
    /// All that is wrong with it, at once.
    pub fn read_again(&self) -> Result<Config, ConfigErrors> {
        let mut local = self.local.clone();
        if let Some(file) = &local.file {
            local.text = files::read(file)?.into();
        }
        local.read()
    }

    /// The file as it was read.
    ///
    /// # Errors
    /// None, since it was good then.
    pub fn only_file(&self) -> Result<Config, ConfigErrors> {
        self.local.clone().read()
    }

    /// The file as it was read, and over it what is desired from afar.
    ///
    /// # Errors
    /// All that is wrong with both together, and what may not be set from afar.
    pub fn overlaid(&self, desired: &Desired) -> Result<Config, ConfigErrors> {
        let (table, mut errors) = desired.table();
        match read::config(self.local.clone(), Some(table)) {
            Ok(config) if errors.is_empty() => return Ok(config),
            Ok(_) => {}
            Err(others) => errors.extend(others.into_errors()),
        }
        Err(ConfigErrors::new(errors).in_file(Path::new(desired::NAME)))
    }

    /// Checks that the files which the configuration names can be read: CA, certificate,
    /// key, password. Returns warnings, such as a key that everybody may read.
    ///
    /// # Errors
    /// All files that are missing or unreadable, at once.
    pub fn check_files(&self) -> Result<Vec<String>, ConfigErrors> {
        files::check(self)
    }

    /// Whether the password came from a variable, not from the file.
    fn password_from_environment(&self) -> bool {
        self.effective.iter().any(|setting| setting.is_variable("[broker]", "password"))
    }

    /// The configuration in effect as JSON, defaults included, secrets hidden.
    pub fn redacted_json(&self) -> serde_json::Value {
        let table: Option<toml::Table> = self.redacted().to_string().parse().ok();
        table.and_then(|table| serde_json::to_value(table).ok()).unwrap_or_default()
    }

    /// The configuration in effect as TOML, defaults included, secrets hidden.
    pub fn redacted(&self) -> impl fmt::Display + '_ {
        section::Settings(&self.effective)
    }
}

impl Local {
    fn read(self) -> Result<Config, ConfigErrors> {
        let file = self.file.clone();
        let Some(path) = file else { return read::config(self, None) };
        let mut config = read::config(self, None).map_err(|errors| errors.in_file(&path))?;
        config.warnings.extend(files::readable_secret(&config, &path));
        Ok(config)
    }
}

/// The environment of this process. A variable that is not UTF-8 comes with its bad bytes
/// replaced.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}
