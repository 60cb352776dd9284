//! Columns to readings. The input is hostile until proven otherwise: every count is held
//! against the rows that the envelope promised before anything is allocated for it.

use std::sync::Arc;

use minicbor::Decoder;
use minicbor::data::Type;

use super::{
    ABSENT, BOOLS, BodyError, DECIMALS, EXPONENT_MAX, FLOATS, INTEGERS, MIXED, NULL, TEXTS, THERE,
};
use crate::value::{READING_COST, cell_cost};
use crate::{
    BATCH_READINGS_MAX, BODY_BYTES_DECODED_MAX, Metrics, Reading, TEXT_BYTES_MAX, Value,
    check_metric, check_source,
};

/// A row while its columns come in.
struct Row {
    source: Arc<str>,
    offset_ms: i64,
    metrics: Vec<(Arc<str>, Value)>,
}

/// Decodes an uncompressed body of `n` rows.
pub(super) fn body(bytes: &[u8], n: u64) -> Result<Vec<Reading>, BodyError> {
    let mut input = Input { cbor: Decoder::new(bytes), cost: 0 };
    input.array_of(2)?;
    let found = input.cbor.u64()?;
    if found != n || n > BATCH_READINGS_MAX as u64 {
        return Err(BodyError::Count { envelope: n, body: found });
    }
    let mut rows: Vec<Option<Row>> = std::iter::repeat_with(|| None).take(n as usize).collect();
    let groups = input.array_up_to(rows.len())?;
    for _ in 0..groups {
        input.group(&mut rows)?;
    }
    if input.cbor.position() != bytes.len() {
        return Err(malformed("bytes follow after its end"));
    }
    rows.into_iter()
        .map(|row| finish(row.ok_or_else(|| malformed("a row belongs to no source"))?))
        .collect()
}

fn finish(row: Row) -> Result<Reading, BodyError> {
    let metrics = Metrics::new(row.metrics)
        .map_err(|name| malformed(&format!("metric {name:?} stands twice")))?;
    Ok(Reading { source: row.source, offset_ms: row.offset_ms, metrics })
}

struct Input<'b> {
    cbor: Decoder<'b>,
    /// What was unfolded so far, see [`Reading::cost`].
    cost: usize,
}

impl<'b> Input<'b> {
    fn group(&mut self, rows: &mut [Option<Row>]) -> Result<(), BodyError> {
        self.array_of(5)?;
        let source = self.cbor.str()?;
        check_source(source)?;
        let source: Arc<str> = source.into();
        let count =
            usize::try_from(self.cbor.u64()?).ok().filter(|count| (1..=rows.len()).contains(count));
        let count =
            count.ok_or_else(|| malformed("a source has no rows, or more than the batch"))?;
        let offsets = self.series(count)?;
        let times = self.series(count)?;
        let mut members = Vec::with_capacity(count);
        for (&offset, &offset_ms) in offsets.iter().zip(&times) {
            let at = usize::try_from(offset).ok().filter(|&at| at < rows.len());
            let at = at.ok_or_else(|| malformed("a row lies outside the batch"))?;
            if rows[at].is_some() {
                return Err(malformed("a row belongs to two sources"));
            }
            self.charge(READING_COST + source.len())?;
            rows[at] = Some(Row { source: source.clone(), offset_ms, metrics: Vec::new() });
            members.push(at);
        }
        for _ in 0..self.array_up_to(BODY_BYTES_DECODED_MAX)? {
            self.column(rows, &members)?;
        }
        Ok(())
    }

    /// `[first, step, [d, ...]]`; an empty list stands for as many zeros as are needed.
    fn series(&mut self, count: usize) -> Result<Vec<i64>, BodyError> {
        self.array_of(3)?;
        let first = self.cbor.i64()?;
        let step = self.cbor.i64()?;
        self.running_sum(count, first, step)
    }

    /// `first` and `count - 1` more, each the one before plus `step` plus its delta.
    fn running_sum(&mut self, count: usize, first: i64, step: i64) -> Result<Vec<i64>, BodyError> {
        let deltas = self.array_up_to(count - 1)?;
        if deltas != 0 && deltas != count - 1 {
            return Err(malformed("a list of differences has the wrong length"));
        }
        let mut values = Vec::with_capacity(count);
        let mut value = first;
        values.push(value);
        for _ in 1..count {
            let delta = if deltas == 0 { 0 } else { self.cbor.i64()? };
            value = value.wrapping_add(step).wrapping_add(delta);
            values.push(value);
        }
        Ok(values)
    }

    fn column(&mut self, rows: &mut [Option<Row>], members: &[usize]) -> Result<(), BodyError> {
        let items = self.array_len()?;
        let metric = self.cbor.str()?;
        check_metric(metric)?;
        let metric: Arc<str> = metric.into();
        let shape = self.shape(members.len())?;
        if shape.iter().all(|(state, _)| *state == ABSENT) {
            // A column of nothing is none of ours, and costs, or a body could hold 100,000 of
            // them. One with cells costs what they do: a batch that obeys its bound where it is
            // made has to be taken here, however many columns it has.
            self.charge(READING_COST)?;
        }
        let count: usize =
            shape.iter().filter(|(state, _)| *state == THERE).map(|(_, run)| run).sum();
        let kind = self.cbor.u8()?;
        let expected = match kind {
            INTEGERS | BOOLS => 5,
            DECIMALS => 6,
            FLOATS | TEXTS | MIXED => 4,
            _ => return Err(malformed(&format!("{kind} is no kind of column"))),
        };
        if items != expected {
            return Err(malformed("a column has the wrong number of items"));
        }
        let mut values = self.values(kind, count)?.into_iter();
        let mut next = 0;
        for (state, run) in shape {
            let rows_of_run = &members[next..next + run];
            next += run;
            if state == ABSENT {
                continue;
            }
            for &at in rows_of_run {
                let value = match state {
                    NULL => Value::Null,
                    _ => values.next().ok_or_else(|| malformed("a column has too few values"))?,
                };
                self.charge(cell_cost(&metric, &value))?;
                let row = rows[at].as_mut().expect("the group has just made its members");
                row.metrics.push((metric.clone(), value));
            }
        }
        Ok(())
    }

