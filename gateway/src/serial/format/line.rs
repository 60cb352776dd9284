//! The native format: `source name=value ...`, after its trailer was taken off. Pure.
//!
//! ```text
//! reading = [source] metric { metric }         the port's name stands in for the source
//! metric  = name "=" value
//! value   = null | true | false | integer | float | nan | "text with blanks" | text
//! boot    = "!boot" [text]
//! answer  = "@" number ("ok" | "err") [text]
//! ```
//!
//! A text without quotes contains no blank and none of `" # = *`: `24.5humidity=85` is a line
//! that lost a blank, not a text.

use fieldpost_protocol::{Value, check_metric, check_source};

use super::value::{Printed, word};
use super::{Content, Refusal, shown};

/// A board's answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The number that the gateway gave the command on this line.
    pub id: u32,
    /// `ok`, or else `err`.
    pub ok: bool,
    /// What the board says beside it.
    pub text: String,
}

/// Reads a line of measurements. `is_text`: whether a metric is text, whatever it looks like.
pub(super) fn reading(is_text: impl Fn(&str) -> bool, body: &str) -> Result<Content<'_>, Refusal> {
    if body.starts_with(['!', '>', '@']) {
        return Err(Refusal::Mark(shown(body)));
    }
    let mut content = Content::new();
    let mut rest = body;
    while !rest.is_empty() {
        let end = rest.find(BLANKS).unwrap_or(rest.len());
        match rest[..end].find('=') {
            Some(at) => {
                let name = &rest[..at];
                check_metric(name).map_err(Refusal::Metric)?;
                let (value, after) = value(name, is_text(name), &rest[at + 1..])?;
                content.push(name.into(), value);
                rest = after.trim_start_matches(BLANKS);
            }
            None if content.source.is_none() && content.metrics.is_empty() => {
                check_source(&rest[..end]).map_err(Refusal::Source)?;
                content.source = Some(rest[..end].into());
                rest = rest[end..].trim_start_matches(BLANKS);
            }
            None => return Err(Refusal::Word(shown(&rest[..end]))),
        }
    }
    content.filled()
}

/// Reads the value at the front of `rest`; returns it and what follows.
fn value<'l>(metric: &str, is_text: bool, rest: &'l str) -> Result<(Printed, &'l str), Refusal> {
    if let Some(quoted) = rest.strip_prefix('"') {
        let (text, after) = quoted_text(quoted).ok_or_else(|| Refusal::Quote(shown(metric)))?;
        return Ok((Printed::Value(Value::Text(text.into())), after));
    }
    let (bare, after) = rest.split_at(rest.find(BLANKS).unwrap_or(rest.len()));
    if bare.is_empty() {
        return Err(Refusal::ValueMissing(shown(metric)));
    }
    if bare.contains(['"', '#', '=', '*']) {
        return Err(Refusal::ValueBare(shown(metric)));
    }
    Ok((if is_text { Printed::Value(bare.into()) } else { word(bare) }, after))
}

/// Up to the closing quote, behind which the line ends or a blank follows.
fn quoted_text(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let after = &quoted[at + 1..];
                return (after.is_empty() || after.starts_with(BLANKS)).then_some((text, after));
            }
            '\\' => text.push(chars.next().map(|(_, c)| c).filter(|c| matches!(c, '"' | '\\'))?),
            c => text.push(c),
        }
    }
    None
}

/// Reads `!boot fw=1.2.0`; returns what follows the word.
pub(in crate::serial) fn boot(body: &str) -> Result<&str, Refusal> {
    match body.split_once(BLANKS) {
        _ if body == "!boot" => Ok(""),
        Some(("!boot", text)) => Ok(text.trim_start()),
        _ => Err(Refusal::Mark(shown(body))),
    }
}

/// Reads `@42 ok on=1` or `@42 err no such pin`.
pub(in crate::serial) fn answer(body: &str) -> Result<Answer, Refusal> {
    let mut words = body.splitn(3, BLANKS);
    let id = words.next().and_then(|mark| mark.strip_prefix('@'));
    // `parse` alone would take `@+42`.
    let id = id.filter(|id| id.bytes().all(|digit| digit.is_ascii_digit()));
    let id = id.and_then(|id| id.parse().ok()).ok_or(Refusal::Answer)?;
    let ok = match words.next() {
        Some("ok") => true,
        Some("err") => false,
        _ => return Err(Refusal::Answer),
    };
    let text = words.next().unwrap_or_default().trim_start().to_owned();
    Ok(Answer { id, ok, text })
}

