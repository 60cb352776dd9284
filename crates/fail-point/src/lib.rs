//! Places where a test kills the program: one between any two of its effects.
//!
//! ```text
//! FAIL_POINT_KILL = outbox.append.before_commit:3    SIGKILL to itself when it gets there the third time
//! FAIL_POINT_SEEN = <file>                           each point's name, when it is reached first
//! ```
//!
//! A program lists its points in `crate::fail_points::POINTS`; a name that is not there does
//! not compile. Without the feature `enabled` a point is nothing; with it, and without debug
//! assertions, this crate does not compile, so that no release has one.
//!
//! Not the crate `fail`: it can panic, sleep and return, but not end the process as kill -9
//! does, without destructors; and it brings a registry that a language of its own configures.

#[cfg(all(feature = "enabled", not(debug_assertions)))]
compile_error!(
    "fail points are for tests: a build without debug assertions must not have the feature `fail-points`"
);

/// A test may kill the program here. The name has to be in `crate::fail_points::POINTS`.
#[macro_export]
#[allow(clippy::crate_in_macro_def, reason = "each program has a list of its own")]
macro_rules! point {
    ($name:literal) => {{
        const {
            assert!(
                $crate::is_listed(crate::fail_points::POINTS, $name),
                concat!($name, " is not in fail_points::POINTS")
            )
        };
        $crate::reach($name);
    }};
}

/// Whether a list has this name; while compiling.
pub const fn is_listed(points: &[&str], name: &str) -> bool {
    let mut at = 0;
    while at < points.len() {
        if is_same(points[at].as_bytes(), name.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Nothing.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub const fn reach(_name: &'static str) {}

#[cfg(feature = "enabled")]
pub use enabled::reach;

#[cfg(feature = "enabled")]
mod enabled {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    /// What the environment asks for, and how often each point was reached.
    #[derive(Default)]
    struct Plan {
        kill: Option<(String, u64)>,
        seen: Option<PathBuf>,
        reached: Mutex<BTreeMap<&'static str, u64>>,
    }

    impl Plan {
        fn of_environment() -> Plan {
            let kill = std::env::var("FAIL_POINT_KILL").ok().map(|text| {
                let (name, at) = text.split_once(':').expect("FAIL_POINT_KILL is name:n");
                (name.to_owned(), at.parse().expect("FAIL_POINT_KILL is name:n"))
            });
            let seen = std::env::var_os("FAIL_POINT_SEEN").map(PathBuf::from);
            Plan { kill, seen, ..Plan::default() }
        }
    }

    /// Counts, notes, kills: as the environment says.
    pub fn reach(name: &'static str) {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        let plan = PLAN.get_or_init(Plan::of_environment);
        if plan.kill.is_none() && plan.seen.is_none() {
            return;
        }
        let mut reached = plan.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let times = reached.entry(name).or_default();
        *times += 1;
        if *times == 1
            && let Some(path) = &plan.seen
        {
            // One write to a file that is only appended to: several processes may share it.
            let file = std::fs::File::options().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
                .expect("the test has made the folder of FAIL_POINT_SEEN");
        }
        if plan.kill.as_ref().is_some_and(|(wanted, at)| wanted == name && at == times) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_listed;

    #[test]
    fn a_name_is_listed_only_as_a_whole() {
        let points = ["a.before", "a.after"];
        assert!(is_listed(&points, "a.after"));
        assert!(!is_listed(&points, "a.aft"));
        assert!(!is_listed(&points, "a.after.all"));
        assert!(!is_listed(&[], "a.after"));
    }
}
