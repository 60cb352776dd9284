//! Bytes of every version, kept for ever: `vectors/v<version>/<payload>-<what>.cbor`, and
//! beside each a `.json` of what it says.
//!
//! A gateway may come back after years with what it had sealed then, so today's code has to
//! read every one of them. `FIELDPOST_BLESS=1` writes those that do not exist yet; what
//! exists is never overwritten.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fieldpost_protocol::{Envelope, VERSION};
use serde_json::Value as Json;

use crate::contract::payloads;
use crate::payload::{Payload, same};
use crate::samples;

/// RFC 8878, 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// A vector as it lies on the disk.
pub struct Vector {
    pub path: PathBuf,
    pub payload: Payload,
    pub bytes: Vec<u8>,
    pub json: Json,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/vectors")
}

/// All vectors of all versions.
pub fn on_disk() -> Vec<Vector> {
    let mut paths: Vec<PathBuf> =
        list(&folder()).iter().flat_map(|version| list(version)).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "cbor"));
    paths.into_iter().map(load).collect()
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}

fn load(path: PathBuf) -> Vector {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let beside = path.with_extension("json");
    let json = std::fs::read(&beside).unwrap_or_else(|e| panic!("{}: {e}", beside.display()));
    let json: Json =
        serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{}: {e}", beside.display()));
    let name = json["payload"].as_str().expect("`payload` is a name");
    let payload = payloads()
        .into_iter()
        .find(|payload| payload.name() == name)
        .expect("`payload` is one of ours");
    Vector { path, payload, bytes, json }
}

#[test]
fn the_vectors_of_every_version_say_what_they_always_said() {
    let mut seen = BTreeSet::new();
    for Vector { path, payload, bytes, json } in on_disk() {
        let read = payload.read(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(same(&read.json, &json), "{} now says {}", path.display(), print(&read.json));
        seen.insert(payload.name());
    }
    let cbor: BTreeSet<_> =
        payloads().into_iter().filter(|payload| payload.is_cbor()).map(Payload::name).collect();
    assert_eq!(
        seen, cbor,
        "a payload without a vector; FIELDPOST_BLESS=1 writes those of new samples"
    );
}

#[test]
fn todays_encoder_still_gives_the_bytes_of_this_version() {
    let folder = folder().join(format!("v{VERSION}"));
    let bless = std::env::var_os("FIELDPOST_BLESS").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    for sample in samples::all() {
        let path = folder.join(&sample.name).with_extension("cbor");
        match std::fs::read(&path) {
            Ok(kept) if equal(sample.payload, &kept, &sample.bytes) => {}
            Ok(kept) => wrong.push(difference(&sample, &kept)),
            Err(_) if bless => {
                std::fs::create_dir_all(&folder).expect("the folder can be made");
                std::fs::write(path.with_extension("json"), print(&sample.json))
                    .expect("the folder is writable");
                std::fs::write(&path, &sample.bytes).expect("the folder is writable");
                println!("{}: written", sample.name);
            }
            Err(error) => {
                wrong.push(format!("{}: {error}; FIELDPOST_BLESS=1 writes it", sample.name))
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} vectors of version {VERSION} are not what the encoder gives now. They are left as they are, with \
         FIELDPOST_BLESS too: a change of the wire needs a new VERSION.\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Another release of zstd may pack the same bytes otherwise: then what was packed counts.
fn equal(payload: Payload, kept: &[u8], now: &[u8]) -> bool {
    if kept == now {
        return true;
    }
    let unpacked = |bytes| {
        let envelope = Envelope::decode(bytes)
            .ok()
            .filter(|envelope| envelope.body.starts_with(&ZSTD_MAGIC))?;
        let body = zstd::bulk::decompress(&envelope.body, 1 << 20).ok()?;
        Some(Envelope { body, ..envelope })
    };
    payload == Payload::SensorData && unpacked(kept).is_some_and(|kept| unpacked(now) == Some(kept))
}

fn difference(sample: &samples::Sample, kept: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}\n  kept {}\n  now  {}", sample.name, hex(kept), hex(&sample.bytes))
}

#[test]
fn every_kind_of_column_is_among_the_vectors_and_so_are_both_kinds_of_body() {
    let vectors = on_disk().into_iter().filter(|vector| vector.payload == Payload::SensorData);
    let (mut kinds, mut packed, mut plain) = (BTreeSet::new(), 0, 0);
    for vector in vectors {
        let mut body = Envelope::decode(&vector.bytes).expect("a vector").body;
        if body.starts_with(&ZSTD_MAGIC) {
            packed += 1;
            body = zstd::bulk::decompress(&body, 1 << 20).expect("a vector");
        } else {
            plain += 1;
        }
        kinds.extend(column_kinds(&body).expect("a body of the shape that topics.md draws"));
    }
    assert_eq!(kinds, BTreeSet::from([0, 1, 2, 3, 4, 5]));
    assert!(packed >= 4 && plain >= 4, "{packed} compressed, {plain} plain");
}

/// `[n, [[source, rows, seqs, times, [[metric, shape, kind, ...], ...]], ...]]`
fn column_kinds(body: &[u8]) -> Option<Vec<u64>> {
    let body: ciborium::Value = ciborium::from_reader(body).ok()?;
    let mut kinds = Vec::new();
    for group in body.as_array()?.get(1)?.as_array()? {
        for column in group.as_array()?.get(4)?.as_array()? {
            kinds.push(column.as_array()?.get(2)?.as_integer()?.try_into().ok()?);
        }
    }
    Some(kinds)
}

/// JSON with a line for each row, so that a change can be seen in a diff.
fn print(json: &Json) -> String {
    let object = json.as_object().expect("an object");
    let lines: Vec<String> = object
        .iter()
        .map(|(key, value)| match value {
            Json::Array(rows) => {
                let rows: Vec<String> = rows.iter().map(|row| format!("  {row}")).collect();
                format!("\"{key}\": [\n{}\n]", rows.join(",\n"))
            }
            value => format!("\"{key}\": {value}"),
        })
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}