const BLANKS: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn reading(body: &str) -> Result<Content<'_>, Refusal> {
        super::reading(|_| false, body)
    }

    #[test]
    fn a_line_has_a_source_and_metrics() {
        let content = reading("fruiting temp=24.5  humidity=85\tok=true").unwrap();
        assert_eq!(content.source.as_deref(), Some("fruiting"));
        let metrics: Vec<(Cow<'_, str>, Value)> = vec![
            ("temp".into(), 24.5.into()),
            ("humidity".into(), 85.into()),
            ("ok".into(), true.into()),
        ];
        assert_eq!(content.metrics, metrics);
        assert_eq!(reading("temp=1").unwrap().source, None);
    }

    #[test]
    fn nan_is_null_and_counted_and_in_quotes_it_is_text() {
        let content = reading("a=nan b=-INF c=1e999 d=null e=\"nan\"").unwrap();
        assert_eq!(content.nulls, 3);
        assert_eq!(content.metrics[4].1, "nan".into());
        assert!(content.metrics[..4].iter().all(|(_, value)| *value == Value::Null));
    }

    #[test]
    fn a_quoted_text_may_contain_blanks_quotes_and_marks() {
        let content =
            reading(r#"note="two words" path="a\\b \"c\"" code="x=1 #2*3" none="""#).unwrap();
        let texts: Vec<&Value> = content.metrics.iter().map(|(_, value)| value).collect();
        let expected: [Value; 4] =
            ["two words".into(), r#"a\b "c""#.into(), "x=1 #2*3".into(), "".into()];
        assert!(texts.into_iter().eq(&expected));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused_with_its_reason() {
        type Check = fn(&Refusal) -> bool;
        let cases: [(&str, Check); 16] = [
            ("", |r| *r == Refusal::Empty),
            ("fruiting", |r| *r == Refusal::Empty),
            ("a b c=1", |r| *r == Refusal::Word("b".into())),
            ("c=1 b", |r| *r == Refusal::Word("b".into())),
            ("temp=", |r| *r == Refusal::ValueMissing("temp".into())),
            ("temp= 5", |r| *r == Refusal::ValueMissing("temp".into())),
            ("temp=24.5humidity=85", |r| *r == Refusal::ValueBare("temp".into())),
            ("temp=24*5", |r| *r == Refusal::ValueBare("temp".into())),
            ("co2=800#17", |r| *r == Refusal::ValueBare("co2".into())),
            ("t=\"open", |r| *r == Refusal::Quote("t".into())),
            ("t=\"a\"b", |r| *r == Refusal::Quote("t".into())),
            ("t=\"a\\n\"", |r| *r == Refusal::Quote("t".into())),
            ("=5", |r| matches!(r, Refusal::Metric(_))),
            ("a/b t=5", |r| matches!(r, Refusal::Source(_))),
            ("alerts t=5", |r| matches!(r, Refusal::Source(_))),
            (">42 on=1", |r| matches!(r, Refusal::Mark(_))),
        ];
        for (line, check) in cases {
            let refusal = reading(line).unwrap_err();
            assert!(check(&refusal), "{line:?}: {refusal:?}");
        }
    }

    #[test]
    fn boots_and_answers_are_recognised() {
        assert_eq!(boot("!boot fw=1.2.0"), Ok("fw=1.2.0"));
        assert_eq!(boot("!boot"), Ok(""));
        assert!(boot("!bootfw").is_err());
        let ok = Answer { id: 42, ok: true, text: "on=1".into() };
        assert_eq!(answer("@42 ok on=1"), Ok(ok));
        let err = Answer { id: 7, ok: false, text: "no such pin".into() };
        assert_eq!(answer("@7 err no such pin"), Ok(err));
        for bad in ["@", "@42", "@42 maybe", "@-1 ok", "@+1 ok", "@4294967296 ok", "@ ok"] {
            assert_eq!(answer(bad), Err(Refusal::Answer), "{bad:?}");
        }
    }
}
