//! An allocator that counts, and ends the process where one input takes too much.
//!
//! Counted is what Rust allocates, by the thread that does. C libraries keep their own: SQLite
//! is not what is tried here, and zstd's bulk decoder takes the same for every input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LIMIT: Cell<isize> = const { Cell::new(isize::MAX) };
}

/// Install it with `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one only counts")]
// SAFETY: every call goes to System with the arguments that it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist for a moment, as a rule.
        taken(size);
        let new = unsafe { System.realloc(old, layout, size) };
        given_back(layout.size());
        new
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        given_back(layout.size());
        unsafe { System.dealloc(old, layout) }
    }
}

fn taken(bytes: usize) {
    let live = LIVE.get().saturating_add_unsigned(bytes);
    if live > LIMIT.get() {
        LIMIT.set(isize::MAX);
        eprintln!("an allocation of {bytes} bytes goes past what one input may take");
        std::process::abort();
    }
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

fn given_back(bytes: usize) {
    LIVE.set(LIVE.get().saturating_sub_unsigned(bytes));
}

/// Runs `work` and returns how many bytes it had allocated at its peak, beyond those that were
/// there before. More than `limit` ends the process.
pub fn bounded(limit: usize, work: impl FnOnce()) -> usize {
    let idle = LIVE.get();
    PEAK.set(idle);
    LIMIT.set(idle.saturating_add_unsigned(limit));
    work();
    LIMIT.set(isize::MAX);
    (PEAK.get() - idle).unsigned_abs()
}
