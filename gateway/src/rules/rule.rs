//! One rule: what it looks at, when it holds, when it is over.

use std::fmt::Write as _;
use std::sync::Arc;

use fieldpost_protocol::{Severity, Value};

/// Bytes of a text value in a message; the rest is cut off.
const SHOWN_BYTES_MAX: usize = 256;

/// `[[alert]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The alert's name.
    pub name: String,
    /// What it looks at.
    pub condition: Condition,
    /// How long the condition has to hold, milliseconds.
    pub hold_ms: i64,
    /// How bad.
    pub severity: Severity,
    /// For people, with `{value}` and `{source}`; `None`: a plain sentence.
    pub message: Option<String>,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// A metric's value.
    Metric {
        /// Whose; `None`: each source for itself.
        source: Option<Arc<str>>,
        /// Which.
        metric: String,
        /// When it holds.
        test: Test,
    },
    /// Nothing came, or nothing with this metric; since the last time, or the start.
    NoData {
        /// From whom.
        source: Arc<str>,
        /// Of what.
        metric: Option<String>,
    },
    /// The outbox uses more bytes than this.
    OutboxAbove(u64),
    /// This port is not open, and nobody has asked for that.
    PortLost(Arc<str>),
}

/// When a value holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Above the first; over at the first less the second.
    Above(f64, f64),
    /// Below the first; over at the first and the second.
    Below(f64, f64),
    /// Written like this.
    Equals(String),
}

/// What a value says of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// It holds.
    Holds,
    /// It does not, and is not over: between both bounds.
    Between,
    /// It is over.
    Over,
}

impl Test {
    /// `None`: nothing can be said of this value, null or a text.
    pub(super) fn ask(&self, value: &Value) -> Option<Says> {
        let says = match self {
            Test::Above(limit, hysteresis) => {
                let number = number(value)?;
                match () {
                    () if number > *limit => Says::Holds,
                    () if number <= limit - hysteresis => Says::Over,
                    () => Says::Between,
                }
            }
            Test::Below(limit, hysteresis) => {
                let number = number(value)?;
                match () {
                    () if number < *limit => Says::Holds,
                    () if number >= limit + hysteresis => Says::Over,
                    () => Says::Between,
                }
            }
            Test::Equals(text) => match value {
                Value::Null => return None,
                value if shown(value) == *text => Says::Holds,
                _ => Says::Over,
            },
        };
        Some(says)
    }
}

impl Rule {
    /// The rule as text: it differs where the rule does.
    pub(super) fn definition(&self) -> String {
        let (hold_ms, severity) = (self.hold_ms, self.severity.as_str());
        let mut text = match &self.condition {
            Condition::Metric { source, metric, test } => {
                let source = source.as_deref().unwrap_or("*");
                let test = match test {
                    Test::Above(limit, hysteresis) => format!("above {limit} {hysteresis}"),
                    Test::Below(limit, hysteresis) => format!("below {limit} {hysteresis}"),
                    Test::Equals(text) => format!("equals {text:?}"),
                };
                format!("{metric} of {source} {test}")
            }
            Condition::NoData { source, metric } => {
                format!("no data {} of {source}", metric.as_deref().unwrap_or("*"))
            }
            Condition::OutboxAbove(bytes) => format!("outbox above {bytes}"),
            Condition::PortLost(port) => format!("port lost {port}"),
        };
        let _ = write!(text, " for {hold_ms} {severity} {:?}", self.message);
        text
    }

    /// What there is to say when it is raised, about a source or a port, with the newest value.
    pub(super) fn says_raised(&self, about: Option<&str>, value: Option<&Value>) -> String {
        let value = value.map_or_else(|| "?".to_owned(), shown);
        if let Some(message) = &self.message {
            return message.replace("{source}", about.unwrap_or("?")).replace("{value}", &value);
        }
        let about = about.unwrap_or_default();
        let seconds = self.hold_ms / 1_000;
        match &self.condition {
            Condition::Metric { metric, test, .. } => {
                let limit = match test {
                    Test::Above(limit, _) => format!(", above {limit}"),
                    Test::Below(limit, _) => format!(", below {limit}"),
                    Test::Equals(_) => String::new(),
                };
                format!("{metric} of {about} is {value}{limit}")
            }
            Condition::NoData { metric: Some(metric), .. } => {
                format!("no {metric} from {about} for {seconds} s")
            }
            Condition::NoData { metric: None, .. } => {
                format!("nothing from {about} for {seconds} s")
            }
            Condition::OutboxAbove(bytes) => {
                format!("the outbox uses {value} bytes, more than {bytes}")
            }
            Condition::PortLost(port) => format!("the port {port} is not open"),
        }
    }

    /// ... and when it is over.
    pub(super) fn says_over(&self, about: Option<&str>, value: Option<&Value>) -> String {
        let about = about.unwrap_or_default();
        let value = value.map_or_else(|| "?".to_owned(), shown);
        match &self.condition {
            Condition::Metric { metric, .. } => format!("{metric} of {about} is {value}"),
            Condition::NoData { .. } => format!("{about} sends again"),
            Condition::OutboxAbove(_) => format!("the outbox uses {value} bytes"),
            Condition::PortLost(port) => format!("the port {port} is open again"),
        }
    }
}

/// True is 1 and false is 0; what is no number is none.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::Null | Value::Text(_) => None,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text[..text.floor_char_boundary(SHOWN_BYTES_MAX)].to_owned(),
    }
}
