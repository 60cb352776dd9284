//! Lines that were never meant for a machine: regular expressions with names. Pure.
//!
//! ```text
//! pattern  ^Humidity: (?<humidity>[\d.]+)%\s+Temperature: (?<temp>[\d.]+)
//! line     Humidity: 45.00%  Temperature: 23.10°C
//!     -> humidity = 45.0, temp = 23.1
//! ```
//!
//! The first pattern that matches counts. A group named `source` names the source; what a group
//! holds is read as in the native format, or is text where the port says so: a tag `0042` is no
//! number.

use std::fmt;

use fieldpost_protocol::{check_metric, check_source};
use regex_lite::Regex;

use super::value::{Printed, word};
use super::{Content, Refusal};

/// A regular expression, as it was written.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Of a line that is passed over: it needs no names.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let regex = Regex::new(text).map_err(|error| error.to_string())?;
        Ok(Pattern { text: text.to_owned(), regex })
    }

    /// Of a line that measures something: at least one group has a name.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn of_metrics(text: &str) -> Result<Pattern, String> {
        let pattern = Pattern::new(text)?;
        let mut metrics = 0;
        for name in pattern.regex.capture_names().flatten().filter(|name| *name != "source") {
            check_metric(name).map_err(|error| error.to_string())?;
            metrics += 1;
        }
        match metrics {
            0 => {
                Err("it names nothing: write (?<temp>[0-9.]+) for what the metric temp is"
                    .to_owned())
            }
            _ => Ok(pattern),
        }
    }

    /// Whether the line is one of these.
    pub(in crate::serial) fn matches(&self, line: &str) -> bool {
        self.regex.is_match(line)
    }
}

/// Reads a line of measurements. `is_text`: whether a metric is text, whatever it looks like.
pub(super) fn reading<'l>(
    patterns: &[Pattern],
    is_text: impl Fn(&str) -> bool,
    body: &'l str,
) -> Result<Content<'l>, Refusal> {
    let found = patterns.iter().find_map(|pattern| Some((pattern, pattern.regex.captures(body)?)));
    let (pattern, groups) = found.ok_or(Refusal::Pattern)?;
    let mut content = Content::new();
    for name in pattern.regex.capture_names().flatten() {
        // A group of an alternative that was not taken holds nothing.
        let Some(group) = groups.name(name) else { continue };
        let text = &body[group.range()];
        if name == "source" {
            check_source(text).map_err(Refusal::Source)?;
            content.source = Some(text.into());
        } else if is_text(name) {
            content.push(name.to_owned().into(), Printed::Value(text.into()));
        } else {
            content.push(name.to_owned().into(), word(text));
        }
    }
    content.filled()
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::Value;

    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::of_metrics(text).unwrap()).collect()
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let patterns = patterns(&[
            r"^T=(?<temp>[\d.]+)( H=(?<hum>[\d.]+))?$",
            r"^(?<source>\w+): (?<temp>[\d.]+)",
        ]);
        let content = reading(&patterns, |_| false, "T=24.5 H=60").unwrap();
        assert_eq!(content.metrics, [("temp".into(), 24.5.into()), ("hum".into(), 60.into())]);
        let content = reading(&patterns, |_| false, "T=24.5").unwrap();
        assert_eq!(content.metrics.len(), 1);
        let content = reading(&patterns, |_| false, "attic: 19").unwrap();
        assert_eq!(content.source.as_deref(), Some("attic"));
        assert_eq!(reading(&patterns, |_| false, "hello").unwrap_err(), Refusal::Pattern);
    }

    #[test]
    fn a_lora_tag_is_three_texts_also_where_it_looks_like_a_number() {
        let tag = patterns(&[r"^hxb:(?<batch>\w+):(?<lf>\w+):(?<uhf>\w+)$"]);
        let content = reading(&tag, |name| name != "batch", "hxb:BATCH001:00123:UHF456").unwrap();
        let expected: [Value; 3] = ["BATCH001".into(), "00123".into(), "UHF456".into()];
        assert!(content.metrics.iter().map(|(_, value)| value).eq(&expected));
    }

    #[test]
    fn a_pattern_that_is_wrong_or_names_nothing_is_refused() {
        assert!(Pattern::of_metrics("(?<temp>[0-9").is_err());
        assert!(Pattern::of_metrics(r"^\d+$").unwrap_err().contains("names nothing"));
        assert!(Pattern::of_metrics(r"^(?<source>\w+)$").unwrap_err().contains("names nothing"));
    }
}
