//! One metric as Home Assistant wants it described: the topic and the JSON of its retained entry.
//!
//! ```text
//! <prefix>/<component>/<device>/<object>/config      component: sensor, binary_sensor
//! object = escaped(source) -- escaped(metric)        all but A-Z a-z 0-9 _ is -xx, in hex, byte by byte
//! ```
//!
//! So no two metrics have the same topic: in an escaped name two hex digits follow each `-`.

use std::fmt::Write as _;

use fieldpost_protocol::{DeviceId, Meta, Topic, Topics, Value};
use serde_json::{Map, Value as Json, json};

use super::units;

/// What some brokers take: AWS, for one.
const TOPIC_BYTES_MAX: usize = 256;

/// Whose metric, and which.
pub(super) type Name = (String, String);

/// What a metric's values have been so far; null tells nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers and nothing else.
    Number,
    /// True and false and nothing else.
    Flag,
    /// Texts, or now this and now that.
    Text,
}

impl Kind {
    pub(super) fn of(value: &Value) -> Option<Kind> {
        match value {
            Value::Null => None,
            Value::Bool(_) => Some(Kind::Flag),
            Value::Int(_) | Value::Float(_) => Some(Kind::Number),
            Value::Text(_) => Some(Kind::Text),
        }
    }

    /// With a further value.
    pub(super) fn and(self, other: Kind) -> Kind {
        if self == other { self } else { Kind::Text }
    }

    fn component(self) -> &'static str {
        match self {
            Kind::Flag => "binary_sensor",
            Kind::Number | Kind::Text => "sensor",
        }
    }
}

/// What all entries of a gateway have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The first levels of the topics.
    pub(crate) prefix: String,
    /// In seconds.
    pub(crate) expire_after: Option<u64>,
    /// The gateway.
    pub(crate) device: DeviceId,
    /// Where it publishes.
    pub(crate) topics: Topics,
    /// Names and units.
    pub(crate) meta: Meta,
}

impl About {
    /// Where Home Assistant says that it is back.
    pub(crate) fn status_topic(&self) -> String {
        format!("{}/status", self.prefix)
    }

    /// The entry's topic; `None` for names so long that a broker might refuse it.
    pub(super) fn topic(&self, (source, metric): &Name, kind: Kind) -> Option<String> {
        let (prefix, device) = (&self.prefix, &self.device);
        let object = format!("{}--{}", escaped(source), escaped(metric));
        let topic = format!("{prefix}/{}/{device}/{object}/config", kind.component());
        (topic.len() <= TOPIC_BYTES_MAX).then_some(topic)
    }

    /// The entry.
    pub(super) fn payload(&self, (source, metric): &Name, kind: Kind) -> Vec<u8> {
        let meta = self.meta.sources.get(source);
        let unit = meta.and_then(|meta| meta.metrics.get(metric)).and_then(|it| it.unit.as_deref());
        let shown = meta.and_then(|meta| meta.name.as_deref()).unwrap_or(source);
        let status = self.topics.name(&Topic::Status(self.device.clone()));
        let live = self.topics.name(&Topic::Live(self.device.clone(), source.clone()));
        let online = r#"{{ "online" if value_json["online"] else "offline" }}"#;
        let mut entry = json!({
            "name": format!("{shown} {metric}"),
            "unique_id": format!("fieldpost/{}/{source}/{metric}", self.device),
            "state_topic": live,
            "value_template": template(metric, kind),
            "availability": [{"topic": status, "value_template": online}],
            "device": {
                "identifiers": [format!("fieldpost/{}", self.device)],
                "name": self.meta.name.as_deref().unwrap_or(self.device.as_str()),
                "manufacturer": "Fieldpost",
                "model": "fieldpost-gateway",
                "sw_version": env!("CARGO_PKG_VERSION"),
            },
            "origin": {"name": "Fieldpost", "sw_version": env!("CARGO_PKG_VERSION")},
        });
        let Json::Object(keys) = &mut entry else { unreachable!("it was made as an object") };
        if kind == Kind::Number {
            number(keys, metric, unit.map(units::written));
        }
        if let Some(seconds) = self.expire_after {
            keys.insert("expire_after".to_owned(), seconds.into());
        }
        entry.to_string().into_bytes()
    }
}

fn number(keys: &mut Map<String, Json>, metric: &str, unit: Option<String>) {
    let class = unit.as_deref().and_then(|unit| units::class(unit, metric));
    let state = class.map_or(units::MEASUREMENT, |class| class.state);
    keys.insert("state_class".to_owned(), state.into());
    if let Some(class) = class {
        keys.insert("device_class".to_owned(), class.device.into());
    }
    if let Some(unit) = unit {
        keys.insert("unit_of_measurement".to_owned(), unit.into());
    }
}

/// Reads one value. By subscript: `value_json.values` would be the method of a Python dict. A message
/// without the metric leaves the state as it is; null is `None`, which Home Assistant shows as unknown.
fn template(metric: &str, kind: Kind) -> String {
    // A name has neither quotes nor control characters.
    let key = metric.replace('\\', "\\\\");
    let value = format!(r#"value_json["values"]["{key}"]"#);
    let there = format!(r#"{{% if "{key}" in value_json["values"] %}}"#);
    match kind {
        Kind::Number => format!("{there}{{{{ {value} }}}}{{% endif %}}"),
        Kind::Flag => {
            format!(r#"{there}{{{{ {value} | iif("ON", "OFF", "None") }}}}{{% endif %}}"#)
        }
        // A state has at most 255 characters; an empty one of a text would be taken.
        Kind::Text => format!(
            "{there}{{{{ ({value} | string)[:255] }}}}{{% else %}}{{{{ this.state }}}}{{% endif %}}"
        ),
    }
}

/// Of `[a-zA-Z0-9_-]`, and another one for every other name.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "-{byte:02x}");
        }
    }
    escaped
}
