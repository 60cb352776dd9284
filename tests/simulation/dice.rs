//! The one source of chance: everything that happens in a history is drawn from its seed.

use std::cell::RefCell;
use std::rc::Rc;

/// Shared by all parts of one history.
#[derive(Clone)]
pub struct Dice(Rc<RefCell<fastrand::Rng>>);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Rc::new(RefCell::new(fastrand::Rng::with_seed(seed))))
    }

    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.0.borrow_mut().f64() < probability
    }

    /// From `lo` to `hi`, both included.
    pub fn between(&self, lo: i64, hi: i64) -> i64 {
        self.0.borrow_mut().i64(lo..=hi)
    }

    /// Around `mean`, as independent things happen: at least 1.
    pub fn around(&self, mean: i64) -> i64 {
        let u = self.0.borrow_mut().f64().max(1e-9);
        ((-u.ln() * mean as f64) as i64).max(1)
    }

    pub fn below(&self, n: usize) -> usize {
        self.0.borrow_mut().usize(0..n)
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn id(&self) -> [u8; 16] {
        self.0.borrow_mut().u128(..).to_le_bytes()
    }

    pub fn seed(&self) -> u64 {
        self.0.borrow_mut().u64(..)
    }
}
