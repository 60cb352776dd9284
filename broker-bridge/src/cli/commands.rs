//! `command send | list | show | cancel`.
#![allow(
    clippy::disallowed_methods,
    reason = "it waits for an answer, as somebody at a terminal does"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use fieldpost_fail_point::point;
use fieldpost_protocol::{Command as Order, CommandId, DeviceId, Metrics, VERSION, Value};
use serde_json::json;

use super::{ago, print};
use crate::clock;
use crate::engine::{CommandRow, EXPIRES_AFTER_MS, Engine, Origin};
use crate::store::sqlite::{Query, Row, SqliteStore};
use crate::store::{DeviceRef, Ledger, Store, Txn};

/// How often storage is asked for the answer.
const ASKED_EVERY: Duration = Duration::from_millis(200);
/// Exit codes of `--wait`, by the outcome; [`NO_ANSWER`] for none of them.
const EXIT_CODES: &[(&str, u8)] = &[
    ("succeeded", 0),
    ("failed", 3),
    ("timed_out", 4),
    ("rejected", 5),
    ("expired", 6),
    ("unknown", 7),
];
const NO_ANSWER: u8 = 8;
/// Devices that a message names at most.
const NAMED_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Puts a command into the ledger; the bridge publishes it when its device is there.
    ///
    /// What a device may be told stands in its gateway.toml. With --wait the exit code is 0 for succeeded, 3
    /// failed, 4 timed_out, 5 rejected, 6 expired, 7 unknown, 8 no answer within --timeout.
    Send {
        /// The device's id.
        device: DeviceId,
        /// What to do.
        name: String,
        /// With what, as key=value: 1 is an integer, 1.0 a float, true and false are bools, anything
        /// else is text; so is "1" in double quotes (in a shell 'key="1"'), and an id of 32 hexadecimal digits.
        #[arg(value_name = "KEY=VALUE")]
        args: Vec<String>,
        /// Tells it from other commands to this device for 30 days; made up if left out.
        #[arg(long)]
        id: Option<CommandId>,
        /// After so long it must not run any more: 30s, 15m, 1h, 7d.
        #[arg(long, default_value = "1d")]
        expires: String,
        /// Never issue it again to a gateway that has begun anew: then it ends as unknown.
        #[arg(long)]
        strict: bool,
        /// Show what becomes of it, and exit by that.
        #[arg(long)]
        wait: bool,
        /// How long --wait waits.
        #[arg(long, default_value = "1m")]
        timeout: String,
        #[arg(long)]
        json: bool,
    },
    /// Commands that are open.
    List {
        /// Only of this device.
        device: Option<DeviceId>,
        /// Also those that are done.
        #[arg(long)]
        all: bool,
        #[arg(long)]
        json: bool,
    },
    /// One of them, and what its gateway has said of it.
    Show {
        /// The device's id.
        device: DeviceId,
        /// The command's id.
        id: CommandId,
        #[arg(long)]
        json: bool,
    },
    /// Takes one back that was never issued.
    Cancel {
        /// The device's id.
        device: DeviceId,
        /// The command's id.
        id: CommandId,
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn execute(storage: &Path, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Send { device, name, args, id, expires, strict, wait, timeout, json } => {
            let timeout = duration("--timeout", &timeout)?;
            let good_for = duration("--expires", &expires)?;
            if good_for == 0 {
                bail!(
                    "--expires {expires:?}: no device could be told in time; write 30s, 15m, 2h or 7d"
                );
            }
            let expires = clock::now_ms() + good_for;
            let (v, args) = (VERSION, parse_args(&args)?);
            let order = Order { v, id, name, args, expires: Some(expires), target: None, strict };
            let id = send(storage, &device, order)?;
            let query = Query::open(storage)?;
            print::text(&sent(&query, &device, &id, json)?)?;
            if !wait {
                return Ok(ExitCode::SUCCESS);
            }
            self::wait(&query, &device, &id, Duration::from_millis(timeout as u64), json)
        }
        Command::List { device, all, json } => {
            let query = Query::open(storage)?;
            let rows = query.commands(device.as_ref().map(DeviceId::as_str), all)?;
            if let Some(device) = device.filter(|_| rows.is_empty()) {
                let devices = query.devices()?;
                if !devices.iter().any(|row| row.cell("device") == device.as_str()) {
                    bail!("this storage has never heard of device {device}; {}", known(storage)?);
                }
            }
            print::rows(&rows, json).map(|()| ExitCode::SUCCESS)
        }
        Command::Show { device, id, json } => {
            show(&Query::open(storage)?, &device, &id, json).map(|()| ExitCode::SUCCESS)
        }
        Command::Cancel { device, id, json } => {
            cancel(storage, &device, &id, json).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn send(storage: &Path, device: &DeviceId, order: Order) -> anyhow::Result<CommandId> {
    let now = clock::now_ms();
    // As the gateway will read it.
    Order::decode(&order.encode())?;
    crate::engine::check_metrics(&order.args).map_err(anyhow::Error::msg)?;
    let id = match &order.id {
        Some(id) => id.clone(),
        None => made_id()?,
    };
    let mut store = SqliteStore::open(storage)?;
    let mut txn = store.begin()?;
    let at = find(&mut txn, storage, device)?;
    if txn.command(at, &id)?.is_some() {
        bail!(
            "{device} has a command {id} already; it stays as it is: `fieldpost-bridge command show {device} \
             {id}`, or send this one under another --id"
        );
    }
    if !txn.has_room_for_command(at, now)? {
        bail!(
            "too many commands of {device} are open or of the last 31 days; look at them with \
             `fieldpost-bridge command list {device} --all`, and cancel what was never issued"
        );
    }
    txn.insert_command(at, &id, &CommandRow::new(&order, Origin::Cli, now))?;
    point!("command.send.before_commit");
    txn.commit()?;
    point!("command.send.after_commit");
    Ok(id)
}

/// A device that storage has heard of.
fn find<T: Ledger>(txn: &mut T, storage: &Path, device: &DeviceId) -> anyhow::Result<DeviceRef> {
    if let Some(found) = txn.find_device(device)? {
        return Ok(found);
    }
    let known = known(storage)?;
    bail!("this storage has never heard of device {device}; {known}")
}

/// The devices that a storage has heard of, in words.
pub(super) fn known(storage: &Path) -> anyhow::Result<String> {
    let rows = Query::open(storage)?.devices()?;
    let names: Vec<&str> =
        rows.iter().filter_map(|row| row.cell("device").as_str()).take(NAMED_MAX).collect();
    Ok(match (names.is_empty(), rows.len() > names.len()) {
        (true, _) => {
            "none was heard of yet: start its gateway, with the same broker and topic_prefix"
                .to_owned()
        }
        (false, false) => format!("it knows {}", names.join(", ")),
        (false, true) => {
            format!("it knows {}, ... (`fieldpost-bridge devices` shows all)", names.join(", "))
        }
    })
}

/// What to tell whoever has sent it: who will publish it, and when.
fn sent(query: &Query, device: &DeviceId, id: &CommandId, as_json: bool) -> anyhow::Result<String> {
    let rows = query.devices()?;
    let row = rows.iter().find(|row| row.cell("device") == device.as_str());
    let state = row.and_then(|row| row.cell("state").as_str()).unwrap_or("stale");
    let is_bridge_there = query.is_bridge_there(clock::now_ms())?;
    if as_json {
        let shown =
            json!({ "device": device, "id": id, "device_state": state, "bridge": is_bridge_there });
        return Ok(format!("{shown}\n"));
    }
    let when = match (is_bridge_there, state) {
        (false, _) => "no bridge runs on this storage: nothing is sent until one does".to_owned(),
        (true, "online") => "the bridge sends it now".to_owned(),
        (true, state) => format!("{device} is {state}: the bridge sends it when it is back"),
    };
    Ok(format!("command {id} to {device}: {when}\n"))
}

/// Shows each answer as it comes, until the last one or the end of the time.
fn wait(
    query: &Query,
    device: &DeviceId,
    id: &CommandId,
    timeout: Duration,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + timeout;
    let mut told = BTreeSet::new();
    loop {
        // First the row: what has ended it is among the acks by then.
        let row = query.command(device.as_str(), id.as_str())?.context("the command is gone")?;
        for ack in query.command_acks(device.as_str(), id.as_str())? {
            if told.insert((ack.cell("epoch").to_string(), ack.cell("seq").to_string())) {
                print_ack(&ack, as_json)?;
            }
        }
        let state = row.cell("state").as_str().unwrap_or("open").to_owned();
        if state != "open" {
            let shown = if as_json { json(&row)? } else { format!("{state}{}\n", why(&row)) };
            print::text(&shown)?;
            let code = EXIT_CODES.iter().find(|(outcome, _)| *outcome == state);
            return Ok(ExitCode::from(code.map_or(NO_ANSWER, |(_, code)| *code)));
        }
        if Instant::now() >= deadline {
            let what =
                if row.cell("issued") == 0 { "it was not sent yet" } else { "no answer yet" };
            eprintln!(
                "fieldpost-bridge: {what}, and --timeout is over; the command goes on: \
                 `fieldpost-bridge command show {device} {id}`"
            );
            return Ok(ExitCode::from(NO_ANSWER));
        }
        std::thread::sleep(ASKED_EVERY);
    }
}

fn print_ack(ack: &Row, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print::text(&json(ack)?);
    }
    let (time, outcome) = (print::shown("time", ack), print::shown("outcome", ack));
    print::text(&format!("{time}  {outcome}{}\n", why(ack)))
}

/// The detail and the result of a row, where there are any.
fn why(row: &Row) -> String {
    let mut text = String::new();
    if !row.cell("detail").is_null() {
        text += &format!(": {}", print::shown("detail", row));
    }
    if row.cell("result").as_object().is_some_and(|result| !result.is_empty()) {
        text += &format!("  {}", print::shown("result", row));
    }
    text
}

fn json(row: &Row) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string(row)?))
}

