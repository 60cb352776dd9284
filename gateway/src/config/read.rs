//! Sections to [`Config`]: every key, its default and its range.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use fieldpost_protocol::{
    BATCH_READINGS_MAX, Meta, MetaMetric, MetaSource, Topics, check_metric, check_source,
};
use toml::{Table, Value};

use super::section::{Kind, Overrides, Report, Section, filled, key_text, suggest};
use super::units::{duration_text, parse_duration, parse_size, size_text};
use super::{
    Alerts, Broker, Ca, ClientCert, Config, ConfigError, ConfigErrors, Device, Login, Outbox,
    Password, PortConfig, Publish, Status, System, Tls, WhenFull,
};
use crate::serial::{Checksum, Format};

const SECTIONS: [&str; 9] =
    ["device", "outbox", "publish", "broker", "port", "system", "alerts", "status", "meta"];
const VARIABLE_PREFIX: &str = "FIELDPOST_";
/// Ports of one gateway: each costs a task and 12 KiB.
const PORTS_MAX: usize = 64;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

/// The whole configuration.
pub(super) fn config(
    text: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigErrors> {
    let root: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax { why: error.to_string() })?;
    let mut document = Document { root, overrides: BTreeMap::new(), report: Report::default() };
    document.take_environment(env);
    document.read()
}

struct Document {
    root: Table,
    overrides: BTreeMap<String, Overrides>,
    report: Report,
}

impl Document {
    fn take_environment(&mut self, env: impl Iterator<Item = (String, String)>) {
        for (variable, value) in env {
            let Some((section, key)) =
                variable.strip_prefix(VARIABLE_PREFIX).and_then(|name| name.split_once('_'))
            else {
                continue;
            };
            let (section, key) = (section.to_lowercase(), key.to_lowercase());
            match section.as_str() {
                "port" | "meta" => self.report.errors.push(ConfigError::Conflict {
                    keys: variable,
                    why: format!(
                        "[{section}] cannot be set by the environment; write it into the file"
                    ),
                }),
                known if SECTIONS.contains(&known) => {
                    self.overrides.entry(section).or_default().insert(key, (variable, value));
                }
                // Somebody else's variable may begin like ours, so this is not refused.
                _ => self.report.warnings.push(format!(
                    "{variable} is ignored: there is no section [{section}]. {}",
                    suggest(&section, &SECTIONS, "Sections are")
                )),
            }
        }
    }

    fn read(mut self) -> Result<Config, ConfigErrors> {
        let device = device(self.section("device"));
        let outbox = outbox(self.section("outbox"));
        let publish = publish(self.section("publish"));
        let broker_given =
            self.root.contains_key("broker") || self.overrides.contains_key("broker");
        let broker = if broker_given { broker(self.section("broker")) } else { None };
        let ports = self.ports();
        let system = system(self.section("system"));
        let alerts = alerts(self.section("alerts"));
        let status = status(self.section("status"));
        let meta = self.meta(device.as_ref());
        self.unknown_sections();
        self.sources_exist(&ports, &system);

        let Report { errors, warnings, settings: effective } = self.report;
        match (device, publish) {
            (Some(device), Some(publish)) if errors.is_empty() => Ok(Config {
                device,
                outbox,
                publish,
                broker,
                ports,
                system,
                alerts,
                status,
                meta,
                warnings,
                effective,
            }),
            _ => Err(ConfigErrors::new(errors)),
        }
    }

