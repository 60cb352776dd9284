//! `deadletter list | show | retry | drop`.

use std::path::Path;

use clap::Subcommand;
use fieldpost_protocol::Envelope;
use serde_json::{Value, json};

use super::print;
use crate::clock;
use crate::store::sqlite::{DeadLetter, DeadLetters, Query};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// All of them, without their bodies.
    List {
        #[arg(long)]
        json: bool,
    },
    /// One of them; with --json the whole message, in hexadecimal.
    Show {
        /// Its number in the list.
        id: i64,
        #[arg(long)]
        json: bool,
    },
    /// Tries again to store its rows, after an update for example.
    Retry {
        /// Its number in the list.
        id: i64,
        #[arg(long)]
        json: bool,
    },
    /// Gives it up: the body is deleted, its rows are shown as missing.
    Drop {
        /// Its number in the list.
        id: i64,
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn execute(storage: &Path, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { json } => print::rows(&Query::open(storage)?.dead_letters()?, json),
        Command::Show { id, json } => show(&Query::open(storage)?.dead_letter(id)?, json),
        Command::Retry { id, json } => {
            let rows = DeadLetters::open(storage)?.retry(id, clock::now_ms())?;
            done(id, "stored", rows, json)
        }
        Command::Drop { id, json } => {
            let rows = DeadLetters::open(storage)?.drop_letter(id, clock::now_ms())?;
            done(id, "missing", rows, json)
        }
    }
}

fn done(id: i64, what: &str, rows: u64, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        print::json(&json!({ "id": id, what: rows }))
    } else {
        print::text(&format!("dead letter {id}: {rows} rows are {what} now\n"))
    }
}

fn show(letter: &DeadLetter, as_json: bool) -> anyhow::Result<()> {
    let envelope = letter.message.as_deref().and_then(|bytes| Envelope::decode(bytes).ok());
    let mut shown = json!({
        "id": letter.id,
        "topic": letter.topic,
        "seqs": letter.runs,
        "reason": letter.reason,
        "state": if letter.message.is_some() { "open" } else { "dropped" },
    });
    if let Some(envelope) = envelope {
        shown["envelope"] = json!({
            "dev": envelope.dev, "epoch": envelope.epoch.to_string(), "stream": envelope.stream,
            "first": envelope.first, "n": envelope.n, "floor": envelope.floor,
            "last": envelope.last, "base": envelope.base, "clock": envelope.clock,
            "body_bytes": envelope.body.len(),
        });
    }
    if as_json {
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        shown["message"] = letter.message.as_ref().map(hex).map_or(Value::Null, Value::String);
        print::json(&shown)
    } else {
        print::text(&format!("{}\n", serde_json::to_string_pretty(&shown)?))
    }
}
