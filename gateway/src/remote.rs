//! What is desired from afar: tried, and then kept or undone. No clock.
//!
//! ```text
//! desired --valid--> trial --storage answers, ports open--> kept
//!    |                 '------120 s without that--------> refused: what ran before runs again
//!    '--mistakes--> refused
//! ```
//!
//! A trial is written down before it begins, with the moment at which it ends. So a process that is
//! killed meanwhile goes on with the rest of it, and each trial ends in `kept` or `refused`, or with the
//! return to what is kept, which needs none. What was refused is not tried again until its version changes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fieldpost_fail_point::point;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::config::Desired;

/// How long a trial waits for storage.
pub(crate) const TRIAL: Duration = Duration::from_secs(120);

/// What a trial lacks, mostly.
pub(crate) const NO_ACK: &str = "no sync ack";

/// See the module. This is what is written down.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Remote {
    /// What storage has answered with; what runs, or ran before the trial.
    kept: Option<Desired>,
    newest: Option<Newest>,
}

/// What came after what is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Newest {
    Trial {
        desired: Desired,
        boot: String,
        /// CLOCK_BOOTTIME.
        until_ms: i64,
        /// Ports that were open before it, or before the trial that it replaces, and have not opened since.
        #[serde(default)]
        closed: Vec<String>,
    },
    Refused {
        version: Option<u64>,
        why: Vec<String>,
    },
}

/// What to do with a desired configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It runs.
    Known,
    /// It ran before what came last, which was tried or refused.
    Kept,
    /// It, or another content under its version, was refused.
    Refused,
    /// Its version is known, with another content.
    Changed,
    /// Nobody has seen it here.
    New,
}

/// What `config/reported` says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fate {
    pub(crate) version: Option<u64>,
    pub(crate) state: &'static str,
    pub(crate) why: Vec<String>,
}

impl Remote {
    pub(crate) fn offer(&self, desired: &Desired) -> Offer {
        // Nothing is kept, and nothing is desired: the file alone.
        let is_kept = self.kept.as_ref().map_or(desired.version.is_none(), |kept| kept == desired);
        if is_kept {
            return if self.newest.is_some() { Offer::Kept } else { Offer::Known };
        }
        if desired.version.is_some_and(|version| self.has_kept(version)) {
            return Offer::Changed;
        }
        match &self.newest {
            Some(Newest::Trial { desired: tried, .. }) if tried == desired => Offer::Known,
            Some(Newest::Trial { desired: tried, .. }) if tried.version == desired.version => {
                Offer::Changed
            }
            Some(Newest::Refused { version: Some(version), .. })
                if desired.version == Some(*version) =>
            {
                Offer::Refused
            }
            _ => Offer::New,
        }
    }

    /// A trial begins: to be written down before anything changes. `ports`: those that it has, and whether
    /// each is open.
    pub(crate) fn begin(
        &mut self,
        desired: Desired,
        boot: &str,
        now_ms: i64,
        time: Duration,
        ports: impl IntoIterator<Item = (Arc<str>, bool)>,
    ) {
        let (boot, until_ms) = (boot.to_owned(), now_ms + time.as_millis() as i64);
        let lacked = |name: &str| self.closed_ports().iter().any(|closed| *closed == *name);
        let closed = ports.into_iter().filter(|(name, is_open)| *is_open || lacked(name));
        let closed = closed.map(|(name, _)| name.to_string()).collect();
        self.newest = Some(Newest::Trial { desired, boot, until_ms, closed });
    }

    /// What is kept runs again.
    pub(crate) fn go_back(&mut self) {
        self.newest = None;
    }

    /// A port is open.
    pub(crate) fn handle_opened(&mut self, port: &str) {
        if let Some(Newest::Trial { closed, .. }) = &mut self.newest {
            closed.retain(|name| name != port);
        }
    }

    /// A port that was open has hung up.
    pub(crate) fn handle_lost(&mut self, port: &str) {
        self.handle_opened(port);
        if let Some(Newest::Trial { closed, .. }) = &mut self.newest {
            closed.push(port.to_owned());
        }
    }

    /// What has to open before a trial is kept.
    pub(crate) fn closed_ports(&self) -> &[String] {
        match &self.newest {
            Some(Newest::Trial { closed, .. }) => closed,
            _ => &[],
        }
    }

    /// Storage has answered since.
    pub(crate) fn keep(&mut self) {
        if let Some(Newest::Trial { desired, .. }) = self.newest.take() {
            self.kept = desired.version.is_some().then_some(desired);
        }
    }

