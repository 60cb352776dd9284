//! Why a connection ended, or never came about, in words that a person can act on.

use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, StateError, TlsError as ClientTlsError};

use crate::tls::TlsError;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// Our own certificate, key or CA file cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// The broker's certificate is not to be trusted.
    #[error(
        "the broker's certificate is refused: {0}. Is the CA right, and the host's name in the certificate?"
    )]
    BrokerCertificate(String),
    /// The broker refuses our certificate, or wants one.
    #[error(
        "the broker refuses our certificate: {0}. Is it signed by the broker's CA, and still valid?"
    )]
    OurCertificate(String),
    /// Wrong user, password or client id.
    #[error("the broker refuses us: {0}. Check user name, password and client id")]
    Refused(String),
    /// The broker did not grant a subscription.
    #[error("the broker does not grant the subscription to {0:?}. Check its access rules")]
    Subscription(String),
    /// Nothing came in time.
    #[error("the broker did not answer in time")]
    TimedOut,
    /// Publishes go out, and no puback comes back.
    #[error("no puback for {0:?} although publishes are in flight")]
    PubackStalled(Duration),
    /// The network: refused, reset, closed, no such host.
    #[error("{0}")]
    Network(String),
    /// The broker sent what MQTT does not allow, or a packet larger than we take.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// We were asked to.
    #[error("asked to reconnect")]
    Asked,
}

impl From<TlsError> for DisconnectReason {
    fn from(error: TlsError) -> Self {
        DisconnectReason::Certificate(error.to_string())
    }
}

impl From<ConnectionError> for DisconnectReason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ConnectionRefused(code) => {
                DisconnectReason::Refused(refusal(code).to_owned())
            }
            ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
                DisconnectReason::TimedOut
            }
            ConnectionError::Io(error) => from_io(&error),
            ConnectionError::Tls(ClientTlsError::Io(error)) => from_io(&error),
            ConnectionError::Tls(ClientTlsError::TLS(error)) => from_tls(&error),
            ConnectionError::Tls(error) => DisconnectReason::BrokerCertificate(error.to_string()),
            ConnectionError::MqttState(StateError::Io(error)) => from_io(&error),
            ConnectionError::MqttState(StateError::AwaitPingResp) => DisconnectReason::TimedOut,
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                DisconnectReason::Network("the broker closed the connection".to_owned())
            }
            ConnectionError::MqttState(error) => DisconnectReason::Protocol(error.to_string()),
            other => DisconnectReason::Protocol(other.to_string()),
        }
    }
}

fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it says success",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
        ConnectReturnCode::BadClientId => "it does not allow this client id",
        ConnectReturnCode::ServiceUnavailable => "it is not available",
        ConnectReturnCode::BadUserNamePassword => "wrong user name or password",
        ConnectReturnCode::NotAuthorized => "not authorized",
    }
}

fn from_io(error: &std::io::Error) -> DisconnectReason {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => from_tls(tls),
        None if error.kind() == std::io::ErrorKind::TimedOut => DisconnectReason::TimedOut,
        None => DisconnectReason::Network(error.to_string()),
    }
}

/// An alert that the broker sent is about us; anything else about the broker.
fn from_tls(error: &rustls::Error) -> DisconnectReason {
    match error {
        rustls::Error::AlertReceived(alert) => {
            DisconnectReason::OurCertificate(format!("{alert:?}"))
        }
        other => DisconnectReason::BrokerCertificate(other.to_string()),
    }
}