fn show(query: &Query, device: &DeviceId, id: &CommandId, as_json: bool) -> anyhow::Result<()> {
    let rows = query.commands(Some(device.as_str()), true)?;
    let row = rows.iter().find(|row| row.cell("id") == id.as_str());
    let acks = query.command_acks(device.as_str(), id.as_str())?;
    let Some(row) = row else { bail!(unknown(device, id)) };
    if as_json {
        return print::json(&json!({ "command": row, "acks": acks }));
    }
    let mut text = String::new();
    for (name, _) in row.iter().filter(|(_, cell)| !cell.is_null()) {
        text += &format!("{name:<13} {}\n", print::shown(name, row));
    }
    print::text(&format!("{text}\nacks\n"))?;
    acks.iter().try_for_each(|ack| print_ack(ack, false))
}

fn unknown(device: &DeviceId, id: &CommandId) -> String {
    format!(
        "there is no command {id} of {device} in the ledger; `fieldpost-bridge command list {device} --all` \
         shows those that are"
    )
}

fn cancel(storage: &Path, device: &DeviceId, id: &CommandId, as_json: bool) -> anyhow::Result<()> {
    let mut store = SqliteStore::open(storage)?;
    let mut txn = store.begin()?;
    let at = find(&mut txn, storage, device)?;
    let Some(mut row) = txn.command(at, id)? else { bail!(unknown(device, id)) };
    Engine::default()
        .cancel(&mut row, clock::now_ms())
        .with_context(|| format!("command {id} of {device} is not cancelled"))?;
    txn.save_command(at, id, &row)?;
    point!("command.cancel.before_commit");
    txn.commit()?;
    point!("command.cancel.after_commit");
    if as_json {
        print::json(&json!({ "device": device, "id": id, "state": "cancelled" }))
    } else {
        print::text(&format!("command {id} of {device} is cancelled\n"))
    }
}

