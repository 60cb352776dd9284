//! Readings to columns.

use std::collections::BTreeMap;

use minicbor::Encoder;

use super::{ABSENT, BOOLS, DECIMALS, EXPONENT_MAX, FLOATS, INTEGERS, MIXED, NULL, TEXTS, THERE};
use crate::{Reading, Value};

type Cbor = Encoder<Vec<u8>>;

/// Which of the group's rows, and what it says.
type Cell<'a> = (usize, &'a Value);

/// minicbor's errors are its writer's, and a `Vec` has none.
const INFALLIBLE: &str = "a Vec takes every byte";

/// The body before compression.
pub(super) fn body(readings: &[Reading]) -> Vec<u8> {
    let groups = group_by_source(readings);
    let mut cbor = Encoder::new(Vec::with_capacity(readings.len() * 16));
    cbor.array(2).expect(INFALLIBLE).u64(readings.len() as u64).expect(INFALLIBLE);
    cbor.array(groups.len() as u64).expect(INFALLIBLE);
    for group in &groups {
        encode_group(&mut cbor, group);
    }
    cbor.into_writer()
}

/// One source's readings with their offsets in the batch.
struct Group<'a> {
    source: &'a str,
    offsets: Vec<i64>,
    readings: Vec<&'a Reading>,
}

fn group_by_source(readings: &[Reading]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (offset, reading) in readings.iter().enumerate() {
        let known = groups.iter().position(|group| *group.source == *reading.source);
        let at = known.unwrap_or_else(|| {
            groups.push(Group {
                source: &reading.source,
                offsets: Vec::new(),
                readings: Vec::new(),
            });
            groups.len() - 1
        });
        groups[at].offsets.push(offset as i64);
        groups[at].readings.push(reading);
    }
    groups
}

fn encode_group(cbor: &mut Cbor, group: &Group<'_>) {
    cbor.array(5).expect(INFALLIBLE).str(group.source).expect(INFALLIBLE);
    cbor.u64(group.readings.len() as u64).expect(INFALLIBLE);
    encode_series(cbor, &group.offsets);
    let times: Vec<i64> = group.readings.iter().map(|reading| reading.offset_ms).collect();
    encode_series(cbor, &times);
    let columns = columns(&group.readings);
    cbor.array(columns.len() as u64).expect(INFALLIBLE);
    for (metric, cells) in &columns {
        encode_column(cbor, metric, cells, group.readings.len());
    }
}

/// Every metric of the group with the rows that have it. Not a cell for each row: a board that
/// makes up names has tens of thousands of columns, nearly all of them empty.
fn columns<'a>(readings: &[&'a Reading]) -> BTreeMap<&'a str, Vec<Cell<'a>>> {
    let mut columns: BTreeMap<&str, Vec<Cell<'_>>> = BTreeMap::new();
    for (row, reading) in readings.iter().enumerate() {
        for (metric, value) in reading.metrics.iter() {
            columns.entry(metric).or_default().push((row, value));
        }
    }
    columns
}

/// `[first, step, [d, ...]]`, the step being the median: jitter around a period then costs
/// a byte, and a steady period nothing.
fn encode_series(cbor: &mut Cbor, values: &[i64]) {
    let differences: Vec<i64> =
        values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let mut sorted = differences.clone();
    sorted.sort_unstable();
    let step = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let deltas: Vec<i64> =
        differences.iter().map(|difference| difference.wrapping_sub(step)).collect();
    cbor.array(3).expect(INFALLIBLE).i64(values[0]).expect(INFALLIBLE).i64(step).expect(INFALLIBLE);
    encode_deltas(cbor, &deltas);
}

fn encode_deltas(cbor: &mut Cbor, deltas: &[i64]) {
    let deltas = if deltas.iter().all(|&delta| delta == 0) { &[] } else { deltas };
    cbor.array(deltas.len() as u64).expect(INFALLIBLE);
    for &delta in deltas {
        cbor.i64(delta).expect(INFALLIBLE);
    }
}

