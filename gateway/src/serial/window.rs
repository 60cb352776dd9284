//! Readings of a while become one: what a sensor says each second is kept once a minute. Pure.
//!
//! ```text
//! 24.1  24.3  24.2 | 24.5 ...        average = "1m", keep = ["mean", "max"]
//! `---- window ---´|                 -> temp_mean = 24.2, temp_max = 24.3, at the window's end
//! ```
//!
//! Windows lie end to end on the clock of the kernel. What is in an open window has not been
//! accepted: a power cut takes it, a stop of the gateway does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use fieldpost_protocol::{Metrics, Value, check_metric};

use super::port::Measured;
use super::rules::tidy;
use crate::words::words;

/// What is kept of the numbers in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// The lowest.
    Min,
    /// The highest.
    Max,
    /// The last one.
    Last,
}

words!(Aggregate { Mean = "mean", Min = "min", Max = "max", Last = "last" });

/// How a port's readings are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Averaging {
    /// The length of a window, milliseconds.
    pub window_ms: i64,
    /// None twice. One alone keeps the metric's name; of several each adds its own: `temp_mean`,
    /// `temp_max`.
    pub keep: Vec<Aggregate>,
}

impl Averaging {
    /// What a metric is called afterwards.
    pub fn names(&self, metric: &str) -> Vec<String> {
        match &self.keep[..] {
            [_] => vec![metric.to_owned()],
            several => several.iter().map(|kind| format!("{metric}_{kind}")).collect(),
        }
    }
}

/// Names and texts of a window, bytes: a board that makes up names cannot fill the memory, and what
/// a window gives out fits a batch alone, however badly it compresses (`BODY_BYTES_MAX`). A reading
/// that does not would wait for its sync ack for ever, and all that comes after it.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// What each value that is given out takes beside its name.
const METRIC_BYTES: usize = 64;

/// The open window of a port.
#[derive(Debug)]
pub(super) struct Window {
    averaging: Averaging,
    /// Its number, counted from the boot.
    open: i64,
    series: BTreeMap<Series, BTreeMap<Arc<str>, Metric>>,
    held_bytes: usize,
}

/// What is averaged together: one source, and the same in all that is no number. So the means of two
/// rooms, or two tags, never become one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    source: Arc<str>,
    /// Names and texts, each behind its length.
    others: String,
}

impl Series {
    fn of(measured: &Measured) -> Self {
        let mut others = String::new();
        for (name, value) in measured.metrics.iter() {
            let value = match value {
                Value::Text(text) => text,
                Value::Bool(true) => "true",
                Value::Bool(false) => "false",
                Value::Null | Value::Int(_) | Value::Float(_) => continue,
            };
            others.push_str(&format!("{}:{name}={}:{value}", name.len(), value.len()));
        }
        Series { source: measured.source.clone(), others }
    }
}

/// What is known of one metric.
#[derive(Debug)]
enum Metric {
    Numbers {
        count: u32,
        sum: f64,
        min: Value,
        max: Value,
        last: Value,
    },
    /// What is no number has no mean. It is the same in the whole series, or null.
    Other(Value),
}

impl Window {
    pub(super) fn new(averaging: Averaging) -> Self {
        Window { averaging, open: i64::MIN, series: BTreeMap::new(), held_bytes: 0 }
    }

    /// Takes a reading in, and gives out the window that ended before it. A reading for which
    /// there is no room comes back as it is.
    #[must_use]
    pub(super) fn push(
        &mut self,
        measured: Measured,
        give: impl FnMut(Measured),
    ) -> Option<Measured> {
        self.end_before(measured.boot_ms, give);
        self.open = self.number(measured.boot_ms);
        let series = Series::of(&measured);
        let known = self.series.get(&series);
        let is_new = |name: &Arc<str>| known.is_none_or(|known| !known.contains_key(name));
        let growth: usize = measured
            .metrics
            .iter()
            .filter(|(name, _)| is_new(name))
            .map(|(name, value)| {
                let given_out = self.averaging.keep.len() * (METRIC_BYTES + name.len());
                series.source.len() + given_out + text_bytes(value)
            })
            .sum();
        let growth = growth + if known.is_none() { series.others.len() } else { 0 };
        if self.held_bytes + growth > HELD_BYTES_MAX {
            return Some(measured);
        }
        self.held_bytes += growth;
        let known = self.series.entry(series).or_default();
        for (name, value) in measured.metrics.iter() {
            match known.get_mut(name) {
                Some(metric) => metric.take(value),
                None => {
                    known.insert(name.clone(), Metric::new(value.clone()));
                }
            }
        }
        None
    }

