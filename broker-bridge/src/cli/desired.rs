//! `config get | set | unset | diff`: what a device is to be, and what it says that it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use fieldpost_protocol::DeviceId;
use serde_json::{Map, Value, json};

use super::print;
use crate::clock;
use crate::store::sqlite::{Desired, DesiredTable};

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
        /// Also for a device that this storage has never heard of.
        #[arg(long)]
        new: bool,
    },
    /// Takes keys out of what is desired: for them the gateway's own file counts again.
    Unset {
        device: DeviceId,
        /// Keys such as publish.publish_interval, or whole sections such as port.
        #[arg(value_name = "SECTION.KEY", required = true)]
        keys: Vec<String>,
    },
    /// The keys that are desired and run otherwise.
    Diff { device: DeviceId },
}

pub(super) fn execute(storage: &Path, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Get { device } => get(storage, &device),
        Command::Set { device, keys, file, clear, new } => {
            if !new {
                check_heard_of(storage, &device)?;
            }
            set(storage, &device, &keys, file.as_deref(), clear)
        }
        Command::Unset { device, keys } => unset(storage, &device, &keys),
        Command::Diff { device } => {
            check_heard_of(storage, &device)?;
            diff(storage, &device)
        }
    }
}

fn get(storage: &Path, device: &DeviceId) -> anyhow::Result<()> {
    let table = DesiredTable::open(storage)?;
    let desired = table.get(device)?;
    let desired = desired.map(|it| json!({ "version": it.version, "config": it.config }));
    let both = json!({ "device": device, "desired": desired, "reported": table.reported(device)? });
    print::text(&format!("{}\n", serde_json::to_string_pretty(&both)?))
}

/// A misspelt id would wait for its device for ever.
fn check_heard_of(storage: &Path, device: &DeviceId) -> anyhow::Result<()> {
    let table = DesiredTable::open(storage)?;
    if table.is_heard_of(device)? || table.get(device)?.is_some() {
        return Ok(());
    }
    let known = super::commands::known(storage)?;
    bail!(
        "this storage has never heard of device {device}; {known}. `config set --new` sets one that comes later"
    )
}

fn set(
    storage: &Path,
    device: &DeviceId,
    keys: &[String],
    file: Option<&Path>,
    clear: bool,
) -> anyhow::Result<()> {
    let mut table = DesiredTable::open_to_set(storage)?;
    if keys.is_empty() {
        anyhow::ensure!(
            file.is_some() || clear,
            "nothing to set: write SECTION.KEY=VALUE, --file or --clear"
        );
        let config = file.map(read).transpose()?.unwrap_or_default();
        return save(&mut table, device, |_, _| Ok(config));
    }
    change(&mut table, device, |mut config| {
        keys.iter().try_for_each(|key| put(&mut config, key))?;
        Ok(config)
    })
}

fn read(file: &Path) -> anyhow::Result<Map<String, Value>> {
    let named = || format!("reading {}", file.display());
    let text = std::fs::read_to_string(file).with_context(named)?;
    serde_json::from_str(&text).with_context(|| {
        format!("{} has to be an object, {{\"section\": {{\"key\": value}}}}", file.display())
    })
}

fn unset(storage: &Path, device: &DeviceId, keys: &[String]) -> anyhow::Result<()> {
    let mut table = DesiredTable::open_to_set(storage)?;
    change(&mut table, device, |mut config| {
        for key in keys {
            let gone = format!(
                "{key} is not desired of {device}; `fieldpost-bridge config get {device}` shows what is"
            );
            anyhow::ensure!(take_out(&mut config, key), gone);
        }
        Ok(config)
    })
}

/// Changes what is desired so far. Where the gateway has refused that, the change alone may not help.
fn change(
    table: &mut DesiredTable,
    device: &DeviceId,
    of: impl FnOnce(Map<String, Value>) -> anyhow::Result<Map<String, Value>>,
) -> anyhow::Result<()> {
    save(table, device, |before, reported| {
        let Some(Desired { version, config }) = before else { return of(Map::new()) };
        if reported.is_some_and(|reported| is_refused(reported, version)) {
            eprintln!(
                "fieldpost-bridge: version {version}, which this changes, was refused; what else it desires stays: \
                 `config diff {device}` says why, `config unset` takes keys out"
            );
        }
        of(config)
    })
}

fn is_refused(reported: &Value, version: u64) -> bool {
    reported["version"] == version && reported["state"] == "refused"
}

