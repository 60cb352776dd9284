//! `config get | set | diff`: what a device is to be, and what it says that it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use fieldpost_protocol::DeviceId;
use serde_json::{Map, Value, json};

use super::print;
use crate::clock;
use crate::store::sqlite::DesiredTable;

/// What a gateway reads.
const BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// What is desired of a device, and what it reports.
    Get { device: DeviceId },
    /// Sets what is desired. The bridge publishes it, and the gateway tries it: `get` shows what became
    /// of it.
    Set {
        device: DeviceId,
        /// Keys to set beside those that are, such as publish.publish_interval=60s.
        #[arg(value_name = "SECTION.KEY=VALUE")]
        keys: Vec<String>,
        /// All of it: a file with {"section": {"key": value}}.
        #[arg(long, conflicts_with_all = ["keys", "clear"])]
        file: Option<PathBuf>,
        /// Back to the gateway's own file.
        #[arg(long, conflicts_with = "keys")]
        clear: bool,
    },
    /// The keys that are desired and run otherwise.
    Diff { device: DeviceId },
}

pub(super) fn execute(storage: &Path, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Get { device } => get(storage, &device),
        Command::Set { device, keys, file, clear } => {
            set(storage, &device, &keys, file.as_deref(), clear)
        }
        Command::Diff { device } => diff(storage, &device),
    }
}

fn get(storage: &Path, device: &DeviceId) -> anyhow::Result<()> {
    let table = DesiredTable::open(storage)?;
    let desired = table.get(device)?;
    let desired = desired.map(|it| json!({ "version": it.version, "config": it.config }));
    let both = json!({ "device": device, "desired": desired, "reported": table.reported(device)? });
    print::text(&format!("{}\n", serde_json::to_string_pretty(&both)?))
}

fn set(
    storage: &Path,
    device: &DeviceId,
    keys: &[String],
    file: Option<&Path>,
    clear: bool,
) -> anyhow::Result<()> {
    let mut table = DesiredTable::open_to_set(storage)?;
    let mut config = Map::new();
    if let Some(file) = file {
        let named = || format!("reading {}", file.display());
        let text = std::fs::read_to_string(file).with_context(named)?;
        config = serde_json::from_str(&text).with_context(|| {
            format!("{} has to be an object, {{\"section\": {{\"key\": value}}}}", file.display())
        })?;
    } else if !clear {
        anyhow::ensure!(
            !keys.is_empty(),
            "nothing to set: write SECTION.KEY=VALUE, --file or --clear"
        );
        config = table.get(device)?.map(|desired| desired.config).unwrap_or_default();
        keys.iter().try_for_each(|key| put(&mut config, key))?;
    }
    let bytes = Value::Object(config.clone()).to_string().len() + 64;
    anyhow::ensure!(bytes <= BYTES_MAX, "it has {bytes} bytes; a gateway reads {BYTES_MAX}");
    let desired = table.set(device, config, clock::now_ms())?;
    print::text(&format!("{device}: version {} is desired\n", desired.version))
}

/// `section.key=value`: JSON where it is some, text otherwise.
fn put(config: &mut Map<String, Value>, text: &str) -> anyhow::Result<()> {
    let parts = text.split_once('=').and_then(|(path, value)| Some((path.split_once('.')?, value)));
    let ((section, key), value) =
        parts.with_context(|| format!("{text:?}: write SECTION.KEY=VALUE"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let section_of = config.entry(section).or_insert_with(|| Value::Object(Map::new()));
    let keys = section_of.as_object_mut();
    let keys = keys.with_context(|| format!("{section} is a list; set it by --file"))?;
    keys.insert(key.to_owned(), value);
    Ok(())
}

fn diff(storage: &Path, device: &DeviceId) -> anyhow::Result<()> {
    let table = DesiredTable::open(storage)?;
    let Some(desired) = table.get(device)? else {
        return print::text(&format!("{device}: nothing is desired\n"));
    };
    let reported = table.reported(device)?.unwrap_or_default();
    let (mut wanted, mut runs) = (BTreeMap::new(), BTreeMap::new());
    leaves(&Value::Object(desired.config), "", &mut wanted);
    leaves(&reported["config"], "", &mut runs);
    let state = reported["state"].as_str().unwrap_or("nothing reported");
    let mut out = format!(
        "{device}: version {} is desired; reported: version {}, {state}\n",
        desired.version, reported["version"]
    );
    for why in reported["why"].as_array().into_iter().flatten() {
        out += &format!("  {}\n", why.as_str().unwrap_or_default().replace(char::is_control, " "));
    }
    for (key, value) in &wanted {
        match runs.get(key) {
            Some(is) if is == value => {}
            Some(is) => out += &format!("  {key}: desired {value}, runs {is}\n"),
            None => out += &format!("  {key}: desired {value}, runs without\n"),
        }
    }
    print::text(&out)
}

/// Each value by its path, ports by their names.
fn leaves(value: &Value, path: &str, all: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(value, &below(key), all)),
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                let name =
                    item["name"].as_str().map_or_else(|| (at + 1).to_string(), str::to_owned);
                leaves(item, &below(&name), all);
            }
        }
        Value::Null => {}
        value => drop(all.insert(path.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_beside_those_that_are_and_a_list_is_not_taken_apart() {
        let mut config = json!({"publish": {"live_interval": "off"}, "port": []});
        let config = config.as_object_mut().unwrap();
        put(config, "publish.batch_readings_max=10").unwrap();
        put(config, "system.interval=5m").unwrap();
        assert_eq!(config["publish"], json!({"live_interval": "off", "batch_readings_max": 10}));
        assert_eq!(config["system"], json!({"interval": "5m"}));
        assert!(put(config, "port.room=1").unwrap_err().to_string().contains("--file"));
        assert!(put(config, "publish").is_err());
    }

    #[test]
    fn a_version_is_one_that_neither_storage_nor_device_has_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("storage.db");
        crate::store::sqlite::SqliteStore::init(&path, None, 0).unwrap();
        let device: DeviceId = "pi-1".parse().unwrap();
        assert!(DesiredTable::open(&path).unwrap().get(&device).unwrap().is_none());
        let mut table = DesiredTable::open_to_set(&path).unwrap();
        let config = || json!({"system": {}}).as_object().unwrap().clone();
        assert_eq!(table.set(&device, config(), 1).unwrap().version, 1);
        assert_eq!(table.set(&device, config(), 2).unwrap().version, 2);
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute("INSERT INTO device (id, first_seen, reported) VALUES ('pi-1', 0, '{\"version\": 7}')", [])
            .unwrap();
        assert_eq!(table.set(&device, Map::new(), 3).unwrap().version, 8);
        table.set(&"pi-2".parse().unwrap(), config(), 4).unwrap();
        let all: Vec<String> = table
            .after(0, 10)
            .unwrap()
            .iter()
            .map(|(at, device, it)| format!("{at} {device} {}", it.version))
            .collect();
        assert_eq!(all, ["3 pi-1 8", "4 pi-2 1"]);
        assert!(table.after(4, 10).unwrap().is_empty());
    }
}
