//! The body of a batch of readings: CBOR columns, compressed where that makes it smaller.
//!
//! ```text
//! body    = [n, [group, ...]]                 or the same, zstd-compressed (the magic number tells)
//! group   = [source, rows, seqs, times, [column, ...]]    one per source
//! rows    = how many of the batch's rows are this source's
//! seqs    = series   which: 0-based offsets from the batch's first
//! times   = series   ms since the epoch's start
//! series  = [first, step, [d, ...]]           next = previous + step + d; [] = every d is 0
//! column  = [metric, shape, kind, ...]
//! shape   = null     every row of the group has a value
//!         | [state, run, state, run, ...]     0 absent, 1 null, 2 value
//! kind  0   first, [d, ...]                   integers; next = previous + d (wraps at 64 bits)
//!       1   exponent, first, [d, ...]         the same, divided by 10^exponent
//!       2   [float64, ...]
//!       3   first, [run, ...]                 bools; each run flips
//!       4   [text, run, ...]
//!       5   [value, ...]                      mixed
//! ```
//!
//! Plain CBOR, no tags: topics.md holds a decoder of a page in Python. A decimal is carried
//! as an integer only where the division gives back the very bits of the float.

mod decode;
mod encode;

use crate::{BATCH_READINGS_MAX, BODY_BYTES_DECODED_MAX, BODY_BYTES_MAX, Reading};

/// Rows whose value is absent, null, there.
const ABSENT: u8 = 0;
const NULL: u8 = 1;
const THERE: u8 = 2;

/// The kinds of columns.
const INTEGERS: u8 = 0;
const DECIMALS: u8 = 1;
const FLOATS: u8 = 2;
const BOOLS: u8 = 3;
const TEXTS: u8 = 4;
const MIXED: u8 = 5;

/// Decimal places that are tried before a column is sent as float64.
const EXPONENT_MAX: u8 = 9;
/// From RFC 8878, 3.1.1: the first four bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Levels above it gain 1 to 2 % on our series and cost several times the memory.
const ZSTD_LEVEL: i32 = 3;

/// Why a body cannot be read. The rows of such a batch go to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not the CBOR that the format asks for.
    #[error("the body is malformed: {0}")]
    Malformed(String),
    /// Larger than its bound.
    #[error("the body unfolds to more than {BODY_BYTES_DECODED_MAX} bytes")]
    TooBig,
    /// The envelope and the body name different counts.
    #[error("the envelope says {envelope} rows, the body {body}")]
    Count {
        /// In the envelope.
        envelope: u64,
        /// In the body.
        body: u64,
    },
    /// A name that may not be one.
    #[error(transparent)]
    Name(#[from] crate::NameError),
}

/// Encodes 1 to 1,000 readings, compressed where that is smaller.
///
/// The result may exceed [`BODY_BYTES_MAX`]; [`encode_runs`] is for those who must not.
pub fn encode_readings(readings: &[Reading]) -> Vec<u8> {
    assert!(
        !readings.is_empty() && readings.len() <= BATCH_READINGS_MAX,
        "a batch has 1 to 1,000 readings"
    );
    packed(encode::body(readings))
}

fn packed(plain: Vec<u8>) -> Vec<u8> {
    match zstd::bulk::compress(&plain, ZSTD_LEVEL) {
        Ok(packed) if packed.len() < plain.len() => packed,
        _ => plain,
    }
}

/// Encodes any number of readings as consecutive bodies that each obey the bounds: at most
/// 1,000 readings, [`BODY_BYTES_MAX`] encoded, [`BODY_BYTES_DECODED_MAX`] before compression
/// and of cost. Returns (number of readings, body) in order.
///
/// A reading that came through a port fits alone: a frame has at most 4 KiB.
pub fn encode_runs(readings: &[Reading]) -> Vec<(usize, Vec<u8>)> {
    let mut runs = Vec::new();
    let mut rest = readings;
    while !rest.is_empty() {
        let mut take = longest_run(rest);
        let body = loop {
            // A column of one value takes more bytes than the cell costs, so that rows within
            // the bound of cost can be past that of bytes.
            let plain = encode::body(&rest[..take]);
            let unpacks = plain.len() <= BODY_BYTES_DECODED_MAX;
            let body = packed(plain);
            if (unpacks && body.len() <= BODY_BYTES_MAX) || take == 1 {
                break body;
            }
            take = take.div_ceil(2);
        };
        runs.push((take, body));
        rest = &rest[take..];
    }
    runs
}

/// How many readings from the front stay within the bounds of count and cost; at least one.
fn longest_run(readings: &[Reading]) -> usize {
    let mut cost = 0;
    let within = readings.iter().take(BATCH_READINGS_MAX).take_while(|reading| {
        cost += reading.cost();
        cost <= BODY_BYTES_DECODED_MAX
    });
    within.count().max(1)
}

/// Decodes the body of a batch of `n` readings, in the order of their sequence numbers.
pub fn decode_readings(body: &[u8], n: u64) -> Result<Vec<Reading>, BodyError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(BodyError::TooBig);
    }
    if !body.starts_with(&ZSTD_MAGIC) {
        return decode::body(body, n);
    }
    // Never the streaming decoder: it would allocate the window that the sender declares.
    let plain = zstd::bulk::decompress(body, BODY_BYTES_DECODED_MAX)
        .map_err(|error| BodyError::Malformed(format!("zstd: {error}")))?;
    decode::body(&plain, n)
}

#[cfg(test)]
mod tests;
