//! What values are allowed: text to a value, or a sentence that says what to write.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::WhenFull;
use super::units::{duration_text, parse_duration, parse_size, size_text};

/// Text that is not empty.
pub(super) fn filled(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty; write a value, or leave the key out".to_owned()),
        text => Ok(text.to_owned()),
    }
}

pub(super) fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "allowed are true and false".to_owned())
}

pub(super) fn number<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let allowed =
            || format!("allowed are whole numbers from {} to {}", range.start(), range.end());
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(allowed)
    }
}

pub(super) fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "write a number, such as 0.1".to_owned())
}

pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let (min, max) = (duration_text(*range.start()), duration_text(*range.end()));
        let duration =
            parse_duration(text).map_err(|why| format!("{why}; allowed are {min} to {max}"))?;
        if !range.contains(&duration) {
            return Err(format!("allowed are {min} to {max}"));
        }
        Ok(duration)
    }
}

pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let (min, max) = (size_text(*range.start()), size_text(*range.end()));
        let size = parse_size(text).map_err(|why| format!("{why}; allowed are {min} to {max}"))?;
        if !range.contains(&size) {
            return Err(format!("allowed are {min} to {max}"));
        }
        Ok(size)
    }
}

pub(super) fn when_full(text: &str) -> Result<WhenFull, String> {
    match text {
        "refuse" => Ok(WhenFull::Refuse),
        "drop_oldest" => Ok(WhenFull::DropOldest),
        _ => Err("allowed are \"refuse\" (new readings) and \"drop_oldest\"".to_owned()),
    }
}

pub(super) fn host(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err("write the host name alone; port and tls are keys of their own".to_owned());
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if text.is_empty() || text.len() > 253 || text.contains(bad) {
        return Err("write a host name or an address, such as \"broker.example.org\"".to_owned());
    }
    Ok(text.to_owned())
}

/// The first levels of topics, as `topic_prefix` has them; not empty.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let filled = filled(text)?;
    fieldpost_protocol::Topics::new(text).map(|_| filled)
}

/// A Unix socket: the kernel takes no longer path.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        _ if !text.is_empty() && !text.starts_with('/') => {
            Err("write the whole path, from / on: who connects may be in another folder".to_owned())
        }
        0..=SOCKET_PATH_BYTES_MAX => path(text),
        bytes => Err(format!(
            "it has {bytes} bytes, and the path of a socket at most {SOCKET_PATH_BYTES_MAX}; choose a shorter one"
        )),
    }
}

/// How long the path of a socket may be: `sun_path` of unix(7), without its NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("it is empty; write the path of a file".to_owned()),
        text if text.contains('\0') => Err("a path cannot contain NUL".to_owned()),
        text => Ok(PathBuf::from(text)),
    }
}
