//! Files that a configuration names. What is none is refused before it is opened: a FIFO that nobody
//! writes to would keep its reader waiting for ever, and a device may have no end.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Checks that a file stands there.
///
/// # Errors
/// What stands there instead, or that nothing does.
pub fn check_is_file(path: &Path) -> io::Result<()> {
    match instead_of_a_file(path)? {
        None => Ok(()),
        Some(what) => Err(io::Error::other(format!("it is {what}, and has to be a file"))),
    }
}

/// The kind of what stands there, with its article, unless it is a file.
///
/// # Errors
/// When nothing stands there, or nobody may look.
pub fn instead_of_a_file(path: &Path) -> io::Result<Option<&'static str>> {
    let kind = std::fs::metadata(path)?.file_type();
    Ok(match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a FIFO"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    })
}

/// The same, or a pipe that somebody holds open for us: `/dev/stdin`, or a shell's `<(...)`.
///
/// # Errors
/// As [`check_is_file`].
pub fn check_is_file_or_pipe(path: &Path) -> io::Result<()> {
    let is_open = path.starts_with("/dev") || path.starts_with("/proc");
    if is_open && std::fs::metadata(path)?.file_type().is_fifo() {
        return Ok(());
    }
    check_is_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_by_its_kind_without_being_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let others = [(dir.path(), "directory"), (&fifo, "FIFO"), (&socket, "socket")];
        for (path, what) in others.into_iter().chain([(Path::new("/dev/zero"), "device")]) {
            for check in [check_is_file, check_is_file_or_pipe] {
                let error = check(path).unwrap_err().to_string();
                assert!(error.contains(what), "{}: {error}", path.display());
            }
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        check_is_file(&file).unwrap();
        check_is_file_or_pipe(&file).unwrap();
        let gone = check_is_file(&dir.path().join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_that_was_handed_over_may_be_read() {
        use std::os::fd::AsRawFd;
        let (reader, _writer) = io::pipe().unwrap();
        let handed = format!("/proc/self/fd/{}", reader.as_raw_fd());
        check_is_file_or_pipe(Path::new(&handed)).unwrap();
        assert!(check_is_file(Path::new(&handed)).unwrap_err().to_string().contains("FIFO"));
    }
}
