//! The fail points, held against the code: each write and each send has one, each has a kill,
//! and no program that is not a test's has any.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{
    Step, bridge, commands, damaged, desired, gateway, home_assistant, ledger, letters, restored,
    room, rules, trim,
};

/// What writes or sends. In pieces joined at run time nothing is gained: only the programs are read.
const EFFECTS: &[&str] = &[
    ".commit()",
    ".conn.execute(",
    ".conn.close()",
    ".db.execute(",
    "execute_batch(",
    "pragma_update(",
    "\"journal_mode\"",
    "\"wal_checkpoint\"",
    "File::options()",
    "File::create",
    "OpenOptions",
    "write!(file",
    "write_all(",
    ".sync_all()",
    ".sync_data()",
    "fs::create_dir",
    "fs::write(",
    "fs::rename(",
    "fs::copy(",
    "fs::remove_file(",
    "file.set_len(",
    "self.publish(",
    "session.puback(",
];
/// Effects without a point of their own: file, a part of the code there, and why.
const WITHOUT: &[(&str, &str, &str)] = &[
    ("broker-bridge/src/store/sqlite/txn.rs", "self.txn.commit()", "its caller has the point"),
    ("broker-bridge/src/store/sqlite/open.rs", "fs::remove_file(path)", "of an init killed before"),
    (
        "gateway/src/outbox/schema.rs",
        "\"page_size\"",
        "noted in memory, for the first page to come",
    ),
    (
        "broker-bridge/src/store/sqlite/desired.rs",
        "txn.commit()",
        "a person's program: set is what it has said so of",
    ),
    ("gateway/src/cli.rs", "stdout()", "what a person reads who has asked"),
    ("broker-bridge/src/cli/print.rs", "stdout()", "what a person reads who has asked"),
    ("gateway/src/local.rs", "fs::remove_file", "a socket's file, which the next start takes over"),
    ("gateway/src/local.rs", "write_all(&line)", "of `send`, another process, to the gateway"),
    ("gateway/src/control.rs", "write_all(answer", "what a person reads who has asked"),
    ("gateway/src/control.rs", "write_all(line", "what a person reads who has asked"),
    (
        "gateway/src/local.rs",
        "write_all(line)",
        "of `check --now`, another process, to the gateway",
    ),
    ("gateway/src/serial/socket.rs", "write_all(answers", "`taken` promises nothing yet"),
];
/// So many characters before an effect its point has to stand.
const NEAR: usize = 200;

/// The programs' code, without comments and tests: path below the checkout, text.
fn code() -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.join("gateway/src"), root.join("broker-bridge/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the checkout is readable").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).expect("the checkout is readable");
                let text = text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
                let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
                // A call that is broken before its dot reads like one that is not.
                let text = lines.collect::<Vec<_>>().join("\n").replace("\n.", ".");
                let path = path.strip_prefix(&root).expect("found below it").display().to_string();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 20, "the programs were not found");
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the checkout")
        .to_owned()
}

/// The points of a program, each of which has to be in exactly one of the lists.
fn assert_all_listed(points: &[&str], lists: &[Vec<&'static str>]) {
    let mut listed: Vec<&str> = lists.iter().flatten().copied().collect();
    listed.sort_unstable();
    let mut points: Vec<&str> = points.to_vec();
    points.sort_unstable();
    let known: BTreeSet<&&str> = points.iter().collect();
    assert_eq!(known.len(), points.len(), "a point stands twice in the program's list");
    assert_eq!(listed, points, "left: killed at by a test; right: the program's list");
}

fn names(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|(point, _)| *point).collect()
}

