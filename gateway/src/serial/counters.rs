//! What a port counted: written by its reader, read by whoever reports.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one port since the start of the process. They only rise.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        /// [`Counters`] as they stood at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
        pub struct CountersNow { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            /// Reads them one by one: between two of them a line may have come.
            pub fn snapshot(&self) -> CountersNow {
                CountersNow { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Bytes that were read.
    bytes,
    /// Lines that were taken: readings, `!boot` and answers to commands.
    frames,
    /// Readings that the queue took. The outbox may yet refuse them.
    accepted_by_queue,
    /// Lines whose checksum is missing, malformed or wrong.
    refused_checksum,
    /// Lines whose checksum holds (or may be missing) and whose content makes no sense.
    refused_syntax,
    /// Lines longer than 4 KiB.
    refused_too_long,
    /// Readings that found the queue full.
    refused_queue_full,
    /// Lines that came whole and measure nothing that is kept: `ignore_lines`, headers, metrics to ignore.
    ignored,
    /// Fragments that were dropped because the port was opened or lost in the middle of a line.
    partial,
    /// Lines that carried a counter `#n`.
    numbered,
    /// Lines that the board counted and that did not come whole: gaps in `#n`.
    lines_lost,
    /// Lines that came with the `#n` of the line before them. They are readings all the same.
    repeated,
    /// Values that were `nan`, `inf`, `ovf` or too large for a float, and became null.
    nulls,
    /// Lines that were taken without a checksum.
    unverified,
    /// Times that the port was opened again after it was lost.
    reopened,
    /// Events that found their queue full. They are in the log.
    events_dropped,
}

impl CountersNow {
    /// Lines and readings that came and were not taken, for whatever reason.
    pub fn refused(&self) -> u64 {
        self.refused_checksum
            + self.refused_syntax
            + self.refused_too_long
            + self.refused_queue_full
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
