//! How long to wait before the next connection: every figure in one table.

use std::time::Duration;

/// The first try after a connection that was good.
const FIRST: Duration = Duration::from_secs(1);
/// Doubled with each failure, up to this.
const CAP: Duration = Duration::from_secs(30);
/// A connection that lived so long was good: a broker that accepts and drops is not hammered.
const GOOD: Duration = Duration::from_secs(10);

/// Full jitter: uniform between nothing and the present bound, so that a thousand gateways
/// do not come back in the same second.
#[derive(Debug)]
pub(crate) struct Backoff {
    bound: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { bound: FIRST, rng: fastrand::Rng::new() }
    }

    /// The wait after a connection that lived `lived` (zero: it never came about).
    pub(crate) fn next(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD {
            self.bound = FIRST;
        }
        let wait = self.bound.mul_f64(self.rng.f64());
        self.bound = (self.bound * 2).min(CAP);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_its_cap_and_starts_anew_after_a_good_connection() {
        let mut backoff = Backoff::new();
        for _ in 0..1_000 {
            assert!(backoff.next(Duration::from_secs(2)) <= CAP);
        }
        assert_eq!(backoff.bound, CAP);
        assert!(backoff.next(GOOD) <= FIRST);
    }
}
