//! What is desired from afar over what stands in the file: a key that is there replaces the file's, a list
//! the file's list.
//!
//! What could lock a gateway out, or let somebody in, is not for whoever writes from afar: `[remote] allow`
//! names the sections that are.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::section::{Overrides, suggest};
use super::{ConfigError, Remote, read};

/// What can be allowed.
pub(super) const SECTIONS: [&str; 11] = [
    "port", "publish", "outbox", "system", "alerts", "alert", "status", "meta", "commands",
    "command", "broker",
];
/// What is, where the file does not say: nothing by which one could allow himself more.
pub(super) const DEFAULT: [&str; 8] =
    ["port", "publish", "outbox", "system", "alerts", "alert", "status", "meta"];
/// Of these sections only these keys: the rest is fixed while the gateway runs, or names files.
const KEYS: [(&str, &[&str]); 3] = [
    ("outbox", &["commit_interval", "retention_age", "retention_size"]),
    ("publish", &["publish_interval", "batch_readings_max", "live_interval"]),
    ("status", &["heartbeat"]),
];
/// Sections that are written as lists.
const LISTS: [&str; 3] = ["port", "command", "alert"];

/// Lays `desired` over `root`. What may not be there is reported.
pub(super) fn lay(
    root: &mut Table,
    desired: Table,
    remote: &Remote,
    overrides: &BTreeMap<String, Overrides>,
    errors: &mut Vec<ConfigError>,
) {
    let mut refuse = |keys: String, why: String| errors.push(ConfigError::Conflict { keys, why });
    for (section, value) in desired {
        if !read::SECTIONS.contains(&section.as_str()) {
            let next = suggest(&section, &read::SECTIONS, "Sections are");
            let why = format!("there is no such section. {next}");
            refuse(section, why);
            continue;
        }
        if !remote.allow.contains(&section.as_str()) {
            let allow = remote.allow.join(", ");
            let why = format!(
                "this gateway lets nobody set it from afar; what may be set, by [remote] allow in its gateway.toml: {allow}"
            );
            refuse(section, why);
            continue;
        }
        if section == "port" {
            other_sockets(root.get("port"), &value).for_each(|port| {
                refuse(port, "a socket can be set in gateway.toml only".to_owned())
            });
        }
        let table = match value {
            Value::Table(table) if !LISTS.contains(&section.as_str()) => table,
            // What is no list is reported where the section is read.
            value => {
                root.insert(section, value);
                continue;
            }
        };
        let known = KEYS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys);
        let there = root.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        for (key, value) in table {
            let path = format!("{section}.{key}");
            let variable = overrides.get(&section).and_then(|keys| keys.get(&key));
            if let Some(known) = known.filter(|known| !known.contains(&key.as_str())) {
                let why = format!(
                    "there is no such key, or it cannot be set from afar; of [{section}] these can: {}",
                    known.join(", ")
                );
                refuse(path, why);
            } else if let Some((variable, _)) = variable {
                refuse(path, format!("{variable} in the gateway's environment sets it"));
            } else if let Value::Table(there) = &mut *there {
                there.insert(key, value);
            }
        }
    }
}

