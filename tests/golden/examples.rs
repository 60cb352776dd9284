//! Every example of topics.md is what the code would send, byte for byte.

use fieldpost_protocol::{Command, Envelope, Event, EventKind};
use serde_json::Value as Json;

use crate::contract::payloads;
use crate::diag;
use crate::document::{Block, Document};
use crate::payload::{Payload, same};

/// The body within the batch of that name, shown once more, in notation.
const BODY: &str = ":body";

fn payload(block: &Block) -> Payload {
    let found = payloads().into_iter().find(|payload| payload.name() == block.payload());
    found.unwrap_or_else(|| panic!("```{} {}: there is no such payload", block.kind, block.name))
}

#[test]
fn every_payload_has_an_example() {
    let document = Document::load();
    for payload in payloads() {
        let has = |kind: &str| document.blocks(kind).any(|block| block.payload() == payload.name());
        let name = payload.name();
        assert!(!payload.is_cbor() || has("cbor-hex"), "topics.md shows no ```cbor-hex {name}");
        assert!(!payload.is_json() || has("json"), "topics.md shows no ```json {name}");
    }
}

#[test]
fn every_example_in_hex_is_read_and_encodes_to_the_same_bytes() {
    let document = Document::load();
    for block in document.blocks("cbor-hex") {
        let read =
            payload(block).read(&block.bytes()).unwrap_or_else(|e| panic!("{}: {e}", block.name));
        let again: String = read.again.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(read.again, block.bytes(), "{}: the code sends {again}", block.name);
    }
}

#[test]
fn every_example_in_notation_is_the_one_in_hex() {
    let document = Document::load();
    for hex in document.blocks("cbor-hex") {
        let has = document.block("cbor-diag", &hex.name).is_some();
        assert!(has, "topics.md shows no ```cbor-diag {}", hex.name);
    }
    for notation in document.blocks("cbor-diag") {
        let (name, of_body) = match notation.name.strip_suffix(BODY) {
            Some(batch) => (batch, true),
            None => (&*notation.name, false),
        };
        let hex = document
            .block("cbor-hex", name)
            .unwrap_or_else(|| panic!("topics.md shows no ```cbor-hex {name}"));
        let mut bytes = hex.bytes();
        if of_body {
            bytes = Envelope::decode(&bytes).expect("only a batch has a body").body;
        }
        let name = &notation.name;
        assert_eq!(
            diag::bare(&notation.text),
            diag::print(&bytes),
            "{name}: notation and bytes differ"
        );
    }
}

#[test]
fn the_body_of_every_batch_is_shown() {
    let document = Document::load();
    for name in ["sensor_data", "alerts", "command_acks"] {
        let shown = document.block("cbor-diag", &format!("{name}{BODY}"));
        assert!(shown.is_some(), "topics.md shows no ```cbor-diag {name}{BODY}");
    }
}

#[test]
fn every_example_in_json_is_understood_to_its_last_key() {
    let document = Document::load();
    for block in document.blocks("json") {
        let written: Json =
            serde_json::from_str(&block.text).unwrap_or_else(|e| panic!("{}: {e}", block.name));
        let understood =
            payload(block).read_json(&block.text).unwrap_or_else(|e| panic!("{}: {e}", block.name));
        assert!(
            same(&written, &understood),
            "{}: of this the code understands {understood}",
            block.name
        );
    }
}

#[test]
fn the_content_in_the_command_ack_is_that_of_the_command() {
    let document = Document::load();
    let bytes = |name| document.block("cbor-hex", name).expect("an example").bytes();
    let command = Command::decode(&bytes("commands")).expect("an example is valid");
    let envelope = Envelope::decode(&bytes("command_acks")).expect("an example is valid");
    let event = Event::decode(&envelope.body).expect("an example is valid");
    let EventKind::CommandAck { content, .. } = event.kind else { panic!("no command ack") };
    assert_eq!(content, Some(command.content()));
}