#[test]
fn every_fail_point_of_the_programs_has_a_kill() {
    assert_all_listed(
        fieldpost_gateway::fail_points::POINTS,
        &[
            names(gateway::OPENING),
            names(gateway::RUNNING),
            names(gateway::SENDING),
            home_assistant::POINTS.to_vec(),
            damaged::POINTS.to_vec(),
            room::POINTS.to_vec(),
            rules::POINTS.to_vec(),
            trim::POINTS.to_vec(),
            commands::points(),
            desired::points(),
        ],
    );
    assert_all_listed(
        fieldpost_bridge::fail_points::POINTS,
        &[
            names(bridge::STORING),
            names(bridge::ANSWERING),
            names(bridge::SPEAKING),
            bridge::WITHDRAWING.to_vec(),
            desired::SENDING.to_vec(),
            letters::POINTS.to_vec(),
            ledger::ISSUING.to_vec(),
            ledger::ASKING.to_vec(),
            restored::POINTS.to_vec(),
        ],
    );
}

/// That a point in the code is listed is the compiler's to say.
#[test]
fn every_listed_fail_point_stands_in_the_code() {
    let code = code();
    for (package, points) in [
        ("gateway/", fieldpost_gateway::fail_points::POINTS),
        ("broker-bridge/", fieldpost_bridge::fail_points::POINTS),
    ] {
        for point in points {
            let call = format!("point!(\"{point}\")");
            let mut files = code.iter().filter(|(path, _)| path.starts_with(package));
            assert!(files.any(|(_, text)| text.contains(&call)), "{package} has no {point}");
        }
    }
}

#[test]
fn every_write_and_every_send_in_the_code_has_a_fail_point() {
    let mut seen = 0;
    let mut bare = Vec::new();
    let mut excused = BTreeSet::new();
    for (path, text) in &code() {
        for (at, effect) in
            EFFECTS.iter().flat_map(|effect| text.match_indices(effect)).collect::<BTreeSet<_>>()
        {
            seen += 1;
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let line = text[line..].lines().next().unwrap_or_default();
            let excuse = WITHOUT.iter().find(|(file, part, _)| path == file && line.contains(part));
            if let Some(excuse) = excuse {
                excused.insert(*excuse);
            }
            let near = text[..at].char_indices().rev().nth(NEAR).map_or(0, |(from, _)| from);
            if excuse.is_none() && !text[near..at].contains("point!(") {
                bare.push(format!("{path}: {line} ({effect})"));
            }
        }
    }
    assert!(seen > 25, "only {seen} effects were found");
    assert_eq!(bare, Vec::<String>::new(), "no point before these");
    assert_eq!(excused.len(), WITHOUT.len(), "an exception is not needed any more");
}

/// Who enables them, by cargo's own account.
fn enabled(edges: &str) -> bool {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--workspace", "--edges", edges])
        .args(["--invert", "fieldpost-fail-point"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("fieldpost-gateway"), "{}", String::from_utf8_lossy(&output.stderr));
    text.contains("fieldpost-fail-point feature \"enabled\"")
}

#[test]
fn only_tests_enable_fail_points() {
    assert!(!enabled("normal,build,features"), "a program that is built has fail points");
    assert!(
        enabled("normal,build,dev,features"),
        "the tests have none, or cargo says it otherwise"
    );
}

#[test]
fn fail_points_without_debug_assertions_do_not_compile() {
    let compile = |arguments: &[&str]| {
        let place = tempfile::tempdir().expect("there is room for a folder");
        let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--out-dir"])
            .arg(place.path())
            .args(arguments)
            .arg("crates/fail-point/src/lib.rs")
            .current_dir(root())
            .output()
            .expect("rustc has built this test");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let release = ["-C", "debug-assertions=off"];
    let (built, said) = compile(&release);
    assert!(built, "{said}");
    let (built, said) = compile(&["-C", "debug-assertions=off", "--cfg", "feature=\"enabled\""]);
    assert!(!built && said.contains("must not have the feature `fail-points`"), "{said}");
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("it is there");
    let release = manifest.split("[profile.release]").nth(1).expect("there is a release profile");
    let release = release.split("\n[").next().unwrap_or_default();
    assert!(!release.contains("debug-assertions"), "a release could have fail points: {release}");
}
