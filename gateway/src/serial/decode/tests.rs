//! What lines say, and what is counted of them.

use super::*;
use crate::config::Config;
use crate::serial::{Checksum, CountersNow, Place, crc16};

struct Bench {
    decoder: Decoder,
    counters: Arc<Counters>,
}

impl Bench {
    fn new(format: Format, checksum: Checksum) -> Self {
        Bench::of(PortConfig { format, checksum, ..PortConfig::new("port", "/dev/null") })
    }

    fn of(port: PortConfig) -> Self {
        let counters = Arc::new(Counters::default());
        Bench { decoder: Decoder::new(port, counters.clone()), counters }
    }

    /// A port on which a line has ended.
    fn within(format: Format, checksum: Checksum) -> Self {
        let mut bench = Bench::new(format, checksum);
        bench.push("\n");
        bench
    }

    fn push(&mut self, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        self.decoder.push(text.as_bytes(), |decoded| {
            all.push(match decoded {
                Decoded::Reading { source, metrics } => {
                    format!("{source} {}", metrics.to_json().unwrap())
                }
                Decoded::Boot(text) => format!("boot {text}"),
                Decoded::Answer(answer) => format!("answer {}", answer.id),
                Decoded::Ignored => "ignored".to_owned(),
                Decoded::Hint(_) => "hint".to_owned(),
                Decoded::Refused(_) => return,
            });
        });
        all
    }

    fn now(&self) -> CountersNow {
        self.counters.snapshot()
    }
}

fn signed(text: &str) -> String {
    format!("{text}*{:04X}\n", crc16(text.as_bytes()))
}

