//! On real sockets: each line is answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::serial::{Checksum, Measured, Place, PortConfig, PortEvent, PortHandle, spawn};

struct Bench {
    handle: PortHandle,
    readings: mpsc::Receiver<Measured>,
    _events: mpsc::Receiver<PortEvent>,
    path: PathBuf,
    _folder: TempDir,
}

async fn start(queue: usize) -> Bench {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("readings.sock");
    let place = Place::Socket(path.clone());
    let port = PortConfig { place, checksum: Checksum::Optional, ..PortConfig::new("script", "") };
    let (readings_in, readings) = mpsc::channel(queue);
    let (events_in, mut events) = mpsc::channel(4);
    let handle = spawn(port, || 5, readings_in, events_in);
    assert_eq!(
        events.recv().await,
        Some(PortEvent::Opened { port: "script".into(), hints: Vec::new() })
    );
    Bench { handle, readings, _events: events, path, _folder: folder }
}

/// Sends text and reads answers, beside the runtime that serves them.
async fn ask(path: &std::path::Path, text: &str, answers: usize) -> Vec<String> {
    let (path, text) = (path.to_owned(), text.to_owned());
    let asking = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().take(answers);
        lines.map(|line| line.unwrap()).collect()
    });
    asking.await.unwrap()
}

#[tokio::test]
async fn each_line_is_answered_in_its_order() {
    let mut bench = start(10).await;
    let said = ask(&bench.path, "temp=1\nattic temp=2\ntemp\n", 3).await;
    assert_eq!(said[..2], ["taken", "taken"]);
    assert!(said[2].starts_with("refused: it has no name=value"), "{said:?}");
    assert_eq!(&*bench.readings.recv().await.unwrap().source, "script");
    assert_eq!(&*bench.readings.recv().await.unwrap().source, "attic");
    bench.handle.stop().await;
    assert!(!bench.path.exists(), "the socket is left behind");
}

#[tokio::test]
async fn a_full_queue_is_said_to_whoever_sends() {
    let bench = start(1).await;
    let said = ask(&bench.path, "temp=1\ntemp=2\n", 2).await;
    assert_eq!(said[0], "taken");
    assert!(said[1].starts_with("refused: the queue is full"), "{said:?}");
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_line_that_a_window_holds_is_taken_also_where_the_window_before_found_no_room() {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NOW: AtomicI64 = AtomicI64::new(0);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("readings.sock");
    let mut port = PortConfig::new("script", "");
    (port.place, port.checksum) = (Place::Socket(path.clone()), Checksum::Optional);
    let keep = vec![crate::serial::Aggregate::Last];
    port.averaging = Some(crate::serial::Averaging { window_ms: 1_000_000_000, keep });
    let (readings_in, _readings) = mpsc::channel(1);
    let (events_in, mut events) = mpsc::channel(4);
    let handle = spawn(port, || NOW.load(Ordering::Relaxed), readings_in, events_in);
    assert_eq!(
        events.recv().await,
        Some(PortEvent::Opened { port: "script".into(), hints: Vec::new() })
    );
    for window in 0..3 {
        NOW.store(window * 1_000_000_000, Ordering::Relaxed);
        assert_eq!(ask(&path, "temp=1\n", 1).await, ["taken"], "in window {window}");
    }
    assert_eq!(handle.counters.snapshot().refused_queue_full, 1);
    handle.stop().await;
}

#[tokio::test]
async fn whoever_reads_no_answer_loses_no_reading() {
    let mut bench = start(4_096).await;
    let path = bench.path.clone();
    let sending = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        for n in 0..1_000 {
            writeln!(stream, "temp={n}").unwrap();
        }
    });
    sending.await.unwrap();
    for n in 0..1_000 {
        let measured = bench.readings.recv().await.unwrap();
        assert_eq!(measured.metrics.to_json().unwrap(), format!("{{\"temp\":{n}}}"));
    }
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_line_that_does_not_end_is_refused() {
    let bench = start(10).await;
    let path = bench.path.clone();
    let asking = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"temp=24").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    assert_eq!(asking.await.unwrap(), "refused: it does not end with a line end\n");
    assert_eq!(bench.handle.counters.snapshot().partial, 1);
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let bench = start(10).await;
    let path = bench.path.clone();
    let asking = tokio::task::spawn_blocking(move || {
        let connect = |path: &PathBuf| UnixStream::connect(path).unwrap();
        let open: Vec<UnixStream> = (0..super::CONNECTIONS_MAX).map(|_| connect(&path)).collect();
        let mut said = String::new();
        connect(&path).read_to_string(&mut said).unwrap();
        drop(open);
        said
    });
    assert!(asking.await.unwrap().starts_with("refused: 32 connections are open"));
    bench.handle.stop().await;
}
