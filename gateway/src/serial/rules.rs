//! What a port does with its metrics before they are kept: names, scales, what is not wanted. Pure.
//!
//! ```text
//! reading --ignore--> --scale, offset--> --rename--> reading
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use fieldpost_protocol::Value;

/// What happens to one metric, which the board calls something.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// Its name from here on.
    pub name: Option<Arc<str>>,
    /// For people, in `meta`.
    pub unit: Option<String>,
    /// Times this...
    pub scale: Option<f64>,
    /// ... and then plus this.
    pub offset: Option<f64>,
    /// It is not kept.
    pub ignore: bool,
    /// What it holds is text, whatever it looks like.
    pub text: bool,
}

/// The rules of a port, by the names that its board uses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules(pub BTreeMap<String, Rule>);

impl Rules {
    /// Whether what a metric holds is text.
    pub(super) fn is_text(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|rule| rule.text)
    }

    /// A metric's new name and value; `None`: it is not wanted.
    pub(super) fn apply(&self, name: Arc<str>, value: Value) -> Option<(Arc<str>, Value)> {
        let Some(rule) = self.0.get(&*name) else { return Some((name, value)) };
        if rule.ignore {
            return None;
        }
        Some((rule.name.clone().unwrap_or(name), rule.scaled(value)))
    }
}

impl Rule {
    /// Numbers only. What is beyond every float becomes null.
    fn scaled(&self, value: Value) -> Value {
        if self.scale.is_none() && self.offset.is_none() {
            return value;
        }
        let number = match value {
            Value::Int(whole) => whole as f64,
            Value::Float(float) => float,
            other => return other,
        };
        let scaled = number * self.scale.unwrap_or(1.0) + self.offset.unwrap_or(0.0);
        if scaled.is_finite() { Value::Float(tidy(scaled)) } else { Value::Null }
    }
}

/// A tenth of 245 is 24.5 and not 24.500000000000004: twelve digits are more than any sensor has, and
/// short decimals are sent in a few bits.
pub(super) fn tidy(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rule: Rule) -> Rules {
        Rules(BTreeMap::from([("t".to_owned(), rule)]))
    }

    #[test]
    fn a_metric_is_scaled_and_then_renamed_and_others_are_left_alone() {
        let rule = Rule {
            name: Some("temp".into()),
            scale: Some(0.1),
            offset: Some(-40.0),
            ..Rule::default()
        };
        let rules = rules(rule);
        assert_eq!(rules.apply("t".into(), 645.into()), Some(("temp".into(), 24.5.into())));
        assert_eq!(rules.apply("t".into(), Value::Null), Some(("temp".into(), Value::Null)));
        assert_eq!(rules.apply("t".into(), "on".into()), Some(("temp".into(), "on".into())));
        assert_eq!(rules.apply("h".into(), 645.into()), Some(("h".into(), 645.into())));
    }

    #[test]
    fn what_is_ignored_is_gone_and_what_no_float_holds_is_null() {
        assert_eq!(
            rules(Rule { ignore: true, ..Rule::default() }).apply("t".into(), 1.into()),
            None
        );
        let huge = rules(Rule { scale: Some(1e300), ..Rule::default() });
        assert_eq!(huge.apply("t".into(), 1e300.into()), Some(("t".into(), Value::Null)));
    }
}