    fn shape(&mut self, rows: usize) -> Result<Vec<(u8, usize)>, BodyError> {
        if self.cbor.datatype()? == Type::Null {
            self.cbor.null()?;
            return Ok(vec![(THERE, rows)]);
        }
        let items = self.array_up_to(2 * rows)?;
        let mut shape = Vec::with_capacity(items / 2);
        let mut left = rows;
        for _ in 0..items / 2 {
            let state = self.cbor.u8()?;
            if state > THERE {
                return Err(malformed("a shape knows only 0, 1 and 2"));
            }
            shape.push((state, self.run(&mut left)?));
        }
        if items % 2 != 0 || left != 0 {
            return Err(malformed("a shape does not cover its rows"));
        }
        Ok(shape)
    }

    /// A run of at least one and at most what is left.
    fn run(&mut self, left: &mut usize) -> Result<usize, BodyError> {
        let run = usize::try_from(self.cbor.u64()?).ok().filter(|run| (1..=*left).contains(run));
        let run = run.ok_or_else(|| malformed("a run is empty or longer than its rows"))?;
        *left -= run;
        Ok(run)
    }

    fn values(&mut self, kind: u8, count: usize) -> Result<Vec<Value>, BodyError> {
        if count == 0 && kind != MIXED {
            return Err(malformed("a column without values has to be of kind 5"));
        }
        match kind {
            INTEGERS => {
                let first = self.cbor.i64()?;
                Ok(self.running_sum(count, first, 0)?.into_iter().map(Value::Int).collect())
            }
            DECIMALS => {
                let exponent = self.cbor.u8()?;
                if exponent > EXPONENT_MAX {
                    return Err(malformed("an exponent is larger than 9"));
                }
                let factor = 10f64.powi(i32::from(exponent));
                let first = self.cbor.i64()?;
                let scaled = self.running_sum(count, first, 0)?;
                Ok(scaled.into_iter().map(|scaled| Value::Float(scaled as f64 / factor)).collect())
            }
            FLOATS => {
                self.array_exactly(count)?;
                (0..count).map(|_| Ok(Value::Float(self.cbor.f64()?))).collect()
            }
            BOOLS => self.bools(count),
            TEXTS => self.texts(count),
            _ => {
                self.array_exactly(count)?;
                (0..count).map(|_| self.value()).collect()
            }
        }
    }

    fn bools(&mut self, count: usize) -> Result<Vec<Value>, BodyError> {
        let mut value = self.cbor.bool()?;
        let mut left = count;
        let mut values = Vec::with_capacity(count);
        for _ in 0..self.array_up_to(count)? {
            let run = self.run(&mut left)?;
            values.extend(std::iter::repeat_n(Value::Bool(value), run));
            value = !value;
        }
        if left != 0 {
            return Err(malformed("a column has too few values"));
        }
        Ok(values)
    }

    fn texts(&mut self, count: usize) -> Result<Vec<Value>, BodyError> {
        let items = self.array_up_to(2 * count)?;
        let mut left = count;
        let mut values = Vec::with_capacity(count);
        for _ in 0..items / 2 {
            let text = self.text()?;
            let run = self.run(&mut left)?;
            values.extend(std::iter::repeat_n(text, run));
        }
        if items % 2 != 0 || left != 0 {
            return Err(malformed("a column has too few values"));
        }
        Ok(values)
    }

    fn text(&mut self) -> Result<Value, BodyError> {
        let text = self.cbor.str()?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(BodyError::TooBig);
        }
        Ok(Value::Text(text.into()))
    }

    fn value(&mut self) -> Result<Value, BodyError> {
        match self.cbor.datatype()? {
            Type::Bool => Ok(Value::Bool(self.cbor.bool()?)),
            Type::F16 | Type::F32 | Type::F64 => Ok(Value::Float(self.cbor.f64()?)),
            Type::String => self.text(),
            _ => Ok(Value::Int(self.cbor.i64()?)),
        }
    }

    fn charge(&mut self, cost: usize) -> Result<(), BodyError> {
        self.cost += cost;
        if self.cost > BODY_BYTES_DECODED_MAX { Err(BodyError::TooBig) } else { Ok(()) }
    }

    fn array_len(&mut self) -> Result<usize, BodyError> {
        let len = self.cbor.array()?.ok_or_else(|| malformed("an array has no length"))?;
        usize::try_from(len).map_err(|_| BodyError::TooBig)
    }

    fn array_up_to(&mut self, max: usize) -> Result<usize, BodyError> {
        let len = self.array_len()?;
        if len > max { Err(malformed("an array is longer than its rows allow")) } else { Ok(len) }
    }

    fn array_of(&mut self, items: usize) -> Result<(), BodyError> {
        if self.array_len()? == items {
            Ok(())
        } else {
            Err(malformed("an array has the wrong number of items"))
        }
    }

    fn array_exactly(&mut self, count: usize) -> Result<(), BodyError> {
        if self.array_len()? == count {
            Ok(())
        } else {
            Err(malformed("a column has the wrong number of values"))
        }
    }
}

fn malformed(why: &str) -> BodyError {
    BodyError::Malformed(why.to_owned())
}

impl From<minicbor::decode::Error> for BodyError {
    fn from(error: minicbor::decode::Error) -> Self {
        BodyError::Malformed(error.to_string())
    }
}
