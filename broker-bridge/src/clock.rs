//! The wall clock and randomness: the only place that reads them. Everything else is given
//! the time as an argument.
#![allow(clippy::disallowed_methods, reason = "this is the file that reads the wall clock")]

use std::io;
use std::time::SystemTime;

use rustix::rand::{GetRandomFlags, getrandom};

/// Unix milliseconds now: the cloud time that gateways get to hear.
pub fn now_ms() -> i64 {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        // A clock before 1970 is wrong in any case.
        Err(_) => 0,
    }
}

/// 16 random bytes from the operating system: store ids, gens and instances must never meet.
pub fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    // Up to 256 bytes come whole (getrandom(2)).
    getrandom(&mut id[..], GetRandomFlags::empty())?;
    Ok(id)
}