fn save(
    table: &mut DesiredTable,
    device: &DeviceId,
    of: impl FnOnce(Option<Desired>, Option<&Value>) -> anyhow::Result<Map<String, Value>>,
) -> anyhow::Result<()> {
    let desired = table.change(device, clock::now_ms(), |before, reported| {
        let config = of(before, reported)?;
        let bytes = Value::Object(config.clone()).to_string().len() + 64;
        anyhow::ensure!(bytes <= BYTES_MAX, "it has {bytes} bytes; a gateway reads {BYTES_MAX}");
        anyhow::ensure!(
            !config.contains_key("version") && !config.contains_key("config"),
            "write sections and keys alone, {{\"publish\": {{...}}}}: the version is given here, and `config` goes around them"
        );
        Ok(config)
    })?;
    let version = desired.version;
    print::text(&format!(
        "{device}: version {version} is desired; `fieldpost-bridge config diff {device}` tells what becomes of it\n"
    ))
}

/// Sections that are lists, which nobody can name a part of.
const LISTS: [&str; 3] = ["port", "command", "alert"];

/// `section.key=value`: JSON where it is some, text otherwise. In `meta`, keys have keys.
fn put(config: &mut Map<String, Value>, text: &str) -> anyhow::Result<()> {
    let how = || format!("{text:?}: write SECTION.KEY=VALUE");
    let (path, value) = text.split_once('=').with_context(how)?;
    let (section, keys) = path.split_once('.').with_context(how)?;
    anyhow::ensure!(path.split('.').all(|name| !name.is_empty()), how());
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    anyhow::ensure!(!value.is_null(), "{text:?}: null is no value; `config unset` takes a key out");
    anyhow::ensure!(
        !LISTS.contains(&section),
        "{section} is a list: write all of it, as {{\"{section}\": [{{...}}]}} with what else is desired, and set it by --file"
    );
    let object = || Value::Object(Map::new());
    let (above, key) = match keys.rsplit_once('.') {
        Some((above, key)) => (Some(above), key),
        None => (None, keys),
    };
    let mut at = config.entry(section).or_insert_with(object);
    let no_room = || format!("{text:?}: a value stands above {key}");
    for name in above.into_iter().flat_map(|above| above.split('.')) {
        at = at.as_object_mut().with_context(no_room)?.entry(name).or_insert_with(object);
    }
    at.as_object_mut().with_context(no_room)?.insert(key.to_owned(), value);
    Ok(())
}

