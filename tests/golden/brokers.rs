//! docs/brokers.md: its settings are read by the programs, its files are there, and what it says of
//! our own sizes is true.

use std::collections::{BTreeMap, BTreeSet};

use fieldpost_gateway::config::Config as Gateway;
use fieldpost_protocol::{
    BODY_BYTES_MAX, Clock, DeviceId, Envelope, Epoch, NAME_BYTES_MAX, Stream, Topic, Topics,
    VERSION,
};
use fieldpost_tests::documented;

use crate::root;

#[test]
fn every_block_of_settings_is_read_by_the_program_whose_it_is() {
    let page = documented::page().unwrap();
    // An installation has this file; here any will do.
    let password = format!("password_file = {:?}", root().join("README.md"));
    let mut titles: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (title, file, text) in documented::blocks(&page).unwrap() {
        titles.entry(title).or_default().insert(file);
        let line = |line: &str| {
            if line.starts_with("password_file") { password.clone() } else { line.to_owned() }
        };
        let text: String = text.lines().map(|text| line(text) + "\n").collect();
        let wrong = match file {
            "gateway.toml" => {
                let text = format!("[device]\nid = \"gateway-1\"\n{text}");
                Gateway::parse(&text, std::iter::empty()).err().map(|error| error.to_string())
            }
            "bridge.toml" => fieldpost_bridge::config::Config::parse(&text, &BTreeMap::new())
                .err()
                .map(|error| error.to_string()),
            other => Some(format!("{other} is no file of ours")),
        };
        assert_eq!(wrong, None, "{title}, {file}");
    }
    for title in ["mosquitto", "HiveMQ Cloud", "EMQX", "AWS IoT Core", "RabbitMQ", "NATS"] {
        let files = titles.get(title).unwrap_or_else(|| panic!("nothing for {title}"));
        assert_eq!(files.len(), 2, "{title}: {files:?}");
    }
}

#[test]
fn the_files_for_brokers_are_there_and_named() {
    let page = documented::page().unwrap();
    let words = page.split(['`', '(', ')', '[', ']', ' ', '\n', ',']);
    let words = words.map(|word| word.trim_end_matches(['.', ':', ';']));
    let named = words.filter(|word| word.starts_with("config/") && *word != "config/");
    let ours = std::fs::read_dir(root().join("config")).unwrap().flatten();
    let ours: BTreeSet<String> = ours
        .map(|file| format!("config/{}", file.file_name().to_string_lossy()))
        .filter(|file| !file.ends_with(".toml"))
        .collect();
    let named: BTreeSet<String> = named.map(str::to_owned).collect();
    assert_eq!(named, ours, "left: docs/brokers.md, right: config/");
}

/// What docs/brokers.md says under "What Fieldpost asks of a broker".
#[test]
fn topics_subscriptions_and_messages_are_as_small_as_hosted_brokers_want() {
    let long = "n".repeat(NAME_BYTES_MAX);
    let device: DeviceId = long.parse().unwrap();
    let tree = Topics::new(&"p".repeat(64)).unwrap();
    let filters = [
        tree.gateway_filters(&device).len(),
        tree.bridge_reading_filters().len(),
        tree.bridge_event_filters().len(),
    ];
    assert_eq!(filters, [5, 1, 7], "AWS takes 8 in one SUBSCRIBE");

    let longest = tree.name(&Topic::Live(device.clone(), long.clone()));
    assert_eq!(longest.len(), 207, "AWS takes 256 bytes");
    let slashes = longest.split_once('/').unwrap().1.matches('/').count();
    assert_eq!(slashes, 3, "AWS takes 7: a prefix may have four levels");

    let envelope = Envelope {
        v: VERSION,
        dev: device,
        epoch: Epoch([0xFF; 16]),
        stream: Stream::Readings,
        first: (1 << 53) - 1_000,
        n: 1_000,
        floor: (1 << 53) - 1_000,
        last: (1 << 53) - 1,
        base: i64::MAX,
        clock: Clock::Unsynced,
        body: vec![0; BODY_BYTES_MAX],
    };
    let bytes = longest.len() + envelope.encode().len();
    assert!((96 * 1024..97 * 1024).contains(&bytes), "{bytes}; AWS takes 128 KiB");
}

/// A test in which a program connects is to run on mosquitto, too; these have none.
const WITHOUT_BROKER: [&str; 4] = [
    "a_recorder_says_that_it_is_one",
    "a_storage_of_a_newer_bridge_is_refused_and_left_as_it_is",
    "a_wrong_configuration_is_refused_with_key_value_and_what_is_allowed",
    "the_template_that_is_printed_passes_the_check",
];

#[test]
fn every_end_to_end_test_in_which_a_program_connects_runs_on_each_broker() {
    let mut once = BTreeSet::new();
    for file in std::fs::read_dir(root().join("tests/e2e")).unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        for function in text.split("\nfn ").filter(|function| function.contains("Rig::new(")) {
            once.insert(function.split('(').next().unwrap_or_default().to_owned());
        }
    }
    let expected: BTreeSet<String> = WITHOUT_BROKER.map(str::to_owned).into();
    assert_eq!(
        once, expected,
        "left: on the embedded broker alone; use Rig::on and on_each_broker!"
    );
}