    fn section(&mut self, name: &'static str) -> Section<'_> {
        let table = self.table(name);
        let overrides = self.overrides.remove(name).unwrap_or_default();
        Section::new(name, format!("[{name}]"), table, overrides, &mut self.report)
    }

    fn table(&mut self, name: &str) -> Table {
        match self.root.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.report.errors.push(ConfigError::Value {
                    key: name.to_owned(),
                    value: other.to_string().chars().take(80).collect(),
                    variable: None,
                    why: format!(
                        "this is a section: write [{name}] on a line of its own, and its keys below"
                    ),
                });
                Table::new()
            }
        }
    }

    fn ports(&mut self) -> Vec<PortConfig> {
        let tables = match self.root.remove("port") {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.report.errors.push(ConfigError::Value {
                    key: "port".to_owned(),
                    value: other.to_string().chars().take(80).collect(),
                    variable: None,
                    why: "write [[port]] with two brackets, once for each port".to_owned(),
                });
                return Vec::new();
            }
        };
        if tables.len() > PORTS_MAX {
            let why =
                format!("there are {} of them; at most {PORTS_MAX} are allowed", tables.len());
            self.report.errors.push(ConfigError::Conflict { keys: "port".to_owned(), why });
            return Vec::new();
        }
        let mut ports: Vec<PortConfig> = Vec::new();
        for (index, item) in tables.into_iter().enumerate() {
            let Value::Table(table) = item else {
                let why = "write [[port]] on a line of its own, once for each port".to_owned();
                self.report.errors.push(ConfigError::Conflict { keys: "port".to_owned(), why });
                continue;
            };
            let path = match table.get("name") {
                Some(Value::String(name)) if check_source(name).is_ok() => format!("port.{name}"),
                _ => format!("port[{}]", index + 1),
            };
            let section = Section::new(path, "[[port]]", table, Overrides::new(), &mut self.report);
            ports.extend(port(section, &ports));
        }
        ports
    }

    fn meta(&mut self, device: Option<&Device>) -> Meta {
        let mut meta = Meta {
            name: device.and_then(|device| device.name.clone()),
            location: device.and_then(|device| device.location.clone()),
            ..Meta::default()
        };
        let mut section = self.section("meta");
        let sources = section.table("sources");
        section.finish();
        for (source, table) in sub_tables(sources, "meta.sources", &mut self.report) {
            if let Err(error) = check_source(&source) {
                self.bad_name("meta.sources", &source, &error);
            }
            let path = format!("meta.sources.{}", key_text(&source));
            let header = format!("[{path}]");
            let mut section =
                Section::new(&path, header, table, Overrides::new(), &mut self.report);
            let name = section.optional("name", Kind::Text, filled);
            let metrics = section.table("metrics");
            section.finish();
            let metrics = self.meta_metrics(&path, metrics);
            meta.sources.insert(source, MetaSource { name, metrics });
        }
        meta
    }

    fn meta_metrics(&mut self, path: &str, metrics: Table) -> BTreeMap<String, MetaMetric> {
        let path = format!("{path}.metrics");
        let mut all = BTreeMap::new();
        for (metric, table) in sub_tables(metrics, &path, &mut self.report) {
            if let Err(error) = check_metric(&metric) {
                self.bad_name(&path, &metric, &error);
            }
            let path = format!("{path}.{}", key_text(&metric));
            let header = format!("[{path}]");
            let mut section = Section::new(path, header, table, Overrides::new(), &mut self.report);
            let unit = section.optional("unit", Kind::Text, filled);
            section.finish();
            all.insert(metric, MetaMetric { unit });
        }
        all
    }

    fn bad_name(&mut self, path: &str, name: &str, error: &dyn Display) {
        let keys = format!("{path}.{}", key_text(name));
        self.report.errors.push(ConfigError::Conflict { keys, why: error.to_string() });
    }

    fn unknown_sections(&mut self) {
        for (key, value) in &self.root {
            let next = match value {
                Value::Table(_) | Value::Array(_) => suggest(key, &SECTIONS, "Sections are"),
                _ => format!(
                    "A key stands below the [section] it belongs to. Sections are: {}",
                    SECTIONS.join(", ")
                ),
            };
            self.report.errors.push(ConfigError::Unknown {
                key: key.clone(),
                variable: None,
                next,
            });
        }
    }

    fn sources_exist(&mut self, ports: &[PortConfig], system: &System) {
        // Where a port was refused there is one, and the message would mislead.
        let refused = !self.report.errors.is_empty();
        if ports.is_empty() && !system.enabled && !refused {
            self.report.errors.push(ConfigError::Conflict {
                keys: "port, system.enabled".to_owned(),
                why: "there is nothing to read from: add a [[port]] with name and path, or set system.enabled = true".to_owned(),
            });
        }
        if system.enabled && ports.iter().any(|port| &*port.name == "system") {
            self.report.errors.push(ConfigError::Conflict {
                keys: "port.system.name, system.enabled".to_owned(),
                why: "the gateway's own measurements have the source \"system\"; rename the port, or set system.enabled = false".to_owned(),
            });
        }
    }
}

/// The tables in a table; anything else in it is reported.
fn sub_tables(table: Table, path: &str, report: &mut Report) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(table) => tables.push((key, table)),
            other => report.errors.push(ConfigError::Value {
                key: format!("{path}.{}", key_text(&key)),
                value: other.to_string().chars().take(80).collect(),
                variable: None,
                why: format!("this has to be a section of its own, [{path}.{}]", key_text(&key)),
            }),
        }
    }
    tables
}

fn device(mut section: Section<'_>) -> Option<Device> {
    let next = "give the gateway a name that no other gateway has, such as id = \"greenhouse-1\"";
    let id = section.required("id", Kind::Text, next, parsed);
    let name = section.optional("name", Kind::Text, filled);
    let location = section.optional("location", Kind::Text, filled);
    section.finish();
    Some(Device { id: id?, name, location })
}

