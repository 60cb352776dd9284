//! The configuration: `bridge.toml`, with overrides from the environment.
//!
//! Whoever edits it sees all mistakes at once: each is named with its key, its value, what is
//! allowed and what to do next. A key that nobody knows is a mistake, since a misspelt one
//! would otherwise be a default in silence.

mod keys;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldpost_mqtt as mqtt;
pub use fieldpost_mqtt::{ClientCertificate, Login, Password};
use fieldpost_protocol::{DeviceId, Topics};

use keys::Keys;

/// The documented template. As it stands it is a valid configuration.
pub const TEMPLATE: &str = include_str!("../../config/bridge.toml");

/// The longest suffix of a connection's name, `-readings`, has to fit into 64 bytes.
const NAME_BYTES_MAX: usize = 55;

/// A configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `bridge.name`: in its topic and in the names of its connections.
    pub name: String,
    /// `storage.path`: the SQLite file.
    pub storage: PathBuf,
    /// `[broker]`
    pub broker: Broker,
    /// `[embedded_broker]`; used only where it is asked for.
    pub embedded_broker: EmbeddedBroker,
}

/// `[broker]`
#[derive(Debug, Clone)]
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
    /// The topic tree, with its prefix.
    pub topics: Topics,
}

/// How the broker is verified, and how it verifies us.
#[derive(Debug, Clone)]
pub struct Tls {
    /// A CA's file; `None` for the operating system's CAs.
    pub ca: Option<PathBuf>,
    /// Certificates of the three connections, where the broker wants them.
    pub client: Option<ClientCerts>,
}

/// Certificate and key of each connection, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCerts {
    /// Of `<name>-readings`.
    pub readings: ClientCertificate,
    /// Of `<name>-events`.
    pub events: ClientCertificate,
    /// Of `<name>-out`.
    pub out: ClientCertificate,
}

/// `[embedded_broker]`
#[derive(Debug, Clone)]
pub struct EmbeddedBroker {
    /// Where it listens.
    pub listen: SocketAddr,
    /// CA, certificate and key; `None` is MQTT in the clear.
    pub tls: Option<BrokerTls>,
    /// It may listen on an address that others can reach.
    pub expose: bool,
}

/// TLS of the embedded broker.
#[derive(Debug, Clone)]
pub struct BrokerTls {
    /// The CA that has signed the clients' certificates.
    pub ca: PathBuf,
    /// Its own certificate chain.
    pub cert: PathBuf,
    /// Its own key.
    pub key: PathBuf,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "the configuration {} cannot be read: {why}. `fieldpost-bridge config > bridge.toml` writes a template",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It is not TOML.
    #[error("the configuration is not valid TOML:\n{0}")]
    Syntax(String),
    /// Everything that is wrong with it, one sentence each.
    #[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
    Mistakes(Vec<String>),
}

impl Config {
    /// From a file. The environment overrides it.
    pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let text = mqtt::check_is_file_or_pipe(path)
            .and_then(|()| std::fs::read_to_string(path))
            .map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        Config::parse(&text, environment)
    }

    /// From text.
    pub fn parse(text: &str, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let table =
            text.parse::<toml::Table>().map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let mut keys = Keys::new(table, environment);
        let config = read(&mut keys);
        let mistakes = keys.mistakes();
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError::Mistakes(mistakes)) }
    }
}

/// Reads every key; mistakes collect in `keys`, and a default stands in for a wrong value.
fn read(keys: &mut Keys) -> Config {
    let name = keys.text("bridge.name").unwrap_or_else(|| "bridge".into());
    if name.parse::<DeviceId>().is_err() || name.len() > NAME_BYTES_MAX {
        let allowed = format!("allowed are 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -");
        keys.mistake("bridge.name", &allowed);
    }
    let storage = keys.path("storage.path").unwrap_or("/var/lib/fieldpost-bridge/bridge.db".into());
    let broker = broker(keys, &name);
    let embedded_broker = embedded_broker(keys);
    Config { name, storage, broker, embedded_broker }
}