    /// It is not to run, and why.
    pub(crate) fn refuse(&mut self, version: Option<u64>, why: Vec<String>) {
        self.newest = Some(Newest::Refused { version, why });
    }

    /// Ends a trial whose time is over; true if there was one. `lacks`: what was waited for.
    pub(crate) fn end_trial(&mut self, boot: &str, now_ms: i64, lacks: &str) -> bool {
        let Some(Newest::Trial { desired, boot: of, until_ms, .. }) = &self.newest else {
            return false;
        };
        let why = if of != boot {
            // It may have been what brought the machine down.
            "the machine started again before storage had answered".to_owned()
        } else if now_ms >= *until_ms {
            format!("{lacks} within {} s", TRIAL.as_secs())
        } else {
            return false;
        };
        let version = desired.version;
        self.refuse(version, vec![format!("{why}; what ran before runs again")]);
        true
    }

    /// What is to run over the file.
    pub(crate) fn running(&self) -> Option<&Desired> {
        match &self.newest {
            Some(Newest::Trial { desired, .. }) => Some(desired),
            _ => self.kept.as_ref(),
        }
    }

    pub(crate) fn is_trial(&self) -> bool {
        matches!(self.newest, Some(Newest::Trial { .. }))
    }

    /// What is kept has this version, whatever its content.
    pub(crate) fn has_kept(&self, version: u64) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.version == Some(version))
    }

    pub(crate) fn fate(&self) -> Fate {
        let fate = |version, state, why| Fate { version, state, why };
        match (&self.newest, &self.kept) {
            (Some(Newest::Trial { desired, .. }), _) => fate(desired.version, "trial", Vec::new()),
            (Some(Newest::Refused { version, why }), _) => fate(*version, "refused", why.clone()),
            (None, Some(kept)) => fate(kept.version, "kept", Vec::new()),
            (None, None) => fate(None, "local", Vec::new()),
        }
    }

    /// Where it is written down: beside the outbox.
    pub(crate) fn path(outbox: &Path) -> PathBuf {
        let mut path = outbox.as_os_str().to_owned();
        path.push(".desired.json");
        path.into()
    }

    /// What was written down. A file that makes no sense is as good as none: the broker has what is
    /// desired, and brings it again.
    pub(crate) fn load(path: &Path) -> Remote {
        let read = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Remote::default(),
            read => read,
        };
        let read = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        read.unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "what was desired from afar cannot be read; the file alone counts until it comes again");
            Remote::default()
        })
    }

    /// Writes it down, whole or not at all, for nobody else to read: it may hold a password.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?);
        point!("desired.before_write");
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        point!("desired.before_rename");
        fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        point!("desired.after_rename");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(version: u64) -> Desired {
        let text =
            format!(r#"{{"version": {version}, "config": {{"publish": {{"a": {version}}}}}}}"#);
        Desired::parse(text.as_bytes()).unwrap()
    }

    fn trial_of(version: u64) -> Remote {
        let mut remote = Remote::default();
        remote.begin(desired(version), "boot", 1_000, TRIAL, []);
        remote
    }

    #[test]
    fn a_trial_that_storage_answers_is_kept_and_one_that_it_does_not_is_undone() {
        let mut remote = trial_of(1);
        assert_eq!((remote.fate().state, remote.running()), ("trial", Some(&desired(1))));
        remote.keep();
        assert_eq!((remote.fate().state, remote.fate().version), ("kept", Some(1)));

        remote.begin(desired(2), "boot", 10_000, TRIAL, []);
        assert!(!remote.end_trial("boot", 129_999, NO_ACK));
        assert!(remote.end_trial("boot", 130_000, NO_ACK));
        assert_eq!(remote.running(), Some(&desired(1)), "what ran before");
        let fate = remote.fate();
        assert_eq!((fate.state, fate.version), ("refused", Some(2)));
        assert!(fate.why[0].contains("no sync ack within 120 s"), "{fate:?}");
        assert!(!remote.end_trial("boot", 200_000, NO_ACK), "once");
    }

    #[test]
    fn what_was_refused_is_tried_again_under_another_version_only() {
        let mut remote = trial_of(1);
        assert_eq!(remote.offer(&desired(1)), Offer::Known);
        remote.end_trial("boot", i64::MAX, NO_ACK);
        assert_eq!(remote.offer(&desired(1)), Offer::Refused);
        assert_eq!(remote.offer(&desired(2)), Offer::New);
        assert_eq!(remote.offer(&desired(0)), Offer::New, "also a lower one");
        remote.begin(desired(2), "boot", 0, TRIAL, []);
        remote.keep();
        assert_eq!(remote.offer(&desired(2)), Offer::Known);
        let other = Desired::parse(br#"{"version": 2}"#).unwrap();
        assert_eq!(remote.offer(&other), Offer::Changed);
    }

    #[test]
    fn what_is_kept_is_never_tried_again_and_so_never_refused() {
        let mut remote = trial_of(7);
        remote.keep();
        // Somebody publishes what nobody can read, or something else under its version; the bridge its own.
        for version in [None, Some(7), Some(8)] {
            remote.refuse(version, vec!["not JSON".to_owned()]);
            assert_eq!(remote.offer(&desired(7)), Offer::Kept, "{version:?}");
            assert_eq!(remote.running(), Some(&desired(7)));
            let other = Desired::parse(br#"{"version": 7}"#).unwrap();
            assert_eq!(remote.offer(&other), Offer::Changed, "{version:?}");
        }
        remote.go_back();
        assert_eq!((remote.fate().state, remote.fate().version), ("kept", Some(7)));
        assert!(!remote.end_trial("another", i64::MAX, NO_ACK), "no trial that a reboot could end");
        // Also within the trial of another.
        remote.begin(desired(8), "boot", 0, TRIAL, []);
        assert_eq!(remote.offer(&desired(7)), Offer::Kept);
        remote.go_back();
        assert_eq!(remote.running(), Some(&desired(7)));
        assert!(remote.has_kept(7) && !remote.has_kept(8));
    }

    #[test]
    fn a_trial_waits_for_each_port_that_was_open_also_one_that_replaces_a_trial() {
        let begin = |remote: &mut Remote, version, ports: &[(&str, bool)]| {
            let ports = ports.iter().map(|(name, is_open)| (Arc::from(*name), *is_open));
            remote.begin(desired(version), "boot", 0, TRIAL, ports);
        };
        let mut remote = Remote::default();
        begin(&mut remote, 1, &[("a", true), ("b", true), ("c", true), ("d", false)]);
        remote.handle_opened("a");
        assert_eq!(remote.closed_ports(), ["b", "c"]);
        // `b` is still closed, and `c` is wanted no more.
        begin(&mut remote, 2, &[("a", true), ("b", false), ("d", false)]);
        remote.handle_opened("a");
        assert_eq!(remote.closed_ports(), ["b"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("desired.json");
        remote.save(&path).unwrap();
        assert_eq!(Remote::load(&path).closed_ports(), ["b"], "over a kill");
        remote.handle_lost("a");
        remote.handle_lost("a");
        assert_eq!(remote.closed_ports(), ["b", "a"]);
        remote.keep();
        begin(&mut remote, 3, &[("a", false), ("b", false)]);
        assert!(remote.closed_ports().is_empty(), "they were closed in what is kept");
    }

    #[test]
    fn a_trial_that_an_older_gateway_has_written_down_goes_on() {
        let old = r#"{"kept": null, "newest": {"trial": {"desired": {"version": 1}, "boot": "b", "until_ms": 5}}}"#;
        let remote: Remote = serde_json::from_str(old).unwrap();
        assert!(remote.is_trial() && remote.closed_ports().is_empty());
    }

    #[test]
    fn a_process_that_was_killed_goes_on_with_the_rest_and_another_boot_undoes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = Remote::path(&folder.path().join("outbox.db"));
        assert_eq!(Remote::load(&path), Remote::default());
        trial_of(1).save(&path).unwrap();
        let mut again = Remote::load(&path);
        assert_eq!(again, trial_of(1));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "it may hold a password");
        assert!(
            !again.end_trial("boot", 120_999, NO_ACK) && again.end_trial("boot", 121_000, NO_ACK)
        );
        let mut again = Remote::load(&path);
        assert!(again.end_trial("another", 1_001, NO_ACK));
        assert_eq!((again.fate().state, again.running()), ("refused", None));
        fs::write(&path, "{").unwrap();
        assert_eq!(Remote::load(&path), Remote::default());
    }

    #[test]
    fn an_empty_message_is_a_trial_that_leads_back_to_the_file() {
        let empty = Desired::parse(b"").unwrap();
        assert_eq!(Remote::default().offer(&empty), Offer::Known);
        let mut remote = trial_of(1);
        remote.keep();
        assert_eq!(remote.offer(&empty), Offer::New);
        assert_eq!(trial_of(1).offer(&empty), Offer::Kept, "the file alone ran before");
        remote.begin(empty, "boot", 0, TRIAL, []);
        remote.keep();
        assert_eq!((remote.fate().state, remote.running()), ("local", None));
    }
}
