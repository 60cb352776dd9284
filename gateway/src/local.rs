//! Unix sockets between this gateway and programs on the same machine: lines and answers.
//!
//! A socket's file outlives the program that was killed; so one that nobody listens on is taken
//! over, and everything else that stands there is left alone.

use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The gateway's user and its group may speak.
const MODE: u32 = 0o660;
/// Who listens takes a connection at once.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A gateway that runs answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A socket that is listened on, as long as this lives.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// What stands in the way, and what to do, for a person.
    pub(crate) async fn bind(path: &Path) -> Result<Listener, String> {
        let shown = path.display();
        let bound = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_left_over(path).await?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let listener = bound.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                format!("{shown} cannot be made: its folder does not exist; make it")
            }
            ErrorKind::PermissionDenied => format!(
                "{shown} cannot be made: {error}; let the gateway's user write into its folder"
            ),
            _ => format!("{shown} cannot be listened on: {error}"),
        })?;
        let failed = |error| format!("{shown} cannot be opened to the group: {error}");
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed)?;
        let inode = std::fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Listener { listener, path: path.to_owned(), inode })
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Whether the file still is this socket's.
    pub(crate) fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else's may stand there by now.
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn remove_left_over(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let failed = |error| format!("{shown} is in the way and cannot be removed: {error}");
    if !std::fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(format!("{shown} is no socket; choose another path, or move it away"));
    }
    match timeout(CONNECT_MAX, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => Err(format!(
            "{shown} is another user's socket: {error}; remove it, or choose another path"
        )),
        _ => Err(format!("another program listens on {shown}; stop it, or choose another path")),
    }
}

/// Sends lines to a gateway that runs, and tells its answer to each as it comes.
///
/// # Errors
/// What is wrong, and what to do, for a person.
pub(crate) fn exchange(
    path: &Path,
    lines: impl IntoIterator<Item = Vec<u8>>,
    mut answered: impl FnMut(String),
) -> Result<(), String> {
    let failed = |error| failed(path, &error);
    let stream = connect(path, ANSWER_MAX)?;
    let mut answers = BufReader::new(stream.try_clone().map_err(failed)?).lines();
    let ended = || failed(io::Error::other("it has closed the connection"));
    for mut line in lines {
        line.push(b'\n');
        let sent = (&stream).write_all(&line);
        // Whoever has no room for a connection says so, and closes it: perhaps before the line.
        match (answers.next(), sent) {
            (Some(Ok(answer)), _) => answered(answer),
            (_, Err(error)) | (Some(Err(error)), _) => return Err(failed(error)),
            (None, Ok(())) => return Err(ended()),
        }
    }
    Ok(())
}

/// Sends one line, and tells what comes back until the gateway ends the talk; `wait_max` between two
/// lines.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn converse(
    path: &Path,
    line: &[u8],
    wait_max: Duration,
    mut told: impl FnMut(&str),
) -> Result<(), String> {
    let mut stream = connect(path, wait_max)?;
    stream.write_all(line).map_err(|error| failed(path, &error))?;
    for answer in BufReader::new(stream).lines() {
        told(&answer.map_err(|error| failed(path, &error))?);
    }
    Ok(())
}

fn connect(path: &Path, wait_max: Duration) -> Result<BlockingStream, String> {
    let connect = || {
        let stream = BlockingStream::connect(path)?;
        stream.set_read_timeout(Some(wait_max))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(stream)
    };
    connect().map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> String {
    let next = match error.kind() {
        ErrorKind::PermissionDenied => "are you in the gateway's group, or root?",
        _ => "does the gateway run, with this configuration?",
    };
    format!("{} cannot be talked to: {error}; {next}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_killed_gateway_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        // Dropped without its file: as after a kill.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let why = Listener::bind(&path).await.unwrap_err();
        assert!(why.contains("another program listens on"), "{why}");
        let file = folder.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        let why = Listener::bind(&file).await.unwrap_err();
        assert!(why.contains("is no socket"), "{why}");
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        let why = Listener::bind(&folder.path().join("none/s")).await.unwrap_err();
        assert!(why.contains("make it"), "{why}");
    }

    #[tokio::test]
    async fn the_file_of_another_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::bind(&path).await.unwrap();
        let kept = folder.path().join("kept");
        std::fs::rename(&path, &kept).unwrap();
        let _second = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