fn broker(keys: &mut Keys, name: &str) -> Broker {
    let host = keys.text("broker.host").unwrap_or_else(|| "127.0.0.1".into());
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        keys.mistake("broker.host", "allowed is a host name or an address, without mqtt://");
    }
    let with_tls = keys.flag("broker.tls").unwrap_or(true);
    let port = keys.integer("broker.port", 1, 65535).unwrap_or(if with_tls { 8883 } else { 1883 });
    let prefix = keys.text("broker.topic_prefix").unwrap_or_default();
    let topics = Topics::new(&prefix).unwrap_or_else(|why| {
        keys.mistake("broker.topic_prefix", &why);
        Topics::default()
    });
    let ca = keys.path("broker.ca").filter(|ca| *ca != Path::new("system"));
    let client = client_certs(keys, name);
    if !with_tls && (ca.is_some() || client.is_some()) {
        let why = "without TLS there is no ca and no certificate: remove them, or set tls = true";
        keys.mistake("broker.tls", why);
    }
    let seconds = keys.integer("broker.keep_alive_seconds", 5, 3600).unwrap_or(20);
    Broker {
        host,
        port: port as u16,
        tls: with_tls.then_some(Tls { ca, client }),
        login: login(keys),
        keep_alive: Duration::from_secs(seconds),
        topics,
    }
}