#[test]
fn a_verified_line_is_a_reading_even_as_the_first() {
    let mut bench = Bench::new(Format::Native, Checksum::Required);
    assert_eq!(
        bench.push(&signed("fruiting temp=24.5 n=nan #1")),
        [r#"fruiting {"n":null,"temp":24.5}"#]
    );
    assert_eq!(bench.push(&signed("temp=1 #3")), [r#"port {"temp":1}"#]);
    let bytes = bench.now().bytes;
    let expected = CountersNow {
        bytes,
        frames: 2,
        nulls: 1,
        lines_lost: 1,
        numbered: 2,
        ..Default::default()
    };
    assert_eq!(bench.now(), expected);
}

#[test]
fn a_fragment_after_opening_is_partial_and_not_damaged() {
    for checksum in [Checksum::Required, Checksum::Optional] {
        let mut bench = Bench::new(Format::Native, checksum);
        assert!(bench.push("5 humidity=85 co2=800\n").is_empty());
        assert_eq!(bench.now().partial, 1);
        assert_eq!(bench.now().refused(), 0);
        bench.push("fruiting temp=2");
        bench.decoder.reopened();
        assert!(bench.push("4.5\n").is_empty());
        assert_eq!(bench.now().partial, 3);
        assert_eq!(bench.now().refused(), 0);
    }
}

#[test]
fn the_first_object_after_opening_counts_and_its_end_does_not() {
    let mut bench = Bench::new(Format::Json, Checksum::Optional);
    assert_eq!(bench.push("{\"temp\":1}\n"), [r#"port {"temp":1}"#]);
    bench.decoder.reopened();
    assert!(bench.push("\"temp\":1}\n").is_empty());
    assert_eq!(bench.now().partial, 1);
}

#[test]
fn an_optional_checksum_is_counted_where_it_is_missing_and_refused_where_it_is_wrong() {
    let mut bench = Bench::within(Format::Native, Checksum::Optional);
    assert_eq!(bench.push("temp=1\n").len(), 1);
    assert_eq!(bench.push(&signed("temp=1")).len(), 1);
    assert!(bench.push(&signed("temp=1").replace('1', "2")).is_empty());
    assert_eq!((bench.now().unverified, bench.now().refused_checksum), (1, 1));
}

#[test]
fn json_lines_may_have_the_same_trailer() {
    let mut bench = Bench::within(Format::Json, Checksum::Required);
    assert!(bench.push("{\"temp\":1}\n").is_empty());
    assert_eq!(bench.push(&signed("{\"source\":\"air\",\"temp\":1} #5")), [r#"air {"temp":1}"#]);
    bench.push(&signed("{\"temp\":1}#7"));
    let now = bench.now();
    assert_eq!((now.refused_checksum, now.frames, now.lines_lost), (1, 2, 1));
}

#[test]
fn a_boot_begins_the_counter_again_and_an_answer_is_data() {
    let mut bench = Bench::within(Format::Native, Checksum::Required);
    bench.push(&signed("t=1 #900"));
    assert_eq!(bench.push(&signed("!boot fw=1.2.0")), ["boot fw=1.2.0"]);
    assert_eq!(bench.push(&signed("@42 ok on=1 #1")), ["answer 42"]);
    bench.push(&signed("t=1 #4"));
    assert_eq!((bench.now().frames, bench.now().lines_lost), (4, 2));
}

#[test]
fn a_line_that_came_whole_and_makes_no_sense_is_refused_and_not_lost() {
    let mut bench = Bench::within(Format::Native, Checksum::Required);
    for line in ["t=1 #1", "t= #2", "t=1 t=2 #3", "t=1 #4"] {
        bench.push(&signed(line));
    }
    let now = bench.now();
    assert_eq!((now.frames, now.refused_syntax, now.lines_lost), (2, 2, 0));
}

#[test]
fn a_line_that_comes_twice_is_two_readings_and_counted() {
    let mut bench = Bench::within(Format::Native, Checksum::Required);
    let line = signed("t=1 #1");
    assert_eq!(bench.push(&format!("{line}{line}")).len(), 2);
    assert_eq!((bench.now().repeated, bench.now().lines_lost), (1, 0));
}

#[test]
fn bytes_without_a_line_end_give_one_refusal_and_one_hint() {
    let mut bench = Bench::new(Format::Native, Checksum::Required);
    let given: Vec<String> = (0..100).flat_map(|_| bench.push(&"\0".repeat(4_096))).collect();
    assert_eq!(given, ["hint"]);
    assert_eq!(bench.now().refused_too_long, 1);
}

/// A port with these lines of configuration, on which a line has ended.
fn configured(lines: &str) -> Bench {
    let text =
        format!("[device]\nid = \"d\"\n[[port]]\nname = \"port\"\npath = \"/dev/a\"\n{lines}");
    let config = Config::parse(&text, std::iter::empty()).unwrap();
    let mut bench = Bench::of(config.ports[0].clone());
    bench.push("\n");
    bench
}

#[test]
fn metrics_are_ignored_scaled_and_renamed() {
    let mut bench = configured(
        "checksum = \"optional\"\n[port.metrics.t]\nname = \"temp\"\nscale = 0.1\n[port.metrics.raw]\nignore = true",
    );
    assert_eq!(bench.push("t=245 raw=7 h=60\n"), [r#"port {"h":60,"temp":24.5}"#]);
    assert_eq!(bench.push("raw=7\n"), ["ignored"]);
    assert!(bench.push("t=245 temp=1\n").is_empty(), "two metrics became one");
    let now = bench.now();
    assert_eq!((now.frames, now.ignored, now.refused_syntax), (1, 1, 1));
}

#[test]
fn lines_for_people_are_ignored_before_anybody_looks_for_a_checksum() {
    let mut bench = configured("ignore_lines = [\"^DHTxx test!$\"]");
    assert_eq!(bench.push("DHTxx test!\n"), ["ignored"]);
    assert!(bench.push("DHT22 test!\n").is_empty());
    assert_eq!((bench.now().ignored, bench.now().refused_checksum), (1, 1));
}

#[test]
fn an_ignored_line_that_has_a_number_is_not_lost() {
    let mut bench = configured("ignore_lines = [\"^debug \"]");
    for line in ["t=1 #1", "debug x=1 #2", "t=1 #3"] {
        bench.push(&signed(line));
    }
    let now = bench.now();
    assert_eq!((now.frames, now.ignored, now.lines_lost), (2, 1, 0));
}

#[test]
fn text_is_text_in_the_native_format_too() {
    let mut bench = configured("checksum = \"optional\"\n[port.metrics.tag]\ntext = true");
    assert_eq!(bench.push("tag=0042 n=0042\n"), [r#"port {"n":42,"tag":"0042"}"#]);
}

#[test]
fn each_format_reads_its_lines() {
    let dht = r"patterns = ['^Humidity: (?<hum>[0-9.]+)%  Temperature: (?<temp>[0-9.]+)']";
    for (lines, line, reading) in [
        ("format = \"plotter\"", "temp:24.5,hum:60", r#"port {"hum":60,"temp":24.5}"#),
        ("format = \"influx\"", "air,room=2 co2=800i", r#"air {"co2":800,"room":"2"}"#),
        (
            &format!("format = \"regex\"\n{dht}"),
            "Humidity: 45.00%  Temperature: 23.10 C",
            r#"port {"hum":45.0,"temp":23.1}"#,
        ),
        (
            "format = \"regex\"\nchecksum = \"nmea\"\npatterns = ['^\\$GPVTG,(?<course>[0-9.]+),']",
            "$GPVTG,054.7,T,034.4,M,005.5,N,010.2,K*48",
            r#"port {"course":54.7}"#,
        ),
    ] {
        assert_eq!(configured(lines).push(&format!("{line}\n")), [reading], "{lines}");
    }
}

#[test]
fn the_words_of_a_board_are_understood_in_every_format_and_others_may_begin_like_them() {
    let mut bench = configured("format = \"regex\"\npatterns = ['^!(?<code>[A-Z]+)$']");
    assert_eq!(bench.push("!boot fw=1\n!AIVDM\n"), ["boot fw=1", r#"port {"code":"AIVDM"}"#]);
}

#[test]
fn packets_are_structs_or_native_lines() {
    let stuffed = |content: &[u8]| {
        let mut packet = content.to_vec();
        packet.extend(crc16(content).to_be_bytes());
        let mut all = Vec::new();
        for run in packet.split(|byte| *byte == 0) {
            assert!(run.len() < 254, "one code is enough here");
            all.push(run.len() as u8 + 1);
            all.extend_from_slice(run);
        }
        all.push(0);
        all
    };
    let push = |bench: &mut Bench, bytes: &[u8]| {
        let mut readings = Vec::new();
        bench.decoder.push(bytes, |decoded| {
            if let Decoded::Reading { metrics, .. } = decoded {
                readings.push(metrics.to_json().unwrap());
            }
        });
        readings
    };
    let mut bench = configured(
        "format = \"cobs\"\nfields = [\"temp:i16\", \"_:u8\", \"on:bool\"]\n[port.metrics.temp]\nscale = 0.01",
    );
    push(&mut bench, b"\0");
    let mut packet = stuffed(&[0x92, 0x09, 7, 1]);
    assert_eq!(push(&mut bench, &packet), [r#"{"on":true,"temp":24.5}"#]);
    packet[1] ^= 4;
    assert!(push(&mut bench, &packet).is_empty());
    assert!(push(&mut bench, &stuffed(&[1, 2, 3])).is_empty(), "one byte less");
    assert!(push(&mut bench, b"\x09ab\0").is_empty(), "its code points past its end");
    let now = bench.now();
    assert_eq!((now.frames, now.refused_checksum, now.refused_syntax), (1, 2, 1));
    let mut native = configured("format = \"cobs\"");
    push(&mut native, b"\0");
    assert_eq!(push(&mut native, &stuffed(b"temp=1 #1")), [r#"{"temp":1}"#]);
    assert_eq!(push(&mut native, &stuffed(b"temp=1 #3")), [r#"{"temp":1}"#]);
    assert_eq!(native.now().lines_lost, 1);
}

#[test]
fn the_first_line_of_a_connection_to_a_socket_is_whole() {
    let place = Place::Socket("/s".into());
    let mut bench = Bench::of(PortConfig {
        place,
        checksum: Checksum::Optional,
        ..PortConfig::new("script", "")
    });
    assert_eq!(bench.push("temp=1\n"), [r#"script {"temp":1}"#]);
}
