//! One gateway to an outbox: a second one exits and names the holder.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use fieldpost_fail_point::point;
use rustix::fs::{FlockOperation, flock};

use super::OpenError;

/// Held for the life of the process; the kernel releases it however that ends.
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read")] File);

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
}