fn outbox(mut section: Section<'_>) -> Outbox {
    let outbox = Outbox {
        path: section.or("path", Kind::Text, "/var/lib/fieldpost/outbox.db", path),
        commit_interval: section.or(
            "commit_interval",
            Kind::Text,
            "1s",
            duration(Duration::from_millis(50)..=60 * SECOND),
        ),
        retention_age: section.or(
            "retention_age",
            Kind::Text,
            "7d",
            duration(Duration::ZERO..=3_650 * DAY),
        ),
        retention_size: section.or("retention_size", Kind::Text, "64MB", size(0..=SIZE_MAX)),
        size_max: section.or("size_max", Kind::Text, "1GB", size(SIZE_MIN..=SIZE_MAX)),
        when_full: section.or("when_full", Kind::Text, "refuse", when_full),
        queue_readings: section.or("queue_readings", Kind::Number, "8192", number(1..=1_000_000)),
    };
    if outbox.retention_size >= outbox.size_max {
        section.warn("retention_size is not below outbox.size_max: acknowledged readings fill the outbox and then yield to new ones");
    }
    section.finish();
    outbox
}

/// The reserve for events is 1 MiB; below this little is left for readings.
const SIZE_MIN: u64 = 4 << 20;
/// What the SQLite file may reach with its pages of 1 KiB.
const SIZE_MAX: u64 = 1 << 40;

fn publish(mut section: Section<'_>) -> Option<Publish> {
    let publish_interval =
        section.or("publish_interval", Kind::Text, "1s", duration(Duration::ZERO..=HOUR));
    let batch_readings_max =
        section.or("batch_readings_max", Kind::Number, "1000", number(1..=BATCH_READINGS_MAX));
    let live_interval = section.or("live_interval", Kind::Text, "5s", |text| match text {
        "off" => Ok(None),
        text => duration(Duration::from_millis(100)..=HOUR)(text)
            .map(Some)
            .map_err(|why| format!("{why}, or \"off\"")),
    });
    let topics = section.or("topic_prefix", Kind::Text, "", Topics::new);
    section.finish();
    Some(Publish { publish_interval, batch_readings_max, live_interval, topics })
}

fn broker(mut section: Section<'_>) -> Option<Broker> {
    let next = "write the broker's host name, such as host = \"broker.example.org\"; without a broker, leave out the section [broker] and every variable FIELDPOST_BROKER_*";
    let host = section.required("host", Kind::Text, next, host);
    let tls = section.or("tls", Kind::Bool, "true", boolean);
    let default_port = if tls { "8883" } else { "1883" };
    let port = section.or("port", Kind::Number, default_port, number(1..=u16::MAX));
    let keep_alive = section.or("keep_alive", Kind::Text, "20s", |text| {
        let duration = duration(5 * SECOND..=HOUR)(text)?;
        if duration.subsec_millis() != 0 {
            return Err("MQTT counts it in whole seconds, such as \"20s\"".to_owned());
        }
        Ok(duration)
    });
    let tls = if tls { tls_files(&mut section) } else { no_tls(&mut section) };
    let login = login(&mut section);
    if login.is_some() && tls.is_none() {
        section.warn("tls = false: the password travels in the clear; set tls = true unless the broker is on this machine");
    }
    section.finish();
    Some(Broker { host: host?, port, tls, login, keep_alive })
}

fn tls_files(section: &mut Section<'_>) -> Option<Tls> {
    let ca = section.or("ca", Kind::Text, "system", |text| match text {
        "system" => Ok(Ca::System),
        text => path(text).map(Ca::File),
    });
    let cert = section.optional("client_cert", Kind::Text, path);
    let key = section.optional("client_key", Kind::Text, path);
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some(ClientCert { cert, key }),
        (None, None) => None,
        _ => {
            section.conflict(
                "client_cert, broker.client_key",
                "a client certificate needs its key: write both, or neither",
            );
            None
        }
    };
    Some(Tls { ca, client })
}

fn no_tls(section: &mut Section<'_>) -> Option<Tls> {
    for key in ["ca", "client_cert", "client_key"] {
        if section.optional(key, Kind::Text, filled).is_some() {
            section.conflict(
                key,
                "with broker.tls = false nothing is verified; remove this key, or set tls = true",
            );
        }
    }
    None
}

fn login(section: &mut Section<'_>) -> Option<Login> {
    let given = section.has("password") || section.has("password_file");
    let username = section.optional("username", Kind::Text, filled);
    let password = section.secret("password");
    let file = section.optional("password_file", Kind::Text, path);
    let password = match (password, file) {
        (Some(_), Some(_)) => {
            section.conflict(
                "password, broker.password_file",
                "the password stands twice; remove one of them",
            );
            return None;
        }
        (Some(password), None) => Some(Password::Text(password)),
        (None, file) => file.map(Password::File),
    };
    match (username, password) {
        (Some(username), Some(password)) => Some(Login { username, password }),
        (None, None) => None,
        (Some(_), None) if given => None,
        (Some(_), None) => {
            section
                .conflict("username", "a user name needs broker.password or broker.password_file");
            None
        }
        (None, Some(_)) => {
            section.conflict("password", "a password needs broker.username");
            None
        }
    }
}

