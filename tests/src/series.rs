//! The synthetic series that sizes are stated on. Fixed before the first size was measured,
//! and not bent afterwards: a change here is a new series with a new name.
//!
//! - Generator: SplitMix64, seed 20261121 plus the series' number (0, 1, 2).
//! - Noise: normal, as the sum of four uniforms scaled to the sigma given (Irwin-Hall).
//! - Jitter: readings come every 1,000 ms, each off by a uniform whole number of -8..=8 ms.
//! - Quantisation: as the sensor prints it, `q` below.
//!
//! ```text
//! air      pm2_5    int   mean 12, back to it in 600 s, drive sigma 0.1 a second, noise 0.3   µg/m³
//!          pm10     int   1.4 x the same air, noise 0.5                                       µg/m³
//!          co2      int   600 + 150 sin(2 pi t / 7,200 s), noise 1.5                          ppm
//!          temp     q 0.1 21 + 2 sin(2 pi t / 86,400 s), noise 0.03                           °C
//!          humidity q 0.1 45 + 5 sin(2 pi t / 43,200 s), noise 0.1                            %
//! room     temp     q 0.1 18 + 0.5 sin(2 pi t / 1,800 s), noise 0.03                          °C
//!          humidity q 0.1 90 + 4 sin(2 pi t / 900 s), noise 0.15                              %
//!          co2      int   800 + 200 sin(2 pi t / 1,800 s), noise 3                            ppm
//!          fan      bool  on for 300 s of every 1,800 s
//!          stage    text  "fruiting"
//! meter    power    int   a new level of 100..2,100 every 300 s, noise 2                      W
//!          voltage  q 0.1 230, noise 0.3                                                      V
//!          current  q 0.01 power / voltage                                                    A
//!          energy   q 0.001 the running sum of power, from 4,711                              kWh
//!          tariff   int   1, and 2 for the second half of every 7,200 s
//! ```

use std::f64::consts::TAU;

use fieldpost_protocol::{Metrics, Reading, Value};

/// The names of the series, in their order.
pub const NAMES: [&str; 3] = ["air", "room", "meter"];

const SEED: u64 = 20_261_121;

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn noise(&mut self, sigma: f64) -> f64 {
        // Four uniforms have variance 4/12.
        let sum: f64 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 3f64.sqrt() * sigma
    }
}

/// The first `n` readings of a series.
pub fn series(name: &str, n: usize) -> Vec<Reading> {
    let number = NAMES.iter().position(|known| *known == name).expect("one of the three names");
    let mut rng = SplitMix64(SEED + number as u64);
    let mut state = State { pm: 12.0, level: 600.0, energy: 4_711.0 };
    let mut readings = Vec::with_capacity(n);
    for i in 0..n {
        let t = i as f64;
        let metrics = match number {
            0 => air(&mut rng, &mut state, t),
            1 => room(&mut rng, t),
            _ => meter(&mut rng, &mut state, i),
        };
        let pairs = metrics.into_iter().map(|(metric, value)| (metric.into(), value)).collect();
        let jitter = (rng.next() % 17) as i64 - 8;
        readings.push(Reading {
            source: name.into(),
            offset_ms: 60_000 + i as i64 * 1_000 + jitter,
            metrics: Metrics::new(pairs).expect("different names"),
        });
    }
    readings
}

struct State {
    pm: f64,
    level: f64,
    energy: f64,
}

type Pairs = Vec<(&'static str, Value)>;

fn air(rng: &mut SplitMix64, state: &mut State, t: f64) -> Pairs {
    state.pm += (12.0 - state.pm) / 600.0 + rng.noise(0.1);
    vec![
        ("pm2_5", int((state.pm + rng.noise(0.3)).max(0.0))),
        ("pm10", int((1.4 * state.pm + rng.noise(0.5)).max(0.0))),
        ("co2", int(600.0 + 150.0 * (TAU * t / 7_200.0).sin() + rng.noise(1.5))),
        ("temp", decimal(21.0 + 2.0 * (TAU * t / 86_400.0).sin() + rng.noise(0.03), 10.0)),
        ("humidity", decimal(45.0 + 5.0 * (TAU * t / 43_200.0).sin() + rng.noise(0.1), 10.0)),
    ]
}

fn room(rng: &mut SplitMix64, t: f64) -> Pairs {
    vec![
        ("temp", decimal(18.0 + 0.5 * (TAU * t / 1_800.0).sin() + rng.noise(0.03), 10.0)),
        ("humidity", decimal(90.0 + 4.0 * (TAU * t / 900.0).sin() + rng.noise(0.15), 10.0)),
        ("co2", int(800.0 + 200.0 * (TAU * t / 1_800.0).sin() + rng.noise(3.0))),
        ("fan", Value::Bool(t % 1_800.0 < 300.0)),
        ("stage", "fruiting".into()),
    ]
}

fn meter(rng: &mut SplitMix64, state: &mut State, i: usize) -> Pairs {
    if i.is_multiple_of(300) {
        state.level = 100.0 + 2_000.0 * rng.uniform();
    }
    let power = (state.level + rng.noise(2.0)).round();
    let voltage = 230.0 + rng.noise(0.3);
    state.energy += power / 3_600_000.0;
    vec![
        ("power", int(power)),
        ("voltage", decimal(voltage, 10.0)),
        ("current", decimal(power / voltage, 100.0)),
        ("energy", decimal(state.energy, 1_000.0)),
        ("tariff", Value::Int(if i % 7_200 < 3_600 { 1 } else { 2 })),
    ]
}

fn int(value: f64) -> Value {
    Value::Int(value.round() as i64)
}

fn decimal(value: f64, parts: f64) -> Value {
    Value::Float((value * parts).round() / parts)
}
