//! Values, metrics and readings: what a sensor said.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One measured value.
///
/// Floats are carried bit for bit by the codecs; the decoders of ports make a sensor's
/// `nan` or `inf` null before it gets here, since JSON has no word for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The sensor answered, but with nothing: not the same as an absent metric.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number. `24` is one, `24.0` is not.
    Int(i64),
    /// A finite floating point number.
    Float(f64),
    /// Text, at most [`crate::TEXT_BYTES_MAX`] bytes.
    Text(Arc<str>),
}

impl Value {
    /// Equal to the last bit: unlike `==`, tells 0.0 from -0.0 and a NaN from no NaN.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.into())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Text(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a bool, a 64-bit integer, a finite number or text")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => Ok(Value::Int(value)),
            // JSON does not tell integers from floats: a count beyond i64 is kept as near
            // as a float can.
            Err(_) => Ok(Value::Float(value as f64)),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        if value.len() > crate::TEXT_BYTES_MAX {
            return Err(E::invalid_length(value.len(), &"text of at most 4096 bytes"));
        }
        Ok(Value::Text(value.into()))
    }
}

/// A reading's metrics: name to value, sorted by name, no name twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics(Vec<(Arc<str>, Value)>);

impl Metrics {
    /// Sorts the pairs by name. Of a name that comes twice the first is kept and the name
    /// returned as the error: which of the two was meant nobody knows.
    pub fn new(mut pairs: Vec<(Arc<str>, Value)>) -> Result<Self, Arc<str>> {
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        match pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(twice) => Err(twice[0].0.clone()),
            None => Ok(Metrics(pairs)),
        }
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The value of a metric.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.0.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No metric at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a JSON object: floats with `.` or `e`, integers without, so that
    /// [`Metrics::from_json`] gives back the very same values. `None` where a float is not
    /// finite, which JSON cannot say.
    pub fn to_json(&self) -> Option<String> {
        let finite = |value: &Value| !matches!(value, Value::Float(float) if !float.is_finite());
        if !self.0.iter().all(|(_, value)| finite(value)) {
            return None;
        }
        serde_json::to_string(self).ok()
    }

    /// From a JSON object of null, bool, numbers and text.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(&**name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetricsVisitor;

        impl<'de> Visitor<'de> for MetricsVisitor {
            type Value = Metrics;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of metric names to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metrics, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    crate::check_metric(&name).map_err(de::Error::custom)?;
                    pairs.push((Arc::from(name), value));
                }
                Metrics::new(pairs)
                    .map_err(|name| de::Error::custom(format!("metric {name:?} stands twice")))
            }
        }

        deserializer.deserialize_map(MetricsVisitor)
    }
}

/// What one source said at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Who measured.
    pub source: Arc<str>,
    /// Milliseconds since the epoch's start (CLOCK_BOOTTIME). Never a wall clock.
    pub offset_ms: i64,
    /// What was measured.
    pub metrics: Metrics,
}

impl Reading {
    /// What the reading unfolds to, in bytes: bounded per batch on both sides, so that a
    /// body whose runs are short on the wire cannot fill a receiver's memory.
    pub fn cost(&self) -> usize {
        let metrics = self.metrics.iter().map(|(name, value)| cell_cost(name, value));
        READING_COST + self.source.len() + metrics.sum::<usize>()
    }
}

/// What a row costs beside its cells.
pub(crate) const READING_COST: usize = 32;

/// What one value of one reading costs.
pub(crate) fn cell_cost(name: &str, value: &Value) -> usize {
    let text = match value {
        Value::Text(text) => text.len(),
        _ => 0,
    };
    16 + name.len() + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gives_back_every_value_exactly() {
        let json = r#"{"a":24.0,"b":24,"c":1e300,"d":-0.0,"e":0.1,"f":null,"g":true,"h":"x","i":9007199254740993}"#;
        let metrics = Metrics::from_json(json).unwrap();
        assert!(metrics.get("a").unwrap().same(&Value::Float(24.0)));
        assert!(metrics.get("b").unwrap().same(&Value::Int(24)));
        assert!(metrics.get("d").unwrap().same(&Value::Float(-0.0)));
        assert!(metrics.get("i").unwrap().same(&Value::Int(9_007_199_254_740_993)));
        assert_eq!(Metrics::from_json(&metrics.to_json().unwrap()).unwrap(), metrics);
    }

    #[test]
    fn a_metric_that_stands_twice_is_refused() {
        assert!(Metrics::from_json(r#"{"a":1,"a":2}"#).is_err());
    }

    #[test]
    fn a_float_that_json_cannot_say_gives_no_json() {
        let metrics = Metrics::new(vec![("a".into(), Value::Float(f64::NAN))]).unwrap();
        assert_eq!(metrics.to_json(), None);
    }
}
