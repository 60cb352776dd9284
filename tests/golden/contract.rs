//! Every topic, limit and word of the code stands in topics.md, and nothing else does.

use std::collections::BTreeSet;

use fieldpost_gateway::commands::Builtin;
use fieldpost_protocol::{
    AlertState, Clock, CommandOutcome, DeviceId, EventKind, Severity, Stream, Topic, Topics,
    VERSIONS_READ,
};
use fieldpost_tests::client::filter_matches;

use crate::document::Document;
use crate::payload::{Payload, content_json};

/// Every variant of an enum; one that is added to the code stops this from compiling.
macro_rules! every {
    ($of:ident: $($variant:ident $(($($content:expr),*))?),* $(,)?) => {{
        let _complete = |value: &$of| match value {
            $($of::$variant { .. } => {})*
        };
        vec![$($of::$variant $(($($content),*))?),*]
    }};
}

fn device() -> DeviceId {
    "greenhouse-1".parse().expect("a device id")
}

/// Every topic that the code knows.
fn topics() -> Vec<Topic> {
    let mut topics = every!(Topic:
        SensorData(device()), Alerts(device()), CommandAcks(device()), Hello(device()), State(device()),
        SyncAcks(device()), Commands(device()), Status(device()), Meta(device()),
        Live(device(), "air".to_owned()), ConfigReported(device()), ConfigDesired(device()),
        BridgeStatus("cloud".to_owned()),
    );
    topics.extend(["alerts", "command_acks"].map(|of| Topic::Live(device(), of.to_owned())));
    topics
}

/// Every payload that the code knows, once.
pub fn payloads() -> Vec<Payload> {
    let mut payloads: Vec<Payload> = topics().iter().map(Payload::of).collect();
    payloads.dedup();
    payloads
}

/// Every outcome of a command.
pub fn outcomes() -> Vec<CommandOutcome> {
    every!(CommandOutcome: Accepted, Succeeded, Failed, TimedOut, Rejected, Expired, Stale, Unknown)
}

/// A row of the table of topics.
struct Row {
    topic: String,
    payload: String,
    read_by: String,
}

fn rows(document: &Document) -> Vec<Row> {
    let fill = |cell: &str| {
        cell.replace("<id>", "greenhouse-1").replace("<source>", "air").replace("<name>", "cloud")
    };
    let row = |cells: Vec<String>| {
        let [topic, payload, _, read_by, _, _] = &cells[..] else {
            panic!("{cells:?} has to have six columns")
        };
        Row { topic: fill(topic), payload: payload.clone(), read_by: read_by.clone() }
    };
    document.table("topic").into_iter().map(row).collect()
}

#[test]
fn the_table_of_topics_is_the_code_s() {
    let (document, tree) = (Document::load(), Topics::default());
    let known: BTreeSet<String> = topics().iter().map(|topic| tree.name(topic)).collect();
    let rows = rows(&document);
    let listed: BTreeSet<String> = rows.iter().map(|row| row.topic.clone()).collect();
    assert_eq!(listed, known, "left: the table, right: the code");
    assert_eq!(rows.len(), listed.len(), "a topic stands twice");
    for row in rows {
        let topic = tree.parse(&row.topic).expect("a known topic is parsed");
        assert_eq!(tree.name(&topic), row.topic);
        let payload = Payload::of(&topic).name();
        let link = format!("[{payload}](#{payload})");
        assert_eq!(row.payload, link, "{}", row.topic);
        assert!(document.text().contains(&format!("\n### {payload}\n")), "{link} leads nowhere");
    }
}

#[test]
fn the_table_says_who_subscribes_to_what() {
    let tree = Topics::default();
    let gateway = tree.gateway_filters(&device());
    let bridge = [tree.bridge_reading_filters(), tree.bridge_event_filters()].concat();
    for row in rows(&Document::load()) {
        for (who, filters) in [("gateway", &gateway), ("bridge", &bridge)] {
            let subscribes = filters.iter().any(|filter| filter_matches(filter, &row.topic));
            assert_eq!(row.read_by.contains(who), subscribes, "{}: read by {}?", row.topic, who);
        }
    }
}

