//! JSON lines: one object a line, after its trailer was taken off. Pure.
//!
//! ```text
//! {"source": "fruiting", "temp": 24.5, "door": {"open": true}}
//!      -> source fruiting, metrics temp = 24.5, door.open = true
//! ```
//!
//! - `source`, at the top, names the source; without it the port's name stands in.
//! - Objects in the object are flattened, their names joined by dots: boards group their
//!   values that way, and a dot is what people type when they ask for one. Four deep at most.
//! - Arrays are refused: a metric has one value, and `temp.0` would be a guess.
//! - Numbers are told apart as in the native format: `24` is an integer, `24.0` a float, an
//!   integer beyond 64 bits becomes a float, `1e999` null.
//! - JSON has no NaN; a line with one is no JSON, and refused.

use std::fmt;

use fieldpost_protocol::{Value, check_metric, check_source};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::value::{Printed, number};
use super::{Content, Refusal, shown};

/// Objects within each other.
const DEPTH_MAX: usize = 4;

/// Reads a line of measurements.
pub(super) fn reading(body: &str) -> Result<Content<'_>, Refusal> {
    let Object(pairs) = serde_json::from_str(body).map_err(not_json)?;
    let mut content = Content::new();
    let mut measured = Vec::with_capacity(pairs.len());
    for (key, raw) in pairs {
        if key != "source" {
            measured.push((key, raw));
        } else if content.source.replace(source(raw)?.into()).is_some() {
            return Err(Refusal::Twice(key));
        }
    }
    flatten("", measured, 1, &mut content)?;
    content.filled()
}

fn source(raw: &RawValue) -> Result<String, Refusal> {
    let source: String = serde_json::from_str(raw.get()).map_err(|_| Refusal::JsonSource)?;
    check_source(&source).map_err(Refusal::Source)?;
    Ok(source)
}

fn flatten(
    before: &str,
    pairs: Vec<(String, &RawValue)>,
    depth: usize,
    content: &mut Content<'_>,
) -> Result<(), Refusal> {
    for (key, raw) in pairs {
        let name = format!("{before}{key}");
        let text = raw.get();
        let value = match text.as_bytes().first() {
            Some(b'{') if depth == DEPTH_MAX => return Err(Refusal::JsonDepth(shown(&name))),
            Some(b'{') => {
                let Object(pairs) = serde_json::from_str(text).map_err(not_json)?;
                flatten(&format!("{name}."), pairs, depth + 1, content)?;
                continue;
            }
            Some(b'[') => return Err(Refusal::JsonArray(shown(&name))),
            Some(b'"') => Printed::Value(string(&name, text)?),
            Some(b't') => Printed::Value(Value::Bool(true)),
            Some(b'f') => Printed::Value(Value::Bool(false)),
            Some(b'n') => Printed::Value(Value::Null),
            _ => number(text)
                .ok_or_else(|| Refusal::Json(format!("{:?} is no number", shown(text))))?,
        };
        check_metric(&name).map_err(Refusal::Metric)?;
        content.push(name.into(), value);
    }
    Ok(())
}

fn string(metric: &str, text: &str) -> Result<Value, Refusal> {
    let text: String = serde_json::from_str(text).map_err(not_json)?;
    if text.contains('\0') {
        return Err(Refusal::Nul(shown(metric)));
    }
    Ok(Value::Text(text.into()))
}

fn not_json(error: serde_json::Error) -> Refusal {
    Refusal::Json(error.to_string())
}

