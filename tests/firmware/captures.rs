//! What devices and common example sketches print, and what the gateway makes of it.
//!
//! tests/captures/README.md tells what is in a folder there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use fieldpost_gateway::config::Config;
use fieldpost_gateway::serial::{Counters, CountersNow, Decoded, Decoder, PortConfig};
use fieldpost_protocol::Metrics;
use fieldpost_tests::avr::printed;
use serde::Deserialize;

use crate::tools;

/// A line of `expected.jsonl`: a reading, or how many lines are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    source: Option<String>,
    metrics: Option<Metrics>,
    refused: Option<u64>,
}

fn captures() -> anyhow::Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn read(folder: &Path, file: &str) -> anyhow::Result<String> {
    let path = folder.join(file);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn port(folder: &Path) -> anyhow::Result<PortConfig> {
    let text = format!("[device]\nid = \"test\"\n{}", read(folder, "gateway.toml")?);
    let config = Config::parse(&text, std::iter::empty())?;
    config.ports.into_iter().next().context("gateway.toml has no [[port]]")
}

/// The readings, as text, and what was counted. In pieces, as a port gives them.
fn decoded(port: PortConfig, bytes: &[u8], piece: usize) -> (Vec<String>, CountersNow) {
    let counters = Arc::new(Counters::default());
    let mut decoder = Decoder::new(port, counters.clone());
    // A line has ended: else the first one might be the end of another.
    decoder.push(b"\n", |_| {});
    let mut readings = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.push(piece, |decoded| {
            if let Decoded::Reading { source, metrics } = decoded {
                readings.push(shown(&source, &metrics));
            }
        });
    }
    (readings, counters.snapshot())
}

fn shown(source: &str, metrics: &Metrics) -> String {
    format!("{source} {}", metrics.to_json().unwrap_or_default())
}

#[test]
fn every_capture_is_read_as_its_folder_says() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let folders = captures()?;
    let mut lines = 0;
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (mut expected, mut refused) = (Vec::new(), 0);
        for line in read(folder, "expected.jsonl")?.lines() {
            let told: Expected =
                serde_json::from_str(line).with_context(|| format!("{name}: {line}"))?;
            match (told.source, told.metrics, told.refused) {
                (Some(source), Some(metrics), None) => expected.push(shown(&source, &metrics)),
                (None, None, Some(lines)) => refused = lines,
                _ => anyhow::bail!("{name}: {line}"),
            }
        }
        let bytes = std::fs::read(folder.join("output.txt"))?;
        let port = port(folder).with_context(|| name.clone())?;
        for piece in [1, 7, bytes.len()] {
            let (found, counted) = decoded(port.clone(), &bytes, piece);
            if found != expected || counted.refused() != refused {
                wrong.push(format!(
                    "{name}: {refused} lines refused and\n{}\n were expected, and there are {} and\n{}",
                    expected.join("\n"),
                    counted.refused(),
                    found.join("\n")
                ));
                break;
            }
        }
        lines += expected.len();
    }
    println!("{} captures, {lines} readings", folders.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(folders.len() >= 12, "only {} captures", folders.len());
    Ok(())
}

#[test]
fn every_capture_tells_where_it_comes_from_and_is_in_the_docs() -> anyhow::Result<()> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sensors.md"))?;
    let keys = ["device", "example", "how", "library", "licence", "source", "version"];
    for folder in captures()? {
        let text = read(&folder, "origin.toml")?;
        let mut found: Vec<&str> =
            text.lines().filter_map(|line| line.split(" = ").next()).collect();
        found.sort_unstable();
        assert_eq!(found, keys, "{}", folder.display());
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(page.contains(&format!("`{name}`")), "docs/sensors.md does not name {name}");
        let sketch = text.contains("sketch.ino in simavr");
        assert_eq!(sketch, folder.join("sketch.ino").exists(), "{}", folder.display());
    }
    Ok(())
}

#[test]
fn every_capture_that_has_a_sketch_is_what_the_sketch_prints() -> anyhow::Result<()> {
    let mut sketches = 0;
    for folder in captures()? {
        let sketch = folder.join("sketch.ino");
        if !sketch.exists() {
            continue;
        }
        let dir = tempfile::tempdir()?;
        let found = printed(tools(), &tools().build(&sketch, dir.path())?)?;
        let expected = std::fs::read(folder.join("output.txt"))?;
        assert_eq!(
            String::from_utf8_lossy(&found),
            String::from_utf8_lossy(&expected),
            "{}",
            folder.display()
        );
        assert_eq!(found, expected);
        sketches += 1;
    }
    println!("{sketches} sketches in simavr");
    assert!(sketches >= 12, "only {sketches} have a sketch");
    Ok(())
}