fn encode_column(cbor: &mut Cbor, metric: &str, cells: &[Cell<'_>], rows: usize) {
    let values: Vec<&Value> =
        cells.iter().map(|cell| cell.1).filter(|value| !matches!(value, Value::Null)).collect();
    let column = Column::of(&values);
    cbor.array(2 + column.items()).expect(INFALLIBLE).str(metric).expect(INFALLIBLE);
    encode_shape(cbor, cells, rows);
    column.encode(cbor);
}

fn encode_shape(cbor: &mut Cbor, cells: &[Cell<'_>], rows: usize) {
    let shape = shape(cells, rows);
    if let [(THERE, _)] = shape[..] {
        cbor.null().expect(INFALLIBLE);
        return;
    }
    cbor.array(2 * shape.len() as u64).expect(INFALLIBLE);
    for (state, run) in shape {
        cbor.u8(state).expect(INFALLIBLE).u64(run).expect(INFALLIBLE);
    }
}

/// The states of all rows as runs; the rows between two cells are absent.
fn shape(cells: &[Cell<'_>], rows: usize) -> Vec<(u8, u64)> {
    let mut shape: Vec<(u8, u64)> = Vec::new();
    let mut add = |state, rows: usize| match shape.last_mut() {
        _ if rows == 0 => {}
        Some((last, run)) if *last == state => *run += rows as u64,
        _ => shape.push((state, rows as u64)),
    };
    let mut next = 0;
    for &(row, value) in cells {
        add(ABSENT, row - next);
        add(if matches!(value, Value::Null) { NULL } else { THERE }, 1);
        next = row + 1;
    }
    add(ABSENT, rows - next);
    shape
}

fn runs<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<(T, u64)> {
    let mut runs: Vec<(T, u64)> = Vec::new();
    for item in items {
        match runs.last_mut() {
            Some((last, run)) if *last == item => *run += 1,
            _ => runs.push((item, 1)),
        }
    }
    runs
}

/// The values of one column in the form that suits them.
enum Column<'a> {
    Integers(Vec<i64>),
    Decimals { exponent: u8, values: Vec<i64> },
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<&'a str>),
    Mixed(Vec<&'a Value>),
}

impl<'a> Column<'a> {
    fn of(values: &[&'a Value]) -> Self {
        let mixed = || Column::Mixed(values.to_vec());
        fn all<'a, T>(
            values: &[&'a Value],
            pick: impl Fn(&'a Value) -> Option<T>,
        ) -> Option<Vec<T>> {
            values.iter().map(|value| pick(value)).collect()
        }
        match values.first() {
            None => mixed(),
            Some(Value::Int(_)) => {
                all(values, |v| if let Value::Int(i) = v { Some(*i) } else { None })
                    .map_or_else(mixed, Column::Integers)
            }
            Some(Value::Float(_)) => {
                all(values, |v| if let Value::Float(f) = v { Some(*f) } else { None })
                    .map_or_else(mixed, Column::of_floats)
            }
            Some(Value::Bool(_)) => {
                all(values, |v| if let Value::Bool(b) = v { Some(*b) } else { None })
                    .map_or_else(mixed, Column::Bools)
            }
            Some(Value::Text(_)) => {
                all(values, |v| if let Value::Text(t) = v { Some(&**t) } else { None })
                    .map_or_else(mixed, Column::Texts)
            }
            Some(Value::Null) => unreachable!("nulls stand in the shape"),
        }
    }

    fn of_floats(floats: Vec<f64>) -> Self {
        for exponent in 0..=EXPONENT_MAX {
            let scaled: Option<Vec<i64>> =
                floats.iter().map(|&float| scale(float, exponent)).collect();
            if let Some(values) = scaled {
                return Column::Decimals { exponent, values };
            }
        }
        Column::Floats(floats)
    }

    /// How many array items `encode` writes.
    fn items(&self) -> u64 {
        match self {
            Column::Integers(_) | Column::Bools(_) => 3,
            Column::Decimals { .. } => 4,
            Column::Floats(_) | Column::Texts(_) | Column::Mixed(_) => 2,
        }
    }

    fn encode(&self, cbor: &mut Cbor) {
        match self {
            Column::Integers(values) => {
                cbor.u8(INTEGERS).expect(INFALLIBLE);
                encode_integers(cbor, values);
            }
            Column::Decimals { exponent, values } => {
                cbor.u8(DECIMALS).expect(INFALLIBLE).u8(*exponent).expect(INFALLIBLE);
                encode_integers(cbor, values);
            }
            Column::Floats(values) => {
                cbor.u8(FLOATS).expect(INFALLIBLE).array(values.len() as u64).expect(INFALLIBLE);
                for &value in values {
                    cbor.f64(value).expect(INFALLIBLE);
                }
            }
            Column::Bools(values) => {
                let runs = runs(values.iter());
                cbor.u8(BOOLS).expect(INFALLIBLE).bool(values[0]).expect(INFALLIBLE);
                cbor.array(runs.len() as u64).expect(INFALLIBLE);
                for (_, run) in runs {
                    cbor.u64(run).expect(INFALLIBLE);
                }
            }
            Column::Texts(values) => {
                let runs = runs(values.iter());
                cbor.u8(TEXTS).expect(INFALLIBLE).array(2 * runs.len() as u64).expect(INFALLIBLE);
                for (text, run) in runs {
                    cbor.str(text).expect(INFALLIBLE).u64(run).expect(INFALLIBLE);
                }
            }
            Column::Mixed(values) => {
                cbor.u8(MIXED).expect(INFALLIBLE).array(values.len() as u64).expect(INFALLIBLE);
                for value in values {
                    encode_value(cbor, value);
                }
            }
        }
    }
}

/// The integer m with m / 10^exponent == float, to the bit; `None` where there is none.
fn scale(float: f64, exponent: u8) -> Option<i64> {
    let factor = 10f64.powi(i32::from(exponent));
    let scaled = (float * factor).round();
    // Beyond 2^53 an f64 no longer holds every integer. NaN and infinities fail here too.
    let exact = scaled.abs() < 9_007_199_254_740_992.0;
    // Back through the integer, which knows no -0.0.
    let whole = scaled as i64;
    (exact && (whole as f64 / factor).to_bits() == float.to_bits()).then_some(whole)
}

fn encode_integers(cbor: &mut Cbor, values: &[i64]) {
    let deltas: Vec<i64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    cbor.i64(values[0]).expect(INFALLIBLE);
    encode_deltas(cbor, &deltas);
}

fn encode_value(cbor: &mut Cbor, value: &Value) {
    match value {
        Value::Null => cbor.null(),
        Value::Bool(value) => cbor.bool(*value),
        Value::Int(value) => cbor.i64(*value),
        Value::Float(value) => cbor.f64(*value),
        Value::Text(value) => cbor.str(value),
    }
    .expect(INFALLIBLE);
}
