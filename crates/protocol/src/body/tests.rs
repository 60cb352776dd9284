//! Bodies come back to the bit, and hostile ones are refused.

use proptest::prelude::*;

use super::*;
use crate::{Metrics, Value};

fn reading(source: &str, offset_ms: i64, metrics: Vec<(&str, Value)>) -> Reading {
    let pairs = metrics.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Reading { source: source.into(), offset_ms, metrics: Metrics::new(pairs).unwrap() }
}

fn same(a: &[Reading], b: &[Reading]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.source == b.source
                && a.offset_ms == b.offset_ms
                && a.metrics.len() == b.metrics.len()
                && a.metrics.iter().zip(b.metrics.iter()).all(|(x, y)| x.0 == y.0 && x.1.same(y.1))
        })
}

#[track_caller]
fn comes_back(readings: &[Reading]) {
    let body = encode_readings(readings);
    let back = decode_readings(&body, readings.len() as u64).expect("what we encode we decode");
    assert!(same(readings, &back), "sent {readings:?}\ngot {back:?}");
}

#[test]
fn every_kind_of_value_comes_back_to_the_bit() {
    let specials = [
        0.0,
        -0.0,
        0.1,
        24.4,
        1e-300,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::NAN,
        f64::INFINITY,
        1e22,
        0.3 - 0.1,
    ];
    for &special in &specials {
        comes_back(&[reading("a", 0, vec![("x", special.into())])]);
        comes_back(&[
            reading("a", 0, vec![("x", 24.5.into())]),
            reading("a", 1, vec![("x", special.into())]),
        ]);
    }
    for &int in &[0, -1, i64::MAX, i64::MIN] {
        comes_back(&[
            reading("a", i64::MIN, vec![("x", int.into())]),
            reading("a", i64::MAX, vec![("x", 7.into())]),
        ]);
    }
}

#[test]
fn absent_is_not_null_and_sources_may_alternate() {
    let rows: Vec<Reading> = (0..300)
        .map(|i| {
            let mut metrics = vec![("n", Value::Int(i))];
            if i % 7 == 0 {
                metrics.push(("rare", Value::Null));
            }
            if i % 5 == 0 {
                metrics.push(("state", if i % 2 == 0 { "on" } else { "off" }.into()));
            }
            if i % 3 == 0 {
                metrics.push(("mixed", if i % 2 == 0 { 1.into() } else { 1.5.into() }));
            }
            metrics.push(("door", (i % 50 < 10).into()));
            reading(["air", "room", "meter"][i as usize % 3], i * 333, metrics)
        })
        .collect();
    comes_back(&rows);
}

#[test]
fn runs_obey_the_bounds_and_lose_nothing() {
    let text = "x".repeat(3_000);
    let rows: Vec<Reading> = (0..2_500)
        .map(|i| reading("a", i, vec![("t", Value::Text(format!("{i}{text}").into()))]))
        .collect();
    let runs = encode_runs(&rows);
    assert_eq!(runs.iter().map(|(n, _)| n).sum::<usize>(), rows.len());
    let mut back = Vec::new();
    for (n, body) in &runs {
        assert!(*n <= BATCH_READINGS_MAX && body.len() <= BODY_BYTES_MAX);
        back.extend(decode_readings(body, *n as u64).unwrap());
    }
    assert!(same(&rows, &back));
}

#[test]
fn incompressible_rows_are_split_until_they_fit() {
    let mut rng = fastrand::Rng::with_seed(7);
    let rows: Vec<Reading> = (0..1_000)
        .map(|i| {
            let text: String = std::iter::repeat_with(|| rng.alphanumeric()).take(500).collect();
            reading("a", i, vec![("t", Value::Text(text.into()))])
        })
        .collect();
    let runs = encode_runs(&rows);
    assert!(runs.len() > 1 && runs.iter().all(|(_, body)| body.len() <= BODY_BYTES_MAX));
    assert_eq!(runs.iter().map(|(n, _)| n).sum::<usize>(), 1_000);
}

/// Every run that is made can be read where it arrives; it would be a dead letter otherwise.
fn runs_arrive(rows: &[Reading]) {
    let mut back = Vec::new();
    for (n, body) in encode_runs(rows) {
        assert!(body.len() <= BODY_BYTES_MAX);
        back.extend(decode_readings(&body, n as u64).unwrap());
    }
    assert!(same(rows, &back));
}

#[test]
fn a_board_that_makes_up_names_is_read_too() {
    let made_up = |i: i64| {
        let names: Vec<String> = (0..28).map(|k| format!("m{}", i * 28 + k)).collect();
        reading("a", i, names.iter().map(|name| (&**name, Value::Int(1))).collect())
    };
    runs_arrive(&(0..1_000).map(made_up).collect::<Vec<_>>());
}

#[test]
fn columns_of_one_value_take_more_bytes_than_their_cells_and_are_read_too() {
    let of_two = |i: i64| {
        let names: Vec<String> = (0..50).map(|k| format!("{}{k:03}", i % 2)).collect();
        let source = format!("s{}", i / 2);
        reading(&source, i, names.iter().map(|name| (&**name, Value::Int(1 << 40))).collect())
    };
    runs_arrive(&(0..1_000).map(of_two).collect::<Vec<_>>());
}

#[test]
fn a_short_body_that_unfolds_to_megabytes_is_refused() {
    // 1,000 rows of the same 4 KiB text: a few hundred bytes on the wire, 4 MiB unfolded.
    let text: Value = "x".repeat(4_000).as_str().into();
    let rows: Vec<Reading> =
        (0..1_000).map(|i| reading("a", i, vec![("t", text.clone())])).collect();
    let body = encode_readings(&rows);
    assert!(body.len() < 1_000, "{}", body.len());
    assert_eq!(decode_readings(&body, 1_000), Err(BodyError::TooBig));
}

#[test]
fn a_zstd_bomb_and_a_false_count_are_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    assert!(decode_readings(&bomb, 1).is_err());
    let body = encode_readings(&[reading("a", 0, vec![("x", 1.into())])]);
    assert_eq!(decode_readings(&body, 2), Err(BodyError::Count { envelope: 2, body: 1 }));
    assert!(decode_readings(&body, u64::MAX).is_err());
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1000i64..1000).prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        (-100_000i64..100_000, 0..6).prop_map(|(m, e)| Value::Float(m as f64 / 10f64.powi(e))),
        "[a-z]{0,6}".prop_map(|text| Value::Text(text.into())),
    ]
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let metrics = prop::collection::btree_map("[a-e]", any_value(), 0..5);
    ("[xyz]", any::<i64>(), metrics).prop_map(|(source, offset_ms, metrics)| {
        let pairs = metrics.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Reading { source: source.into(), offset_ms, metrics: Metrics::new(pairs).unwrap() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_encoded_comes_back_to_the_bit(readings in prop::collection::vec(any_reading(), 1..60)) {
        let body = encode_readings(&readings);
        let back = decode_readings(&body, readings.len() as u64).unwrap();
        prop_assert!(same(&readings, &back));
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), n in 0u64..2000) {
        let _ = decode_readings(&bytes, n);
    }

    #[test]
    fn a_damaged_body_never_panics(
        readings in prop::collection::vec(any_reading(), 1..30),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut plain = super::encode::body(&readings);
        let at = at.index(plain.len());
        plain[at] ^= 1 << bit;
        if let Ok(back) = decode_readings(&plain, readings.len() as u64) {
            prop_assert_eq!(back.len(), readings.len());
        }
    }
}
