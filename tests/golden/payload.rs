//! Which payload each topic carries, and how the code reads it and writes it again.

use fieldpost_protocol::{
    BridgeStatus, Command, DeviceStatus, Envelope, Event, Hello, Live, LiveAlert, LiveCommandAck,
    Meta, Metrics, Reading, State, SyncAcks, Topic, Value, decode_readings, encode_readings,
};
use serde_json::{Value as Json, json};

/// What a topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    SensorData,
    Alerts,
    CommandAcks,
    Hello,
    State,
    SyncAcks,
    Commands,
    Status,
    Meta,
    Live,
    LiveAlerts,
    LiveCommandAcks,
    BridgeStatus,
    /// Any JSON: nothing in the code looks into it.
    Config,
}

impl Payload {
    /// Of a topic. A topic that is added to the code stops this from compiling: say here what
    /// it carries, and in topics.md too.
    pub fn of(topic: &Topic) -> Payload {
        match topic {
            Topic::SensorData(_) => Payload::SensorData,
            Topic::Alerts(_) => Payload::Alerts,
            Topic::CommandAcks(_) => Payload::CommandAcks,
            Topic::Hello(_) => Payload::Hello,
            Topic::State(_) => Payload::State,
            Topic::SyncAcks(_) => Payload::SyncAcks,
            Topic::Commands(_) => Payload::Commands,
            Topic::Status(_) => Payload::Status,
            Topic::Meta(_) => Payload::Meta,
            Topic::Live(_, source) => match &**source {
                "alerts" => Payload::LiveAlerts,
                "command_acks" => Payload::LiveCommandAcks,
                _ => Payload::Live,
            },
            Topic::ConfigReported(_) | Topic::ConfigDesired(_) => Payload::Config,
            Topic::BridgeStatus(_) => Payload::BridgeStatus,
        }
    }

    /// Its name in the table of topics, in examples and in vectors.
    pub fn name(self) -> &'static str {
        match self {
            Payload::SensorData => "sensor_data",
            Payload::Alerts => "alerts",
            Payload::CommandAcks => "command_acks",
            Payload::Hello => "hello",
            Payload::State => "state",
            Payload::SyncAcks => "sync_acks",
            Payload::Commands => "commands",
            Payload::Status => "status",
            Payload::Meta => "meta",
            Payload::Live => "live",
            Payload::LiveAlerts => "live_alerts",
            Payload::LiveCommandAcks => "live_command_acks",
            Payload::BridgeStatus => "bridge_status",
            Payload::Config => "config",
        }
    }

    /// Whether it may come as CBOR.
    pub fn is_cbor(self) -> bool {
        !self.is_json() || self == Payload::Commands
    }

    /// Whether it may come as JSON.
    pub fn is_json(self) -> bool {
        use Payload::{Alerts, CommandAcks, Hello, SensorData, State, SyncAcks};
        !matches!(self, SensorData | Alerts | CommandAcks | Hello | State | SyncAcks)
    }

    /// Reads CBOR with the code's decoder.
    pub fn read(self, bytes: &[u8]) -> Result<Read, String> {
        let why = |error: fieldpost_protocol::DecodeError| error.to_string();
        match self {
            Payload::SensorData => {
                let envelope = Envelope::decode(bytes).map_err(|error| error.to_string())?;
                let rows = decode_readings(&envelope.body, envelope.n)
                    .map_err(|error| error.to_string())?;
                let again = Envelope { body: encode_readings(&rows), ..envelope.clone() }.encode();
                Ok(Read { json: readings_json(&envelope, &rows), again })
            }
            Payload::Alerts | Payload::CommandAcks => {
                let envelope = Envelope::decode(bytes).map_err(|error| error.to_string())?;
                let event = Event::decode(&envelope.body).map_err(why)?;
                if event.is_command_ack() != (self == Payload::CommandAcks) {
                    return Err("an event of the other topic".to_owned());
                }
                let again = Envelope { body: event.encode(), ..envelope.clone() }.encode();
                Ok(Read { json: event_json(self, &envelope, &event), again })
            }
            Payload::Hello => {
                Hello::decode(bytes).map_err(why).map(|hello| self.pair(&hello, hello.encode()))
            }
            Payload::State => {
                State::decode(bytes).map_err(why).map(|state| self.pair(&state, state.encode()))
            }
            Payload::SyncAcks => {
                SyncAcks::decode(bytes).map_err(why).map(|acks| self.pair(&acks, acks.encode()))
            }
            Payload::Commands => {
                Command::decode(bytes).map_err(why).map(|order| self.pair(&order, order.encode()))
            }
            _ => Err(format!("{} is not CBOR", self.name())),
        }
    }

    /// Reads JSON with the code's parser and writes what was understood, as JSON.
    pub fn read_json(self, text: &str) -> Result<Json, String> {
        let bytes = text.as_bytes();
        let json = |result: Result<Vec<u8>, fieldpost_protocol::DecodeError>| {
            let bytes = result.map_err(|error| error.to_string())?;
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())
        };
        match self {
            Payload::Status => json(DeviceStatus::from_json(bytes).map(|status| status.to_json())),
            Payload::Meta => json(Meta::from_json(bytes).map(|meta| meta.to_json())),
            Payload::Live => json(Live::from_json(bytes).map(|live| live.to_json())),
            Payload::LiveAlerts => json(LiveAlert::from_json(bytes).map(|alert| alert.to_json())),
            Payload::LiveCommandAcks => {
                json(LiveCommandAck::from_json(bytes).map(|ack| ack.to_json()))
            }
            Payload::BridgeStatus => {
                json(BridgeStatus::from_json(bytes).map(|status| status.to_json()))
            }
            Payload::Commands => {
                let command = Command::decode(bytes).map_err(|error| error.to_string())?;
                let mut json = content_json(&command);
                // A person may leave it out; what is understood has it.
                json.as_object_mut().expect("a command is an object").remove("v");
                Ok(json)
            }
            Payload::Config => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            _ => Err(format!("{} is not JSON", self.name())),
        }
    }

    fn pair(self, content: &impl serde::Serialize, again: Vec<u8>) -> Read {
        Read { json: json!({ "payload": self.name(), "content": content_json(content) }), again }
    }
}

