//! One copy of each name: thousands of readings in a queue share theirs.

use std::collections::HashSet;
use std::sync::Arc;

/// Names of sources and metrics on one port.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The name's shared copy. Once 256 names are known a new one is copied each time, so
    /// that a board which makes up names cannot fill the memory.
    pub(super) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.0.len() < NAMES_MAX {
            self.0.insert(name.clone());
        }
        name
    }
}

const NAMES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_not_more_than_256_are_kept() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.share("temp"), &names.share("temp")));
        for index in 0..1_000 {
            assert_eq!(&*names.share(&index.to_string()), index.to_string());
        }
        assert_eq!(names.0.len(), NAMES_MAX);
    }
}
