//! What the source knows: every line that it has sent, and when.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use fieldpost_protocol::{Metrics, Value};

/// The source that the board names in its lines. Nothing else counts.
pub const SOURCE: &str = "fruiting";
/// A stored time may differ from the moment of sending by so much: a shared machine may let
/// a reader wait, and the bridge's clock is known to a second.
pub const TIME_TOLERANCE_MS: i64 = 2_000;

/// One line that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Unix milliseconds when the line was written.
    pub time_ms: i64,
    /// Tenths of a degree Celsius.
    pub temp_tenths: i64,
    /// Tenths of a percent.
    pub humidity_tenths: i64,
    /// Parts per million.
    pub co2: i64,
}

/// Shared by the board, which writes, and the judge, which compares. Line n is entry n - 1.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    lines: Arc<Mutex<Vec<Sent>>>,
    commands: Arc<Mutex<Vec<String>>>,
    slack_ms: Arc<AtomicI64>,
}

impl Ledger {
    /// Enters a line before it is sent: it may be stored before the board goes on.
    pub fn enter(&self, sent: Sent) {
        self.lines.lock().expect("nobody panics while holding it").push(sent);
    }

    /// The board does this now.
    pub(crate) fn ran(&self, command: &str) {
        self.commands.lock().expect("nobody panics while holding it").push(command.to_owned());
    }

    /// Every command that a board has done, such as `led on=1`, in order.
    pub fn commands(&self) -> Vec<String> {
        self.commands.lock().expect("nobody panics while holding it").clone()
    }

    /// A time may be off by so much more: where no clock is set, a gateway has it from the bridge, and
    /// knows it to half a round trip.
    pub fn allow_ms(&self, slack_ms: i64) {
        self.slack_ms.store(slack_ms, Ordering::Relaxed);
    }

    /// By how much a stored time may be off.
    pub(crate) fn tolerance_ms(&self) -> i64 {
        TIME_TOLERANCE_MS + self.slack_ms.load(Ordering::Relaxed)
    }

    /// How many lines were sent.
    pub fn len(&self) -> u64 {
        self.lines.lock().expect("nobody panics while holding it").len() as u64
    }

    /// Nothing was sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Line `n`, from 1 on.
    pub fn line(&self, n: u64) -> Option<Sent> {
        let at = usize::try_from(n.checked_sub(1)?).ok()?;
        self.lines.lock().expect("nobody panics while holding it").get(at).copied()
    }
}

impl Sent {
    /// The line's text, without checksum.
    pub fn text(&self, n: u64) -> String {
        let tenths = |value: i64| format!("{}.{}", value / 10, value % 10);
        let (temp, humidity) = (tenths(self.temp_tenths), tenths(self.humidity_tenths));
        format!("{SOURCE} n={n} temp={temp} humidity={humidity} co2={} #{n}", self.co2)
    }

    /// What is wrong with the stored metrics of line `n`; `None`: nothing.
    pub fn differs(&self, n: u64, metrics: &Metrics) -> Option<String> {
        let expected = [
            ("n", Value::Int(n as i64)),
            ("temp", Value::Float(self.temp_tenths as f64 / 10.0)),
            ("humidity", Value::Float(self.humidity_tenths as f64 / 10.0)),
            ("co2", Value::Int(self.co2)),
        ];
        if metrics.len() != expected.len() {
            return Some(format!(
                "line {n} has {} metrics instead of {}",
                metrics.len(),
                expected.len()
            ));
        }
        for (name, value) in expected {
            if !metrics.get(name).is_some_and(|stored| stored.same(&value)) {
                return Some(format!(
                    "line {n}: {name} is {:?} instead of {value:?}",
                    metrics.get(name)
                ));
            }
        }
        None
    }

    /// Whether line `n` was stored with a time that is further off than that.
    pub(crate) fn is_off(&self, n: u64, time_ms: i64, tolerance_ms: i64) -> Option<String> {
        let off_ms = time_ms - self.time_ms;
        (off_ms.abs() > tolerance_ms).then(|| format!("line {n}: its time is off by {off_ms} ms"))
    }
}
