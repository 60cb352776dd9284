//! `[commands]` and `[[command]]`: what may be called, and with what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fieldpost_protocol::{COMMAND_ARGS_MAX, check_command, check_metric};
use toml::Table;

use super::PortConfig;
use super::allowed::{boolean, duration, finite, number};
use super::port::each;
use super::read::sub_tables;
use super::section::{Kind, Overrides, Report, Section, key_text};
use crate::commands::allowed::{Arg, Kind as ArgKind};
use crate::commands::{BoardCommand, Builtin};
use crate::serial::{Format, QUESTION};

const HOUR: Duration = Duration::from_secs(3_600);
/// Texts that an argument may be one of.
const TEXTS_MAX: usize = 32;
/// What a board's line has room for, and a library's buffer.
const TEXT_BYTES_MAX: usize = 1_024;
/// As a line from a board.
const LINE_BYTES_MAX: usize = 4_096;

/// `[commands]`
pub(super) fn builtins(mut section: Section<'_>) -> BTreeSet<Builtin> {
    let default: Vec<&str> = Builtin::DEFAULT.iter().map(|builtin| builtin.as_str()).collect();
    let allow = section.or("allow", Kind::Texts, &default.join("\n"), |text| {
        text.lines().map(|word| word.parse::<Builtin>()).collect()
    });
    section.finish();
    allow
}

/// One `[[command]]`, whose name no other has; `None` is reported.
pub(super) fn command(
    path: &str,
    table: Table,
    ports: &[PortConfig],
    others: &BTreeMap<String, BoardCommand>,
    report: &mut Report,
) -> Option<(String, BoardCommand)> {
    let mut section = Section::new(path, "[[command]]", table, Overrides::new(), report);
    let next = "name the command, as the board knows it, such as name = \"led\"";
    let name = section.required("name", Kind::Text, next, |text| {
        check_command(text).map_err(|error| error.to_string())?;
        Ok(text.to_owned())
    });
    let next = "name the port of the board that does it, such as port = \"fruiting\"";
    let port = section.required("port", Kind::Text, next, |text| of_port(text, ports));
    let timeout =
        section.or("timeout", Kind::Text, "5s", duration(Duration::from_millis(100)..=HOUR));
    let line_bytes_max =
        section.or("line_bytes_max", Kind::Number, "4096", number(32..=LINE_BYTES_MAX));
    let args = section.table("args");
    if let Some(name) = &name {
        if others.contains_key(name) {
            section
                .conflict("name", &format!("two commands are named {name:?}; give each its own"));
        }
        if name == QUESTION {
            let why = format!(
                "{name:?} is how the gateway asks a board what became of a command; choose another"
            );
            section.conflict("name", &why);
        }
        if name.parse::<Builtin>().is_ok() {
            section.conflict(
                "name",
                &format!("{name:?} is a command of the gateway itself; choose another"),
            );
        }
    }
    if args.len() > COMMAND_ARGS_MAX {
        let why = format!("there are {}; at most {COMMAND_ARGS_MAX} are allowed", args.len());
        section.conflict("args", &why);
    }
    section.finish();
    let args = args_of(path, args, report);
    Some((name?, BoardCommand { port: port?, timeout, line_bytes_max, args }))
}

/// A port whose boards answer.
fn of_port(name: &str, ports: &[PortConfig]) -> Result<std::sync::Arc<str>, String> {
    let Some(port) = ports.iter().find(|port| &*port.name == name) else {
        let names: Vec<&str> = ports.iter().map(|port| &*port.name).collect();
        return Err(format!("there is no such port; ports are: {}", names.join(", ")));
    };
    if port.place.is_socket() {
        return Err("this port is a socket, behind which there is no board".to_owned());
    }
    if !matches!(port.format, Format::Native | Format::Json) {
        let word = port.format.word();
        return Err(format!(
            "its format is {word:?}, in which a board has no way to answer; it has to be \"native\" or \"json\""
        ));
    }
    Ok(port.name.clone())
}

/// `[command.args.<name>]`
fn args_of(command: &str, args: Table, report: &mut Report) -> BTreeMap<String, Arg> {
    let path = format!("{command}.args");
    let mut all = BTreeMap::new();
    for (name, table) in sub_tables(args, &path, report) {
        let path = format!("{path}.{}", key_text(&name));
        let header = format!("[command.args.{}]", key_text(&name));
        let mut section = Section::new(path, header, table, Overrides::new(), report);
        if let Err(error) = check_metric(&name) {
            section.conflict("name", &error.to_string());
        }
        let kind = kind(&mut section);
        let optional = section.optional("optional", Kind::Bool, boolean).unwrap_or(false);
        section.finish();
        all.extend(kind.map(|kind| (name, Arg { kind, optional })));
    }
    all
}

fn kind(section: &mut Section<'_>) -> Option<ArgKind> {
    let next = "say what it is: type = \"bool\", \"int\", \"float\" or \"text\"";
    let word = section.required("type", Kind::Text, next, |text| match text {
        "bool" | "int" | "float" | "text" => Ok(text.to_owned()),
        _ => Err("allowed are \"bool\" \"int\" \"float\" \"text\"".to_owned()),
    })?;
    let kind = match word.as_str() {
        "bool" => ArgKind::Bool,
        "int" => {
            let any = || number(i64::MIN..=i64::MAX);
            let min = section.optional("min", Kind::Number, any()).unwrap_or(i64::MIN);
            let max = section.optional("max", Kind::Number, any()).unwrap_or(i64::MAX);
            if min > max {
                section.conflict("min", "it is greater than max: nothing would be allowed");
            }
            ArgKind::Int(min, max)
        }
        "float" => {
            let min = section.optional("min", Kind::Float, finite).unwrap_or(f64::MIN);
            let max = section.optional("max", Kind::Float, finite).unwrap_or(f64::MAX);
            if min > max {
                section.conflict("min", "it is greater than max: nothing would be allowed");
            }
            ArgKind::Float(min, max)
        }
        _ => match section.optional("one_of", Kind::Texts, each(TEXTS_MAX, |it| Ok(it.to_owned())))
        {
            Some(texts) => ArgKind::OneOf(texts),
            None => {
                let bytes = number(1..=TEXT_BYTES_MAX);
                ArgKind::Text(section.or("bytes_max", Kind::Number, "32", bytes))
            }
        },
    };
    Some(kind)
}