fn port(mut section: Section<'_>, others: &[PortConfig]) -> Option<PortConfig> {
    let name = "name the port; lines that name no source get this one, such as name = \"fruiting\"";
    let name = section.required("name", Kind::Text, name, |text| {
        check_source(text).map_err(|error| error.to_string())?;
        Ok(text.to_owned())
    });
    let next = "write the device's path, such as path = \"/dev/serial/by-id/...\"; `ls /dev/serial/by-id` shows what is plugged in";
    let device = section.required("path", Kind::Text, next, path);
    let baud = section.or("baud", Kind::Number, "115200", number(50..=4_000_000));
    let format = section.or("format", Kind::Text, "native", Format::from_str);
    let checksum_default = match format {
        Format::Native => "required",
        Format::Json => "optional",
    };
    let checksum = section.or("checksum", Kind::Text, checksum_default, Checksum::from_str);
    let reset_on_open = section.or("reset_on_open", Kind::Bool, "true", boolean);
    let (Some(name), Some(device)) = (name, device) else {
        section.finish();
        return None;
    };
    if others.iter().any(|other| *other.name == *name) {
        section.conflict("name", &format!("two ports are named {name:?}; give each its own name"));
    }
    if let Some(other) = others.iter().find(|other| other.path == device) {
        let why =
            format!("the port {:?} has the same path; a device can be read only once", other.name);
        section.conflict("path", &why);
    }
    let renamed = ["/dev/ttyUSB", "/dev/ttyACM"]
        .iter()
        .any(|start| device.to_string_lossy().starts_with(start));
    if renamed {
        section.warn(&format!(
            "path = {:?}: this name may belong to another device after the next start; `ls -l /dev/serial/by-id` shows the stable one",
            device.display()
        ));
    }
    section.finish();
    Some(PortConfig { name: name.into(), path: device, baud, format, checksum, reset_on_open })
}

fn system(mut section: Section<'_>) -> System {
    let enabled = section.or("enabled", Kind::Bool, "true", boolean);
    let interval = section.or("interval", Kind::Text, "60s", duration(SECOND..=DAY));
    section.finish();
    System { enabled, interval }
}

fn alerts(mut section: Section<'_>) -> Alerts {
    let range = 10 * SECOND..=7 * DAY;
    let no_sync_ack_after =
        section.or("no_sync_ack_after", Kind::Text, "10m", duration(range.clone()));
    let clock_unsynced_after =
        section.or("clock_unsynced_after", Kind::Text, "10m", duration(range));
    section.finish();
    Alerts { no_sync_ack_after, clock_unsynced_after }
}

fn status(mut section: Section<'_>) -> Status {
    let file = section.or("file", Kind::Text, "/run/fieldpost/status.json", |text| match text {
        "" => Ok(None),
        text => path(text).map(Some),
    });
    let heartbeat = section.or("heartbeat", Kind::Text, "60s", duration(5 * SECOND..=HOUR));
    section.finish();
    Status { file, heartbeat }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "allowed are true and false".to_owned())
}

fn number<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let allowed =
            || format!("allowed are whole numbers from {} to {}", range.start(), range.end());
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(allowed)
    }
}

fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let (min, max) = (duration_text(*range.start()), duration_text(*range.end()));
        let duration =
            parse_duration(text).map_err(|why| format!("{why}; allowed are {min} to {max}"))?;
        if !range.contains(&duration) {
            return Err(format!("allowed are {min} to {max}"));
        }
        Ok(duration)
    }
}

fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let (min, max) = (size_text(*range.start()), size_text(*range.end()));
        let size = parse_size(text).map_err(|why| format!("{why}; allowed are {min} to {max}"))?;
        if !range.contains(&size) {
            return Err(format!("allowed are {min} to {max}"));
        }
        Ok(size)
    }
}

fn when_full(text: &str) -> Result<WhenFull, String> {
    match text {
        "refuse" => Ok(WhenFull::Refuse),
        "drop_oldest" => Ok(WhenFull::DropOldest),
        _ => Err("allowed are \"refuse\" (new readings) and \"drop_oldest\"".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err("write the host name alone; port and tls are keys of their own".to_owned());
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if text.is_empty() || text.len() > 253 || text.contains(bad) {
        return Err("write a host name or an address, such as \"broker.example.org\"".to_owned());
    }
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("it is empty; write the path of a file".to_owned()),
        text if text.contains('\0') => Err("a path cannot contain NUL".to_owned()),
        text => Ok(PathBuf::from(text)),
    }
}
