//! The soak judges the programs; here it is judged itself: books that are cooked, and Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context as _;
use fieldpost_tests::rig::{SOON, pass, wait_until};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

/// A soak that runs in a folder for itself.
struct Soak {
    child: Child,
    place: tempfile::TempDir,
}

impl Soak {
    fn start(minutes: f64) -> anyhow::Result<Soak> {
        let place = tempfile::tempdir()?;
        let said = std::fs::File::create(place.path().join("said"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_soak"))
            .args(["--minutes", &minutes.to_string(), "--seed", "1", "--drain-seconds", "8"])
            .env("TMPDIR", place.path())
            .stdin(Stdio::null())
            .stderr(said.try_clone()?)
            .stdout(said)
            .spawn()?;
        Ok(Soak { child, place })
    }

    /// The folders that it has made.
    fn folders(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(self.place.path())?.flatten();
        Ok(entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
    }

    /// Its storage, once there are rows in it.
    fn storage(&mut self) -> anyhow::Result<Connection> {
        let mut storage = None;
        wait_until("the soak's first rows", SOON, || {
            anyhow::ensure!(self.child.try_wait()?.is_none(), "it has ended: {}", self.said());
            let Some(path) = self.folders()?.pop().map(|dir| dir.join("bridge.db")) else {
                return Ok(false);
            };
            if !path.exists() {
                return Ok(false);
            }
            let db = Connection::open(path)?;
            db.busy_timeout(SOON)?;
            let rows = "SELECT count(*) FROM readings WHERE source = 'fruiting'";
            let rows: i64 = db.query_row(rows, [], |row| row.get(0)).unwrap_or(0);
            storage = (rows > 0).then_some(db);
            Ok(storage.is_some())
        })?;
        storage.context("it was found just now")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.place.path().join("said")).unwrap_or_default()
    }

    fn wait_end(&mut self) -> anyhow::Result<ExitStatus> {
        let mut end = None;
        wait_until("the soak's end", 2 * SOON, || {
            end = self.child.try_wait()?;
            Ok(end.is_some())
        })
        .with_context(|| self.said())?;
        end.context("it has ended just now")
    }

    /// Processes that run in its folder, by their command lines.
    fn processes(&self) -> anyhow::Result<Vec<String>> {
        let place = self.place.path().display().to_string();
        let lines = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        Ok(lines.filter(|line| line.contains(&place)).collect())
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        // Its programs end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A soak of three seconds whose storage is tampered with: its status, and what it says.
fn tampered(sql: &str) -> anyhow::Result<(Option<i32>, String)> {
    let mut soak = Soak::start(0.05)?;
    let storage = soak.storage()?;
    assert_eq!(storage.execute(sql, [])?, 1, "{sql}");
    drop(storage);
    let status = soak.wait_end()?;
    println!("{sql}: {status}");
    Ok((status.code(), soak.said()))
}

/// The number that the verdict gives for something.
fn figure(said: &str, what: &str) -> Option<u64> {
    let mut lines = said.lines().filter_map(|line| line.strip_prefix(what));
    lines.find_map(|rest| rest.trim().parse().ok())
}

#[test]
fn a_row_that_is_lost_doubled_or_changed_is_counted_and_fails_the_soak() -> anyhow::Result<()> {
    const FIRST: &str = "WHERE (epoch, seq) = (SELECT epoch, seq FROM reading JOIN source
        ON source.ref = reading.source WHERE id = 'fruiting' ORDER BY epoch, seq LIMIT 1)";
    let cases = [
        ("accepted, not stored", format!("DELETE FROM reading {FIRST}")),
        (
            "duplicated",
            format!(
                "INSERT INTO reading SELECT epoch, seq + 1000000, source, time, metrics FROM reading {FIRST}"
            ),
        ),
        ("wrong", format!("UPDATE reading SET metrics = json_set(metrics, '$.co2', 1) {FIRST}")),
    ];
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            cases.iter().map(|(what, sql)| (what, scope.spawn(|| tampered(sql)))).collect();
        for (what, run) in runs {
            let (status, said) = run.join().expect("it panics only where the test fails")?;
            assert_eq!((status, figure(&said, what)), (Some(1), Some(1)), "{what}: {said}");
            assert!(said.contains("NOT GOOD") && said.contains("kept for a look"), "{said}");
        }
        Ok(())
    })
}

#[test]
fn a_soak_that_is_interrupted_judges_or_ends_and_leaves_nothing_behind() -> anyhow::Result<()> {
    for (signals, status) in [(1, 0), (2, 130)] {
        let mut soak = Soak::start(10.0)?;
        let storage = soak.storage()?;
        drop(storage);
        assert!(soak.processes()?.len() >= 3);
        for _ in 0..signals {
            soak.signal(Signal::INT)?;
            // Two at once are one.
            pass(std::time::Duration::from_millis(50));
        }
        let end = soak.wait_end()?;
        let said = soak.said();
        assert_eq!(end.code(), Some(status), "{said}");
        assert_eq!(said.contains("\ngood: "), signals == 1, "{said}");
        assert_eq!(soak.folders()?, Vec::<PathBuf>::new(), "{said}");
        assert_eq!(soak.processes()?, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn arguments_of_a_soak_that_make_no_sense_are_refused_with_what_would() -> anyhow::Result<()> {
    let soak = Path::new(env!("CARGO_BIN_EXE_soak"));
    let output = Command::new(soak).args(["--minutes", "0"]).output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("'--minutes <MINUTES>': it has to be a number from 0.01 to 100000"),
        "{said}"
    );
    Ok(())
}
