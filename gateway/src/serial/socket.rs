//! A Unix socket that takes lines, for scripts and daemons: a port like any other.
//!
//! ```text
//! client                     gateway
//!   temp=24.5\n       -->
//!              <--           taken\n        or `ignored`, or `refused: ` and why
//! ```
//!
//! There is an answer for each line that is not empty, in their order; whoever does not read them
//! loses nothing.
//! A line that the connection ends in is refused: nobody knows whether it was whole.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::PortConfig;
use super::outlet::{Outlet, Reply};
use super::port::Tuned;
use crate::local::Listener;

/// Connections at a time. Each costs a task and 12 KiB.
const CONNECTIONS_MAX: usize = 32;
/// Bytes of one read: each may be a line with an answer.
const READ_BYTES_MAX: usize = 1_024;
/// How often it is looked whether clients can still find the socket.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// A client that does not read its answers in this time gets none any more.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Serves connections until the socket fails; returns why it did.
pub(super) async fn serve(
    listener: &Listener,
    settings: &watch::Receiver<PortConfig>,
    outlet: &Arc<Outlet>,
) -> String {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(connection(stream, Tuned::new(settings, outlet), outlet.clone()));
                }
                Ok(stream) => refuse(&stream),
                Err(error) => return format!("nobody can connect to it any more: {error}"),
            },
            Some(_) = connections.join_next() => {}
            () = sleep(LOOK_AFTER) => {
                if !listener.is_in_place() {
                    return "its file was removed".to_owned();
                }
            }
        }
    }
}

fn refuse(stream: &UnixStream) {
    let text = format!("refused: {CONNECTIONS_MAX} connections are open; close one first\n");
    // Whoever finds no room for a line of answer finds a closed connection.
    let _ = stream.try_write(text.as_bytes());
}

async fn connection(mut stream: UnixStream, mut tuned: Tuned, outlet: Arc<Outlet>) {
    let mut buffer = [0; READ_BYTES_MAX];
    let mut answering = true;
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        let boot_ms = outlet.now_ms();
        let mut answers = String::new();
        tuned.now(&outlet).push(&buffer[..bytes], |decoded| {
            if let Some(reply) = outlet.give(decoded, boot_ms) {
                answers.push_str(&line(&reply));
            }
        });
        if answering && !answer(&mut stream, &answers).await {
            answering = false;
            // Perhaps in the middle of an answer: nobody shall take what is missing for the next one.
            let _ = stream.shutdown().await;
        }
        if outlet.is_closed() {
            return;
        }
    }
    if tuned.now(&outlet).ended() && answering {
        answer(&mut stream, "refused: it does not end with a line end\n").await;
    }
}

fn line(reply: &Reply) -> String {
    match reply {
        Reply::Taken => "taken\n".to_owned(),
        Reply::Ignored => "ignored\n".to_owned(),
        Reply::Refused(why) => format!("refused: {}\n", why.replace(['\n', '\r'], " ")),
    }
}

/// False if nobody reads them.
async fn answer(stream: &mut UnixStream, answers: &str) -> bool {
    matches!(timeout(ANSWER_MAX, stream.write_all(answers.as_bytes())).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests;
