//! docs/reliability.md names the test of each fault, and every fault test is named there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The tests of a file or folder under tests/faults, as `module::name`.
fn tests_in(path: &Path, module: &str, into: &mut BTreeMap<String, bool>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder of tests").flatten() {
            let path = entry.path();
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let module = if module.is_empty() { name } else { format!("{module}::{name}") };
            tests_in(&path, &module, into);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = std::fs::read_to_string(path).expect("a test can be read");
        for block in text.split("#[test]\n").skip(1) {
            let name = block.trim_start().trim_start_matches("fn ");
            let name: String =
                name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            into.insert(format!("{module}::{name}"), false);
        }
    }
}

#[test]
fn the_table_of_faults_names_every_fault_test_and_none_that_is_gone() {
    let mut tests = BTreeMap::new();
    tests_in(&root().join("tests/faults"), "", &mut tests);
    assert!(tests.len() > 50, "only {} tests found", tests.len());
    let text = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    for named in text.split('`').skip(1).step_by(2) {
        let Some(prefix) = named.strip_suffix('*').filter(|prefix| prefix.contains("::")) else {
            continue;
        };
        let mut found = 0;
        for (_, is_named) in tests.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
            *is_named = true;
            found += 1;
        }
        assert!(found > 0, "docs/reliability.md names `{named}`, and no test is called so");
    }
    let unnamed: Vec<&String> =
        tests.iter().filter(|(_, named)| !**named).map(|(name, _)| name).collect();
    assert!(unnamed.is_empty(), "docs/reliability.md does not name {unnamed:#?}");
}