    /// Gives out the window that has ended by now, if anything is in it.
    pub(super) fn end_before(&mut self, boot_ms: i64, give: impl FnMut(Measured)) {
        if self.number(boot_ms) > self.open {
            self.end(boot_ms, give);
        }
    }

    /// Gives out the open window, ended or not: the port is closing.
    pub(super) fn end(&mut self, boot_ms: i64, mut give: impl FnMut(Measured)) {
        let end_ms = self.open.saturating_add(1).saturating_mul(self.averaging.window_ms);
        self.held_bytes = 0;
        for (Series { source, .. }, metrics) in std::mem::take(&mut self.series) {
            // Two metrics may end up under one name: `t` with its maximum, and a `t_max` of its own.
            let mut kept = BTreeMap::new();
            for (name, metric) in metrics {
                metric.keep(name, &self.averaging, &mut kept);
            }
            if let Ok(metrics) = Metrics::new(kept.into_iter().collect()) {
                give(Measured { source, boot_ms: end_ms.min(boot_ms), metrics });
            }
        }
    }

    /// Milliseconds from now to the end of the window that is open now.
    pub(super) fn rest_ms(&self, boot_ms: i64) -> u64 {
        let window_ms = self.averaging.window_ms;
        (window_ms - boot_ms.rem_euclid(window_ms)) as u64
    }

    fn number(&self, boot_ms: i64) -> i64 {
        boot_ms.div_euclid(self.averaging.window_ms)
    }
}

impl Metric {
    fn new(value: Value) -> Self {
        match number(&value) {
            Some(sum) => Metric::Numbers {
                count: 1,
                sum,
                min: value.clone(),
                max: value.clone(),
                last: value,
            },
            None => Metric::Other(value),
        }
    }

    /// Null is no number and takes none away.
    fn take(&mut self, value: &Value) {
        let next = number(value);
        match (&mut *self, next) {
            (Metric::Numbers { count, sum, min, max, last }, Some(next)) => {
                *count += 1;
                *sum += next;
                if is_less(value, min) {
                    min.clone_from(value);
                }
                if is_less(max, value) {
                    max.clone_from(value);
                }
                last.clone_from(value);
            }
            (Metric::Other(_), Some(_)) => *self = Metric::new(value.clone()),
            (_, None) => {}
        }
    }

