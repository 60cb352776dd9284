//! Rules as people write them, and what is said where they are wrong.

use super::super::Config;
use super::*;

/// A valid configuration, before its rules.
const HEAD: &str = r#"
[device]
id = "pi-1"
[outbox]
size_max = "100MB"
[[port]]
name = "a"
path = "/dev/a"
"#;

fn with(lines: &str) -> Result<Vec<Rule>, String> {
    let config = Config::parse(&format!("{HEAD}{lines}"), std::iter::empty());
    config.map(|config| config.rules).map_err(|errors| errors.to_string())
}

#[test]
fn each_kind_of_rule_is_read_with_its_defaults() {
    let rules = with(
        "[[alert]]\nname = \"warm\"\nsource = \"*\"\nmetric = \"temp\"\nabove = 28\n\
         [[alert]]\nname = \"cold\"\nsource = \"a\"\nmetric = \"temp\"\nbelow = 4.5\nhysteresis = 0.5\nfor = \"2m\"\n\
         [[alert]]\nname = \"fault\"\nsource = \"a\"\nmetric = \"state\"\nequals = \"fault\"\nseverity = \"critical\"\n\
         [[alert]]\nname = \"silent\"\nsource = \"a\"\nno_data_for = \"10m\"\nmessage = \"{source}?\"\n\
         [[alert]]\nname = \"full\"\noutbox_above = \"80%\"\n\
         [[alert]]\nname = \"gone\"\nport_lost = \"a\"\nfor = \"5m\"\n",
    )
    .unwrap();
    let found: Vec<_> = rules.iter().map(|rule| (&rule.condition, rule.hold_ms)).collect();
    let metric = |source: Option<&str>, metric: &str, test| Condition::Metric {
        source: source.map(Into::into),
        metric: metric.to_owned(),
        test,
    };
    let wanted = [
        (&metric(None, "temp", Test::Above(28.0, 0.0)), 0),
        (&metric(Some("a"), "temp", Test::Below(4.5, 0.5)), 120_000),
        (&metric(Some("a"), "state", Test::Equals("fault".to_owned())), 0),
        (&Condition::NoData { source: "a".into(), metric: None }, 600_000),
        (&Condition::OutboxAbove(80_000_000), 0),
        (&Condition::PortLost("a".into()), 300_000),
    ];
    assert_eq!(found, wanted);
    assert_eq!((rules[0].severity, rules[2].severity), (Severity::Warning, Severity::Critical));
}

#[test]
fn what_is_wrong_with_a_rule_is_said() {
    let source = "source = \"a\"\nmetric = \"t\"\n";
    for (lines, parts) in [
        ("name = \"x\"".to_owned(), &["alert.x.above, below, equals", "exactly one"][..]),
        (
            format!("name = \"x\"\n{source}above = 1\nbelow = 0"),
            &["above, below", "exclude each other"],
        ),
        (format!("name = \"outbox_full\"\n{source}above = 1"), &["the gateway's own alert"]),
        (format!("{source}above = 1"), &["alert[1].name is missing"]),
        ("name = \"x\"\nabove = 1\nmetric = \"t\"".to_owned(), &["alert.x.source is missing"]),
        (format!("name = \"x\"\n{source}above = \"1\""), &["without quotes"]),
        (format!("name = \"x\"\n{source}above = 1\nhysteresis = -1"), &["it is negative"]),
        (format!("name = \"x\"\n{source}above = 1\nseverity = \"bad\""), &["\"critical\""]),
        (format!("name = \"x\"\n{source}above = 1\nfor = \"8d\""), &["allowed are 0s to 7d"]),
        (
            "name = \"x\"\nsource = \"a\"\nno_data_for = \"1m\"\nfor = \"1m\"".to_owned(),
            &["no such key"],
        ),
        ("name = \"x\"\nsource = \"*\"\nno_data_for = \"1m\"".to_owned(), &["alert.x.source"]),
        ("name = \"x\"\noutbox_above = \"100%\"".to_owned(), &["1%"]),
        ("name = \"x\"\noutbox_above = \"much\"".to_owned(), &["80%", "500MB"]),
        ("name = \"x\"\nport_lost = \"b\"".to_owned(), &["ports are: a"]),
        (
            "name = \"x\"\nport_lost = \"a\"\n[[alert]]\nname = \"x\"\nport_lost = \"a\""
                .to_owned(),
            &["two alerts have this name"],
        ),
    ] {
        let said = with(&format!("[[alert]]\n{lines}")).expect_err(&lines);
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert!(!said.contains("mistakes"), "one mistake is one: {said}");
    }
}
