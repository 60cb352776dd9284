//! The file and the environment to [`Config`]: which sections there are.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use fieldpost_protocol::{Meta, MetaMetric, MetaSource, check_metric, check_source};
use toml::{Table, Value};

use super::allowed::filled;
use super::section::{Kind, Overrides, Report, Section, key_text, suggest};
use super::{
    Config, ConfigError, ConfigErrors, Device, Local, Outbox, PortConfig, System, alert, commands,
    keys, overlay, port,
};
use crate::commands::Allowed;
use crate::rules::{RULES_MAX, Rule};

pub(super) const SECTIONS: [&str; 15] = [
    "device",
    "outbox",
    "publish",
    "broker",
    "port",
    "system",
    "commands",
    "command",
    "alerts",
    "alert",
    "status",
    "control",
    "remote",
    "home_assistant",
    "meta",
];
const VARIABLE_PREFIX: &str = "FIELDPOST_";
/// Ports of one gateway: each costs a task and 12 KiB.
const PORTS_MAX: usize = 64;
/// Commands to boards.
const COMMANDS_MAX: usize = 256;

/// The whole configuration, with what is desired from afar over it.
pub(super) fn config(local: Local, desired: Option<Table>) -> Result<Config, ConfigErrors> {
    let root: Table = local.text.parse().map_err(|error| syntax(&local.text, &error))?;
    let mut document = Document { root, overrides: BTreeMap::new(), report: Report::default() };
    document.take_environment(local.environment.iter().cloned());
    document.read(local, desired)
}