    fn keep(self, name: Arc<str>, averaging: &Averaging, kept: &mut BTreeMap<Arc<str>, Value>) {
        let Metric::Numbers { count, sum, min, max, last } = self else {
            if let Metric::Other(value) = self {
                kept.insert(name, value);
            }
            return;
        };
        let mean = tidy(sum / f64::from(count));
        let value = |aggregate: &Aggregate| match aggregate {
            Aggregate::Mean if mean.is_finite() => Value::Float(mean),
            Aggregate::Mean => Value::Null,
            Aggregate::Min => min.clone(),
            Aggregate::Max => max.clone(),
            Aggregate::Last => last.clone(),
        };
        let names = averaging.names(&name);
        if names.iter().any(|name| check_metric(name).is_err()) {
            // It has no room for a suffix.
            kept.insert(name, value(&averaging.keep[0]));
            return;
        }
        for (name, aggregate) in names.iter().zip(&averaging.keep) {
            kept.insert(name.as_str().into(), value(aggregate));
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(whole) => Some(*whole as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

/// Of two numbers. Integers beyond 2^53 are told apart, too.
fn is_less(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a < b,
        _ => number(a) < number(b),
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn window(keep: &[Aggregate]) -> Window {
        Window::new(Averaging { window_ms: MINUTE_MS, keep: keep.to_vec() })
    }

    fn measured<V: Into<Value>>(source: &str, boot_ms: i64, name: &str, value: V) -> Measured {
        let metrics = Metrics::new(vec![(name.into(), value.into())]).unwrap();
        Measured { source: source.into(), boot_ms, metrics }
    }

    fn shown(measured: &Measured) -> String {
        let json = measured.metrics.to_json().unwrap();
        format!("{} {json} at {}", measured.source, measured.boot_ms)
    }

    fn push(window: &mut Window, measured: Measured) -> Vec<String> {
        let mut all = Vec::new();
        let passed = window.push(measured, |measured| all.push(shown(&measured)));
        all.extend(passed.iter().map(shown));
        all
    }

    #[test]
    fn a_minute_of_seconds_is_one_reading_at_its_end() {
        use Aggregate::{Last, Max, Mean, Min};
        let mut window = window(&[Mean, Min, Max, Last]);
        let mut given = Vec::new();
        for second in 0..=60 {
            let temp = 20.0 + f64::from(second % 10) / 10.0;
            given.extend(push(&mut window, measured("gh", 1_000 * i64::from(second), "t", temp)));
        }
        let minute = r#"gh {"t_last":20.9,"t_max":20.9,"t_mean":20.45,"t_min":20.0} at 60000"#;
        assert_eq!(given, [minute]);
    }

    #[test]
    fn one_aggregate_keeps_the_name_and_integers_stay_whole() {
        let mut least = window(&[Aggregate::Min]);
        let huge = i64::MAX - 1;
        for value in [i64::MAX, huge] {
            push(&mut least, measured("a", 5, "n", value));
        }
        let given = push(&mut least, measured("a", MINUTE_MS, "n", 0));
        assert_eq!(given, [format!(r#"a {{"n":{huge}}} at 60000"#)]);
        let mut mean = window(&[Aggregate::Mean]);
        push(&mut mean, measured("a", 0, "n", 1));
        push(&mut mean, measured("a", 1, "n", 2));
        assert_eq!(push(&mut mean, measured("a", MINUTE_MS, "n", 0)), [r#"a {"n":1.5} at 60000"#]);
    }

    #[test]
    fn what_differs_in_a_text_has_a_mean_of_its_own() {
        let mut window = window(&[Aggregate::Mean]);
        let reading = |room: &str, temp: f64| {
            let metrics = vec![("room".into(), room.into()), ("temp".into(), temp.into())];
            Measured { metrics: Metrics::new(metrics).unwrap(), ..measured("air", 0, "n", 0) }
        };
        for (room, temp) in [("1", 20.0), ("2", 30.0), ("1", 22.0)] {
            assert!(push(&mut window, reading(room, temp)).is_empty());
        }
        assert!(push(&mut window, measured("air", 0, "temp", "error")).is_empty());
        let mut given = push(&mut window, measured("air", MINUTE_MS, "n", 0));
        given.sort();
        let error = r#"air {"temp":"error"} at 60000"#;
        let rooms = [
            r#"air {"room":"1","temp":21.0} at 60000"#,
            r#"air {"room":"2","temp":30.0} at 60000"#,
        ];
        assert_eq!(given, [rooms[0], rooms[1], error]);
    }

    #[test]
    fn null_takes_no_number_away() {
        let mut window = window(&[Aggregate::Mean]);
        for value in [Value::Null, Value::from(2), Value::Null, Value::from(4)] {
            push(&mut window, measured("a", 0, "n", value));
        }
        push(&mut window, measured("a", 0, "m", Value::Null));
        let given = push(&mut window, measured("a", MINUTE_MS, "n", 0));
        assert_eq!(given, [r#"a {"m":null,"n":3.0} at 60000"#]);
    }

    #[test]
    fn a_window_ends_without_a_next_reading_and_a_stop_gives_it_out_before_its_end() {
        let mut window = window(&[Aggregate::Mean]);
        let mut given = Vec::new();
        push(&mut window, measured("a", 30_000, "n", 1));
        window.end_before(59_999, |measured| given.push(shown(&measured)));
        assert!(given.is_empty());
        assert_eq!(window.rest_ms(59_999), 1);
        window.end_before(60_000, |measured| given.push(shown(&measured)));
        assert_eq!(given, [r#"a {"n":1.0} at 60000"#]);
        push(&mut window, measured("a", 70_000, "n", 3));
        window.end(80_000, |measured| given.push(shown(&measured)));
        assert_eq!(given[1..], [r#"a {"n":3.0} at 80000"#]);
        window.end(80_000, |_| panic!("it is empty"));
    }

    #[test]
    fn what_finds_no_room_is_kept_as_it_is() {
        let mut window = window(&[Aggregate::Mean, Aggregate::Max]);
        let mut passed = 0;
        for n in 0..10_000 {
            passed += push(&mut window, measured("a", 0, &format!("n{n}"), n)).len();
        }
        let mut kept = 0;
        window.end(1, |measured| kept += measured.metrics.len() / 2);
        assert_eq!(passed + kept, 10_000);
        assert!(passed > 0 && window.held_bytes == 0, "{passed} passed, {kept} kept");
        let mut all = 0;
        for n in 0..10_000 {
            let text = format!("{n:0>100}");
            all += push(&mut window, measured("a", 1, "text", text.as_str())).len();
        }
        window.end(1, |_| all += 1);
        assert_eq!(all, 10_000, "each text is a series of its own");
    }

    #[test]
    fn what_a_window_gives_out_fits_a_batch_alone() {
        use fieldpost_protocol::{BODY_BYTES_MAX, FRAME_BYTES_MAX, Reading, encode_runs};
        // No two names and values alike for long: compression gains little.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state ^ state >> 29
        };
        let mut window =
            window(&[Aggregate::Mean, Aggregate::Min, Aggregate::Max, Aggregate::Last]);
        let mut given = Vec::new();
        for n in 0..10_000 {
            let name =
                if n % 2 == 0 { "n".to_owned() } else { format!("{:x}{:x}", noise(), noise()) };
            let name = format!("{name}{n}");
            let value = noise() as f64 / 1e9;
            given.extend(
                window.push(measured("a", 0, &name, value), |_| panic!("it has not ended")),
            );
        }
        let text = "x".repeat(FRAME_BYTES_MAX - 20);
        given.extend(window.push(measured("a", 0, "text", text.as_str()), |_| {}));
        window.end(1, |measured| given.push(measured));
        assert!(given.iter().any(|measured| measured.metrics.len() > 1), "it held nothing");
        for Measured { source, metrics, .. } in given {
            let reading = Reading { source, offset_ms: 0, metrics };
            let bytes = encode_runs(&[reading])[0].1.len();
            assert!(bytes <= BODY_BYTES_MAX, "{bytes} bytes: no bridge takes such a batch, ever");
        }
    }

    #[test]
    fn a_name_without_room_for_a_suffix_keeps_its_first_aggregate() {
        let longest = (1..).map(|n| "x".repeat(n)).take_while(|name| check_metric(name).is_ok());
        let longest = longest.last().unwrap();
        let mut window = window(&[Aggregate::Max, Aggregate::Min]);
        push(&mut window, measured("a", 0, &longest, 1));
        push(&mut window, measured("a", 0, &longest, 2));
        let given = push(&mut window, measured("a", MINUTE_MS, "n", 0));
        assert_eq!(given, [format!(r#"a {{"{longest}":2}} at 60000"#)]);
    }

    #[test]
    fn a_mean_beyond_every_float_is_null() {
        let mut window = window(&[Aggregate::Mean]);
        push(&mut window, measured("a", 0, "n", f64::MAX));
        push(&mut window, measured("a", 0, "n", f64::MAX));
        let given = push(&mut window, measured("a", MINUTE_MS, "n", 0));
        assert_eq!(given, [r#"a {"n":null} at 60000"#]);
    }
}
