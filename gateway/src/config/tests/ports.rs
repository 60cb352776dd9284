//! What a `[[port]]` may say.

use super::{assert_says, mistake, parse, with};
use crate::serial::{Aggregate, Checksum, Format, Place, PortConfig};

fn port(lines: &str) -> String {
    format!("[[port]]\nname = \"p\"\npath = \"/dev/p\"\n{lines}\n")
}

#[track_caller]
fn good(lines: &str) -> PortConfig {
    with(&port(lines)).unwrap().ports.remove(0)
}

#[track_caller]
fn bad(lines: &str, parts: &[&str]) {
    assert_says(&mistake(&port(lines)), parts);
}

#[test]
fn each_format_has_its_keys_and_its_usual_checksum() {
    for (lines, checksum) in [
        ("", Checksum::Required),
        ("format = \"json\"", Checksum::Optional),
        ("format = \"plotter\"", Checksum::None),
        ("format = \"influx\"", Checksum::None),
        ("format = \"regex\"\npatterns = ['^(?<t>.+)$']", Checksum::None),
        ("format = \"cobs\"", Checksum::Required),
        ("format = \"plotter\"\nchecksum = \"optional\"", Checksum::Optional),
    ] {
        assert_eq!(good(lines).checksum, checksum, "{lines}");
    }
    let Format::Cobs(fields) = good("format = \"cobs\"\nfields = [\"a:u8\", \"_:f32\"]").format
    else {
        panic!("packets")
    };
    assert_eq!(fields.len(), 2);
}

#[test]
fn keys_of_another_format_and_values_of_none_are_refused() {
    bad("patterns = ['^(?<t>.+)$']", &["port.p.patterns", "belong to format = \"regex\""]);
    bad("fields = [\"a:u8\"]", &["port.p.fields", "belong to format = \"cobs\""]);
    bad("format = \"regex\"\npatterns = []", &["port.p.patterns = []", "it is empty"]);
    bad("format = \"regex\"", &["port.p.patterns", "needs at least one", "(?<temp>"]);
    bad(
        "format = \"regex\"\npatterns = ['^(?<t>[0-9$']",
        &["port.p.patterns = ", "\"^(?<t>[0-9$\": ", "no closing bracket"],
    );
    bad("format = \"regex\"\npatterns = ['^[0-9]$']", &["names nothing"]);
    bad("format = \"regex\"\npatterns = '^(?<t>.)$'", &["write a list"]);
    bad("format = \"regex\"\npatterns = [5]", &["each of them in quotes"]);
    bad("format = \"cobs\"\nfields = [\"a:u24\"]", &["\"u24\" is no kind", "u8, i8, u16"]);
    bad("format = \"cobs\"\nfields = [\"a\"]", &["name:kind"]);
    bad(
        "format = \"cobs\"\nchecksum = \"optional\"",
        &["port.p.checksum", "\"required\" \"none\""],
    );
    bad("format = \"cobs\"\nfields = [\"_:u8\"]", &["port.p.fields", "none of them has a name"]);
    bad("format = \"cobs\"\nfields = [\"a:u8\", \"a:u8\"]", &["\"a\" stands twice"]);
    bad("format = \"cobs\"\nignore_lines = ['^x']", &["port.p.ignore_lines", "no lines"]);
    bad("checksum = \"nmea\"", &["port.p.checksum", "format = \"regex\""]);
    bad("checksum = \"crc\"", &["\"required\" \"optional\" \"nmea\" \"none\""]);
}