/// An object's pairs in their order, each value as it was written: so numbers are read by
/// the same rules as in the native format, and a key that stands twice is noticed.
struct Object<'l>(Vec<(String, &'l RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(body: &str) -> Vec<(String, Value)> {
        let content = reading(body).unwrap();
        content.metrics.into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
    }

    #[test]
    fn an_object_is_a_reading() {
        let body =
            r#"{"source":"air","temp":24.0,"n":24,"ok":true,"none":null,"note":"two words"}"#;
        assert_eq!(reading(body).unwrap().source.as_deref(), Some("air"));
        let expected: [(&str, Value); 5] = [
            ("temp", 24.0.into()),
            ("n", 24.into()),
            ("ok", true.into()),
            ("none", Value::Null),
            ("note", "two words".into()),
        ];
        assert_eq!(metrics(body), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn objects_in_the_object_are_flattened() {
        let expected =
            [("door.open".to_owned(), true.into()), ("door.lock.n".to_owned(), 2.into())];
        assert_eq!(metrics(r#"{"door":{"open":true,"lock":{"n":2},"x":{}}}"#), expected);
    }

    #[test]
    fn large_numbers_are_kept_as_near_as_a_float_can_or_counted_as_null() {
        let body = r#"{"a":18446744073709551616,"b":1e999,"c":-9223372036854775808}"#;
        let expected = [
            ("a".to_owned(), 18_446_744_073_709_551_616.0.into()),
            ("b".to_owned(), Value::Null),
            ("c".to_owned(), i64::MIN.into()),
        ];
        assert_eq!(metrics(body), expected);
        assert_eq!(reading(body).unwrap().nulls, 1);
    }

    #[test]
    fn what_is_no_flat_object_is_refused_with_its_reason() {
        type Check = fn(&Refusal) -> bool;
        let cases: [(&str, Check); 15] = [
            ("", |r| matches!(r, Refusal::Json(_))),
            ("24.5", |r| matches!(r, Refusal::Json(_))),
            ("{\"a\":1", |r| matches!(r, Refusal::Json(_))),
            ("{\"a\":1} x", |r| matches!(r, Refusal::Json(_))),
            ("{\"a\":NaN}", |r| matches!(r, Refusal::Json(_))),
            ("{\"a\":01}", |r| matches!(r, Refusal::Json(_))),
            ("[1,2]", |r| matches!(r, Refusal::Json(_))),
            ("{\"a\":{\"b\":[1,2]}}", |r| *r == Refusal::JsonArray("a.b".into())),
            ("{\"a\":{\"b\":{\"c\":{\"d\":{}}}}}", |r| *r == Refusal::JsonDepth("a.b.c.d".into())),
            ("{\"source\":5,\"a\":1}", |r| *r == Refusal::JsonSource),
            ("{\"source\":\"a\",\"source\":\"b\",\"c\":1}", |r| {
                *r == Refusal::Twice("source".into())
            }),
            ("{\"source\":\"a/b\",\"a\":1}", |r| matches!(r, Refusal::Source(_))),
            ("{\"a b\":1}", |r| matches!(r, Refusal::Metric(_))),
            ("{\"a\":\"x\\u0000\"}", |r| *r == Refusal::Nul("a".into())),
            ("{\"source\":\"a\"}", |r| *r == Refusal::Empty),
        ];
        for (line, check) in cases {
            let refusal = reading(line).unwrap_err();
            assert!(check(&refusal), "{line:?}: {refusal:?}");
        }
    }

    #[test]
    fn a_line_of_nothing_but_objects_is_refused_and_no_stack_overflows() {
        let line = "{\"a\":".repeat(800) + "1" + &"}".repeat(800);
        assert_eq!(reading(&line), Err(Refusal::JsonDepth("a.a.a.a".into())));
        assert!(matches!(reading(&"[".repeat(4_096)), Err(Refusal::Json(_))));
        let arrays = format!("{{\"a\":{}", "[".repeat(4_000));
        assert!(reading(&arrays).is_err());
    }

    #[test]
    fn no_end_of_an_object_is_an_object() {
        let line = r#"{"source":"air","a":{"b":{"c":"x{\"y\":1}"}},"t":24.5}"#;
        for start in 1..line.len() {
            assert!(reading(&line[start..]).is_err(), "{:?} was taken", &line[start..]);
        }
    }
}
