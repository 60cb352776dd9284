//! A command: from the bridge in CBOR, from a person in JSON.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};
use crate::{COMMAND_ARGS_MAX, COMMAND_BYTES_MAX, Epoch, Metrics};

/// What a device is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The version; a person may leave it out.
    #[serde(default = "one")]
    pub v: u64,
    /// Tells one command from another for 30 days; a person may leave it out, then the
    /// bridge gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What to do.
    pub name: String,
    /// With what.
    #[serde(default, skip_serializing_if = "Metrics::is_empty")]
    pub args: Metrics,
    /// Unix milliseconds in cloud time after which it must not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// The epoch that it is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Epoch>,
    /// Never issued again for another epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

fn one() -> u64 {
    1
}

impl Command {
    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// From CBOR or JSON: the first byte tells.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "command";
        if bytes.len() > COMMAND_BYTES_MAX {
            let (found, max) = (bytes.len(), COMMAND_BYTES_MAX);
            return Err(DecodeError::TooBig { what, found, unit: "bytes", max });
        }
        let json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let command: Command = if json {
            serde_json::from_slice(bytes)
                .map_err(|error| DecodeError::Malformed { what, why: error.to_string() })?
        } else {
            cbor::check_version(what, bytes)?;
            cbor::decode(what, bytes)?
        };
        cbor::read_version(what, command.v)?;
        if command.args.len() > COMMAND_ARGS_MAX {
            let (found, max) = (command.args.len(), COMMAND_ARGS_MAX);
            return Err(DecodeError::TooBig { what, found, unit: "arguments", max });
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_may_write_json_without_id_or_version() {
        let command = Command::decode(br#" {"name":"led","args":{"on":1}}"#).unwrap();
        assert_eq!((command.v, command.id.as_deref(), command.name.as_str()), (1, None, "led"));
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn nested_arguments_and_deep_nesting_are_refused() {
        assert!(Command::decode(br#"{"name":"led","args":{"on":[1]}}"#).is_err());
        let bomb = vec![0x81; 8000];
        assert!(Command::decode(&bomb).is_err());
    }
}
