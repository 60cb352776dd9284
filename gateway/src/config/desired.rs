//! `config/desired`: what somebody wants this gateway to be, as it came.
//!
//! ```text
//! {"version": 7, "config": {"publish": {"publish_interval": "60s"}, "port": [...]}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::{ConfigError, ConfigErrors};

/// What its mistakes are told of.
pub(super) const NAME: &str = "config/desired";
/// As of every JSON payload (topics.md).
pub(crate) const JSON_BYTES_MAX: usize = 64 * 1024;
/// What every reader of JSON can hold.
const VERSION_MAX: u64 = 1 << 53;

/// A configuration that is desired, not yet held against anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Which; `None`: the message was empty, which asks for the local file alone.
    pub version: Option<u64>,
    /// Sections and keys as in the file. May hold a password.
    #[serde(default)]
    config: Map<String, Json>,
}

impl Desired {
    /// Reads a message.
    ///
    /// # Errors
    /// The version, if it can be read, and what is wrong.
    pub fn parse(payload: &[u8]) -> Result<Desired, (Option<u64>, ConfigErrors)> {
        if payload.is_empty() {
            return Ok(Desired { version: None, config: Map::new() });
        }
        let wrong = |version, keys: &str, why: String| {
            let error = ConfigError::Conflict { keys: keys.to_owned(), why };
            Err((version, ConfigErrors::new(vec![error])))
        };
        if payload.len() > JSON_BYTES_MAX {
            let why = format!("it has {} bytes; at most {JSON_BYTES_MAX} are read", payload.len());
            return wrong(None, NAME, why);
        }
        let mut message: Map<String, Json> = match serde_json::from_slice(payload) {
            Ok(message) => message,
            Err(error) => return wrong(None, NAME, format!("it is no JSON object: {error}")),
        };
        let version = message.remove("version").and_then(|version| version.as_u64());
        let Some(version) = version.filter(|version| *version < VERSION_MAX) else {
            let why = "write a whole number from 0 on, another one for each change".to_owned();
            return wrong(None, "config/desired: version", why);
        };
        let config = match message.remove("config") {
            None => Map::new(),
            Some(Json::Object(config)) => config,
            Some(_) => {
                let why = "write an object, {\"section\": {\"key\": value}}".to_owned();
                return wrong(Some(version), "config/desired: config", why);
            }
        };
        if let Some(key) = message.keys().next() {
            let keys = format!("config/desired: {key}");
            return wrong(Some(version), &keys, "known are version and config".to_owned());
        }
        Ok(Desired { version: Some(version), config })
    }

    /// Its sections as the file would have them, without what is no value there, and that.
    pub(super) fn table(&self) -> (Table, Vec<ConfigError>) {
        let mut errors = Vec::new();
        (table(&self.config, "", &mut errors), errors)
    }
}

fn table(object: &Map<String, Json>, path: &str, errors: &mut Vec<ConfigError>) -> Table {
    let mut table = Table::new();
    for (key, json) in object {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        table.extend(value(json, &path, errors).map(|value| (key.clone(), value)));
    }
    table
}

/// `None` is reported.
fn value(json: &Json, path: &str, errors: &mut Vec<ConfigError>) -> Option<Value> {
    let why = match json {
        Json::Bool(value) => return Some(Value::Boolean(*value)),
        Json::String(text) => return Some(Value::String(text.clone())),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => return Some(Value::Integer(whole)),
            (None, Some(float)) if float.is_finite() && !number.is_u64() => {
                return Some(Value::Float(float));
            }
            _ => "this number is too large",
        },
        Json::Array(items) => {
            let one = |(at, item)| value(item, &format!("{path}[{}]", at + 1), errors);
            return Some(Value::Array(items.iter().enumerate().filter_map(one).collect()));
        }
        Json::Object(object) => return Some(Value::Table(table(object, path, errors))),
        Json::Null => "null is no value; leave the key out and the file's own counts",
    };
    errors.push(ConfigError::Conflict { keys: path.to_owned(), why: why.to_owned() });
    None
}
