//! One section of the file: takes its keys one by one and remembers what was wrong.
//!
//! Each key is taken once, with its kind and what is allowed; what is left at the end is a
//! key that nobody knows. So the list of keys stands in one place only: where they are read.

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

use super::ConfigError;
use super::allowed::filled;

/// How a value is written in the file. In the environment all are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `"in quotes"`
    Text,
    /// `115200`
    Number,
    /// `0.1`, or `1`
    Float,
    /// `true`
    Bool,
    /// `["one", "two"]`; in one text, a line each.
    Texts,
}

/// A key in effect, for [`Config::redacted`](super::Config::redacted).
#[derive(Debug, Clone)]
pub struct Setting {
    header: String,
    key: &'static str,
    /// As TOML.
    value: String,
    origin: Origin,
}

impl Setting {
    /// Whether this is the key, and came from the environment.
    pub(super) fn is_variable(&self, header: &str, key: &str) -> bool {
        self.header == header && self.key == key && matches!(self.origin, Origin::Variable(_))
    }
}

#[derive(Debug, Clone)]
enum Origin {
    File,
    Default,
    Variable(String),
}

/// What the sections found.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
    pub(super) settings: Vec<Setting>,
}

/// Overrides of one section: key to (variable, value).
pub(super) type Overrides = BTreeMap<String, (String, String)>;

/// A section that is being read.
pub(super) struct Section<'r> {
    /// Before the key in messages: `broker`, `port.fruiting`.
    path: String,
    /// As in the file: `[broker]`, `[[port]]`.
    header: String,
    table: Table,
    overrides: Overrides,
    known: Vec<&'static str>,
    report: &'r mut Report,
}

/// A value as it was written.
struct Raw {
    text: String,
    variable: Option<String>,
}

impl<'r> Section<'r> {
    pub(super) fn new(
        path: impl Into<String>,
        header: impl Into<String>,
        table: Table,
        overrides: Overrides,
        report: &'r mut Report,
    ) -> Self {
        Section {
            path: path.into(),
            header: header.into(),
            table,
            overrides,
            known: Vec::new(),
            report,
        }
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key) || self.overrides.contains_key(key)
    }

    /// A key with a default.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        kind: Kind,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        match self.take(key, kind, false, &parse) {
            Some(value) => value,
            None => {
                self.remember(key, toml_text(kind, default), Origin::Default);
                parse(default).expect("the default of a key is allowed")
            }
        }
    }

    /// A key without a default, which may be absent.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        kind: Kind,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.take(key, kind, false, parse)
    }

    /// A key that nobody may see.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<String> {
        self.take(key, Kind::Text, true, filled)
    }

    /// A key that has to be there; `None` is already reported.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        kind: Kind,
        next: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.push(key);
            let key = format!("{}.{key}", self.path);
            self.report.errors.push(ConfigError::Missing { key, next: next.to_owned() });
            return None;
        }
        self.take(key, kind, false, parse)
    }

    /// A table within this section; empty if it is absent.
    pub(super) fn table(&mut self, key: &'static str) -> Table {
        self.known.push(key);
        match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                let why = format!("this has to be a section of its own, [{}.{key}...]", self.path);
                self.refuse(key, shown(&other), None, why);
                Table::new()
            }
        }
    }

    /// Takes a key without reading it: what is wrong with it is reported otherwise.
    pub(super) fn pass_over(&mut self, key: &'static str) {
        self.known.push(key);
        self.table.remove(key);
        self.overrides.remove(key);
    }

    /// Reports keys that do not go together.
    pub(super) fn conflict(&mut self, keys: &str, why: &str) {
        let keys = format!("{}.{keys}", self.path);
        self.report.errors.push(ConfigError::Conflict { keys, why: why.to_owned() });
    }

    /// Adds a warning, with the section's path in front.
    pub(super) fn warn(&mut self, text: &str) {
        self.report.warnings.push(format!("{}.{text}", self.path));
    }

    /// Reports every key that was not taken.
    pub(super) fn finish(self) {
        let left = self.table.keys().map(|key| (key, None));
        let left =
            left.chain(self.overrides.iter().map(|(key, (variable, _))| (key, Some(variable))));
        for (key, variable) in left {
            self.report.errors.push(ConfigError::Unknown {
                key: format!("{}.{key}", self.path),
                variable: variable.cloned(),
                next: suggest(key, &self.known, &format!("Keys of {} are", self.header)),
            });
        }
    }

    /// `None` if the key is absent, or wrong and reported.
    fn take<T>(
        &mut self,
        key: &'static str,
        kind: Kind,
        secret: bool,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        let raw = self.raw(key, kind, secret)?;
        match parse(&raw.text) {
            Ok(value) => {
                let text = if secret { HIDDEN.to_owned() } else { toml_text(kind, &raw.text) };
                let origin = raw.variable.map_or(Origin::File, Origin::Variable);
                self.remember(key, text, origin);
                Some(value)
            }
            Err(why) => {
                let value = if secret { HIDDEN.to_owned() } else { toml_text(kind, &raw.text) };
                self.refuse(key, value, raw.variable, why);
                None
            }
        }
    }

    fn raw(&mut self, key: &'static str, kind: Kind, secret: bool) -> Option<Raw> {
        let in_file = self.table.remove(key);
        if let Some((variable, text)) = self.overrides.remove(key) {
            return Some(Raw { text, variable: Some(variable) });
        }
        let text = match (kind, in_file?) {
            (Kind::Text, Value::String(text)) => text,
            (Kind::Number | Kind::Float, Value::Integer(number)) => number.to_string(),
            (Kind::Float, Value::Float(number)) => number.to_string(),
            (Kind::Texts, Value::Array(items)) => match texts(&items) {
                Ok(text) => text,
                Err(why) => {
                    self.refuse(key, shown(&Value::Array(items)), None, why.to_owned());
                    return None;
                }
            },
            (Kind::Bool, Value::Boolean(value)) => value.to_string(),
            (kind, other) => {
                let why = match kind {
                    // Most texts that are mistaken for numbers have a unit.
                    Kind::Text if other.is_integer() || other.is_float() => {
                        "write it in quotes, and with its unit if it has one, such as \"60s\" or \"64MB\""
                    }
                    Kind::Text => "write it in quotes",
                    Kind::Number => "write a whole number, without quotes",
                    Kind::Float => "write a number, without quotes",
                    Kind::Texts => "write a list, such as [\"one\", \"two\"]",
                    Kind::Bool => "write true or false, without quotes",
                };
                let value = if secret { HIDDEN.to_owned() } else { shown(&other) };
                self.refuse(key, value, None, why.to_owned());
                return None;
            }
        };
        Some(Raw { text, variable: None })
    }

    fn refuse(&mut self, key: &str, value: String, variable: Option<String>, why: String) {
        let key = format!("{}.{key}", self.path);
        self.report.errors.push(ConfigError::Value { key, value, variable, why });
    }

    fn remember(&mut self, key: &'static str, value: String, origin: Origin) {
        let header = self.header.clone();
        self.report.settings.push(Setting { header, key, value, origin });
    }
}

