//! The only place of the gateway that asks what time it is.
//!
//! A Pi has no clock battery, so nothing that matters hangs on the wall clock: readings
//! carry CLOCK_BOOTTIME, which runs through a suspend and is never set.
#![allow(clippy::disallowed_methods, reason = "this is the module that may")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// What the clocks said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of CLOCK_BOOTTIME.
    pub boot_ms: i64,
    /// Unix milliseconds of the wall clock, right or wrong.
    pub wall_ms: i64,
    /// The kernel says that the wall clock is synchronised.
    pub synchronised: bool,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> Now {
        Now { boot_ms: boottime_ms(), wall_ms: wall_ms(), synchronised: synchronised() }
    }

    /// Wall clock minus boot time: changes only when somebody sets the clock.
    pub fn skew_ms(&self) -> i64 {
        self.wall_ms - self.boot_ms
    }
}

/// Milliseconds of CLOCK_BOOTTIME.
pub fn boottime_ms() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// CLOCK_BOOTTIME as the engine takes it.
pub fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Unix milliseconds of the wall clock; negative before 1970.
pub fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

/// Whether the kernel's clock discipline calls the clock synchronised (adjtimex(2)).
#[allow(unsafe_code, reason = "no maintained crate wraps adjtimex")]
pub fn synchronised() -> bool {
    // SAFETY: an all-zero timex asks only (modes = 0), and adjtimex writes within it.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex)
    };
    state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

/// The kernel's id of this boot. Where /proc does not tell, one that nothing else has: an epoch
/// of another boot must never be taken for one of this.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| format!("unknown-{:032x}", u128::from_le_bytes(random_id())))
}

/// 16 random bytes from the kernel: an epoch or a nonce.
pub fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        // A request this small is never cut short once the kernel's pool is ready; before
        // that the call waits, early in a boot, and may be interrupted.
        filled += rustix::rand::getrandom(&mut id[filled..], rustix::rand::GetRandomFlags::empty())
            .unwrap_or(0);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_never_goes_back_and_ids_differ() {
        let (a, b) = (boottime_ms(), boottime_ms());
        assert!(b >= a && a > 0);
        assert_ne!(random_id(), random_id());
    }
}