fn made_id() -> anyhow::Result<CommandId> {
    let random = clock::random_id().context("asking the system for randomness")?;
    Ok(crate::ingest::made_id(random))
}

fn duration(option: &str, text: &str) -> anyhow::Result<i64> {
    ago(text).with_context(|| format!("{option} {text:?} is no duration; write 30s, 15m, 2h or 7d"))
}

fn parse_args(args: &[String]) -> anyhow::Result<Metrics> {
    let mut pairs = Vec::new();
    for arg in args {
        let (key, value) = arg.split_once('=').with_context(|| {
            format!("{arg:?} is no argument; write key=value, for example on=1")
        })?;
        fieldpost_protocol::check_metric(key)
            .with_context(|| format!("argument {arg:?}: its name"))?;
        pairs.push((key.into(), parse_value(value).with_context(|| format!("argument {key}"))?));
    }
    Metrics::new(pairs).map_err(|name| anyhow::anyhow!("argument {name} stands twice"))
}

/// `1` is an integer, `1.0` a float, `true` a bool, anything else text.
fn parse_value(text: &str) -> anyhow::Result<Value> {
    if text.starts_with('"') {
        let text: String = serde_json::from_str(text)
            .with_context(|| format!("{text} is no text in double quotes"))?;
        return Ok(Value::from(text.as_str()));
    }
    // An epoch may have no letter in it, or one e.
    let is_id = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
    let is_number = !is_id && text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    Ok(match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if !is_number => Value::from(text),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(value), _) => Value::Int(value),
            (Err(_), Ok(value)) if text.contains(['.', 'e', 'E']) && value.is_finite() => {
                Value::Float(value)
            }
            (Err(_), Ok(_)) if text.contains(|c: char| c.is_ascii_digit()) => {
                bail!(
                    "{text} is no 64-bit number; in double quotes it is text: in a shell 'key=\"{text}\"'"
                )
            }
            _ => Value::from(text),
        },
    })
}

