//! `[[port]]`: where a port is, how its lines are written, what becomes of its metrics.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use fieldpost_protocol::{check_metric, check_source};
use toml::Table;

use super::PortConfig;
use super::allowed::{boolean, duration, filled, finite, number, path, socket};
use super::read::sub_tables;
use super::section::{Kind, Overrides, Report, Section, key_text};
use crate::serial::{
    Aggregate, Averaging, BAUD_DEFAULT, Checksum, Field, Format, Pattern, Place, Rule, Rules,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Patterns of a port: each line is held against them one by one.
const PATTERNS_MAX: usize = 32;
/// Members of a struct.
const FIELDS_MAX: usize = 256;
const FORMATS: [&str; 6] = ["native", "json", "plotter", "influx", "regex", "cobs"];

/// One `[[port]]`, whose name and path no other has; `None` is reported.
pub(super) fn port(
    path: &str,
    table: Table,
    others: &[PortConfig],
    report: &mut Report,
) -> Option<PortConfig> {
    let mut section = Section::new(path, "[[port]]", table, Overrides::new(), report);
    let next = "name the port; lines that name no source get this one, such as name = \"fruiting\"";
    let name = section.required("name", Kind::Text, next, |text| {
        check_source(text).map_err(|error| error.to_string())?;
        Ok(text.to_owned())
    });
    let place = place(&mut section);
    let format = format(&mut section);
    let checksum = checksum(&mut section, &format, place.as_ref());
    let ignore_lines =
        section.optional("ignore_lines", Kind::Texts, each(PATTERNS_MAX, Pattern::new));
    let averaging = averaging(&mut section);
    let metrics = section.table("metrics");
    if let Some(name) = &name
        && others.iter().any(|other| *other.name == **name)
    {
        section.conflict("name", &format!("two ports are named {name:?}; give each its own name"));
    }
    if let Some(place) = &place {
        let same = others.iter().find(|other| other.place.path() == place.path());
        if let Some(other) = same {
            let why = format!(
                "the port {:?} has the same path; a device can be read only once",
                other.name
            );
            let key = if place.is_socket() { "socket" } else { "path" };
            section.conflict(key, &why);
        }
    }
    section.finish();
    let rules = rules(path, &format, metrics, report);
    Some(PortConfig {
        place: place?,
        format,
        checksum,
        ignore_lines: ignore_lines.unwrap_or_default(),
        rules,
        averaging,
        ..PortConfig::new(&name?, "")
    })
}

fn place(section: &mut Section<'_>) -> Option<Place> {
    if section.has("socket") {
        let place = section.optional("socket", Kind::Text, socket);
        for key in ["path", "baud", "reset_on_open"] {
            if section.has(key) {
                section.pass_over(key);
                section.conflict(key, "a socket has none; write path for a serial device, or socket for a Unix socket");
            }
        }
        return place.map(Place::Socket);
    }
    let next = "write the device's path, such as path = \"/dev/serial/by-id/...\" (`ls /dev/serial/by-id` shows what is plugged in), or socket = \"/run/fieldpost/readings.sock\" for lines from scripts";
    let device = section.required("path", Kind::Text, next, path);
    let baud = section.or("baud", Kind::Number, &BAUD_DEFAULT.to_string(), number(50..=4_000_000));
    let reset_on_open = section.or("reset_on_open", Kind::Bool, "true", boolean);
    let path = device?;
    let starts = |start: &&str| path.to_string_lossy().starts_with(start);
    if ["/dev/ttyUSB", "/dev/ttyACM"].iter().any(starts) {
        section.warn(&format!(
            "path = {:?}: this name may belong to another device after the next start; `ls -l /dev/serial/by-id` shows the stable one",
            path.display()
        ));
    }
    Some(Place::Device { path, baud, reset_on_open })
}

fn format(section: &mut Section<'_>) -> Format {
    let word = section.or("format", Kind::Text, "native", |text| {
        let known = FORMATS.iter().find(|word| **word == text);
        known.copied().ok_or_else(|| {
            format!("allowed are {}", FORMATS.map(|word| format!("{word:?}")).join(" "))
        })
    });
    let patterns = section.has("patterns");
    let found = section.optional("patterns", Kind::Texts, each(PATTERNS_MAX, Pattern::of_metrics));
    if patterns && word != "regex" {
        section.conflict("patterns", "they belong to format = \"regex\"");
    }
    let fields = section.has("fields");
    let packed = section.optional("fields", Kind::Texts, each(FIELDS_MAX, Field::from_str));
    let names: Vec<&str> = packed.iter().flatten().filter_map(Field::name).collect();
    if let Some(twice) = first_twice(&names) {
        section.conflict("fields", &format!("{twice:?} stands twice; _ passes over a member"));
    }
    if packed.is_some() && names.is_empty() {
        section.conflict("fields", "none of them has a name: nothing would be measured");
    }
    if word == "cobs" && section.has("ignore_lines") {
        section.conflict("ignore_lines", "packets are no lines for people");
    }
    if fields && word != "cobs" {
        section.conflict("fields", "they belong to format = \"cobs\"");
    }
    match word {
        "json" => Format::Json,
        "plotter" => Format::Plotter,
        "influx" => Format::Influx,
        "cobs" => Format::Cobs(packed.unwrap_or_default()),
        "regex" => {
            let found = found.unwrap_or_default();
            if found.is_empty() && !patterns {
                section.conflict("patterns", "format = \"regex\" needs at least one, such as patterns = ['^Temperature: (?<temp>[0-9.]+)']");
            }
            Format::Regex(found)
        }
        _ => Format::Native,
    }
}

/// What is sure where nothing is said: our own format has checksums, on a wire.
fn checksum(section: &mut Section<'_>, format: &Format, place: Option<&Place>) -> Checksum {
    let default = match (format, place) {
        (Format::Cobs(_), _) => "required",
        (Format::Native, Some(Place::Socket(_))) | (Format::Json, _) => "optional",
        (Format::Native, _) => "required",
        (Format::Plotter | Format::Influx | Format::Regex(_), _) => "none",
    };
    let checksum = section.or("checksum", Kind::Text, default, Checksum::from_str);
    let packets = matches!(format, Format::Cobs(_));
    if packets && matches!(checksum, Checksum::Optional | Checksum::Nmea) {
        section.conflict(
            "checksum",
            "a packet has a CRC-16 at its end or has none: allowed are \"required\" \"none\"",
        );
    }
    if checksum == Checksum::Nmea && !packets && !matches!(format, Format::Regex(_)) {
        section.conflict(
            "checksum",
            "\"nmea\" is for lines like $GPGGA,..., which format = \"regex\" takes apart",
        );
    }
    checksum
}

fn first_twice<T: PartialEq>(items: &[T]) -> Option<&T> {
    (1..items.len()).find(|at| items[..*at].contains(&items[*at])).map(|at| &items[at])
}

fn averaging(section: &mut Section<'_>) -> Option<Averaging> {
    let window = section.optional("average", Kind::Text, duration(SECOND..=DAY));
    if window.is_none() {
        if section.has("keep") {
            section.pass_over("keep");
            section.conflict(
                "keep",
                "it says what is kept of a window: write average, too, such as average = \"1m\"",
            );
        }
        return None;
    }
    let keep = section.or("keep", Kind::Texts, "mean", |text| {
        let keep: Vec<Aggregate> = each(4, Aggregate::from_str)(text)?;
        match first_twice(&keep) {
            Some(twice) => Err(format!("{:?} stands twice", twice.to_string())),
            None => Ok(keep),
        }
    });
    window.map(|window| Averaging { window_ms: window.as_millis() as i64, keep })
}

/// `[port.metrics.<name>]`: what becomes of a metric.
fn rules(port: &str, format: &Format, metrics: Table, report: &mut Report) -> Rules {
    let bare_texts = match format {
        Format::Native | Format::Regex(_) => true,
        Format::Cobs(fields) => fields.is_empty(),
        Format::Json | Format::Plotter | Format::Influx => false,
    };
    let mut rules = BTreeMap::new();
    let path = format!("{port}.metrics");
    for (metric, table) in sub_tables(metrics, &path, report) {
        let path = format!("{path}.{}", key_text(&metric));
        let header = format!("[port.metrics.{}]", key_text(&metric));
        let mut section = Section::new(path, header, table, Overrides::new(), report);
        let name = section.optional("name", Kind::Text, |text| {
            check_metric(text).map_err(|error| error.to_string())?;
            Ok(text.into())
        });
        let rule = Rule {
            name,
            unit: section.optional("unit", Kind::Text, filled),
            scale: section.optional("scale", Kind::Float, finite),
            offset: section.optional("offset", Kind::Float, finite),
            ignore: section.optional("ignore", Kind::Bool, boolean).unwrap_or(false),
            text: section.optional("text", Kind::Bool, boolean).unwrap_or(false),
        };
        let others = Rule { ignore: true, ..Rule::default() };
        if rule.ignore && rule != others {
            section.conflict("ignore", "what is not kept needs no other key here");
        }
        if rule.text && !bare_texts {
            let word = format.word();
            section.conflict("text", &format!("in the format {word:?} a line says itself what is text; it belongs to \"regex\" and \"native\""));
        }
        let becomes = rule.name.as_deref().unwrap_or(&metric);
        let same = |(other, rule): &(&String, &Rule)| {
            !rule.ignore && rule.name.as_deref().unwrap_or(other) == becomes
        };
        if let Some((other, _)) = rules.iter().find(same).filter(|_| !rule.ignore) {
            section.conflict(
                "name",
                &format!(
                    "{other:?} becomes {becomes:?}, too; every line with both would be refused"
                ),
            );
        }
        section.finish();
        rules.insert(metric, rule);
    }
    Rules(rules)
}

/// A list, one item a line as [`Kind::Texts`] has it.
pub(super) fn each<T>(
    items_max: usize,
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |text| {
        let items: Vec<&str> = text.lines().collect();
        if items.is_empty() {
            return Err("it is empty; write at least one, or leave the key out".to_owned());
        }
        if items.len() > items_max {
            return Err(format!(
                "there are {} of them; at most {items_max} are allowed",
                items.len()
            ));
        }
        let named = |item: &str| parse(item).map_err(|why| format!("{item:?}: {why}"));
        items.into_iter().map(named).collect()
    }
}
