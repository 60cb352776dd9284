//! The decoder in Python that topics.md gives away: short, and right on every vector.

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

use crate::document::Document;
use crate::payload::{Payload, same};
use crate::vectors::on_disk;

const LINES_MAX: usize = 25;

/// Prints the rows of each file as one line of JSON; what JSON cannot say, by its bits.
const DRIVER: &str = r#"
import json, math, struct, sys

def plain(value):
    odd = isinstance(value, float) and not math.isfinite(value)
    return {"f64": struct.pack(">d", value).hex()} if odd else value

for path in sys.argv[1:]:
    with open(path, "rb") as file:
        found = sorted(rows(file.read()))
    print(json.dumps([[seq, ms, source, {m: plain(v) for m, v in metrics.items()}]
                      for seq, ms, source, metrics in found]))
"#;

#[test]
fn the_python_decoder_reads_every_vector_of_readings() {
    let vectors: Vec<_> =
        on_disk().into_iter().filter(|vector| vector.payload == Payload::SensorData).collect();
    assert!(!vectors.is_empty());
    let paths: Vec<&Path> = vectors.iter().map(|vector| &*vector.path).collect();
    let printed = run(&Document::load(), DRIVER, &paths);
    assert_eq!(printed.lines().count(), vectors.len());
    for (line, vector) in printed.lines().zip(&vectors) {
        let found: Json = serde_json::from_str(line).expect("a line of JSON");
        let right = same(&found, &vector.json["rows"]);
        assert!(right, "{}: Python reads {line}", vector.path.display());
    }
}

#[test]
fn the_rows_shown_are_what_the_python_decoder_prints() {
    let document = Document::load();
    let batch = document.block("cbor-hex", "sensor_data").expect("topics.md shows a batch");
    let shown = document.block("text", "rows").expect("topics.md shows its rows in ```text rows");
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), batch.bytes()).expect("a temporary file can be written");
    let print = "import sys\nfor row in sorted(rows(open(sys.argv[1], 'rb').read())): print(*row)";
    assert_eq!(run(&document, print, &[file.path()]).trim_end(), shown.text);
}

/// What the decoder of topics.md, and `program` after it, print.
fn run(document: &Document, program: &str, arguments: &[&Path]) -> String {
    let decoder = document.block("python", "decoder").expect("topics.md has a ```python decoder");
    let lines = decoder.text.lines().count();
    assert!(lines <= LINES_MAX, "the decoder has {lines} lines; at most {LINES_MAX} are promised");
    let output = Command::new(python())
        .args(["-c", &format!("{}\n{program}", decoder.text)])
        .args(arguments)
        .env("PYTHONIOENCODING", "utf-8")
        .output()
        .unwrap_or_else(|error| panic!("{} does not run ({error}): {INSTALL}", python()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("ModuleNotFoundError"), "{errors}\n{INSTALL}");
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

const INSTALL: &str = "on Debian: apt install python3 python3-cbor2 python3-zstandard";

/// Debian's, which has Debian's modules, even where another Python comes first.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}
