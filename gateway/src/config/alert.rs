//! `[[alert]]`: when the gateway raises an alert because of what it measures.

use std::sync::Arc;
use std::time::Duration;

use fieldpost_protocol::{Severity, check_metric, check_source};
use toml::Table;

use super::allowed::{duration, filled, finite, parsed};
use super::section::{Kind, Overrides, Report, Section};
use super::units::parse_size;
use super::{Outbox, PortConfig};
use crate::alerts;
use crate::rules::{Condition, Rule, Test};

const DAY: Duration = Duration::from_secs(86_400);
const HOLD_MAX: Duration = DAY.saturating_mul(7);
const NO_DATA_MIN: Duration = Duration::from_secs(1);
/// A message with its value has to fit an event.
const MESSAGE_BYTES_MAX: usize = 1_024;
const TEXT_BYTES_MAX: usize = 256;
/// The key that says what kind of rule it is.
const KINDS: [&str; 6] = ["above", "below", "equals", "no_data_for", "outbox_above", "port_lost"];

/// One `[[alert]]`, whose name no other has; `None` is reported.
pub(super) fn alert(
    path: &str,
    table: Table,
    others: &[Rule],
    ports: &[PortConfig],
    outbox: &Outbox,
    report: &mut Report,
) -> Option<Rule> {
    let mut section = Section::new(path, "[[alert]]", table, Overrides::new(), report);
    let next = "name the alert, such as name = \"too_warm\"";
    let name = section.required("name", Kind::Text, next, |text| own_name(text, others));
    let found: Vec<&str> = KINDS.into_iter().filter(|key| section.has(key)).collect();
    let condition = match found[..] {
        [kind] => condition(kind, &mut section, ports, outbox),
        ref found => {
            let keys = if found.is_empty() { KINDS.join(", ") } else { found.join(", ") };
            let what =
                if found.is_empty() { "none of them is there" } else { "they exclude each other" };
            section
                .conflict(&keys, &format!("{what}; say with exactly one when the alert is raised"));
            for key in KINDS.into_iter().chain(["source", "metric", "hysteresis", "for"]) {
                section.pass_over(key);
            }
            None
        }
    };
    let severity = section.or("severity", Kind::Text, "warning", parsed::<Severity>);
    let message = section.optional("message", Kind::Text, message);
    section.finish();
    let (condition, hold) = condition?;
    Some(Rule { name: name?, condition, hold_ms: hold.as_millis() as i64, severity, message })
}

fn own_name(text: &str, others: &[Rule]) -> Result<String, String> {
    check_metric(text).map_err(|error| error.to_string())?;
    if alerts::OWN.contains(&text) {
        return Err("the gateway's own alert has this name; choose another".to_owned());
    }
    if others.iter().any(|other| other.name == text) {
        return Err("two alerts have this name; give each its own".to_owned());
    }
    Ok(text.to_owned())
}

fn message(text: &str) -> Result<String, String> {
    if text.len() > MESSAGE_BYTES_MAX {
        let bytes = text.len();
        return Err(format!("it has {bytes} bytes; at most {MESSAGE_BYTES_MAX} are allowed"));
    }
    filled(text)
}

/// The condition, and how long it has to hold.
fn condition(
    kind: &str,
    section: &mut Section<'_>,
    ports: &[PortConfig],
    outbox: &Outbox,
) -> Option<(Condition, Duration)> {
    match kind {
        "no_data_for" => {
            let range = NO_DATA_MIN..=HOLD_MAX;
            let hold = section.optional("no_data_for", Kind::Text, duration(range));
            let next = "say who is missed, such as source = \"fruiting\"";
            let source = section.required("source", Kind::Text, next, source);
            let metric = section.optional("metric", Kind::Text, metric);
            Some((Condition::NoData { source: source?, metric }, hold?))
        }
        "outbox_above" => {
            let size_max = outbox.size_max;
            let limit = section.optional("outbox_above", Kind::Text, |text| level(text, size_max));
            let hold = hold(section);
            Some((Condition::OutboxAbove(limit?), hold))
        }
        "port_lost" => {
            let port = section.optional("port_lost", Kind::Text, |text| of_ports(text, ports));
            let hold = hold(section);
            Some((Condition::PortLost(port?), hold))
        }
        _ => {
            let next = "say whose metric, such as source = \"fruiting\", or \"*\" for each source";
            let source = section.required("source", Kind::Text, next, |text| match text {
                "*" => Ok(None),
                text => source(text).map(Some),
            });
            let next = "say which metric, such as metric = \"temp\"";
            let metric = section.required("metric", Kind::Text, next, metric);
            let test = test(kind, section);
            let hold = hold(section);
            Some((Condition::Metric { source: source?, metric: metric?, test: test? }, hold))
        }
    }
}

fn test(kind: &str, section: &mut Section<'_>) -> Option<Test> {
    if kind == "equals" {
        let text = section.optional("equals", Kind::Text, |text| match text.len() {
            0..=TEXT_BYTES_MAX => Ok(text.to_owned()),
            bytes => Err(format!("it has {bytes} bytes; at most {TEXT_BYTES_MAX} are allowed")),
        });
        return text.map(Test::Equals);
    }
    let not_negative = |text: &str| match finite(text)? {
        number if number < 0.0 => {
            Err("it is negative; write how far the value has to come back".to_owned())
        }
        number => Ok(number),
    };
    let above = section.optional("above", Kind::Float, finite);
    let below = section.optional("below", Kind::Float, finite);
    let hysteresis = section.or("hysteresis", Kind::Float, "0", not_negative);
    above
        .map(|limit| Test::Above(limit, hysteresis))
        .or(below.map(|limit| Test::Below(limit, hysteresis)))
}

fn hold(section: &mut Section<'_>) -> Duration {
    section.or("for", Kind::Text, "0s", duration(Duration::ZERO..=HOLD_MAX))
}

fn source(text: &str) -> Result<Arc<str>, String> {
    check_source(text).map_err(|error| error.to_string())?;
    Ok(text.into())
}

fn metric(text: &str) -> Result<String, String> {
    check_metric(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// `80%` of the outbox's limit, or a size.
fn level(text: &str, size_max: u64) -> Result<u64, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return parse_size(text).map_err(|_| {
            "write a share of [outbox] size_max, such as \"80%\", or a size, such as \"500MB\""
                .to_owned()
        });
    };
    match percent.trim().parse::<u64>() {
        Ok(percent @ 1..=99) => Ok(size_max / 100 * percent),
        _ => Err("allowed are \"1%\" to \"99%\"".to_owned()),
    }
}

fn of_ports(text: &str, ports: &[PortConfig]) -> Result<Arc<str>, String> {
    let port = ports.iter().find(|port| &*port.name == text);
    port.map(|port| port.name.clone()).ok_or_else(|| {
        let names: Vec<&str> = ports.iter().map(|port| &*port.name).collect();
        match names[..] {
            [] => "there is no such port, and no other".to_owned(),
            _ => format!("there is no such port; ports are: {}", names.join(", ")),
        }
    })
}

#[cfg(test)]
mod tests;
