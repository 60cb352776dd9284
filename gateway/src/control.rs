//! What a person at the machine may ask the running gateway for, over a Unix socket.
//!
//! ```text
//! fieldpost-gateway release fruiting 60s   -->   release fruiting 60s\n
//!                                          <--   done: ...\n       or `refused: ` and why
//! fieldpost-gateway check --now          -->   check\n
//!                                          <--   step: ...\n       as they come, then as above
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::parse_duration;
use crate::driver::Said;
use crate::local::{Listener, converse, exchange};
use crate::serial::Releaser;

/// A request is a line of so many bytes.
const REQUEST_BYTES_MAX: u64 = 1_024;
/// ... that comes in this time.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// What one check says at most.
pub(crate) const SAID_MAX: usize = 8;
/// Checks whose answers are being read; of these the driver takes fewer.
const CHECKS_MAX: usize = 16;
/// A check says something at least as often.
const CHECK_MAX: Duration = Duration::from_secs(60);
/// After a request that could not be taken.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Nobody writes a sketch for longer, and a port that is forgotten opens again.
const RELEASE_MAX: Duration = Duration::from_secs(3_600);

/// Who takes a check, and tells of it.
pub(crate) type Asked = mpsc::Sender<mpsc::Sender<Said>>;

/// Serves requests, one after the other, until the task is given up. A check goes on beside them.
pub(crate) async fn run(path: PathBuf, ports: watch::Receiver<Vec<Releaser>>, asked: Asked) {
    let listener = match Listener::bind(&path).await {
        Ok(listener) => listener,
        Err(why) => {
            tracing::warn!(
                "{why}. Until the next start `fieldpost-gateway release` and `check --now` do not work; set [control] socket elsewhere, or to \"\""
            );
            return;
        }
    };
    let mut checks = JoinSet::new();
    loop {
        match listener.accept().await {
            // Whoever does not ask in time is gone, and so is one who does not read the answer.
            Ok(stream) => {
                let served = timeout(REQUEST_MAX, serve(stream, &ports)).await;
                while checks.try_join_next().is_some() {}
                if let Ok(Ok(Some(stream))) = served
                    && checks.len() < CHECKS_MAX
                {
                    checks.spawn(tell(stream, asked.clone()));
                }
            }
            // Such as no file descriptor left, which passes.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a request could not be taken");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

/// Answers; a connection that it returns wants a check.
async fn serve(
    mut stream: UnixStream,
    ports: &watch::Receiver<Vec<Releaser>>,
) -> std::io::Result<Option<UnixStream>> {
    let mut request = String::new();
    let (reader, mut writer) = stream.split();
    BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut request).await?;
    if request.trim() == "check" {
        return Ok(Some(stream));
    }
    let ports = ports.borrow().clone();
    let answer = match answer(request.trim(), &ports).await {
        Ok(done) => format!("done: {done}\n"),
        Err(why) => format!("refused: {why}\n"),
    };
    writer.write_all(answer.as_bytes()).await?;
    Ok(None)
}

/// Has the driver check, and passes on what it says.
async fn tell(mut stream: UnixStream, asked: Asked) -> std::io::Result<()> {
    let (told, mut said) = mpsc::channel(SAID_MAX);
    let _ = asked.send(told).await;
    while let Some(said) = said.recv().await {
        let line = match said {
            Said::Step(step) => format!("step: {step}\n"),
            Said::Done(done) => format!("done: {done}\n"),
            Said::Failed(why) => format!("refused: {why}\n"),
        };
        timeout(REQUEST_MAX, stream.write_all(line.as_bytes())).await??;
    }
    Ok(())
}

async fn answer(request: &str, ports: &[Releaser]) -> Result<String, String> {
    let words: Vec<&str> = request.split_whitespace().collect();
    let ["release", port, time] = words[..] else {
        return Err(format!("{request:?} is no request; known are: release PORT TIME, check"));
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
        time if releaser.closed().await => {
            format!("{port} is closed for {time:?}; then the gateway opens it again")
        }
        time => format!(
            "{port} is given up for {time:?}, but its driver still closes it; then the gateway opens it again"
        ),
    })
}

/// Has the running gateway check its connection; `step` hears what it does. Returns how that ended: well,
/// or why not and what to do.
///
/// # Errors
/// No gateway could be asked: why, for a person.
pub(crate) fn check(
    path: &Path,
    mut step: impl FnMut(&str),
) -> Result<Result<String, String>, String> {
    let mut end = None;
    converse(path, b"check\n", CHECK_MAX, |line| match line.split_once(": ") {
        Some(("step", what)) => step(what),
        Some(("done", done)) => end = Some(Ok(done.to_owned())),
        Some(("refused", why)) => end = Some(Err(why.to_owned())),
        _ => {}
    })?;
    let ended = || Err("the gateway has ended meanwhile; look at its log".to_owned());
    Ok(end.unwrap_or_else(ended))
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
        let (asked, _checks) = mpsc::channel(1);
        let server = tokio::spawn(run(path.clone(), releasers.subscribe(), asked));
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
            ("release", "known are: release PORT TIME, check"),
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
