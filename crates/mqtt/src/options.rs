//! What a session is told at its start.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Publishes without a puback that a session allows at most; the client underneath holds 100.
const INFLIGHT_MAX: u16 = 96;

/// How to connect, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host name or address; the broker's certificate has to bear it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// In the clear, or how the broker is verified.
    pub tls: Tls,
    /// User name and password, where the broker wants them.
    pub login: Option<Login>,
    /// Unique at the broker: a second client with it throws the first one out.
    pub client_id: String,
    /// 1 to 65,535 s. A dead connection is noticed within two of them.
    pub keep_alive: Duration,
    /// Topic filters, all at QoS 1, subscribed to on each connection.
    pub subscriptions: Vec<String>,
    /// What the broker says when the connection breaks.
    pub will: Option<Will>,
    /// The largest packet, either way.
    pub packet_bytes_max: usize,
    /// Publishes without a puback, 1 to 96.
    pub inflight_max: u16,
    /// Whether the caller pubacks what it receives, with [`Session::puback`](crate::Session::puback).
    pub manual_puback: bool,
    /// From the first packet to the last SUBACK, and for one flush to the socket; at least 1 s. A
    /// cellular link needs several round trips of seconds.
    pub answer_timeout: Duration,
    /// No puback for so long while something is in flight: the connection is dropped.
    pub puback_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            host: "localhost".to_owned(),
            port: 8883,
            tls: Tls::On { ca: Ca::System, client: None },
            login: None,
            client_id: String::new(),
            keep_alive: Duration::from_secs(20),
            subscriptions: Vec::new(),
            will: None,
            packet_bytes_max: 256 * 1024,
            inflight_max: INFLIGHT_MAX,
            manual_puback: false,
            answer_timeout: Duration::from_secs(30),
            puback_timeout: Duration::from_secs(60),
        }
    }
}

/// Whether the connection is encrypted, and who is believed.
#[derive(Debug, Clone)]
pub enum Tls {
    /// MQTT in the clear.
    Off,
    /// TLS 1.2 or 1.3.
    On {
        /// Who may have signed the broker's certificate.
        ca: Ca,
        /// Our certificate.
        client: Option<ClientCertificate>,
    },
}

/// Who may have signed the broker's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ca {
    /// Any CA of the operating system: what hosted brokers want.
    System,
    /// The CAs of one PEM file, and nobody else.
    File(PathBuf),
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, then any intermediate ones.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// User name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name. Brokers with one user per device want the device id here.
    pub username: String,
    /// Where the password comes from.
    pub password: Password,
}

/// A password, or the file that holds it. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// Itself.
    Text(String),
    /// The file's first line. Read at each connection, so that it can be rotated.
    File(PathBuf),
}

impl Password {
    /// The password itself; reads the file if it stands in one.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self) -> std::io::Result<String> {
        match self {
            Password::Text(password) => Ok(password.clone()),
            Password::File(path) => {
                crate::check_is_file(path)?;
                let text = std::fs::read_to_string(path)?;
                Ok(text.lines().next().unwrap_or_default().to_owned())
            }
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Text(_) => f.write_str("Text(hidden)"),
            Password::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// The last will, at QoS 1.
#[derive(Debug, Clone)]
pub struct Will {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// Options that cannot work, whatever the broker says.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A value out of its range.
    #[error("{name} is {value}; {allowed}")]
    Value {
        /// The option.
        name: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A certificate or key file that cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
}

impl Options {
    /// Whether a session could use them: values, and the certificate and key files as they
    /// are now.
    ///
    /// # Errors
    /// What is wrong, with what is allowed.
    pub fn check(&self) -> Result<(), OptionsError> {
        self.check_values()?;
        crate::tls::client_config(&self.tls, &Default::default())?;
        Ok(())
    }

    pub(crate) fn check_values(&self) -> Result<(), OptionsError> {
        let wrong =
            |name, value: String, allowed| Err(OptionsError::Value { name, value, allowed });
        if self.host.is_empty() {
            return wrong("host", "empty".into(), "it has to be a host name or an address");
        }
        if self.client_id.is_empty() {
            return wrong(
                "client id",
                "empty".into(),
                "a clean session needs one that is unique at the broker",
            );
        }
        if !(1..=65_535).contains(&self.keep_alive.as_secs()) {
            let given = format!("{:?}", self.keep_alive);
            return wrong("keep alive", given, "it has to be 1 to 65535 s");
        }
        if self.answer_timeout < Duration::from_secs(1) {
            let given = format!("{:?}", self.answer_timeout);
            return wrong("answer timeout", given, "it has to be at least 1 s");
        }
        if self.puback_timeout.is_zero() {
            return wrong("puback timeout", "0".into(), "it has to be more than nothing");
        }
        if self.packet_bytes_max < 1_024 {
            let given = self.packet_bytes_max.to_string();
            return wrong("packet_bytes_max", given, "it has to be at least 1024");
        }
        if !(1..=INFLIGHT_MAX).contains(&self.inflight_max) {
            return wrong("inflight_max", self.inflight_max.to_string(), "it has to be 1 to 96");
        }
        if let Some(filter) =
            self.subscriptions.iter().find(|filter| !rumqttc::valid_filter(filter))
        {
            return wrong(
                "subscription",
                format!("{filter:?}"),
                "it has to be a valid topic filter",
            );
        }
        let will = self.will.as_ref().filter(|will| !crate::session::is_topic(&will.topic));
        if let Some(will) = will {
            let given = format!("{:?}", will.topic);
            return wrong("topic of the will", given, "it has to be a topic without + # and NUL");
        }
        Ok(())
    }
}
