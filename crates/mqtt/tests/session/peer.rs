//! A scripted peer: MQTT 3.1.1 packets by hand, on a port of its own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::DEADLINE;

pub(crate) const CONNECT: u8 = 1;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const PINGREQ: u8 = 12;
pub(crate) const DISCONNECT: u8 = 14;

pub(crate) const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
pub(crate) const PINGRESP: [u8; 2] = [0xD0, 0];

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A packet: its type (the upper half of the first byte), and what follows the length.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        let accepted = timeout(DEADLINE, listener.accept()).await.expect("somebody connects");
        Peer { stream: accepted.unwrap().0 }
    }

    /// Takes the CONNECT, and the SUBSCRIBE if one is expected.
    pub(crate) async fn welcome(listener: &TcpListener, subscription: bool) -> Self {
        let mut peer = Peer::accept(listener).await;
        assert_eq!(peer.read().await.unwrap().kind, CONNECT);
        peer.write(&CONNACK).await;
        if subscription {
            let packet = peer.read().await.unwrap();
            assert_eq!(packet.kind, SUBSCRIBE);
            peer.write(&[0x90, 3, packet.body[0], packet.body[1], 1]).await;
        }
        peer
    }

    /// The next packet; none at the end of the connection.
    pub(crate) async fn read(&mut self) -> Option<Packet> {
        timeout(DEADLINE, self.read_now()).await.expect("a packet comes in time")
    }

    /// As `read`, but none also if nothing comes for so long.
    pub(crate) async fn read_within(&mut self, patience: Duration) -> Option<Packet> {
        timeout(patience, self.read_now()).await.ok().flatten()
    }

    async fn read_now(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Packet { kind: first >> 4, body })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// A message at QoS 1 on topic `t`.
    pub(crate) async fn publish(&mut self, pkid: u16, payload: &[u8]) {
        let length = u8::try_from(5 + payload.len()).unwrap();
        assert!(length < 128);
        let [high, low] = pkid.to_be_bytes();
        let mut packet = vec![0x32, length, 0, 1, b't', high, low];
        packet.extend_from_slice(payload);
        self.write(&packet).await;
    }
}

impl Packet {
    /// Packet id of a PUBACK.
    pub(crate) fn pkid(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Packet id of a PUBLISH at QoS 1.
    pub(crate) fn publish_pkid(&self) -> u16 {
        let topic = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        u16::from_be_bytes([self.body[2 + topic], self.body[3 + topic]])
    }
}
