//! The client below: a new one for each connection, with a clean session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rumqttc::{AsyncClient, EventLoop, LastWill, MqttOptions, QoS, TlsConfiguration, Transport};

use crate::{DisconnectReason, Options, tls};

/// Requests that the client queues: publishes and pubacks that it has not looked at yet.
const REQUESTS_MAX: usize = 128;
/// What the client itself allows in flight; ours stays below, so that its handling of
/// collisions is never needed.
const CLIENT_INFLIGHT: u16 = 100;

/// A client that is not connected yet.
pub(crate) struct Fresh {
    pub(crate) client: AsyncClient,
    pub(crate) eventloop: EventLoop,
    /// Set when the broker asks for a certificate that we do not have.
    pub(crate) lacks_certificate: Arc<AtomicBool>,
}

impl Fresh {
    pub(crate) fn new(options: &Options) -> Result<Self, DisconnectReason> {
        let mut client = MqttOptions::new(&options.client_id, &options.host, options.port);
        client
            .set_clean_session(true)
            .set_keep_alive(options.keep_alive)
            .set_inflight(CLIENT_INFLIGHT)
            .set_max_packet_size(options.packet_bytes_max, options.packet_bytes_max)
            .set_manual_acks(options.manual_puback);
        let lacks_certificate = Arc::new(AtomicBool::new(false));
        if let Some(config) = tls::client_config(&options.tls, &lacks_certificate)? {
            client.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
        }
        if let Some(login) = &options.login {
            let password = login.password.read().map_err(|error| {
                let of = &login.username;
                DisconnectReason::Certificate(format!(
                    "the password file of {of:?} cannot be read: {error}"
                ))
            })?;
            client.set_credentials(&login.username, password);
        }
        if let Some(will) = &options.will {
            client.set_last_will(LastWill::new(
                &will.topic,
                will.payload.clone(),
                QoS::AtLeastOnce,
                will.retain,
            ));
        }
        let (client, mut eventloop) = AsyncClient::new(client, REQUESTS_MAX);
        let mut network = eventloop.network_options();
        // For TCP, TLS and CONNACK, and for each flush.
        network.set_connection_timeout(options.answer_timeout.as_secs());
        network.set_tcp_nodelay(true);
        eventloop.set_network_options(network);
        Ok(Fresh { client, eventloop, lacks_certificate })
    }
}

/// What a broker without a word means that wanted a certificate: its alert may be lost, since a
/// connection that is closed with unread data is reset.
pub(crate) fn explain(
    reason: DisconnectReason,
    lacks_certificate: &AtomicBool,
) -> DisconnectReason {
    let silent =
        matches!(reason, DisconnectReason::Network(_) | DisconnectReason::OurCertificate(_));
    if silent && lacks_certificate.load(Ordering::Relaxed) {
        return DisconnectReason::OurCertificate(
            "it asked for one, and none is configured".to_owned(),
        );
    }
    reason
}
