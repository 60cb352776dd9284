//! The InfluxDB line protocol, as boards and daemons write it. Pure.
//!
//! ```text
//! measurement[,tag=text...] field=value[,field=value...] [timestamp]
//!     -> source measurement; tags become metrics of text, fields metrics of their kind
//! ```
//!
//! `5i` is an integer, `5u` one without a sign, `5` and `5.0` are floats, `t` and `"text"` what
//! they say. The timestamp is passed over: when it was measured is told by the gateway's clock,
//! which knows whether it is right.

use std::borrow::Cow;

use fieldpost_protocol::{Value, check_metric, check_source};

use super::value::{Printed, number};
use super::{Content, Refusal, shown};

/// Reads a line of measurements.
pub(super) fn reading(body: &str) -> Result<Content<'_>, Refusal> {
    let (series, rest) = cut(body, ' ');
    let (fields, timestamp) = cut(rest.trim_start(), ' ');
    let timestamp = timestamp.trim();
    if !timestamp.is_empty() && timestamp.parse::<i64>().is_err() {
        return Err(Refusal::InfluxEnd(shown(timestamp)));
    }
    let (measurement, mut tags) = cut(series, ',');
    let source = unescaped(measurement);
    check_source(&source).map_err(Refusal::Source)?;
    let mut content = Content { source: Some(source), metrics: Vec::new(), nulls: 0 };
    while !tags.is_empty() {
        let (tag, after) = cut(tags, ',');
        let (name, text) = pair(tag)?;
        content.push(name, Printed::Value(Value::Text(unescaped(text).into_owned().into())));
        tags = after;
    }
    if fields.is_empty() {
        return Err(Refusal::Empty);
    }
    let mut rest = fields;
    while !rest.is_empty() {
        let (field, after) = cut(rest, ',');
        let (name, text) = pair(field)?;
        let value = value(&name, text)?;
        content.push(name, value);
        rest = after;
    }
    Ok(content)
}

/// Up to the first such character that is neither escaped nor in quotes, and what follows it.
fn cut(text: &str, at: char) -> (&str, &str) {
    let (mut escaped, mut quoted) = (false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            c if c == at && !quoted => return (&text[..index], &text[index + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn pair(text: &str) -> Result<(Cow<'_, str>, &str), Refusal> {
    let (name, value) = cut(text, '=');
    let name = unescaped(name);
    check_metric(&name).map_err(Refusal::Metric)?;
    if value.is_empty() { Err(Refusal::ValueMissing(shown(&name))) } else { Ok((name, value)) }
}

fn value(metric: &str, text: &str) -> Result<Printed, Refusal> {
    if let Some(quoted) = text.strip_prefix('"') {
        let inside = quoted.strip_suffix('"').ok_or_else(|| Refusal::Quote(shown(metric)))?;
        return Ok(Printed::Value(Value::Text(unescaped(inside).into_owned().into())));
    }
    let bad = || Refusal::InfluxValue(shown(metric), shown(text));
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Ok(Printed::Value(Value::Bool(true))),
        "f" | "F" | "false" | "False" | "FALSE" => return Ok(Printed::Value(Value::Bool(false))),
        _ => {}
    }
    if let Some(digits) = text.strip_suffix(['i', 'u']) {
        let whole: i64 = digits.parse().map_err(|_| bad())?;
        return Ok(Printed::Value(Value::Int(whole)));
    }
    match super::value::word(text) {
        Printed::NotANumber => Ok(Printed::NotANumber),
        _ => match number(text).ok_or_else(bad)? {
            Printed::Value(Value::Int(whole)) => Ok(Printed::Value(Value::Float(whole as f64))),
            other => Ok(other),
        },
    }
}

/// A backslash makes a mark of the protocol an ordinary character; before others it is one itself.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&next @ (',' | '=' | ' ' | '"' | '\\'))) => {
                plain.push(next);
                chars.next();
            }
            _ => plain.push(c),
        }
    }
    plain.into()
}
