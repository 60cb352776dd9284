//! The topic tree: built and taken apart in one place.

use crate::{DeviceId, Stream};

/// The topics of one installation: a prefix (may be empty) before `devices/` and `bridge/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topics {
    prefix: String,
}

/// What a topic is, with the device or bridge that stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// `devices/<id>/sensor_data`: a batch of readings.
    SensorData(DeviceId),
    /// `devices/<id>/alerts`: a batch of one alert.
    Alerts(DeviceId),
    /// `devices/<id>/command_acks`: a batch of one command ack.
    CommandAcks(DeviceId),
    /// `devices/<id>/sync/hello`.
    Hello(DeviceId),
    /// `devices/<id>/sync/state`.
    State(DeviceId),
    /// `devices/<id>/sync/acks`.
    SyncAcks(DeviceId),
    /// `devices/<id>/commands`.
    Commands(DeviceId),
    /// `devices/<id>/status`: JSON, retained, and the last will.
    Status(DeviceId),
    /// `devices/<id>/meta`: JSON, retained.
    Meta(DeviceId),
    /// `devices/<id>/live/<source>`: JSON.
    Live(DeviceId, String),
    /// `devices/<id>/config/reported`: JSON, retained.
    ConfigReported(DeviceId),
    /// `devices/<id>/config/desired`: JSON, retained.
    ConfigDesired(DeviceId),
    /// `bridge/<name>/status`: JSON, retained, and the last will.
    BridgeStatus(String),
}

impl Topic {
    /// Topic of a batch of this stream; events go by what they are.
    pub fn batch(device: &DeviceId, stream: Stream, command_ack: bool) -> Topic {
        match (stream, command_ack) {
            (Stream::Readings, _) => Topic::SensorData(device.clone()),
            (Stream::Events, false) => Topic::Alerts(device.clone()),
            (Stream::Events, true) => Topic::CommandAcks(device.clone()),
        }
    }
}