const _: () =
    assert!(EXPIRES_AFTER_MS == 86_400_000, "the default of --expires is 1d, as a person's");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_look_like_and_text_in_quotes_is_text() {
        let value = |text| parse_value(text).unwrap();
        assert_eq!(value("1"), Value::Int(1));
        assert_eq!(value("-7"), Value::Int(-7));
        assert_eq!(value("1.0"), Value::Float(1.0));
        assert_eq!(value("2e3"), Value::Float(2000.0));
        assert_eq!(value("true"), Value::Bool(true));
        for text in ["on", "1h", "2026-11-22", "nan", "inf", "-", ".", "", "1.2.3", "True"] {
            assert_eq!(value(text), Value::from(text), "{text:?}");
        }
        assert_eq!(value("\"1\""), Value::from("1"));
        for epoch in ["01234567890123456789012345678901", "0123456789012345678901234567e001"] {
            assert_eq!(value(epoch), Value::from(epoch));
        }
        assert_eq!(value(r#""a \"b\"""#), Value::from("a \"b\""));
        assert!(parse_value("\"1").is_err());
        assert!(parse_value("99999999999999999999").is_err());
        assert!(parse_value("1e999").is_err());
    }

    #[test]
    fn an_argument_has_a_key_that_a_line_can_carry_and_stands_once() {
        let parse = |args: &[&str]| {
            parse_args(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parse(&["b=1", "a=x=y"]).unwrap().to_json().unwrap(), r#"{"a":"x=y","b":1}"#);
        for bad in [&["on"][..], &["=1"], &["a b=1"], &["on=1", "on=2"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
