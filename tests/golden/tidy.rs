//! What neither compiler nor clippy looks at, in every file of ours.

use std::path::{Path, PathBuf};

/// Past it a file says in its `//!` why it is one idea all the same: `//! Long because ...`.
const LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 120;

/// In pieces, so that this file does not find itself.
const NOWHERE: [&str; 3] =
    [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ig", "nore")];
/// A place on somebody's machine means nothing to a reader.
const PLACES: [&str; 3] = [concat!("/wo", "rk/"), concat!(".lib", "rary"), concat!("/tm", "p/fp")];
/// A fixed wait is too long on a fast machine and too short on a slow one. A poll that has a
/// deadline says so on its line: `// poll`.
const WAITS: [&str; 2] = [concat!("thread::", "sleep"), concat!("time::", "sleep(")];

struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
    }
}

fn files() -> Vec<File> {
    let root = crate::root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the checkout is readable").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let ours = !matches!(name.to_str(), None | Some("target" | ".git" | "vectors"));
            if path.is_dir() && ours {
                folders.push(path);
            } else if ours && is_text(&path) {
                let text = std::fs::read_to_string(&path)
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                files.push(File { path: relative(&root, path), text });
            }
        }
    }
    assert!(files.len() > 50, "the checkout was not found");
    files
}

fn is_text(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(
        ending,
        Some(
            "rs" | "md" | "toml" | "sql" | "sh" | "conf" | "ino" | "h" | "cpp" | "acl" | "service"
        )
    )
}

fn relative(root: &Path, path: PathBuf) -> String {
    path.strip_prefix(root).expect("found below the root").display().to_string()
}

#[test]
fn the_house_is_tidy() {
    let mut found = Vec::new();
    for file in files() {
        let rust = file.is_rust();
        let lines = file.text.lines().count();
        if rust && !file.text.starts_with("//!") {
            found.push(format!("{}: does not begin with //! and what it is for", file.path));
        }
        if rust && lines > LINES_MAX && !file.text.contains("\n//! Long because ") {
            found.push(format!("{}: {lines} lines; what is the second idea?", file.path));
        }
        for (line, number) in file.text.lines().zip(1..) {
            if let Some(fault) = fault(&file, line) {
                found.push(format!("{}:{number}: {fault}", file.path));
            }
        }
    }
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

fn fault(file: &File, line: &str) -> Option<String> {
    let holds = |words: &[&'static str]| words.iter().find(|word| line.contains(**word)).copied();
    if let Some(place) = holds(&PLACES) {
        return Some(format!("{place} is a place on one machine"));
    }
    if line.ends_with([' ', '\t']) {
        return Some("ends with a blank".to_owned());
    }
    if !file.is_rust() {
        return None;
    }
    if let Some(word) = holds(&NOWHERE) {
        return Some(format!("{word} has no place in what is finished"));
    }
    if let (true, Some(wait)) = (file.is_test() && !line.contains("// poll"), holds(&WAITS)) {
        return Some(format!("{wait} waits for a time; wait for a condition with a deadline"));
    }
    let columns = line.chars().count();
    // A message to a person may stay in one piece, so that a search finds it.
    let too_long = columns > COLUMNS_MAX && !line.contains('"');
    too_long.then(|| format!("{columns} columns; at most {COLUMNS_MAX}"))
}
