//! To standard output: tables for people, JSON for programs.

use std::io::{ErrorKind, Write};

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::store::Identity;
use crate::store::sqlite::{Row, Rows, Status};

/// Columns that hold Unix milliseconds.
const TIMES: &[&str] = &[
    "time",
    "first_seen",
    "last_seen",
    "received",
    "dropped",
    "first_at",
    "last_at",
    "created",
    "expires",
    "first_issued",
    "next_at",
    "done_at",
];
/// A cell longer than this is cut in a table; JSON has it whole.
const CELL_CHARS_MAX: usize = 100;

/// As it is. A reader that has gone away is no error.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line of JSON.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    text(&format!("{}\n", serde_json::to_string(value)?))
}

pub(super) fn rows(rows: &Rows, as_json: bool) -> anyhow::Result<()> {
    if as_json { json(rows) } else { text(&table(rows)) }
}

pub(super) fn identity(identity: &Identity, done: &str, as_json: bool) -> anyhow::Result<()> {
    let (store, r#gen) = (identity.store.to_string(), identity.r#gen.to_string());
    if as_json {
        json(&json!({ "store": store, "gen": r#gen }))
    } else {
        text(&format!("{done}\n  store {store}\n  gen   {}\n", r#gen))
    }
}

pub(super) fn status(status: &Status, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return json(status);
    }
    let mut out = format!(
        "store {}  gen {}  version {}  {} bytes\n\
         devices {} ({} stale)  readings {}  waiting {}  missing {}  dead letters {}\n",
        status.store,
        status.r#gen,
        status.version,
        status.bytes,
        status.devices,
        status.stale,
        status.readings,
        status.waiting,
        status.missing,
        status.dead_letters,
    );
    for (title, rows) in [("alerts", &status.alerts), ("alarms", &status.alarms)] {
        if !rows.is_empty() {
            out.push_str(&format!("\n{title}\n{}", table(rows)));
        }
    }
    text(&out)
}

/// Columns side by side; `(none)` where there are no rows.
fn table(rows: &Rows) -> String {
    let Some(first) = rows.first() else { return "(none)\n".into() };
    let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    let mut lines: Vec<Vec<String>> = vec![names.iter().map(|name| (*name).to_owned()).collect()];
    lines
        .extend(rows.iter().map(|row| row.iter().map(|(name, value)| cell(name, value)).collect()));
    let widths: Vec<usize> = (0..names.len())
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A cell of a row, for people.
pub(super) fn shown(name: &str, row: &Row) -> String {
    whole(name, row.cell(name))
}

/// A cell of a table, which has to stay one.
fn cell(name: &str, value: &Value) -> String {
    let text = whole(name, value);
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn whole(name: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Number(number) if TIMES.contains(&name) => {
            let far =
                |ms| if ms < 0 { "long ago".to_owned() } else { "after the year 9999".to_owned() };
            let shown = |ms| date(ms).unwrap_or_else(|| far(ms));
            number.as_i64().map_or_else(|| number.to_string(), shown)
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // What a device wrote must not move the cursor of whoever looks at it.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn date(ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    time.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_times_as_dates_and_no_control_characters() {
        assert_eq!(cell("time", &json!(1_795_245_000_123i64)), "2026-11-21T07:10:00.123Z");
        assert_eq!(cell("expires", &json!(i64::MAX)), "after the year 9999");
        assert_eq!(cell("expires", &json!(i64::MIN)), "long ago");
        assert_eq!(cell("n", &json!(5)), "5");
        assert_eq!(cell("device", &json!("a\u{1b}[2J")), "a [2J");
        assert_eq!(table(&Rows::new()), "(none)\n");
    }
}
