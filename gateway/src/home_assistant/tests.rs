//! The entries, held to what Home Assistant publishes as its rules; and when they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fieldpost_protocol::{Live, Meta, MetaMetric, MetaSource, Metrics, Topics, Value};
use serde_json::Value as Json;

use super::entry::{About, Kind};
use super::{AGAIN_AFTER, ASIDE, Announcer, ENTRIES_MAX, Entry, PER_TICK, SPREAD};

/// Transcribed by hand from `DEVICE_CLASS_UNITS` of Home Assistant 2024.3.3, without what 2026.2.3 has no
/// more (nothing), and only of the classes that are used.
const PUBLISHED: &[(&str, &[&str])] = &[
    ("apparent_power", &["VA"]),
    ("battery", &["%"]),
    ("carbon_dioxide", &["ppm"]),
    ("carbon_monoxide", &["ppm"]),
    ("current", &["mA", "A"]),
    (
        "data_rate",
        &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s", "KiB/s", "MiB/s"],
    ),
    (
        "data_size",
        &["bit", "kbit", "Mbit", "Gbit", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB"],
    ),
    ("distance", &["mm", "cm", "m", "km", "in", "ft", "yd", "mi"]),
    ("duration", &["d", "h", "min", "s", "ms"]),
    ("energy", &["Wh", "kWh", "MWh", "MJ", "GJ"]),
    ("frequency", &["Hz", "kHz", "MHz", "GHz"]),
    ("humidity", &["%"]),
    ("illuminance", &["lx"]),
    ("irradiance", &["W/m²", "BTU/(h⋅ft²)"]),
    ("moisture", &["%"]),
    ("nitrogen_dioxide", &["µg/m³"]),
    ("ozone", &["µg/m³"]),
    ("pm1", &["µg/m³"]),
    ("pm10", &["µg/m³"]),
    ("pm25", &["µg/m³"]),
    ("power", &["W", "kW"]),
    ("precipitation_intensity", &["in/d", "in/h", "mm/d", "mm/h"]),
    ("pressure", &["Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"]),
    ("reactive_power", &["var"]),
    ("signal_strength", &["dB", "dBm"]),
    ("speed", &["ft/s", "m/s", "km/h", "kn", "mph", "mm/d", "mm/h", "in/d", "in/h"]),
    ("sulphur_dioxide", &["µg/m³"]),
    ("temperature", &["°C", "°F", "K"]),
    ("volatile_organic_compounds", &["µg/m³"]),
    ("volatile_organic_compounds_parts", &["ppm", "ppb"]),
    ("voltage", &["V", "mV"]),
    ("volume_flow_rate", &["m³/h", "ft³/min", "L/min", "gal/min"]),
    ("weight", &["kg", "g", "mg", "µg", "oz", "lb", "st"]),
];
/// Keys of `homeassistant.components.mqtt` that an entry of a sensor or binary sensor may have.
const KEYS: [&str; 11] = [
    "name",
    "unique_id",
    "state_topic",
    "value_template",
    "availability",
    "device",
    "origin",
    "state_class",
    "device_class",
    "unit_of_measurement",
    "expire_after",
];

const NOW: Duration = Duration::from_secs(1_000);

fn about(units: &[(&str, &str)]) -> About {
    let metric = |unit: &str| MetaMetric { unit: Some(unit.to_owned()) };
    let metrics = units.iter().map(|(name, unit)| (name.to_string(), metric(unit))).collect();
    let source = MetaSource { name: Some("Fruiting room".to_owned()), metrics };
    let meta = Meta {
        name: Some("Mushroom farm, room 1".to_owned()),
        sources: BTreeMap::from([("room".to_owned(), source)]),
        ..Meta::default()
    };
    About {
        prefix: "homeassistant".to_owned(),
        expire_after: None,
        device: "greenhouse-1".parse().unwrap(),
        topics: Topics::default(),
        meta,
    }
}

fn values(pairs: &[(&str, Value)]) -> Metrics {
    Metrics::new(pairs.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
        .unwrap()
}

/// Everything that wants to be published, each taken by the outbox and the broker at once.
fn drain(announcer: &mut Announcer) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut ticks = 0;
    while ticks < 2 {
        let noted = announcer.to_note();
        announcer.handle_noted(noted);
        match announcer.next() {
            Some(entry) => {
                assert_eq!(announcer.next(), None, "one at a time");
                announcer.handle_puback();
                all.push(entry);
                ticks = 0;
            }
            None => {
                announcer.tick(NOW);
                ticks += 1;
            }
        }
    }
    all
}

fn topics(entries: &[Entry]) -> Vec<&str> {
    let short = |entry: &'_ Entry| entry.topic.len();
    assert!(entries.iter().all(|entry| short(entry) <= 256));
    entries.iter().map(|entry| entry.topic.as_str()).collect()
}

/// `TOPIC_MATCHER` of its discovery.py, and every rule that its schema holds an entry to.
fn assert_published_rules(entry: &Entry, live: &Live) {
    let levels: Vec<&str> = entry.topic.split('/').collect();
    let ["homeassistant", component @ ("sensor" | "binary_sensor"), node, object, "config"] =
        levels[..]
    else {
        panic!("{}", entry.topic)
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    assert!(!object.is_empty() && object.chars().all(allowed), "{object}");
    assert_eq!(node, "greenhouse-1");
    let json: Json = serde_json::from_slice(&entry.payload).unwrap();
    let keys = json.as_object().unwrap();
    let unknown: Vec<_> = keys.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for required in
        ["name", "unique_id", "state_topic", "value_template", "device", "origin", "availability"]
    {
        assert!(keys.contains_key(required), "{required} is missing in {json}");
    }
    assert!(!json["device"]["identifiers"][0].as_str().unwrap().is_empty());
    assert!(!json["origin"]["name"].as_str().unwrap().is_empty());
    assert_eq!(json["availability"][0]["topic"], "devices/greenhouse-1/status");
    let unit = json["unit_of_measurement"].as_str();
    if let Some(class) = json["device_class"].as_str() {
        let (_, units) = PUBLISHED.iter().find(|(name, _)| *name == class).expect("a device class");
        assert!(units.contains(&unit.expect("a unit")), "{class} with {unit:?}");
        let state = if class == "energy" { "total_increasing" } else { "measurement" };
        assert_eq!(json["state_class"], state, "{class}");
    }
    let numeric = ["state_class", "device_class", "unit_of_measurement"];
    if component == "binary_sensor" {
        assert!(numeric.iter().all(|key| !keys.contains_key(*key)), "{json}");
    }
    // What the template names stands in the message, and it is named by subscript: `.values` is a method.
    let template = json["value_template"].as_str().unwrap();
    let (_, key) = template.split_once("value_json[\"values\"][\"").expect("a subscript");
    let key = key.split_once("\"]").unwrap().0.replace("\\\\", "\\");
    assert!(!template.contains("value_json.") && live.values.get(&key).is_some(), "{template}");
    let number = matches!(live.values.get(&key), Some(Value::Int(_) | Value::Float(_)));
    assert!(
        number || numeric.iter().all(|key| !keys.contains_key(*key)),
        "a text with a unit: {json}"
    );
}

#[test]
fn every_entry_satisfies_the_published_rules() {
    let mut units: Vec<(String, &str)> = Vec::new();
    for (at, unit) in PUBLISHED.iter().flat_map(|(_, units)| *units).enumerate() {
        units.push((format!("m{at}"), unit));
    }
    for name in [
        "humidity",
        "battery",
        "soil.moisture",
        "co2",
        "CO",
        "tvoc",
        "pm1",
        "pm2_5",
        "pm10",
        "no2",
        "o3",
        "so2",
    ] {
        units.push((name.to_owned(), "%"));
        for unit in ["ppm", "ppb", "µg/m³", "\u{3bc}g/m³"] {
            units.push((format!("{name}-{unit}"), unit));
        }
    }
    units.push(("odd".to_owned(), "mushrooms/day"));
    let borrowed: Vec<(&str, &str)> =
        units.iter().map(|(name, unit)| (name.as_str(), *unit)).collect();
    let about = about(&borrowed);
    let mut announcer = Announcer::new(Some(about), Vec::new());
    let mut pairs: Vec<(&str, Value)> =
        borrowed.iter().map(|(name, _)| (*name, 1.5.into())).collect();
    pairs.extend([("fan", true.into()), ("stage", "fruiting".into()), ("a\\b'c/d", 1.into())]);
    let values = values(&pairs);
    announcer.see("room", &values);
    let entries = drain(&mut announcer);
    assert_eq!(entries.len(), pairs.len());
    let live = Live { time: None, values };
    entries.iter().for_each(|entry| assert_published_rules(entry, &live));
    // Both signs for micro are one unit.
    let class_of = |metric: &str| {
        let is = |entry: &&Entry| {
            String::from_utf8_lossy(&entry.payload).contains(&format!("/room/{metric}\""))
        };
        let entry: Json =
            serde_json::from_slice(&entries.iter().find(is).unwrap().payload).unwrap();
        (entry["device_class"].clone(), entry["unit_of_measurement"].clone())
    };
    assert_eq!(class_of("pm10-\u{3bc}g/m³"), ("pm10".into(), "µg/m³".into()));
    assert_eq!(class_of("pm10-µg/m³"), ("pm10".into(), "µg/m³".into()));
    let classes: BTreeSet<String> = entries
        .iter()
        .map(|entry| {
            serde_json::from_slice::<Json>(&entry.payload).unwrap()["device_class"].to_string()
        })
        .collect();
    assert_eq!(classes.len(), PUBLISHED.len() + 1, "each class, and none: {classes:?}");
}

#[test]
fn the_page_shows_an_entry_as_it_is_published() {
    let page = include_str!("../../../topics.md").replace("0.1.0", env!("CARGO_PKG_VERSION"));
    let (_, block) = page.split_once("```jsonc homeassistant\n").expect("topics.md has an example");
    let shown: Json = serde_json::from_str(block.split_once("```").unwrap().0).unwrap();
    let name = ("room".to_owned(), "temp".to_owned());
    let about = about(&[("temp", "°C")]);
    let entry: Json = serde_json::from_slice(&about.payload(&name, Kind::Number)).unwrap();
    assert_eq!(shown, entry, "\n{entry:#}");
    let topic = about.topic(&name, Kind::Number).unwrap();
    assert!(page.contains(&format!("`{topic}`")), "{topic}");
}

#[test]
fn no_two_metrics_have_the_same_entry() {
    let about = about(&[]);
    let words =
        ["a", "b", "a_b", "a-b", "a--b", "a.b", "-", "_", "-2d", "a-", "-b", "2d", "ü", "a/b"];
    let mut topics = BTreeSet::new();
    for source in words {
        for metric in words {
            let topic = about.topic(&(source.to_owned(), metric.to_owned()), Kind::Number).unwrap();
            assert!(topics.insert(topic.clone()), "{topic} stands for two metrics");
        }
    }
    let long = "ü".repeat(32);
    assert_eq!(about.topic(&(long.clone(), long), Kind::Number), None);
}

#[test]
fn what_is_seen_is_announced_once_and_again_with_each_connection_and_return() {
    let mut announcer = Announcer::new(Some(about(&[])), Vec::new());
    announcer.handle_connected();
    announcer.see("room", &values(&[("temp", 1.5.into()), ("none", Value::Null)]));
    announcer.see("room", &values(&[("temp", 2.into())]));
    let first = drain(&mut announcer);
    assert_eq!(topics(&first), ["homeassistant/sensor/greenhouse-1/room--temp/config"]);
    announcer.see("room", &values(&[("temp", 3.into())]));
    assert_eq!(drain(&mut announcer), []);
    announcer.handle_connected();
    assert_eq!(drain(&mut announcer), first);

    // It says so twice: once is enough, and not at once.
    announcer.handle_online(NOW, 0.5);
    announcer.handle_online(NOW, 0.1);
    announcer.tick(NOW + SPREAD / 4);
    assert_eq!(announcer.next(), None);
    announcer.tick(NOW + SPREAD / 2);
    assert_eq!(drain(&mut announcer), first);
    let soon = NOW + SPREAD / 2 + Duration::from_secs(1);
    announcer.handle_online(soon, 0.0);
    announcer.tick(soon);
    assert_eq!(announcer.next(), None, "twice within {AGAIN_AFTER:?}");
    announcer.tick(soon + AGAIN_AFTER);
    assert_eq!(drain(&mut announcer), first);
}

#[test]
fn what_becomes_another_kind_is_announced_as_that() {
    let mut announcer = Announcer::new(Some(about(&[("fan", "rpm")])), Vec::new());
    announcer.see("room", &values(&[("fan", true.into())]));
    let [flag] = &drain(&mut announcer)[..] else { panic!("one entry") };
    assert_eq!(flag.topic, "homeassistant/binary_sensor/greenhouse-1/room--fan/config");
    announcer.see("room", &values(&[("fan", 700.into())]));
    let entries = drain(&mut announcer);
    assert_eq!(entries[0], Entry { topic: flag.topic.clone(), payload: Vec::new() });
    assert_eq!(entries[1].topic, "homeassistant/sensor/greenhouse-1/room--fan/config");
    assert!(!String::from_utf8_lossy(&entries[1].payload).contains("rpm"), "it may be a text");
    announcer.see("room", &values(&[("fan", false.into())]));
    assert_eq!(drain(&mut announcer), []);
}

#[test]
fn what_is_turned_off_or_has_another_prefix_is_removed_also_by_the_next_start() {
    let mut announcer = Announcer::new(Some(about(&[])), Vec::new());
    announcer.see("room", &values(&[("temp", 1.into())]));
    let [entry] = &drain(&mut announcer)[..] else { panic!("one entry") };
    let removal = Entry { topic: entry.topic.clone(), payload: Vec::new() };
    let other = About { prefix: "ha".to_owned(), ..about(&[]) };
    announcer.change(Some(other));
    let entries = drain(&mut announcer);
    assert_eq!(entries[0], removal);
    assert_eq!(topics(&entries[1..]), ["ha/sensor/greenhouse-1/room--temp/config"]);
    assert_eq!(announcer.take_removed(), std::slice::from_ref(&entry.topic));

    let noted = vec!["ha/sensor/greenhouse-1/room--temp/config".to_owned()];
    let mut started = Announcer::new(None, noted.clone());
    started.handle_connected();
    assert_eq!(topics(&drain(&mut started)), noted);
    started.see("room", &values(&[("temp", 1.into())]));
    assert_eq!((drain(&mut started), started.take_filter()), (Vec::new(), None));
    assert_eq!(started.take_removed(), noted);

    // On again before all is removed.
    let mut wavering = Announcer::new(Some(about(&[])), vec![entry.topic.clone()]);
    wavering.change(None);
    wavering.tick(NOW);
    assert_eq!(wavering.next(), Some(removal));
    wavering.change(Some(about(&[])));
    wavering.handle_puback();
    wavering.see("room", &values(&[("temp", 1.into())]));
    assert_eq!(topics(&drain(&mut wavering)), [entry.topic.as_str()]);
    assert_eq!(wavering.take_removed(), [""; 0]);
}

#[test]
fn a_board_that_invents_names_fills_no_broker() {
    let noted: Vec<String> = (0..ENTRIES_MAX - 20)
        .map(|n| format!("homeassistant/sensor/greenhouse-1/{n}/config"))
        .collect();
    let mut announcer = Announcer::new(Some(about(&[])), noted);
    announcer.handle_connected();
    for n in 0..10_000 {
        announcer.see("room", &values(&[(&format!("m{n}"), 1.into())]));
    }
    announcer.tick(NOW);
    let mut in_a_tick = 0;
    let noted = announcer.to_note();
    announcer.handle_noted(noted);
    while announcer.next().is_some() {
        announcer.handle_puback();
        in_a_tick += 1;
    }
    assert_eq!(in_a_tick, PER_TICK);
    assert_eq!(in_a_tick + drain(&mut announcer).len(), 20);
}

#[test]
fn a_broker_that_ends_the_connection_is_left_in_peace() {
    let mut announcer = Announcer::new(Some(about(&[])), Vec::new());
    announcer.see("room", &values(&[("temp", 1.into())]));
    let try_at = |now: Duration, announcer: &mut Announcer| {
        announcer.handle_connected();
        announcer.tick(now);
        let noted = announcer.to_note();
        announcer.handle_noted(noted);
        announcer.next().is_some()
    };
    assert!(!announcer.handle_disconnected(NOW), "nothing was on its way");
    assert!(try_at(NOW, &mut announcer));
    assert!(!announcer.handle_disconnected(NOW), "that may be chance");
    assert!(try_at(NOW, &mut announcer));
    assert!(announcer.handle_disconnected(NOW), "twice in a row is none");
    assert!(!try_at(NOW + ASIDE / 2, &mut announcer));
    assert!(try_at(NOW + ASIDE, &mut announcer));
    assert!(announcer.handle_disconnected(NOW + ASIDE), "one more is enough");
    assert!(try_at(NOW + 2 * ASIDE, &mut announcer));
    announcer.handle_puback();
    announcer.handle_connected();
    assert!(try_at(NOW + 2 * ASIDE, &mut announcer));
    assert!(!announcer.handle_disconnected(NOW + 2 * ASIDE), "the broker took one since");
}

#[test]
fn what_the_outbox_does_not_write_down_is_not_published() {
    let mut announcer = Announcer::new(Some(about(&[])), Vec::new());
    announcer.see("room", &values(&[("temp", 1.into())]));
    announcer.tick(NOW);
    assert_eq!(announcer.to_note().len(), 1);
    announcer.handle_not_noted(NOW);
    assert_eq!((announcer.next(), announcer.to_note().len()), (None, 0));
    announcer.tick(NOW + ASIDE);
    assert_eq!(drain(&mut announcer).len(), 1);
}
