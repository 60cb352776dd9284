//! Bytes per reading of a batch's body, on the synthetic series of `fieldpost_tests::series`.
//!
//! Beside it what others would need: JSON lines with gzip, CBOR maps with zstd, and batches
//! in which three sources take turns, as on a gateway with three ports.

use std::io::Write;

use fieldpost_protocol::{Reading, encode_readings};
use fieldpost_tests::series::{NAMES, series};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Consecutive batches that a mean is taken over.
const BATCHES: usize = 20;

/// Mean bytes per reading over consecutive batches of `n`.
fn mean(readings: &[Reading], n: usize, encode: fn(&[Reading]) -> usize) -> f64 {
    let bytes: usize = readings.chunks_exact(n).map(encode).sum();
    bytes as f64 / (readings.len() / n * n) as f64
}

fn columns(batch: &[Reading]) -> usize {
    encode_readings(batch).len()
}

/// One object a line, as `{"source":"air","t":60003,"values":{...}}`.
fn json_gzip(batch: &[Reading]) -> usize {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    for reading in batch {
        let values = reading.metrics.to_json().expect("finite");
        writeln!(
            gzip,
            r#"{{"source":"{}","t":{},"values":{values}}}"#,
            reading.source, reading.offset_ms
        )
        .expect("a Vec takes every byte");
    }
    gzip.finish().expect("a Vec takes every byte").len()
}

/// A map per reading, as a straightforward program would send it.
fn maps_zstd(batch: &[Reading]) -> usize {
    let maps: Vec<_> = batch.iter().map(|r| (&*r.source, r.offset_ms, &r.metrics)).collect();
    let mut plain = Vec::new();
    ciborium::into_writer(&maps, &mut plain).expect("a Vec takes every byte");
    zstd::bulk::compress(&plain, 3).expect("a Vec takes every byte").len()
}

/// The series one after the other, reading by reading.
fn interleaved(n: usize) -> Vec<Reading> {
    let all: Vec<Vec<Reading>> = NAMES.iter().map(|name| series(name, n.div_ceil(3))).collect();
    (0..n).map(|i| all[i % 3][i / 3].clone()).collect()
}

#[test]
fn a_reading_takes_few_bytes() {
    for (n, at_most) in [(100, 4.5), (1_000, 3.0)] {
        println!("bytes per reading, N = {n}, mean of {BATCHES} batches");
        println!(
            "{:8} {:>14} {:>10} {:>15}",
            "series", "columns + zstd", "JSON+gzip", "CBOR maps + zstd"
        );
        let mut sum = 0.0;
        let row = |name: &str, readings: &[Reading]| {
            let ours = mean(readings, n, columns);
            let (json, maps) = (mean(readings, n, json_gzip), mean(readings, n, maps_zstd));
            println!("{name:8} {ours:14.2} {json:10.2} {maps:15.2}");
            ours
        };
        for name in NAMES {
            sum += row(name, &series(name, BATCHES * n));
        }
        row("mixed", &interleaved(BATCHES * n));
        let mean = sum / NAMES.len() as f64;
        println!("mean     {mean:14.2}\n");
        assert!(
            mean <= at_most,
            "{mean:.2} bytes per reading at N = {n}; at most {at_most} are allowed"
        );
    }
}
