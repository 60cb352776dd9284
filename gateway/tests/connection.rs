//! How the gateway deals with its connection, against a broker played by hand.
#![allow(clippy::unwrap_used, reason = "a test: its helpers, too")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use fieldpost_gateway::clock::Now;
use fieldpost_gateway::config::Config;
use fieldpost_gateway::serial::Measured;
use fieldpost_protocol::{Gen, Hello, Metrics, State, StateStream, StoreId, VERSION, Value};
use tokio::sync::watch;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// One packet: its type, its flags and what follows its length. `None`: the peer is gone.
fn packet(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let (kind, flags) = (byte[0] >> 4, byte[0] & 0x0F);
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).ok()?;
    Some((kind, flags, rest))
}

/// Topic, packet id and payload of a publish at QoS 1.
fn published(flags: u8, rest: &[u8]) -> (String, Option<[u8; 2]>, Vec<u8>) {
    let end = 2 + usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    let topic = String::from_utf8(rest[2..end].to_vec()).unwrap();
    if flags & 0b110 == 0 {
        return (topic, None, rest[end..].to_vec());
    }
    (topic, Some([rest[end], rest[end + 1]]), rest[end + 2..].to_vec())
}

fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let length = 2 + topic.len() + payload.len();
    let mut bytes = vec![PUBLISH << 4];
    let mut left = length;
    loop {
        let more = if left >= 0x80 { 0x80 } else { 0 };
        bytes.push((left & 0x7F) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    bytes.extend((topic.len() as u16).to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend(payload);
    bytes
}

/// Serves one connection until its end; returns the types of the packets that came.
/// `pubacks`: how many publishes get one.
fn serve(listener: TcpListener, mut pubacks: usize, hello_seen: watch::Sender<usize>) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut seen = Vec::new();
    while let Some((kind, flags, rest)) = packet(&mut stream) {
        seen.push(kind);
        let answer = match kind {
            CONNECT => vec![0x20, 2, 0, 0],
            SUBSCRIBE => vec![0x90, 7, rest[0], rest[1], 1, 1, 1, 1, 1],
            PINGREQ => vec![0xD0, 0],
            PUBLISH => {
                let (topic, id, payload) = published(flags, &rest);
                let mut answer = Vec::new();
                if let (Some([high, low]), true) = (id, pubacks > 0) {
                    pubacks -= 1;
                    answer = vec![0x40, 2, high, low];
                }
                if topic.ends_with("sync/hello") {
                    answer.extend(publish(&topic.replace("hello", "state"), &state(&payload)));
                }
                hello_seen.send_modify(|publishes| *publishes += 1);
                answer
            }
            _ => Vec::new(),
        };
        if stream.write_all(&answer).is_err() {
            break;
        }
    }
    seen
}

/// Storage has nothing of what the hello lists.
fn state(hello: &[u8]) -> Vec<u8> {
    let hello = Hello::decode(hello).unwrap();
    let streams =
        hello.streams.iter().map(|s| StateStream { key: s.key, hi: s.floor - 1 }).collect();
    State {
        v: VERSION,
        nonce: hello.nonce,
        attempt: hello.attempt,
        page: hello.page,
        versions: vec![VERSION],
        store: StoreId([5; 16]),
        r#gen: Gen([6; 16]),
        time: fieldpost_gateway::clock::wall_ms(),
        streams,
    }
    .encode()
}

fn config(dir: &Path, port: u16) -> Config {
    let file = dir.join("gateway.toml");
    let text = format!(
        "[device]\nid = \"pi-1\"\n[outbox]\npath = \"{0}/outbox.db\"\n[status]\nfile = \"{0}/status.json\"\n\
         [broker]\nhost = \"127.0.0.1\"\nport = {port}\ntls = false\n",
        dir.display()
    );
    std::fs::write(&file, text).unwrap();
    Config::load(&file, std::iter::empty()).unwrap()
}

async fn publishes(seen: &mut watch::Receiver<usize>, at_least: usize) {
    tokio::time::timeout(Duration::from_secs(20), seen.wait_for(|n| *n >= at_least))
        .await
        .expect("the gateway publishes")
        .unwrap();
}

#[tokio::test]
async fn an_orderly_end_says_goodbye_to_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(dir.path(), listener.local_addr().unwrap().port());
    let (count, mut seen) = watch::channel(0);
    let broker = std::thread::spawn(move || serve(listener, usize::MAX, count));
    let (stop, shutdown) = watch::channel(false);
    let ask = async {
        publishes(&mut seen, 2).await;
        stop.send_replace(true);
    };
    let (ended, ()) =
        tokio::join!(fieldpost_gateway::run::run(config, Default::default(), shutdown), ask);
    ended.unwrap();
    let kinds = broker.join().unwrap();
    assert_eq!(kinds.last(), Some(&DISCONNECT), "{kinds:?}");
}

/// Fills the connection with batches that get no puback, then counts how often the gateway wakes.
#[tokio::test]
async fn a_connection_that_takes_nothing_more_is_not_asked_a_thousand_times_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(dir.path(), listener.local_addr().unwrap().port());
    let now = Now::read();
    let (mut outbox, _) = fieldpost_gateway::run::open_outbox(&config, now).unwrap();
    for n in 0..150 {
        let metrics = Metrics::new(vec![("n".into(), Value::Int(n))]).unwrap();
        let reading = Measured { source: "air".into(), boot_ms: now.boot_ms, metrics };
        outbox.append(&vec![reading; 1_000], &[], now).unwrap();
    }
    outbox.close().unwrap();
    let (count, mut seen) = watch::channel(0);
    let broker = std::thread::spawn(move || serve(listener, 0, count));
    let (stop, shutdown) = watch::channel(false);
    let watch = async {
        publishes(&mut seen, 92).await;
        // On past the first resend time, when the engine has something to send and may not.
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let (mut before, mut used) = (wakeups(), 0);
        for _ in 0..9 {
            seconds.tick().await;
            used = wakeups() - before;
            before += used;
        }
        stop.send_replace(true);
        used
    };
    let (ended, used) =
        tokio::join!(fieldpost_gateway::run::run(config, Default::default(), shutdown), watch);
    ended.unwrap();
    broker.join().unwrap();
    assert!(used < 100, "{used} in a second");
}

/// How often this thread, which runs the gateway, has slept.
fn wakeups() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