/// A payload that was read.
pub struct Read {
    /// What it says.
    pub json: Json,
    /// What the code's encoder makes of it.
    pub again: Vec<u8>,
}

/// What the expected JSON of a vector holds for hello, state, sync acks and commands.
pub fn content_json(content: &impl serde::Serialize) -> Json {
    serde_json::to_value(content).expect("our payloads are JSON too")
}

/// A batch of readings: the envelope without its body, and `[seq, Unix ms, source, metrics]`.
pub fn readings_json(envelope: &Envelope, readings: &[Reading]) -> Json {
    let rows: Vec<Json> = readings
        .iter()
        .zip(envelope.first..)
        .map(|(reading, seq)| {
            let time = envelope.base + reading.offset_ms;
            json!([seq, time, &*reading.source, metrics_json(&reading.metrics)])
        })
        .collect();
    json!({ "payload": Payload::SensorData.name(), "envelope": envelope_json(envelope), "rows": rows })
}

/// A batch of one event.
pub fn event_json(payload: Payload, envelope: &Envelope, event: &Event) -> Json {
    json!({ "payload": payload.name(), "envelope": envelope_json(envelope), "event": content_json(event) })
}

fn envelope_json(envelope: &Envelope) -> Json {
    let mut json = content_json(envelope);
    json.as_object_mut().expect("an envelope is an object").remove("body");
    json
}

fn metrics_json(metrics: &Metrics) -> Json {
    metrics.iter().map(|(name, value)| (name.to_string(), value_json(value))).collect()
}

/// JSON has no word for NaN and the infinities: they are written by their bits.
fn value_json(value: &Value) -> Json {
    match value {
        Value::Float(float) if !float.is_finite() => {
            json!({ "f64": format!("{:016x}", float.to_bits()) })
        }
        value => content_json(value),
    }
}

/// Equal to the last bit: unlike `==`, tells 0.0 from -0.0.
pub fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.to_string() == b.to_string(),
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}