const HIDDEN: &str = "\"(hidden)\"";
/// A value is shown in a message up to here.
const SHOWN_CHARS_MAX: usize = 80;

/// "Did you mean" for a near miss, else what exists.
pub(super) fn suggest(wrong: &str, known: &[&str], list: &str) -> String {
    let near = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong.to_lowercase(), name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 6)
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, name)) => format!("Did you mean {name}?"),
        None => format!("{list}: {}", known.join(", ")),
    }
}

/// A key as it stands in a header: in quotes where it needs them.
pub(super) fn key_text(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        toml_text(Kind::Text, key)
    }
}

fn toml_text(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Text => Value::String(text.to_owned()).to_string(),
        Kind::Number | Kind::Float | Kind::Bool => text.to_owned(),
        Kind::Texts => {
            let items = text.lines().map(|line| Value::String(line.to_owned()));
            Value::Array(items.collect()).to_string()
        }
    }
}

fn texts(items: &[Value]) -> Result<String, &'static str> {
    let mut lines = Vec::new();
    for item in items {
        match item {
            Value::String(text) if text.is_empty() => {
                return Err("one of them is empty; leave it out");
            }
            Value::String(text) if text.contains(['\n', '\r']) => {
                return Err("one of them has a line end; write each on a line of its own");
            }
            Value::String(text) => lines.push(text.as_str()),
            _ => return Err("write each of them in quotes"),
        }
    }
    Ok(lines.join("\n"))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Prints settings as TOML, section by section.
pub(super) struct Settings<'s>(pub(super) &'s [Setting]);

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section: Option<&str> = None;
        for setting in self.0 {
            // Each [[port]] begins with its name: two of them in a row are two sections.
            let again = setting.header.starts_with("[[") && setting.key == "name";
            if again || section != Some(&setting.header) {
                let blank = if section.is_some() { "\n" } else { "" };
                writeln!(f, "{blank}{}", setting.header)?;
                section = Some(&setting.header);
            }
            write!(f, "{} = {}", setting.key, setting.value)?;
            match &setting.origin {
                Origin::File => writeln!(f)?,
                Origin::Default => writeln!(f, "  # default")?,
                Origin::Variable(variable) => writeln!(f, "  # from {variable}")?,
            }
        }
        Ok(())
    }
}
