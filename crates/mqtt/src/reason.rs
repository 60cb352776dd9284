//! Why a connection ended, or never came about, in words that a person can act on.

use std::error::Error;
use std::io;
use std::time::Duration;

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{ConnectReturnCode, ConnectionError, StateError};
use rustls::{AlertDescription, CertificateError};

use crate::tls::TlsError;

/// Why there is no connection.
///
/// That another client took over our client id cannot be told in MQTT 3.1.1: it looks like
/// [`DisconnectReason::Network`], again and again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// Our own certificate, key, CA or password file cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// The broker's certificate is not to be trusted.
    #[error("the broker's certificate is refused: {0}")]
    BrokerCertificate(CertificateFault),
    /// The broker refuses our certificate, or wants one.
    #[error(
        "the broker refuses our certificate: {0}. Is it signed by the broker's CA, and still valid?"
    )]
    OurCertificate(String),
    /// TLS failed otherwise; often the port does not speak it.
    #[error("the TLS handshake failed: {0}. Is it a TLS port?")]
    Tls(String),
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
    /// The caller did not take its events for that long, so that no pings were sent.
    #[error("the session's events were not taken for {0:?}, so the keep-alive lapsed")]
    EventsNotTaken(Duration),
    /// The network: refused, reset, closed, no such host. Some brokers close the connection
    /// without a word when they do not like user name, password or client id.
    #[error("{0}")]
    Network(String),
    /// The broker sent what MQTT does not allow, or a packet larger than we take.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// We were asked to.
    #[error("asked to reconnect")]
    Asked,
}

/// What is wrong with a broker's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Not signed by the CA that we believe.
    #[error("it was not issued by the configured CA; is that the right file?")]
    UnknownIssuer,
    /// Expired.
    #[error("it has expired, or this machine's clock is wrong")]
    Expired,
    /// Not valid yet: typical for a machine without a clock battery.
    #[error("it is not valid yet, or this machine's clock is wrong")]
    NotYetValid,
    /// For another name.
    #[error("it is for another host: {0}")]
    WrongName(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<TlsError> for DisconnectReason {
    fn from(error: TlsError) -> Self {
        DisconnectReason::Certificate(error.to_string())
    }
}

impl From<ConnectionError> for DisconnectReason {
    fn from(error: ConnectionError) -> Self {
        // In TLS 1.3 the broker looks at our certificate after the handshake: its alert may
        // stand in an error of any layer.
        if let Some(tls) = cause::<rustls::Error>(&error) {
            return from_tls(tls);
        }
        match &error {
            ConnectionError::ConnectionRefused(code) => {
                DisconnectReason::Refused(refusal(*code).to_owned())
            }
            ConnectionError::NetworkTimeout
            | ConnectionError::FlushTimeout
            | ConnectionError::MqttState(
                StateError::AwaitPingResp | StateError::CollisionTimeout,
            ) => DisconnectReason::TimedOut,
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                DisconnectReason::Network("the broker closed the connection".to_owned())
            }
            ConnectionError::MqttState(StateError::Deserialization(
                PacketError::PayloadSizeLimitExceeded(bytes),
            )) => {
                DisconnectReason::Protocol(format!("a packet of {bytes} bytes exceeds the limit"))
            }
            // Its text would show the packet.
            ConnectionError::NotConnAck(_) => {
                DisconnectReason::Protocol("the first packet is no CONNACK".to_owned())
            }
            ConnectionError::Tls(tls) => DisconnectReason::Tls(tls.to_string()),
            error => match cause::<io::Error>(error) {
                Some(io) if io.kind() == io::ErrorKind::TimedOut => DisconnectReason::TimedOut,
                Some(io) => DisconnectReason::Network(io.to_string()),
                None => DisconnectReason::Protocol(error.to_string()),
            },
        }
    }
}

/// The first error of this type in the chain of causes.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An io::Error does not name what it wraps as its source, but the source of that.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
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

/// An alert that the broker sent is about us; anything else about the broker.
fn from_tls(error: &rustls::Error) -> DisconnectReason {
    use AlertDescription as Alert;
    match error {
        rustls::Error::AlertReceived(
            alert @ (Alert::ProtocolVersion | Alert::UnrecognisedName | Alert::InternalError),
        ) => DisconnectReason::Tls(format!("the broker says {alert:?}")),
        rustls::Error::AlertReceived(alert) => {
            DisconnectReason::OurCertificate(format!("{alert:?}"))
        }
        rustls::Error::InvalidCertificate(error) => {
            DisconnectReason::BrokerCertificate(fault(error))
        }
        other => DisconnectReason::Tls(other.to_string()),
    }
}

fn fault(error: &CertificateError) -> CertificateFault {
    match error {
        // A CA of the same name with another key signs badly, from our point of view.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateFault::UnknownIssuer
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateFault::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateFault::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateFault::WrongName(error.to_string())
        }
        other => CertificateFault::Other(other.to_string()),
    }
}
