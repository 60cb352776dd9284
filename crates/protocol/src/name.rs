//! Names that stand in topics, rows and lines: device ids, sources, metrics.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::NAME_BYTES_MAX;

/// Why a name was refused. The message names the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than [`NAME_BYTES_MAX`] bytes.
    #[error("{what} {name:?} has {bytes} bytes; allowed are 1 to {NAME_BYTES_MAX}")]
    Length {
        /// Which kind of name.
        what: &'static str,
        /// The name, cut at 80 characters.
        name: String,
        /// Its length.
        bytes: usize,
    },
    /// A character that a topic, a line or a row could not carry.
    #[error("{what} {name:?} contains {found:?}; {allowed}")]
    Character {
        /// Which kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// The first offending character.
        found: char,
        /// What is allowed instead.
        allowed: &'static str,
    },
    /// A name that means something else in the topic tree.
    #[error("source {name:?} is reserved; choose another name")]
    Reserved {
        /// The name.
        name: String,
    },
}

/// 1 to 64 of `A-Z a-z 0-9 . _ -`: what every broker takes as a client id too.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                check_length($what, name)?;
                let bad = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
                check_characters($what, name, bad, "allowed are A-Z a-z 0-9 . _ -")?;
                Ok($name(name.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A device's id: the `<id>` of `devices/<id>/...`, and the common name of its certificate.
    DeviceId,
    "device id"
);
text_id!(
    /// Tells one command to a device from another, for 30 days.
    CommandId,
    "command id"
);

/// Checks the name of a source: it becomes a topic level (`live/<source>`) and the first
/// word of a line.
pub fn check_source(name: &str) -> Result<(), NameError> {
    check_length("source", name)?;
    if matches!(name, "alerts" | "command_acks") {
        return Err(NameError::Reserved { name: name.to_owned() });
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || "/+#=*\"".contains(c);
    check_characters(
        "source",
        name,
        bad,
        "not allowed are blanks, control characters and / + # = * \"",
    )
}

/// Checks the name of a metric: it becomes a JSON key and the left side of `name=value`.
pub fn check_metric(name: &str) -> Result<(), NameError> {
    check_length("metric", name)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || "#=*\"".contains(c);
    check_characters("metric", name, bad, "not allowed are blanks, control characters and # = * \"")
}

/// Checks the name of a command: the first word of a line to a board.
pub fn check_command(name: &str) -> Result<(), NameError> {
    check_length("command", name)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || "#=*\"".contains(c);
    let allowed = "not allowed are blanks, control characters and # = * \"";
    check_characters("command", name, bad, allowed)
}

fn check_length(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let shown = name.chars().take(80).collect();
        return Err(NameError::Length { what, name: shown, bytes: name.len() });
    }
    Ok(())
}

fn check_characters(
    what: &'static str,
    name: &str,
    bad: impl Fn(char) -> bool,
    allowed: &'static str,
) -> Result<(), NameError> {
    match name.chars().find(|&c| bad(c)) {
        Some(found) => Err(NameError::Character { what, name: name.to_owned(), found, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_that_would_change_a_topic_is_refused() {
        for bad in ["", "a/b", "a+", "#", "grün", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?} was taken");
        }
        assert!("greenhouse-1.north_A".parse::<DeviceId>().is_ok());
    }

    #[test]
    fn a_source_named_like_a_topic_of_ours_is_refused() {
        assert!(check_source("alerts").is_err());
        assert!(check_source("command_acks").is_err());
        assert!(check_source("air/1").is_err());
        assert!(check_source("air_quality").is_ok());
    }
}
