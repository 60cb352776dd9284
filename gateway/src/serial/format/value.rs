//! Numbers and words as boards print them. Pure.

use fieldpost_protocol::Value;

/// What a board printed for a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Printed {
    /// A value.
    Value(Value),
    /// `nan`, `inf`, or a number beyond every float: it becomes null, and is counted.
    NotANumber,
}

/// A number: an integer if it is written as one and fits 64 bits, else a float.
///
/// `None` for what is no number, such as a date or `24.5C`.
pub(super) fn number(text: &str) -> Option<Printed> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Some(Printed::Value(Value::Int(integer)));
    }
    let float = text.parse::<f64>().ok()?;
    Some(if float.is_finite() { Printed::Value(Value::Float(float)) } else { Printed::NotANumber })
}

/// A word without quotes: null, true, false, a number, what a sensor says instead of one, or
/// else text.
pub(super) fn word(text: &str) -> Printed {
    match text {
        "null" => Printed::Value(Value::Null),
        "true" => Printed::Value(Value::Bool(true)),
        "false" => Printed::Value(Value::Bool(false)),
        _ if is_not_a_number(text) => Printed::NotANumber,
        _ => number(text).unwrap_or_else(|| Printed::Value(text.into())),
    }
}

/// What C, Python and Arduino print where there is no number, in any case. `ovf` is
/// Arduino's word for a float beyond 4,294,967,040 (Print::printFloat).
fn is_not_a_number(text: &str) -> bool {
    let word = text.strip_prefix(['-', '+']).unwrap_or(text);
    ["nan", "inf", "infinity", "ovf"].iter().any(|name| word.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_are_told_apart_by_how_they_are_written() {
        let cases: [(&str, Value); 10] = [
            ("24", 24.into()),
            ("-7", (-7).into()),
            ("+5", 5.into()),
            ("24.0", 24.0.into()),
            (".5", 0.5.into()),
            ("24.", 24.0.into()),
            ("-1e-3", (-0.001).into()),
            ("9223372036854775807", i64::MAX.into()),
            ("9223372036854775808", 9_223_372_036_854_775_808.0.into()),
            ("0.1", 0.1.into()),
        ];
        for (text, value) in cases {
            assert_eq!(word(text), Printed::Value(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_becomes_null_and_is_counted() {
        let long = "9".repeat(400);
        for text in
            ["nan", "NaN", "-nan", "inf", "+INF", "-Infinity", "ovf", "1e999", "-1e999", &long]
        {
            assert_eq!(word(text), Printed::NotANumber, "{text}");
        }
    }

    #[test]
    fn everything_else_is_text() {
        for text in
            ["on", "True", "24.5C", "2026-11-21", "1.2.3", "-", "0x1F", "1e", "nano", "1_000"]
        {
            assert_eq!(word(text), Printed::Value(text.into()), "{text}");
        }
    }
}