#[test]
fn a_socket_takes_the_place_of_a_device() {
    let socket = "[[port]]\nname = \"s\"\nsocket = \"/run/s\"\n";
    let port = with(socket).unwrap().ports.remove(0);
    assert_eq!((port.place, port.checksum), (Place::Socket("/run/s".into()), Checksum::Optional));
    let baud = mistake(&format!("{socket}baud = 9600"));
    assert_says(&baud, &["port.s.baud", "a socket has none"]);
    let both = mistake(&format!("{socket}path = \"/dev/a\""));
    assert_says(&both, &["port.s.path", "write path for a serial device, or socket"]);
    let twice = mistake(&format!("{socket}{}", socket.replace("\"s\"", "\"t\"")));
    assert_says(&twice, &["\"s\" has the same path"]);
    let long = mistake(&socket.replace("/run/s", &"/run".repeat(30)));
    assert_says(&long, &["port.s.socket", "it has 120 bytes", "at most 107"]);
    let relative = mistake(&socket.replace("/run/s", "s.sock"));
    assert_says(&relative, &["port.s.socket = \"s.sock\"", "from / on"]);
    let control = mistake(&format!("{socket}[control]\nsocket = \"/run/s\""));
    assert_says(&control, &["control.socket, port.s.socket", "the same path"]);
    let none = mistake("[[port]]\nname = \"s\"");
    assert_says(&none, &["port.s.path is missing", "or socket ="]);
}

#[test]
fn windows_say_how_long_and_what_is_kept() {
    let averaging = good("average = \"1m\"").averaging.unwrap();
    assert_eq!((averaging.window_ms, &averaging.keep[..]), (60_000, &[Aggregate::Mean][..]));
    let both = good("average = \"10s\"\nkeep = [\"min\", \"max\"]").averaging.unwrap();
    assert_eq!(both.names("t"), ["t_min", "t_max"]);
    bad("average = \"10ms\"", &["port.p.average = \"10ms\"", "1s to 1d"]);
    bad("keep = [\"min\"]", &["port.p.keep", "write average, too"]);
    bad("average = \"1m\"\nkeep = [\"median\"]", &["\"median\": allowed are \"mean\""]);
    bad("average = \"1m\"\nkeep = [\"min\", \"min\"]", &["\"min\" stands twice"]);
    bad("average = \"1m\"\nkeep = []", &["it is empty"]);
}

#[test]
fn what_becomes_of_a_metric_is_checked() {
    let rules = good("[port.metrics.t]\nname = \"temp\"\nscale = 1\noffset = -0.5").rules;
    let rule = &rules.0["t"];
    assert_eq!(
        (rule.name.as_deref(), rule.scale, rule.offset),
        (Some("temp"), Some(1.0), Some(-0.5))
    );
    bad("[port.metrics.t]\nscale = \"1\"", &["port.p.metrics.t.scale", "without quotes"]);
    bad("[port.metrics.t]\nscale = inf", &["port.p.metrics.t.scale = inf", "write a number"]);
    bad("[port.metrics.t]\nname = \"a=b\"", &["port.p.metrics.t.name = \"a=b\""]);
    bad("[port.metrics.t]\nignore = true\nunit = \"V\"", &["port.p.metrics.t.ignore"]);
    bad("[port.metrics.t]\nfactor = 2", &["port.p.metrics.t.factor", "Keys of [port.metrics.t]"]);
    bad("metrics = 5", &["port.p.metrics"]);
    bad(
        "[port.metrics.a]\nname = \"t\"\n[port.metrics.b]\nname = \"t\"",
        &["port.p.metrics.b.name", "\"a\" becomes \"t\", too"],
    );
    bad(
        "format = \"json\"\n[port.metrics.t]\ntext = true",
        &["port.p.metrics.t.text", "belongs to \"regex\" and \"native\""],
    );
}

#[test]
fn units_of_ports_are_published_unless_meta_says_otherwise() {
    let lines = port(
        "average = \"1m\"\nkeep = [\"mean\", \"max\"]\n[port.metrics.t]\nname = \"temp\"\nunit = \"K\"",
    );
    let config =
        with(&format!("{lines}\n[meta.sources.p.metrics.temp_max]\nunit = \"°C\"")).unwrap();
    let unit = |metric: &str| config.meta.sources["p"].metrics[metric].unit.clone();
    assert_eq!(
        (unit("temp_mean").as_deref(), unit("temp_max").as_deref()),
        (Some("K"), Some("°C"))
    );
    let again = parse(&config.redacted().to_string()).unwrap();
    assert_eq!((again.ports, again.meta), (config.ports, config.meta));
}