/// Takes `section.key` or a whole section out. Returns whether it was there.
fn take_out(config: &mut Map<String, Value>, path: &str) -> bool {
    if config.remove(path).is_some() {
        return true;
    }
    let Some((section, key)) = path.split_once('.') else { return false };
    let Some(Value::Object(keys)) = config.get_mut(section) else { return false };
    let was_there = take_out(keys, key);
    if keys.is_empty() {
        config.remove(section);
    }
    was_there
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
    if is_refused(&reported, desired.version) {
        let others = wanted.iter().filter(|(key, value)| runs.get(*key) != Some(value)).count();
        out += &format!("  none of it runs; keys that run otherwise: {others}\n");
        return print::text(&out);
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
        // A gateway writes 20.0 as it reads 20: one number.
        Value::Number(number)
            if number.as_f64().is_some_and(|it| it.fract() == 0.0 && it.abs() < 1e15) =>
        {
            let whole = number.as_f64().unwrap_or_default() as i64;
            all.insert(path.to_owned(), whole.to_string());
        }
        value => drop(all.insert(path.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_key_is_set_beside_those_that_are_and_a_list_is_not_taken_apart() {
        let mut config = json!({"publish": {"live_interval": "off"}, "port": []});
        let config = config.as_object_mut().unwrap();
        put(config, "publish.batch_readings_max=10").unwrap();
        put(config, "system.interval=5m").unwrap();
        assert_eq!(config["publish"], json!({"live_interval": "off", "batch_readings_max": 10}));
        assert_eq!(config["system"], json!({"interval": "5m"}));
        assert!(put(config, "port.room=1").unwrap_err().to_string().contains("--file"));
        for no_key in ["publish", "publish=1", ".=1", "publish.=1", "publish.live_interval.x=1"] {
            assert!(put(config, no_key).is_err(), "{no_key}");
        }
        put(config, "meta.sources.room.name=Fruiting room").unwrap();
        put(config, "meta.sources.room.metrics={}").unwrap();
        assert_eq!(
            config["meta"]["sources"]["room"],
            json!({"name": "Fruiting room", "metrics": {}})
        );
        let error = put(config, "publish.live_interval=null").unwrap_err().to_string();
        assert!(error.contains("config unset"), "{error}");
    }

    #[test]
    fn a_key_or_a_section_is_taken_out_and_an_empty_section_with_it() {
        let mut config =
            json!({"publish": {"live_interval": "off"}, "port": [], "system": {"a": 1, "b": 2}});
        let config = config.as_object_mut().unwrap();
        assert!(take_out(config, "publish.live_interval") && take_out(config, "system.a"));
        assert!(take_out(config, "port") && !take_out(config, "port"));
        assert!(!take_out(config, "system.c") && !take_out(config, "publish.live_interval"));
        assert_eq!(config, json!({"system": {"b": 2}}).as_object().unwrap());
        put(config, "meta.sources.room.name=x").unwrap();
        assert!(
            !take_out(config, "meta.sources.attic") && take_out(config, "meta.sources.room.name")
        );
        assert_eq!(config, json!({"system": {"b": 2}}).as_object().unwrap());
    }

    #[test]
    fn a_number_is_the_same_with_a_point_and_without() {
        let leaf = |value: Value| {
            let mut all = BTreeMap::new();
            leaves(&value, "a", &mut all);
            all["a"].clone()
        };
        assert_eq!(leaf(json!(20.0)), leaf(json!(20)));
        assert_ne!(leaf(json!(20.5)), leaf(json!(20)));
        assert_ne!(leaf(json!("20")), leaf(json!(20)));
    }

    #[test]
    fn a_version_is_one_that_neither_storage_nor_device_has_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("storage.db");
        crate::store::sqlite::SqliteStore::init(&path, None, 0).unwrap();
        let device: DeviceId = "pi-1".parse().unwrap();
        assert!(DesiredTable::open(&path).unwrap().get(&device).unwrap().is_none());
        let mut table = DesiredTable::open_to_set(&path).unwrap();
        let mut set = |device: &DeviceId| {
            let all = table.change(device, 1, |_, _| Ok::<_, StoreError>(Map::new()));
            all.unwrap().version
        };
        assert_eq!((set(&device), set(&device)), (1, 2));
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute("INSERT INTO device (id, first_seen, reported) VALUES ('pi-1', 0, '{\"version\": 7}')", [])
            .unwrap();
        assert_eq!(set(&device), 8);
        // Somebody has published the last version that there is, and the gateway took it.
        for (reported, next) in [(9_007_199_254_740_991u64, 9), (u64::MAX, 10)] {
            let reported = format!("{{\"version\": {reported}}}");
            rusqlite::Connection::open(&path)
                .unwrap()
                .execute("UPDATE device SET reported = ?1", [reported])
                .unwrap();
            assert_eq!(set(&device), next);
        }
        set(&"pi-2".parse().unwrap());
        let all: Vec<String> = table
            .after(0, 10)
            .unwrap()
            .iter()
            .map(|(at, device, it)| format!("{at} {device} {}", it.version))
            .collect();
        assert_eq!(all, ["5 pi-1 10", "6 pi-2 1"]);
        assert!(table.after(6, 10).unwrap().is_empty());
    }

    #[test]
    fn people_who_set_something_at_once_lose_nothing_of_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("storage.db");
        crate::store::sqlite::SqliteStore::init(&path, None, 0).unwrap();
        let device: DeviceId = "pi-1".parse().unwrap();
        // Opened before anybody writes: within one process looking at a file gives up its locks.
        let tables = [(); 4].map(|()| DesiredTable::open_to_set(&path).unwrap());
        std::thread::scope(|scope| {
            for (person, mut table) in tables.into_iter().enumerate() {
                let device = &device;
                scope.spawn(move || {
                    for n in 0..10 {
                        let key = format!("system.by_{person}_{n}=1");
                        change(&mut table, device, |mut config| {
                            put(&mut config, &key)?;
                            Ok(config)
                        })
                        .unwrap();
                    }
                });
            }
        });
        let desired = DesiredTable::open(&path).unwrap().get(&device).unwrap().unwrap();
        assert_eq!(desired.version, 40);
        assert_eq!(desired.config["system"].as_object().unwrap().len(), 40);
        // What is refused leaves nothing behind.
        assert!(unset(&path, &device, &["system.by_0_0".into(), "system.other".into()]).is_err());
        let after = DesiredTable::open(&path).unwrap().get(&device).unwrap().unwrap();
        assert_eq!(after, desired);
    }
}