#[test]
fn the_table_of_limits_is_the_code_s() {
    macro_rules! limits {
        ($($name:ident),*) => {{
            let positive = "a limit is positive";
            vec![$((stringify!($name), u64::try_from(fieldpost_protocol::$name).expect(positive))),*]
        }};
    }
    let mut known = limits![
        VERSION,
        BATCH_READINGS_MAX,
        BODY_BYTES_MAX,
        BODY_BYTES_DECODED_MAX,
        PACKET_BYTES_MAX,
        HELLO_STREAMS_MAX,
        HELLO_PAGES_MAX,
        SYNC_ACKS_MAX,
        FRAME_BYTES_MAX,
        NAME_BYTES_MAX,
        TEXT_BYTES_MAX,
        DEPTH_MAX,
        SEQ_MAX,
        COMMAND_BYTES_MAX,
        COMMAND_ARGS_MAX
    ];
    let [only] = VERSIONS_READ[..] else { panic!("list every version that is read in topics.md") };
    known.push(("VERSIONS_READ", only));

    let source = crate::root().join("crates/protocol/src/limits.rs");
    let source = std::fs::read_to_string(source).expect("the limits are in the checkout");
    for line in source.lines().filter_map(|line| line.strip_prefix("pub const ")) {
        let name = line.split(':').next().expect("a constant has a type");
        assert!(
            known.iter().any(|(known, _)| *known == name),
            "{name} is missing in this test and in topics.md"
        );
    }

    let table: Vec<(String, u64)> = Document::load()
        .table("limit")
        .into_iter()
        .map(|cells| {
            let number = cells[1].replace(',', "");
            (cells[0].clone(), number.parse().unwrap_or_else(|_| panic!("{number:?} is no number")))
        })
        .collect();
    let known: Vec<(String, u64)> =
        known.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for limit in &known {
        assert!(table.contains(limit), "the table of limits lacks {} = {}", limit.0, limit.1);
    }
    assert_eq!(table.len(), known.len(), "the table has a limit that the code has not");
}

#[test]
fn the_table_of_the_gateway_s_own_commands_is_the_code_s() {
    let builtins = every!(Builtin:
        Ping, SyncNow, SyncPause, SyncResume, ConfigReload, Resend, SerialReopen, SerialRelease, LogLevel, Restart,
    );
    let rows = Document::load().table("gateway's own");
    assert_eq!(rows.len(), builtins.len(), "one row for each");
    for builtin in builtins {
        let row = rows.iter().find(|row| row[0] == builtin.as_str());
        let row = row.unwrap_or_else(|| panic!("topics.md does not explain {builtin}"));
        let words: BTreeSet<&str> = row[1].split(|c: char| !c.is_ascii_lowercase()).collect();
        let args = builtin.args();
        assert!(args.keys().all(|arg| words.contains(&**arg)), "arguments of {builtin}: {words:?}");
        assert_eq!(args.is_empty(), row[1].is_empty(), "{builtin}");
    }
}

#[test]
fn every_word_of_the_wire_stands_in_the_contract() {
    let mut words = Vec::new();
    words.extend(every!(Stream: Events, Readings).iter().map(content_json));
    words.extend(every!(Clock: Ntp, Bridge, Unsynced).iter().map(content_json));
    words.extend(every!(AlertState: Raised, Cleared).iter().map(content_json));
    words.extend(every!(Severity: Info, Warning, Critical).iter().map(content_json));
    words.extend(outcomes().iter().map(content_json));
    let _every_kind_of_event_has_a_section = |kind: &EventKind| match kind {
        EventKind::Alert { .. } => "alert",
        EventKind::CommandAck { .. } => "command_ack",
    };
    words.extend(["alert", "command_ack"].map(|kind| serde_json::json!(kind)));

    let document = Document::load();
    for word in words {
        let word = word.as_str().expect("a word");
        assert!(
            document.text().contains(&format!("`{word}`")),
            "topics.md does not explain `{word}`"
        );
    }
}