fn client_certs(keys: &mut Keys, name: &str) -> Option<ClientCerts> {
    let dir = keys.path("broker.cert_dir");
    let mut pair = |connection: &str| {
        let (cert_key, key_key) =
            (format!("broker.{connection}_cert"), format!("broker.{connection}_key"));
        match (keys.path(&cert_key), keys.path(&key_key)) {
            (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
            (None, None) => dir.as_ref().map(|dir| ClientCertificate {
                cert: dir.join(format!("{name}-{connection}.pem")),
                key: dir.join(format!("{name}-{connection}.key")),
            }),
            (Some(_), None) => {
                keys.missing(&key_key, &format!("{cert_key} is set; set both or neither"));
                None
            }
            (None, Some(_)) => {
                keys.missing(&cert_key, &format!("{key_key} is set; set both or neither"));
                None
            }
        }
    };
    match (pair("readings"), pair("events"), pair("out")) {
        (Some(readings), Some(events), Some(out)) => Some(ClientCerts { readings, events, out }),
        (None, None, None) => None,
        _ => {
            keys.missing(
                "broker.cert_dir",
                "some connections have a certificate and some have none; set cert_dir, or the cert and key of readings, events and out",
            );
            None
        }
    }
}

fn login(keys: &mut Keys) -> Option<Login> {
    let username = keys.text("broker.username");
    let direct = keys.text("broker.password");
    let file = keys.path("broker.password_file");
    let password = match (direct, file) {
        (Some(_), Some(_)) => {
            keys.mistake("broker.password_file", "broker.password is set too; keep one of them");
            None
        }
        (Some(password), None) => Some(Password::Text(password)),
        (None, Some(path)) => {
            match mqtt::check_is_file(&path).and_then(|()| std::fs::read_to_string(&path)) {
                Ok(_) => Some(Password::File(path)),
                Err(error) => {
                    keys.mistake("broker.password_file", &format!("it cannot be read: {error}"));
                    None
                }
            }
        }
        (None, None) => None,
    };
    match (username, password) {
        (Some(username), password) => {
            let password = password.unwrap_or(Password::Text(String::new()));
            Some(Login { username, password })
        }
        (None, Some(_)) => {
            keys.missing("broker.username", "a password is set; set the user's name too");
            None
        }
        (None, None) => None,
    }
}

fn embedded_broker(keys: &mut Keys) -> EmbeddedBroker {
    let default = SocketAddr::from(([127, 0, 0, 1], 8883));
    let listen = match keys.text("embedded_broker.listen").map(|text| text.parse()) {
        None => default,
        Some(Ok(listen)) => listen,
        Some(Err(_)) => {
            let allowed = "allowed is an address with a port, such as 127.0.0.1:8883";
            keys.mistake("embedded_broker.listen", allowed);
            default
        }
    };
    let expose = keys.flag("embedded_broker.expose").unwrap_or(false);
    if !listen.ip().is_loopback() && !expose {
        keys.mistake(
            "embedded_broker.listen",
            "others can reach this address, and this broker lets any client speak for any device; \
             set embedded_broker.expose = true if that is meant, or use mosquitto",
        );
    }
    let parts = (
        keys.path("embedded_broker.ca"),
        keys.path("embedded_broker.cert"),
        keys.path("embedded_broker.key"),
    );
    let tls = match parts {
        (Some(ca), Some(cert), Some(key)) => Some(BrokerTls { ca, cert, key }),
        (None, None, None) => None,
        _ => {
            keys.missing("embedded_broker", "ca, cert and key belong together: all three or none");
            None
        }
    };
    EmbeddedBroker { listen, tls, expose }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        match Config::parse(text, &environment) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Mistakes(mistakes)) => mistakes,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_template_is_valid_and_every_commented_key_too() {
        assert_eq!(mistakes(TEMPLATE, &[]), [""; 0]);
        let uncommented: Vec<&str> = TEMPLATE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
                _ => line,
            })
            .filter(|line| !line.starts_with("password_file"))
            .collect();
        assert_eq!(mistakes(&uncommented.join("\n"), &[]), [""; 0]);
    }

    #[test]
    fn the_template_shows_the_defaults() {
        let none = BTreeMap::new();
        let (template, empty) = (Config::parse(TEMPLATE, &none), Config::parse("", &none));
        assert_eq!(format!("{template:?}"), format!("{empty:?}"));
        for shown in [
            "#name = \"bridge\"",
            "#path = \"/var/lib/fieldpost-bridge/bridge.db\"",
            "#keep_alive_seconds = 20",
            "#listen = \"127.0.0.1:8883\"",
        ] {
            assert!(TEMPLATE.contains(shown), "{shown}");
        }
    }

    #[test]
    fn every_mistake_is_named_with_key_value_and_what_is_allowed() {
        let text = "[broker]\nprot = 1883\nport = 99999\ntls = \"yes\"\ntopic_prefix = \"a/#\"\n\
                    [strage]\npath = \"x\"\n[embedded_broker]\nlisten = \"0.0.0.0:1883\"\n";
        let found = mistakes(text, &[("FIELDPOST_BRIDGE_BROKER_HSOT", "x")]).join("\n");
        for expected in [
            "broker.prot: there is no such key; did you mean broker.port?",
            "broker.port = 99999: allowed are whole numbers from 1 to 65535",
            "broker.tls = \"yes\": allowed are true and false",
            "broker.topic_prefix = \"a/#\"",
            "strage: there is no such section",
            "embedded_broker.listen = \"0.0.0.0:1883\": others can reach",
            "FIELDPOST_BRIDGE_BROKER_HSOT",
        ] {
            assert!(found.contains(expected), "{expected:?} is not in\n{found}");
        }
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let environment = [("FIELDPOST_BRIDGE_BROKER_PORT", "1884")];
        let environment = environment.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let config = Config::parse("[broker]\ntls = false\nport = 1\n", &environment).unwrap();
        assert_eq!(config.broker.port, 1884);
        assert!(config.broker.tls.is_none());
    }

    #[test]
    fn a_password_is_never_shown() {
        let text = "[broker]\nusername = \"u\"\npassword = \"geheim\"\n";
        let config = Config::parse(text, &BTreeMap::new()).unwrap();
        assert!(!format!("{config:?}").contains("geheim"));
        let found = mistakes("[broker]\npassword = 5\n", &[]).join("\n");
        assert!(!found.contains('5'), "{found}");
    }

    #[test]
    fn a_directory_holds_a_certificate_for_each_connection() {
        let text = "[bridge]\nname = \"b\"\n[broker]\ncert_dir = \"/c\"\nout_cert = \"/o.pem\"\nout_key = \"/o.key\"\n";
        let config = Config::parse(text, &BTreeMap::new()).unwrap();
        let client = config.broker.tls.unwrap().client.unwrap();
        assert_eq!(client.readings.cert, Path::new("/c/b-readings.pem"));
        assert_eq!(client.events.key, Path::new("/c/b-events.key"));
        assert_eq!(client.out.cert, Path::new("/o.pem"));
        assert_eq!(mistakes("[broker]\nout_cert = \"/o.pem\"\n", &[]).len(), 1);
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for (path, what) in [(fifo.as_path(), "FIFO"), (dir.path(), "directory")] {
            let refused = Config::load(path, &BTreeMap::new()).unwrap_err().to_string();
            assert!(refused.contains(&path.display().to_string()), "{refused}");
            assert!(refused.contains(what), "{refused}");
        }
        let text = format!("[broker]\nhost = \"h\"\nusername = \"u\"\npassword_file = {fifo:?}");
        let mistakes = mistakes(&text, &[]);
        assert!(mistakes.iter().any(|mistake| mistake.contains("FIFO")), "{mistakes:?}");
    }
}
