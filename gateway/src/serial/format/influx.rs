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
    let (series, rest) = cut(body, ' ', Quotes::None);
    let (fields, timestamp) = cut(rest.trim_start(), ' ', Quotes::Text);
    let timestamp = timestamp.trim();
    if !timestamp.is_empty() && timestamp.parse::<i64>().is_err() {
        return Err(Refusal::InfluxEnd(shown(timestamp)));
    }
    let mut parts = split(series, Quotes::None);
    let source = unescaped(parts.next().unwrap_or_default());
    check_source(&source).map_err(Refusal::Source)?;
    let mut content = Content { source: Some(source), ..Content::new() };
    for tag in parts {
        let (name, text) = pair(tag)?;
        content.push(name, Printed::Value(Value::Text(unescaped(text).into_owned().into())));
    }
    if fields.is_empty() {
        return Err(Refusal::Empty);
    }
    for field in split(fields, Quotes::Text) {
        let (name, text) = pair(field)?;
        let value = value(&name, text)?;
        content.push(name, value);
    }
    Ok(content)
}

/// What a quote is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// A character as others: in names and tags.
    None,
    /// The end of a text.
    Text,
}

/// Up to the first such character that is neither escaped nor in quotes, and what follows it.
fn cut(text: &str, at: char, quotes: Quotes) -> (&str, &str) {
    found(text, at, quotes).unwrap_or((text, ""))
}

/// At the commas. Behind the last one stands something, or else it was lost.
fn split(text: &str, quotes: Quotes) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let found = found(text, ',', quotes);
        rest = found.map(|(_, after)| after);
        Some(found.map_or(text, |(part, _)| part))
    })
}

fn found(text: &str, at: char, quotes: Quotes) -> Option<(&str, &str)> {
    let (mut escaped, mut quoted) = (false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' if quotes == Quotes::Text => quoted = !quoted,
            c if c == at && !quoted => return Some((&text[..index], &text[index + 1..])),
            _ => {}
        }
    }
    None
}

fn pair(text: &str) -> Result<(Cow<'_, str>, &str), Refusal> {
    let (name, value) = cut(text, '=', Quotes::None);
    let name = unescaped(name);
    check_metric(&name).map_err(Refusal::Metric)?;
    if value.is_empty() { Err(Refusal::ValueMissing(shown(&name))) } else { Ok((name, value)) }
}

fn value(metric: &str, text: &str) -> Result<Printed, Refusal> {
    if let Some(quoted) = text.strip_prefix('"') {
        let inside = quoted.strip_suffix('"').ok_or_else(|| Refusal::Quote(shown(metric)))?;
        return Ok(Printed::Value(Value::Text(unquoted(inside).into())));
    }
    let bad = || Refusal::InfluxValue(shown(metric), shown(text));
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Ok(Printed::Value(Value::Bool(true))),
        "f" | "F" | "false" | "False" | "FALSE" => return Ok(Printed::Value(Value::Bool(false))),
        _ => {}
    }
    if let Some(digits) = text.strip_suffix('i') {
        return digits.parse().map(|whole| Printed::Value(Value::Int(whole))).map_err(|_| bad());
    }
    if let Some(digits) = text.strip_suffix('u') {
        let whole: u64 = digits.parse().map_err(|_| bad())?;
        let value = i64::try_from(whole).map_or(Value::Float(whole as f64), Value::Int);
        return Ok(Printed::Value(value));
    }
    match super::value::word(text) {
        Printed::NotANumber => Ok(Printed::NotANumber),
        _ => match number(text).ok_or_else(bad)? {
            Printed::Value(Value::Int(whole)) => Ok(Printed::Value(Value::Float(whole as f64))),
            other => Ok(other),
        },
    }
}

/// In quotes only a quote and a backslash are escaped.
fn unquoted(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&next @ ('"' | '\\'))) => {
                plain.push(next);
                chars.next();
            }
            _ => plain.push(c),
        }
    }
    plain
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

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(line: &str) -> Vec<(String, Value)> {
        let told = reading(line).unwrap().metrics.into_iter();
        told.map(|(name, value)| (name.into_owned(), value)).collect()
    }

    fn one(line: &str) -> Value {
        metrics(line).remove(0).1
    }

    #[test]
    fn tags_are_text_and_fields_are_what_they_say() {
        let line = "weather,location=us-midwest,room=2 temp=82,n=5i,u=7u,on=t,off=False,note=\"a b\" 1465839830100400200";
        let expected: Vec<(String, Value)> = [
            ("location", "us-midwest".into()),
            ("room", "2".into()),
            ("temp", 82.0.into()),
            ("n", 5.into()),
            ("u", 7.into()),
            ("on", true.into()),
            ("off", false.into()),
            ("note", "a b".into()),
        ]
        .map(|(name, value): (&str, Value)| (name.to_owned(), value))
        .into();
        assert_eq!(metrics(line), expected);
        assert_eq!(reading(line).unwrap().source.as_deref(), Some("weather"));
        assert_eq!(one("air t=18446744073709551615u"), Value::Float(18_446_744_073_709_551_615.0));
        assert_eq!(reading("air t=nan").unwrap().nulls, 1);
    }

    #[test]
    fn escapes_are_those_of_the_protocol() {
        let tags = metrics(r#"air,room=two\ words\,\=x,inches=5" t=1i"#);
        assert_eq!(tags[0].1, "two words,=x".into());
        assert_eq!((tags[1].1.clone(), tags[2].1.clone()), ("5\"".into(), 1.into()));
        assert_eq!(one(r#"air t="a \"b\" c\\d, e=f\,g""#), r#"a "b" c\d, e=f\,g"#.into());
    }

    #[test]
    fn what_is_cut_or_none_is_refused() {
        for (line, why) in [
            ("air", Refusal::Empty),
            ("air t=", Refusal::ValueMissing("t".into())),
            ("air t=1,", Refusal::Metric(check_metric("").unwrap_err())),
            ("air,room t=1", Refusal::ValueMissing("room".into())),
            ("air t=1 tomorrow", Refusal::InfluxEnd("tomorrow".into())),
            ("air t=\"open", Refusal::Quote("t".into())),
            ("air t=-5u", Refusal::InfluxValue("t".into(), "-5u".into())),
            ("air t=warm", Refusal::InfluxValue("t".into(), "warm".into())),
        ] {
            assert_eq!(reading(line).unwrap_err(), why, "{line}");
        }
        assert!(matches!(reading("a/b t=1"), Err(Refusal::Source(_))));
    }
}
