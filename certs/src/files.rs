//! Files that are complete or absent, and keys that nobody else can read at any moment.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path:?}: {error}")]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Makes the folder and its parents. One that is there keeps its mode.
pub(crate) fn create_folder(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| FileError {
        action: "create folder",
        path: dir.to_owned(),
        error,
    })
}

pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|error| FileError {
        action: "read",
        path: path.to_owned(),
        error,
    })
}

/// Writes a certificate and its key. Both are on the disk under another name before the first
/// takes its place, so that a full disk leaves the old pair as it was.
pub(crate) fn write_pair(
    cert: &Path,
    cert_pem: &str,
    key: &Path,
    key_pem: &str,
) -> Result<(), FileError> {
    let new_key = write_new(key, key_pem, 0o600)?;
    let new_cert = write_new(cert, cert_pem, 0o644)?;
    rename(&new_key, key)?;
    rename(&new_cert, cert)
}

/// Writes beside `path`; returns where.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<PathBuf, FileError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let failed = |error| FileError { action: "write", path: new.clone(), error };
    // What an earlier run left half-written. `create_new` then makes sure that the mode is ours.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let write = || -> io::Result<()> {
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(failed)?;
    Ok(new)
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(|error| FileError {
        action: "write",
        path: to.to_owned(),
        error,
    })
}
