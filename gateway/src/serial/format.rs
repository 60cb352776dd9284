//! How a line becomes values: a file for each way of writing them. Pure.
//!
//! ```text
//! line (native)   fruiting temp=24.5 humidity=85
//! json            {"source":"fruiting","temp":24.5}
//! plotter         temp:24.5,humidity:85       or only the numbers
//! influx          air,room=2 temp=24.5,co2=800i
//! pattern         whatever a regular expression with names finds in it
//! cobs            a packed struct, no text at all
//! ```

mod cobs;
mod influx;
mod json;
mod line;
mod pattern;
mod plotter;
mod value;

use std::borrow::Cow;

use fieldpost_protocol::{Metrics, Value};

use super::refusal::{Refusal, shown};
use super::rules::Rules;
use super::trailer::Inside;
use value::Printed;

pub use cobs::Field;
pub(super) use cobs::unstuffed;
pub use line::Answer;
pub(super) use line::{answer, boot};
pub use pattern::Pattern;
use plotter::Plotter;

/// How the lines of a port are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// `fruiting temp=24.5 humidity=85 #17*9C41`
    Native,
    /// `{"source":"fruiting","temp":24.5,"humidity":85}`
    Json,
    /// What the serial plotter of the Arduino IDE reads: `temp:24.5,humidity:85`
    Plotter,
    /// The InfluxDB line protocol: `air,room=2 temp=24.5,co2=800i`
    Influx,
    /// Lines for people: the first pattern that matches counts. At least one.
    Regex(Vec<Pattern>),
    /// Packets that end with a zero byte: the members of a struct. None: a native line in each.
    Cobs(Vec<Field>),
}

impl Format {
    /// Its word in the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Format::Native => "native",
            Format::Json => "json",
            Format::Plotter => "plotter",
            Format::Influx => "influx",
            Format::Regex(_) => "regex",
            Format::Cobs(_) => "cobs",
        }
    }

    /// Whether lines that begin with `!` and `@` are the board's own words in any case.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Format::Native | Format::Json)
    }
}

/// Reads `on=1 level=0.5`, without a source.
pub(crate) fn metrics(text: &str) -> Option<Metrics> {
    let content = line::reading(|_| false, text).ok().filter(|content| content.source.is_none())?;
    let pairs = content.metrics.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Metrics::new(pairs).ok()
}

/// What a line says, before its names are checked for duplicates.
#[derive(Debug, PartialEq)]
pub(super) struct Content<'l> {
    /// If the line names one.
    pub(super) source: Option<Cow<'l, str>>,
    /// A name may stand twice.
    pub(super) metrics: Vec<(Cow<'l, str>, Value)>,
    /// How many of the values are null because they were no number.
    pub(super) nulls: u64,
}

impl<'l> Content<'l> {
    fn new() -> Self {
        Content { source: None, metrics: Vec::new(), nulls: 0 }
    }

    fn push(&mut self, name: Cow<'l, str>, printed: Printed) {
        let value = match printed {
            Printed::Value(value) => value,
            Printed::NotANumber => {
                self.nulls += 1;
                Value::Null
            }
        };
        self.metrics.push((name, value));
    }

    /// At least one metric.
    fn filled(self) -> Result<Self, Refusal> {
        if self.metrics.is_empty() { Err(Refusal::Empty) } else { Ok(self) }
    }
}

/// Reads the lines of one port, with what it remembers of those before.
#[derive(Debug, Default)]
pub(super) struct Reader {
    plotter: Plotter,
}

impl Reader {
    /// The port was opened again.
    pub(super) fn reopened(&mut self) {
        self.plotter.reopened();
    }

    /// `None`: it names what is to come, and measures nothing.
    pub(super) fn reading<'l>(
        &mut self,
        format: &Format,
        rules: &Rules,
        inside: Inside<'l>,
    ) -> Result<Option<Content<'l>>, Refusal> {
        let text = match (inside, format) {
            (Inside::Packed(bytes), Format::Cobs(fields)) => {
                return cobs::reading(fields, bytes).map(Some);
            }
            (Inside::Packed(_), _) => return Err(Refusal::NotText),
            (Inside::Text(text), _) => text,
        };
        match format {
            Format::Native | Format::Cobs(_) => {
                line::reading(|name| rules.is_text(name), text).map(Some)
            }
            Format::Json => json::reading(text).map(Some),
            Format::Plotter => self.plotter.reading(text),
            Format::Influx => influx::reading(text).map(Some),
            Format::Regex(patterns) => {
                pattern::reading(patterns, |name| rules.is_text(name), text).map(Some)
            }
        }
    }
}
