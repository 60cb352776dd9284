//! A broker by hand: it shows what the bridge sends, packet by packet and in order, and
//! withholds its own pubacks where a test asks for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fieldpost_bridge::config::Config;
use fieldpost_bridge::ingest::Incoming;
use fieldpost_protocol::{Topic, Topics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::support::Bench;

const DEADLINE: Duration = Duration::from_secs(20);

/// What the bridge has sent.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Published(Topic, Vec<u8>),
    /// On which connection, for which packet id.
    Puback(String, u16),
}

#[derive(Default)]
struct Shared {
    writers: HashMap<String, mpsc::UnboundedSender<Vec<u8>>>,
    silent: bool,
    owed: Vec<Vec<u8>>,
}

pub struct Wire {
    pub port: u16,
    shared: Arc<Mutex<Shared>>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Wire {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let (sender, seen) = mpsc::unbounded_channel();
        let for_all = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, for_all.clone(), sender.clone()));
            }
        });
        Wire { port, shared, seen }
    }

    /// From here on nothing that the bridge publishes gets a puback.
    pub fn be_silent(&self) {
        self.shared.lock().unwrap().silent = true;
    }

    /// Every puback that is owed, and at once again.
    pub fn speak(&self) {
        let mut shared = self.shared.lock().unwrap();
        shared.silent = false;
        for owed in std::mem::take(&mut shared.owed) {
            shared.writers["bridge-out"].send(owed).unwrap();
        }
    }

    /// Delivers a message at QoS 1.
    pub fn deliver(&self, to: &str, pkid: u16, message: &Incoming) {
        let topic = Topics::default().name(&message.topic);
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend(pkid.to_be_bytes());
        body.extend(&message.payload);
        self.shared.lock().unwrap().writers[to].send(packet(0x32, &body)).unwrap();
    }

    pub async fn next(&mut self) -> Seen {
        timeout(DEADLINE, self.seen.recv()).await.expect("the bridge says nothing").unwrap()
    }

    pub async fn nothing_for(&mut self, time: Duration) {
        let early = timeout(time, self.seen.recv()).await;
        assert!(early.is_err(), "{early:?}");
    }

    pub async fn online(&mut self) {
        while !matches!(self.next().await, Seen::Published(Topic::BridgeStatus(_), _)) {}
    }
}

/// A bridge in a runtime of its own, so that it can be ended as a kill would end it.
pub struct Bridge {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Bridge {
    pub fn start(bench: &Bench, port: u16, commit_within: Duration) -> Self {
        let path = bench.path().display().to_string();
        let text = format!("[storage]\npath = {path:?}\n[broker]\ntls = false\nport = {port}\n");
        let config = Config::parse(&text, &Default::default()).unwrap();
        let (kill, killed) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            // Dropped, it would ask the bridge to end.
            let (_stop, shutdown) = watch::channel(false);
            runtime.spawn(fieldpost_bridge::run_within(config, commit_within, shutdown));
            let _ = runtime.block_on(killed);
        });
        Bridge { kill, thread }
    }

    /// No goodbye, nothing more said or done.
    pub fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

async fn serve(
    stream: TcpStream,
    shared: Arc<Mutex<Shared>>,
    seen: mpsc::UnboundedSender<Seen>,
) -> Option<()> {
    let (mut reader, mut to_client) = stream.into_split();
    let (writer, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(bytes) = queued.recv().await {
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut name = String::new();
    loop {
        let (kind, body) = read_packet(&mut reader).await?;
        match kind >> 4 {
            1 => {
                // Protocol name, level, flags and keep-alive stand in front of the client id.
                name = text(&body[10..]).0;
                shared.lock().unwrap().writers.insert(name.clone(), writer.clone());
                writer.send(packet(0x20, &[0, 0])).ok()?;
            }
            3 => {
                let (topic, rest) = text(&body);
                let puback = packet(0x40, &rest[..2]);
                let mut shared = shared.lock().unwrap();
                if shared.silent {
                    shared.owed.push(puback)
                } else {
                    writer.send(puback).ok()?
                }
                let topic = Topics::default().parse(&topic).unwrap();
                seen.send(Seen::Published(topic, rest[2..].to_vec())).ok()?;
            }
            4 => {
                let pkid = u16::from_be_bytes([body[0], body[1]]);
                seen.send(Seen::Puback(name.clone(), pkid)).ok()?;
            }
            8 => {
                let mut granted = body[..2].to_vec();
                let mut rest = &body[2..];
                while !rest.is_empty() {
                    let (_, after) = text(rest);
                    granted.push(after[0]);
                    rest = &after[1..];
                }
                writer.send(packet(0x90, &granted)).ok()?;
            }
            12 => writer.send(packet(0xD0, &[])).ok()?,
            _ => return None,
        }
    }
}

async fn read_packet(reader: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
    let kind = reader.read_u8().await.ok()?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = reader.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut length = body.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(body);
    bytes
}

/// A text with its length in front, and what follows.
fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    (String::from_utf8(bytes[2..end].to_vec()).unwrap(), &bytes[end..])
}
