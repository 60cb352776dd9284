//! The files that the configuration lies in and names: there, readable, and kept from others.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fieldpost_mqtt::{check_is_file, check_is_file_or_pipe};

use super::{Ca, Config, ConfigError, ConfigErrors, Password};

/// A configuration is a page or two.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Anybody on the machine may read it.
const READABLE_BY_OTHERS: u32 = 0o004;

/// Reads the configuration file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: io::Error| ConfigError::Unreadable {
        path: path.to_owned(),
        why: error.to_string(),
        next: match error.kind() {
            ErrorKind::NotFound => {
                "`fieldpost-gateway config` prints a template; write it there and edit it"
                    .to_owned()
            }
            _ => next_step(&error),
        },
    };
    check_is_file_or_pipe(path).map_err(unreadable)?;
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > CONFIG_BYTES_MAX {
        let why = format!("it has {bytes} bytes, and at most {CONFIG_BYTES_MAX} are read");
        return Err(unreadable(io::Error::other(why)));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// A warning if the file holds a password and everybody may read it.
pub(super) fn readable_secret(config: &Config, path: &Path) -> Option<String> {
    let login = config.broker.as_ref()?.login.as_ref()?;
    let here = matches!(login.password, Password::Text(_)) && !config.password_from_environment();
    if here && readable_by_others(path) {
        return Some(format!(
            "{} holds broker.password and every user of this machine may read it: chmod 640, or use broker.password_file",
            path.display()
        ));
    }
    None
}

/// Checks every file that a key names.
pub(super) fn check(config: &Config) -> Result<Vec<String>, ConfigErrors> {
    let mut named: Vec<(&str, &Path, bool)> = Vec::new();
    if let Some(broker) = &config.broker {
        if let Some(tls) = &broker.tls {
            if let Ca::File(path) = &tls.ca {
                named.push(("broker.ca", path, false));
            }
            if let Some(client) = &tls.client {
                named.push(("broker.client_cert", &client.cert, false));
                named.push(("broker.client_key", &client.key, true));
            }
        }
        if let Some(Password::File(path)) = broker.login.as_ref().map(|login| &login.password) {
            named.push(("broker.password_file", path, true));
        }
    }
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for (key, path, secret) in named {
        if let Err(error) = open(path) {
            errors.push(ConfigError::File {
                key: key.to_owned(),
                path: path.to_owned(),
                why: error.to_string(),
                next: next_step(&error),
            });
        } else if secret && readable_by_others(path) {
            warnings.push(format!(
                "{key} = {:?}: every user of this machine may read this file; chmod 640",
                path.display()
            ));
        }
    }
    if errors.is_empty() { Ok(warnings) } else { Err(ConfigErrors::new(errors)) }
}

fn open(path: &Path) -> io::Result<()> {
    check_is_file(path)?;
    match File::open(path)?.metadata()?.len() {
        0 => Err(io::Error::other("it is empty")),
        _ => Ok(()),
    }
}

fn readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & READABLE_BY_OTHERS != 0)
}

fn next_step(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "Check the path, or put the file there",
        ErrorKind::PermissionDenied => {
            "Let the user that runs the gateway read it (chgrp, chmod 640)"
        }
        _ => "Check what stands at this path",
    }
    .to_owned()
}