/// The place and the reason, without the line itself: it may be the one with the password.
fn syntax(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = &text[..error.span().map_or(0, |span| text.floor_char_boundary(span.start))];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let why = error.message().replace('\n', ", ");
    ConfigError::Syntax { line, column, why }
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
                variable.strip_prefix(VARIABLE_PREFIX).and_then(section_and_key)
            else {
                continue;
            };
            let (section, key) = (section.to_lowercase(), key.to_lowercase());
            match section.as_str() {
                "port" | "command" | "alert" | "meta" => {
                    self.report.errors.push(ConfigError::Conflict {
                        keys: variable,
                        why: format!(
                            "[{section}] cannot be set by the environment; write it into the file"
                        ),
                    })
                }
                known if SECTIONS.contains(&known) => {
                    self.overrides.entry(section).or_default().insert(key, (variable, value));
                }
                // Of the other program, on the same machine.
                "bridge" => {}
                // Somebody else's variable may begin like ours, so this is not refused.
                _ => self.report.warnings.push(format!(
                    "{variable} is ignored: there is no section [{section}]. {}",
                    suggest(&section, &SECTIONS, "Sections are")
                )),
            }
        }
    }

    fn read(mut self, local: Local, desired: Option<Table>) -> Result<Config, ConfigErrors> {
        let remote = keys::remote(self.section("remote"));
        if let Some(desired) = desired {
            let Document { root, overrides, report } = &mut self;
            overlay::lay(root, desired, &remote, overrides, &mut report.errors);
        }
        let device = keys::device(self.section("device"));
        let outbox = keys::outbox(self.section("outbox"));
        let publish = keys::publish(self.section("publish"));
        let broker_given =
            self.root.contains_key("broker") || self.overrides.contains_key("broker");
        let broker = if broker_given { keys::broker(self.section("broker")) } else { None };
        let ports = self.ports();
        let system = keys::system(self.section("system"));
        let commands = self.commands(&ports);
        let alerts = keys::alerts(self.section("alerts"));
        let rules = self.rules(&ports, &outbox);
        let status = keys::status(self.section("status"));
        let control = keys::control(self.section("control"));
        let section = self.section("home_assistant");
        let home_assistant = keys::home_assistant(section, device.as_ref(), &publish);
        let mut meta = self.meta(device.as_ref());
        add_units(&mut meta, &ports);
        self.unknown_sections();
        self.sources_exist(&ports, &system);
        let taken = |port: &&PortConfig| control.socket.as_deref() == Some(port.place.path());
        if let Some(port) = ports.iter().find(taken) {
            self.report.errors.push(ConfigError::Conflict {
                keys: format!("control.socket, port.{}.socket", port.name),
                why: "both have the same path; give each its own".to_owned(),
            });
        }

        let Report { errors, warnings, settings: effective } = self.report;
        match device {
            Some(device) if errors.is_empty() => Ok(Config {
                device,
                outbox,
                publish,
                broker,
                ports,
                system,
                commands,
                alerts,
                rules,
                status,
                control,
                remote,
                home_assistant,
                meta,
                warnings,
                effective,
                local,
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

    /// The tables of an array, each with its path for messages: by its name, or its place.
    fn tables(&mut self, name: &str, tables_max: usize) -> Vec<(String, Table)> {
        let again = format!("write [[{name}]] on a line of its own, once for each {name}");
        let keys = || name.to_owned();
        let items = match self.root.remove(name) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                let value = other.to_string().chars().take(80).collect();
                let why = format!("write [[{name}]] with two brackets, once for each {name}");
                let error = ConfigError::Value { key: keys(), value, variable: None, why };
                self.report.errors.push(error);
                return Vec::new();
            }
        };
        if items.len() > tables_max {
            let why =
                format!("there are {} of them; at most {tables_max} are allowed", items.len());
            self.report.errors.push(ConfigError::Conflict { keys: keys(), why });
            return Vec::new();
        }
        let mut tables = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let Value::Table(table) = item else {
                let why = again.clone();
                self.report.errors.push(ConfigError::Conflict { keys: keys(), why });
                continue;
            };
            let path = match table.get("name") {
                Some(Value::String(named)) if check_source(named).is_ok() => {
                    format!("{name}.{named}")
                }
                _ => format!("{name}[{}]", index + 1),
            };
            tables.push((path, table));
        }
        tables
    }

    fn ports(&mut self) -> Vec<PortConfig> {
        let mut ports: Vec<PortConfig> = Vec::new();
        for (path, table) in self.tables("port", PORTS_MAX) {
            ports.extend(port::port(&path, table, &ports, &mut self.report));
        }
        ports
    }

    fn commands(&mut self, ports: &[PortConfig]) -> Arc<Allowed> {
        let builtins = commands::builtins(self.section("commands"));
        let mut boards = BTreeMap::new();
        for (path, table) in self.tables("command", COMMANDS_MAX) {
            boards.extend(commands::command(&path, table, ports, &boards, &mut self.report));
        }
        Arc::new(Allowed { builtins, boards })
    }

    fn rules(&mut self, ports: &[PortConfig], outbox: &Outbox) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        for (path, table) in self.tables("alert", RULES_MAX) {
            rules.extend(alert::alert(&path, table, &rules, ports, outbox, &mut self.report));
        }
        rules
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

/// `BROKER_PASSWORD_FILE` is `password_file` of `[broker]`; one section has an underscore itself.
fn section_and_key(name: &str) -> Option<(&str, &str)> {
    let of_home_assistant = name.strip_prefix("HOME_ASSISTANT_");
    of_home_assistant.map(|key| ("home_assistant", key)).or_else(|| name.split_once('_'))
}

/// What the ports say of their metrics, where `[meta]` says nothing.
fn add_units(meta: &mut Meta, ports: &[PortConfig]) {
    for port in ports {
        for (metric, rule) in &port.rules.0 {
            let Some(unit) = &rule.unit else { continue };
            let name = rule.name.as_deref().unwrap_or(metric);
            let names = match &port.averaging {
                Some(averaging) => averaging.names(name),
                None => vec![name.to_owned()],
            };
            let source = meta.sources.entry(port.name.to_string()).or_default();
            for name in names {
                let metric = source.metrics.entry(name).or_default();
                metric.unit.get_or_insert_with(|| unit.clone());
            }
        }
    }
}

/// The tables in a table; anything else in it is reported.
pub(super) fn sub_tables(table: Table, path: &str, report: &mut Report) -> Vec<(String, Table)> {
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
