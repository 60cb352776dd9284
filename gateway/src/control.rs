//! What a person at the machine may ask the running gateway for, over a Unix socket.
//!
//! ```text
//! fieldpost-gateway release fruiting 60s   -->   release fruiting 60s\n
//!                                          <--   done: ...\n       or `refused: ` and why
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::parse_duration;
use crate::local::{Listener, exchange};
use crate::serial::Releaser;

/// A request is a line of so many bytes.
const REQUEST_BYTES_MAX: u64 = 1_024;
/// ... that comes in this time.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// After a request that could not be taken.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Nobody writes a sketch for longer, and a port that is forgotten opens again.
const RELEASE_MAX: Duration = Duration::from_secs(3_600);

/// Serves requests, one after the other, until the task is given up.
pub(crate) async fn run(path: PathBuf, ports: watch::Receiver<Vec<Releaser>>) {
    let listener = match Listener::bind(&path).await {
        Ok(listener) => listener,
        Err(why) => {
            tracing::warn!(
                "{why}. Until the next start `fieldpost-gateway release` does not work; set [control] socket elsewhere, or to \"\""
            );
            return;
        }
    };
    loop {
        match listener.accept().await {
            // Whoever does not ask in time is gone, and so is one who does not read the answer.
            Ok(stream) => drop(timeout(REQUEST_MAX, serve(stream, &ports)).await),
            // Such as no file descriptor left, which passes.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a request could not be taken");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn serve(
    mut stream: UnixStream,
    ports: &watch::Receiver<Vec<Releaser>>,
) -> std::io::Result<()> {
    let mut request = String::new();
    let (reader, mut writer) = stream.split();
    BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut request).await?;
    let answer = match answer(request.trim(), &ports.borrow()) {
        Ok(done) => format!("done: {done}\n"),
        Err(why) => format!("refused: {why}\n"),
    };
    writer.write_all(answer.as_bytes()).await
}

fn answer(request: &str, ports: &[Releaser]) -> Result<String, String> {
    let words: Vec<&str> = request.split_whitespace().collect();
    let ["release", port, time] = words[..] else {
        return Err(format!("{request:?} is no request; known is: release PORT TIME"));
    };
    let names = || ports.iter().map(|port| &*port.port).collect::<Vec<_>>().join(", ");
    let releaser = ports
        .iter()
        .find(|releaser| *releaser.port == *port)
        .ok_or_else(|| format!("there is no serial port {port:?}; ports are: {}", names()))?;
    let allowed = |why: String| format!("{time:?}: {why}; allowed are 0s to 1h");
    let time = parse_duration(time).map_err(allowed)?;
    if time > RELEASE_MAX {
        return Err(allowed("that is too long".to_owned()));
    }
    releaser.release(time);
    Ok(match time {
        Duration::ZERO => format!("{port} is opened again"),
        time => format!("{port} is closed for {time:?}; then the gateway opens it again"),
    })
}

/// Asks the running gateway; returns what it has done.
///
/// # Errors
/// What is wrong, and what to do, for a person.
pub(crate) fn ask(path: &Path, request: &str) -> Result<String, String> {
    let mut said = String::new();
    exchange(path, [request.as_bytes().to_vec()], |answer| said = answer)?;
    match said.split_once(": ") {
        Some(("done", done)) => Ok(done.to_owned()),
        Some(("refused", why)) => Err(why.to_owned()),
        _ => Err(format!("{} gave no answer; look at the gateway's log", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::{PortConfig, spawn};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_request_is_done_or_refused_with_what_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (readings, _readings) = mpsc::channel(1);
        let (events, _events) = mpsc::channel(8);
        let port = PortConfig::new("fruiting", folder.path().join("none"));
        let handle = spawn(port, || 0, readings, events);
        let releasers = watch::Sender::new(vec![handle.releaser.clone()]);
        let server = tokio::spawn(run(path.clone(), releasers.subscribe()));
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        let asked = |request: &str| {
            let (path, request) = (path.clone(), request.to_owned());
            tokio::task::spawn_blocking(move || ask(&path, &request))
        };
        let done = asked("release fruiting 60s").await.unwrap().unwrap();
        assert!(done.contains("closed for 60s"), "{done}");
        let done = asked("release fruiting 0s").await.unwrap().unwrap();
        assert!(done.contains("opened again"), "{done}");
        for (request, said) in [
            ("release", "known is: release PORT TIME"),
            ("release attic 60s", "ports are: fruiting"),
            ("release fruiting 60", "a whole number and a unit"),
            ("release fruiting 2h", "0s to 1h"),
        ] {
            let why = asked(request).await.unwrap().unwrap_err();
            assert!(why.contains(said), "{request}: {why}");
        }
        server.abort();
        let why = ask(&folder.path().join("nobody"), "release a 1s").unwrap_err();
        assert!(why.contains("does the gateway run"), "{why}");
        handle.stop().await;
    }
}