impl Topics {
    /// With a prefix such as `site-7` or `acme/site-7`; empty for none.
    ///
    /// Refused: wildcards, NUL, a leading or trailing `/`, a leading `$`, over 64 bytes.
    pub fn new(prefix: &str) -> Result<Self, String> {
        let bad = prefix.starts_with(['/', '$'])
            || prefix.ends_with('/')
            || prefix.contains(['+', '#', '\0'])
            || prefix.len() > 64;
        if bad {
            return Err(format!(
                "topic prefix {prefix:?} is not usable: at most 64 bytes, no + or #, no / at either end, no $ in front"
            ));
        }
        Ok(Topics { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } })
    }

    /// The two levels below which everything lies.
    pub fn roots(&self) -> [String; 2] {
        ["devices", "bridge"].map(|root| format!("{}{root}", self.prefix))
    }

    /// The topic's name.
    pub fn name(&self, topic: &Topic) -> String {
        let prefix = &self.prefix;
        match topic {
            Topic::SensorData(id) => format!("{prefix}devices/{id}/sensor_data"),
            Topic::Alerts(id) => format!("{prefix}devices/{id}/alerts"),
            Topic::CommandAcks(id) => format!("{prefix}devices/{id}/command_acks"),
            Topic::Hello(id) => format!("{prefix}devices/{id}/sync/hello"),
            Topic::State(id) => format!("{prefix}devices/{id}/sync/state"),
            Topic::SyncAcks(id) => format!("{prefix}devices/{id}/sync/acks"),
            Topic::Commands(id) => format!("{prefix}devices/{id}/commands"),
            Topic::Status(id) => format!("{prefix}devices/{id}/status"),
            Topic::Meta(id) => format!("{prefix}devices/{id}/meta"),
            Topic::Live(id, source) => format!("{prefix}devices/{id}/live/{source}"),
            Topic::ConfigReported(id) => format!("{prefix}devices/{id}/config/reported"),
            Topic::ConfigDesired(id) => format!("{prefix}devices/{id}/config/desired"),
            Topic::BridgeStatus(name) => format!("{prefix}bridge/{name}/status"),
        }
    }

    /// Takes a topic's name apart. `None` for what is not ours.
    pub fn parse(&self, name: &str) -> Option<Topic> {
        let levels: Vec<&str> = name.strip_prefix(&self.prefix)?.split('/').collect();
        if let ["bridge", bridge, "status"] = levels[..] {
            return Some(Topic::BridgeStatus(bridge.to_owned()));
        }
        let ["devices", id, rest @ ..] = &levels[..] else { return None };
        let id: DeviceId = id.parse().ok()?;
        match rest {
            ["sensor_data"] => Some(Topic::SensorData(id)),
            ["alerts"] => Some(Topic::Alerts(id)),
            ["command_acks"] => Some(Topic::CommandAcks(id)),
            ["sync", "hello"] => Some(Topic::Hello(id)),
            ["sync", "state"] => Some(Topic::State(id)),
            ["sync", "acks"] => Some(Topic::SyncAcks(id)),
            ["commands"] => Some(Topic::Commands(id)),
            ["status"] => Some(Topic::Status(id)),
            ["meta"] => Some(Topic::Meta(id)),
            ["live", source] => Some(Topic::Live(id, (*source).to_owned())),
            ["config", "reported"] => Some(Topic::ConfigReported(id)),
            ["config", "desired"] => Some(Topic::ConfigDesired(id)),
            _ => None,
        }
    }

    /// What a gateway subscribes to: its own down topics and the status of every bridge.
    pub fn gateway_filters(&self, device: &DeviceId) -> Vec<String> {
        let own = [
            Topic::State(device.clone()),
            Topic::SyncAcks(device.clone()),
            Topic::Commands(device.clone()),
            Topic::ConfigDesired(device.clone()),
        ];
        let mut filters: Vec<String> = own.iter().map(|topic| self.name(topic)).collect();
        filters.push(format!("{}bridge/+/status", self.prefix));
        filters
    }

    /// What the bridge's `-readings` connection subscribes to.
    pub fn bridge_reading_filters(&self) -> Vec<String> {
        vec![format!("{}devices/+/sensor_data", self.prefix)]
    }

    /// What the bridge's `-events` connection subscribes to: small and urgent things, and
    /// commands, to know of those that people publish.
    pub fn bridge_event_filters(&self) -> Vec<String> {
        ["alerts", "command_acks", "commands", "sync/hello", "status", "meta", "config/reported"]
            .iter()
            .map(|leaf| format!("{}devices/+/{leaf}", self.prefix))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_read_back_as_what_it_was() {
        let id: DeviceId = "pi-1".parse().unwrap();
        for prefix in ["", "acme/site-7"] {
            let topics = Topics::new(prefix).unwrap();
            let all = [
                Topic::SensorData(id.clone()),
                Topic::Alerts(id.clone()),
                Topic::CommandAcks(id.clone()),
                Topic::Hello(id.clone()),
                Topic::State(id.clone()),
                Topic::SyncAcks(id.clone()),
                Topic::Commands(id.clone()),
                Topic::Status(id.clone()),
                Topic::Meta(id.clone()),
                Topic::Live(id.clone(), "air".into()),
                Topic::ConfigReported(id.clone()),
                Topic::ConfigDesired(id.clone()),
                Topic::BridgeStatus("main".into()),
            ];
            for topic in all {
                assert_eq!(topics.parse(&topics.name(&topic)), Some(topic));
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_nobodys() {
        let topics = Topics::new("site").unwrap();
        for name in [
            "devices/a/sensor_data",
            "site/devices//sensor_data",
            "site/devices/a/b/c/d",
            "",
            "site/",
        ] {
            assert_eq!(topics.parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_prefix_with_a_wildcard_is_refused() {
        for bad in ["a/", "/a", "a+b", "#", "$SYS"] {
            assert!(Topics::new(bad).is_err(), "{bad:?} was taken");
        }
    }
}
