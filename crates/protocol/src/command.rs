//! A command: from the bridge in CBOR, from a person in JSON.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};
use crate::{
    COMMAND_ARGS_MAX, COMMAND_BYTES_MAX, CommandId, Content, Epoch, Metrics, Value, check_command,
};

/// What a device is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The version; a person may leave it out.
    #[serde(default = "one")]
    pub v: u64,
    /// Tells one command from another for 30 days; a person may leave it out, then the
    /// bridge gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
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
        let command: Command = if is_json(bytes) {
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
        let malformed = |why| DecodeError::Malformed { what, why };
        check_command(&command.name).map_err(|error| malformed(error.to_string()))?;
        let infinite = |value: &Value| matches!(value, Value::Float(float) if !float.is_finite());
        if let Some((name, _)) = command.args.iter().find(|(_, value)| infinite(value)) {
            return Err(malformed(format!("argument {name} is not a finite number")));
        }
        Ok(command)
    }

    /// What it asks for, whoever asks and whenever: two commands with one id have to be the same.
    pub fn content(&self) -> Content {
        let digest = digest(&SHA256, &cbor::encode(&(&self.name, &self.args)));
        let (first, _) = digest.as_ref().split_first_chunk().expect("a SHA-256 has 32 bytes");
        Content(*first)
    }
}

fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Keys of a command in JSON that nobody reads: misspelt, it may be, and the command less safe than it looks.
/// None of CBOR, which programs write. At most 8, each of at most 64 characters.
pub fn unknown_keys(bytes: &[u8]) -> Vec<String> {
    const KNOWN: [&str; 7] = ["v", "id", "name", "args", "expires", "target", "strict"];
    if bytes.len() > COMMAND_BYTES_MAX || !is_json(bytes) {
        return Vec::new();
    }
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_slice(bytes).unwrap_or_default();
    let unknown = keys.into_keys().filter(|key| !KNOWN.contains(&key.as_str()));
    unknown.take(8).map(|key| key.chars().take(64).collect()).collect()
}

/// The id of what is no valid command, so that whoever sent it can be answered.
pub fn id_of(bytes: &[u8]) -> Option<CommandId> {
    #[derive(Deserialize)]
    struct Named {
        id: CommandId,
    }
    if bytes.len() > COMMAND_BYTES_MAX {
        None
    } else if is_json(bytes) {
        serde_json::from_slice(bytes).ok().map(|Named { id }| id)
    } else {
        cbor::decode("command", bytes).ok().map(|Named { id }| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_may_write_json_without_id_or_version() {
        let command = Command::decode(br#" {"name":"led","args":{"on":1}}"#).unwrap();
        assert_eq!((command.v, &command.id, command.name.as_str()), (1, &None, "led"));
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn nested_arguments_and_deep_nesting_are_refused() {
        assert!(Command::decode(br#"{"name":"led","args":{"on":[1]}}"#).is_err());
        let bomb = vec![0x81; 8000];
        assert!(Command::decode(&bomb).is_err());
    }

    #[test]
    fn the_content_is_name_and_arguments_however_they_are_written() {
        let content = |json: &str| Command::decode(json.as_bytes()).unwrap().content();
        let one = content(r#"{"id":"a","name":"led","args":{"on":1,"pin":7.0}}"#);
        assert_eq!(one, content(r#"{"args":{"pin":7.0,"on":1},"name":"led","strict":true}"#));
        let command = Command::decode(br#"{"name":"led","args":{"on":1,"pin":7.0}}"#).unwrap();
        assert_eq!(one, Command::decode(&command.encode()).unwrap().content());
        for other in [
            r#"{"name":"led","args":{"on":1,"pin":7}}"#,
            r#"{"name":"led","args":{"on":1}}"#,
            r#"{"name":"lamp","args":{"on":1,"pin":7.0}}"#,
        ] {
            assert_ne!(one, content(other), "{other}");
        }
        assert_eq!(content(r#"{"name":"led"}"#).to_string(), "3f8609630742ec9f", "for ever");
    }

    #[test]
    fn what_is_no_command_may_still_have_an_id() {
        let named = id_of(br#"{"id":"a1","name":7}"#);
        assert_eq!(named.as_ref().map(CommandId::as_str), Some("a1"));
        for nameless in [&b"{\"id\":\"a b\"}"[..], b"{\"id\":7}", b"{", b"", b"\x81"] {
            assert_eq!(id_of(nameless), None);
        }
    }

    #[test]
    fn keys_that_nobody_reads_are_named_and_those_that_are_read_are_known() {
        let json =
            br#"{"id":"a","name":"led","arg":{"on":1},"strct":true,"expires":5,"args":{"x":1}}"#;
        assert_eq!(unknown_keys(json), ["arg", "strct"]);
        let all = Command { id: "a".parse().ok(), strict: true, ..Command::decode(json).unwrap() };
        let all = Command { target: Some(Epoch([1; 16])), ..all };
        assert_eq!(unknown_keys(&serde_json::to_vec(&all).unwrap()), [""; 0]);
        for other in [&b"{"[..], b"", &all.encode()] {
            assert_eq!(unknown_keys(other), [""; 0]);
        }
    }

    #[test]
    fn a_name_that_no_line_could_carry_is_refused() {
        for bad in ["", "a b", "a=b", "a*", "a\\n"] {
            let json = format!(r#"{{"name":"{bad}"}}"#);
            assert!(Command::decode(json.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
