//! Keys of the file and of the environment, taken one by one, with every mistake noted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

/// Every key there is, dotted.
const KEYS: &[&str] = &[
    "bridge.name",
    "storage.path",
    "broker.host",
    "broker.port",
    "broker.tls",
    "broker.ca",
    "broker.cert_dir",
    "broker.readings_cert",
    "broker.readings_key",
    "broker.events_cert",
    "broker.events_key",
    "broker.out_cert",
    "broker.out_key",
    "broker.username",
    "broker.password",
    "broker.password_file",
    "broker.keep_alive_seconds",
    "broker.topic_prefix",
    "embedded_broker.listen",
    "embedded_broker.ca",
    "embedded_broker.cert",
    "embedded_broker.key",
    "embedded_broker.expose",
];

const PREFIX: &str = "FIELDPOST_BRIDGE_";
/// Where the file is; no key of the file.
const CONFIG_VARIABLE: &str = "FIELDPOST_BRIDGE_CONFIG";

/// A value, and the variable that it came from.
struct Setting {
    value: Value,
    variable: Option<String>,
}

/// See the module.
pub(super) struct Keys {
    settings: BTreeMap<String, Setting>,
    mistakes: Vec<String>,
}

impl Keys {
    pub(super) fn new(table: Table, environment: &BTreeMap<String, String>) -> Self {
        let mut keys = Keys { settings: BTreeMap::new(), mistakes: Vec::new() };
        for (section, content) in table {
            keys.section(&section, content);
        }
        for (variable, value) in environment {
            if variable.starts_with(PREFIX) && variable != CONFIG_VARIABLE {
                keys.variable(variable, value);
            }
        }
        keys
    }

    pub(super) fn mistakes(self) -> Vec<String> {
        self.mistakes
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match &self.settings.get(key)?.value {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.mistake(key, "allowed is text in quotes");
                None
            }
        }
    }

    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.mistake(key, "allowed is a path; remove the key if there is none");
            return None;
        }
        Some(text.into())
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let setting = self.settings.get(key)?;
        let flag = match (&setting.value, &setting.variable) {
            (Value::Boolean(flag), _) => Some(*flag),
            (Value::String(text), Some(_)) => text.parse().ok(),
            _ => None,
        };
        if flag.is_none() {
            self.mistake(key, "allowed are true and false");
        }
        flag
    }

    pub(super) fn integer(&mut self, key: &str, min: u64, max: u64) -> Option<u64> {
        let setting = self.settings.get(key)?;
        let number = match (&setting.value, &setting.variable) {
            (Value::Integer(number), _) => u64::try_from(*number).ok(),
            (Value::String(text), Some(_)) => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.mistake(key, &format!("allowed are whole numbers from {min} to {max}"));
        }
        number
    }

    /// Notes that the value of `key` cannot be used, and what could.
    pub(super) fn mistake(&mut self, key: &str, why: &str) {
        let shown = match self.settings.get(key) {
            Some(setting) => {
                let value = if key == "broker.password" {
                    "(hidden)".to_owned()
                } else {
                    setting.value.to_string()
                };
                let from = setting.variable.as_ref().map(|name| format!(" (from {name})"));
                format!("{key} = {value}{}", from.unwrap_or_default())
            }
            None => key.to_owned(),
        };
        self.mistakes.push(format!("{shown}: {why}"));
    }

    /// Notes that a key has to be there.
    pub(super) fn missing(&mut self, key: &str, why: &str) {
        self.mistakes.push(format!("{key} is missing: {why}"));
    }

    fn section(&mut self, section: &str, content: Value) {
        let known = KEYS.iter().any(|key| key.split_once('.').is_some_and(|(s, _)| s == section));
        match content {
            Value::Table(content) if known => {
                for (name, value) in content {
                    let key = format!("{section}.{name}");
                    if KEYS.contains(&key.as_str()) {
                        self.settings.insert(key, Setting { value, variable: None });
                    } else {
                        self.mistakes.push(format!("{key}: there is no such key; {}", hint(&key)));
                    }
                }
            }
            Value::Table(_) => self.mistakes.push(format!(
                "{section}: there is no such section; allowed are bridge, storage, broker, embedded_broker"
            )),
            _ => self.mistakes.push(format!("{section}: there is no such key; {}", hint(section))),
        }
    }

    fn variable(&mut self, variable: &str, value: &str) {
        let named =
            |key: &&&str| variable == format!("{PREFIX}{}", key.replace('.', "_").to_uppercase());
        match KEYS.iter().find(named) {
            Some(key) => {
                let (value, variable) = (Value::String(value.into()), Some(variable.into()));
                self.settings.insert((*key).to_owned(), Setting { value, variable });
            }
            None => self.mistakes.push(format!(
                "{variable}: this variable sets no key; unset it, or name it {PREFIX}<SECTION>_<KEY> after a key of bridge.toml"
            )),
        }
    }
}

/// What may have been meant: the key that shares the most, or the section's keys.
fn hint(key: &str) -> String {
    let near = |known: &&&str| strsim::levenshtein(key, known) <= 2;
    if let Some(known) = KEYS.iter().find(near) {
        return format!("did you mean {known}?");
    }
    let section = key.split('.').next().unwrap_or_default();
    let others: Vec<&str> = KEYS
        .iter()
        .filter_map(|known| known.split_once('.'))
        .filter(|(of, _)| *of == section)
        .map(|(_, name)| name)
        .collect();
    if others.is_empty() {
        "every key belongs to a section: [bridge], [storage], [broker] or [embedded_broker]".into()
    } else {
        format!("[{section}] knows {}", others.join(", "))
    }
}
