//! One gateway to an outbox: a second one exits and names the holder.
//!
//! SQLite keeps the log (`-wal`) beside the file, by its name. Under two names a file has two
//! logs, and each gateway would fold its own over what the other wrote. So the lock follows the
//! file itself: symbolic links are followed first, a second hard link is refused, and the file
//! is locked besides its name, for a file that was moved, or mounted to a second place.

use std::fs::{File, FileType};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use fieldpost_fail_point::point;
use rustix::fs::{FlockOperation, flock};

use super::OpenError;

/// As many as Linux itself follows.
const LINKS_MAX: usize = 40;

/// Held for the life of the outbox; when the process ends, however that may be, the kernel releases it.
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing alone would not do: a program that is just being started has for a moment a copy of
    /// each of our files, and `flock` holds until the last copy is closed, or until one unlocks.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes `<outbox>.lock`, and writes our process id into it.
    pub(super) fn take(outbox: &Path) -> Result<Lock, OpenError> {
        let path = super::schema::beside(outbox, ".lock");
        let io = |source| OpenError::Io { path: path.clone(), source };
        point!("lock.before_open");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(OpenError::Locked {
                path: outbox.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        point!("lock.before_write");
        file.set_len(0).map_err(io)?;
        point!("lock.emptied");
        file.rewind().map_err(io)?;
        write!(file, "{}", std::process::id()).map_err(io)?;
        point!("lock.after_write");
        Ok(Lock(file))
    }

    /// Locks the file itself, if it exists. To be closed after SQLite has closed it: whoever
    /// closes a file loses all `fcntl` locks that its process has on it, SQLite's too.
    pub(super) fn take_file(outbox: &Path) -> Result<Option<Lock>, OpenError> {
        let io = |source| OpenError::Io { path: outbox.to_owned(), source };
        let file = match File::open(outbox) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = file.metadata().ok().and_then(|file| holder_of(file.ino()));
                let holder = holder.unwrap_or_else(|| "unknown (`fuser -v` names it)".to_owned());
                Err(OpenError::Locked { path: outbox.to_owned(), holder })
            }
            // A file system without locks: then the lock by name has to do.
            _ => Ok(Some(Lock(file))),
        }
    }
}

/// Who has locked a file, as the kernel says: `1: FLOCK ADVISORY WRITE <process> <device>:<inode> 0 EOF`.
fn holder_of(inode: u64) -> Option<String> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{inode}");
    let mut lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = |line: &Vec<&str>| {
        line.get(1) == Some(&"FLOCK") && line.get(5).is_some_and(|at| at.ends_with(&inode))
    };
    lines.find(ours).map(|line| line[4].to_owned())
}

/// The file's own name, with no symbolic link in it; it need not exist, its folder must. SQLite
/// keeps the log there, and so everything else must lie there, too.
pub(super) fn real_path(path: &Path) -> Result<PathBuf, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let name = at.file_name().ok_or_else(|| io(ErrorKind::InvalidFilename.into()))?;
        let folder = at.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().map_err(io)?;
        let real = folder.join(name);
        match std::fs::read_link(&real) {
            Ok(target) => at = folder.join(target),
            Err(_) => return Ok(real),
        }
    }
    Err(io(rustix::io::Errno::LOOP.into()))
}

/// What is at the path may be an outbox: nothing yet, or a file with one name. It is not opened.
pub(super) fn check_file(path: &Path) -> Result<(), OpenError> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| OpenError::Io { path: path.to_owned(), source })?,
    };
    if !found.is_file() {
        let what = what_is(found.file_type());
        return Err(OpenError::NoFile { path: path.to_owned(), what });
    }
    if found.nlink() > 1 {
        return Err(OpenError::Linked { path: path.to_owned(), links: found.nlink() });
    }
    Ok(())
}

fn what_is(found: FileType) -> &'static str {
    match found {
        it if it.is_dir() => "folder",
        it if it.is_fifo() => "named pipe",
        it if it.is_socket() => "socket",
        _ => "device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_a_starting_program_has_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = dir.path().join("outbox.db");
        std::fs::write(&outbox, "").unwrap();
        let by_name = Lock::take(&outbox).unwrap();
        let of_file = Lock::take_file(&outbox).unwrap().unwrap();
        let copies = (by_name.0.try_clone().unwrap(), of_file.0.try_clone().unwrap());
        assert!(matches!(Lock::take(&outbox), Err(OpenError::Locked { .. })));
        assert!(matches!(Lock::take_file(&outbox), Err(OpenError::Locked { .. })));
        drop((by_name, of_file));
        Lock::take(&outbox).expect("released by name");
        Lock::take_file(&outbox).expect("released");
        drop(copies);
    }
}