/// The sockets of a list of ports that the file's own list does not have.
fn other_sockets(local: Option<&Value>, desired: &Value) -> impl Iterator<Item = String> {
    let ports = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let ours: Vec<Value> =
        ports(local).iter().filter_map(|port| port.get("socket").cloned()).collect();
    ports(Some(desired)).into_iter().enumerate().filter_map(move |(at, port)| {
        let name = port.get("name").and_then(Value::as_str);
        let path = name.map_or(format!("port[{}]", at + 1), |name| format!("port.{name}"));
        let socket = port.get("socket")?;
        (!ours.contains(socket)).then(|| format!("{path}.socket"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Desired};

    const LOCAL: &str = r#"
        [device]
        id = "pi-1"
        [broker]
        host = "broker.example.org"
        username = "pi-1"
        password = "sesame"
        [[port]]
        name = "room"
        path = "/dev/a"
        baud = 9600
        [[port]]
        name = "script"
        socket = "/run/a.sock"
        [publish]
        publish_interval = "5s"
        [meta.sources.room]
        name = "Room"
    "#;

    fn local(lines: &str, variables: &[(&str, &str)]) -> Config {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Config::parse(&format!("{LOCAL}\n{lines}"), variables).unwrap()
    }

    fn over(local: &Config, config: &str) -> Result<Config, Vec<String>> {
        let message = format!(r#"{{"version": 7, "config": {config}}}"#);
        let texts =
            |errors: super::super::ConfigErrors| errors.iter().map(ToString::to_string).collect();
        let desired = Desired::parse(message.as_bytes()).map_err(|(_, errors)| texts(errors))?;
        local.overlaid(&desired).map_err(texts)
    }

    #[test]
    fn a_key_that_is_desired_replaces_the_files_and_all_others_stay() {
        let local = local("", &[]);
        let desired = r#"{"publish": {"live_interval": "off"}, "system": {"enabled": false},
            "port": [{"name": "room", "path": "/dev/a", "format": "json", "metrics": {"t": {"scale": 0.5}}}]}"#;
        let config = over(&local, desired).unwrap();
        assert_eq!(config.publish.live_interval, None);
        assert_eq!(config.publish.publish_interval.as_secs(), 5);
        assert!(!config.system.enabled);
        assert_eq!(config.ports.len(), 1, "a list replaces the list");
        assert_eq!(config.ports[0].rules.0["t"].scale, Some(0.5));
        assert_eq!(config.meta.sources["room"].name.as_deref(), Some("Room"));
        let back = config.overlaid(&Desired::parse(b"").unwrap()).unwrap();
        assert_eq!(back.redacted().to_string(), local.redacted().to_string());
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let desired = r#"{"port": [{"name": "room", "path": "/dev/a", "baud": "fast", "parity": "even"}],
            "publish": {"publish_interval": "2 days"}, "device": {"id": "pi-2"}, "broker": {"host": "evil"},
            "outbox": {"path": "/tmp/x"}, "commands": {"allow": ["restart"]}, "prots": [],
            "system": {"interval": null}, "alert": [null]}"#;
        let errors = over(&local("", &[]), desired).unwrap_err().join("\n");
        for said in [
            "port.room.baud = \"fast\": write a whole number",
            "port.room.parity: there is no such key",
            "publish.publish_interval = \"2 days\"",
            "device: this gateway lets nobody set it from afar",
            "broker: this gateway lets nobody",
            "outbox.path: there is no such key, or it cannot be set from afar",
            "commands: this gateway lets nobody",
            "prots: there is no such section. Sections are",
            "system.interval: null is no value",
            "alert[1]: null is no value",
        ] {
            assert!(errors.contains(said), "{said:?} is not in:\n{errors}");
        }
    }

    #[test]
    fn the_file_says_what_may_be_set_and_the_environment_is_above() {
        let local = local(
            "[remote]\nallow = [\"publish\", \"broker\"]",
            &[("FIELDPOST_BROKER_PORT", "1234")],
        );
        let config = over(&local, r#"{"broker": {"host": "other.example.org"}}"#).unwrap();
        let broker = config.broker.unwrap();
        assert_eq!((broker.host.as_str(), broker.port), ("other.example.org", 1234));
        let errors = over(
            &local,
            r#"{"system": {}, "broker": {"port": 1}, "publish": {"topic_prefix": "a"}}"#,
        );
        let errors = errors.unwrap_err().join("\n");
        for said in [
            "system: this gateway lets nobody set it",
            "broker.port: FIELDPOST_BROKER_PORT in the gateway's environment sets it",
            "publish.topic_prefix: there is no such key, or it cannot be set from afar",
        ] {
            assert!(errors.contains(said), "{said:?} is not in:\n{errors}");
        }
    }

    #[test]
    fn a_socket_is_the_files_own_or_refused() {
        let local = local("", &[]);
        assert!(over(&local, r#"{"port": [{"name": "s", "socket": "/run/a.sock"}]}"#).is_ok());
        let errors =
            over(&local, r#"{"port": [{"name": "s", "socket": "/run/b.sock"}]}"#).unwrap_err();
        assert_eq!(errors, ["port.s.socket: a socket can be set in gateway.toml only"]);
    }

    #[test]
    fn what_is_no_desired_configuration_is_refused_with_its_version_where_it_has_one() {
        for (message, version, said) in [
            ("[]", None, "no JSON object"),
            ("{}", None, "version: write a whole number"),
            (r#"{"version": 3.5}"#, None, "version: write a whole number"),
            (r#"{"version": 3, "config": []}"#, Some(3), "config: write an object"),
            (r#"{"version": 3, "confg": {}}"#, Some(3), "confg: known are version and config"),
        ] {
            let (got, errors) = Desired::parse(message.as_bytes()).unwrap_err();
            assert_eq!(got, version, "{message}");
            assert!(errors.to_string().contains(said), "{message}: {errors}");
        }
        let errors = over(
            &local("", &[]),
            r#"{"publish": {"live_interval": null}, "system": {"interval": 1e99999}}"#,
        );
        assert!(errors.unwrap_err().join(" ").contains("no JSON object"));
        let errors = over(&local("", &[]), r#"{"publish": {"live_interval": null}}"#).unwrap_err();
        assert!(errors[0].starts_with("publish.live_interval: null is no value"), "{errors:?}");
        let large = format!(r#"{{"version": 1, "config": "{}"}}"#, "x".repeat(64 * 1024));
        assert!(
            Desired::parse(large.as_bytes()).unwrap_err().1.to_string().contains("at most 65536")
        );
    }

    #[test]
    fn what_is_in_effect_can_be_told_as_json_without_secrets() {
        let config = over(&local("", &[]), r#"{"publish": {"batch_readings_max": 10}}"#).unwrap();
        let json = config.redacted_json();
        assert_eq!(json["publish"]["batch_readings_max"], 10);
        assert_eq!(json["port"][1]["socket"], "/run/a.sock");
        assert_eq!(json["broker"]["password"], "(hidden)");
        assert!(!format!("{config:?}").contains("sesame"));
    }
}
