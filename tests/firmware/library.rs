//! What the Arduino library costs, and where it compiles.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use fieldpost_gateway::serial::{Counters, Decoded, Decoder, PortConfig, crc16};
use fieldpost_tests::avr::{Size, Target, library, printed};

use crate::tools;

/// The example's readings, by `Serial` alone.
const BARE: &str = r#"
const unsigned long EVERY_MS = 100;
unsigned long next = 0;
void setup() { Serial.begin(115200); }
void loop() {
    if ((long)(millis() - next) < 0) return;
    next += EVERY_MS;
    Serial.print(F("fruiting temp="));
    Serial.print(analogRead(A0) * 0.1 - 20.0, 1);
    Serial.print(F(" humidity="));
    Serial.println(analogRead(A1) / 10);
}
"#;

/// A stream of the sketch's own: what comes in is written down here, what goes out goes to `Serial`.
const OWN_STREAM: &str = r#"
#include <Fieldpost.h>
#include "done.h"

class Wire : public Stream {
public:
    const char *incoming = ">7 led on=1\n>8 fan\n";
    int available() override { return strlen(incoming); }
    int peek() override { return *incoming; }
    int read() override { return *incoming++; }
    size_t write(uint8_t byte) override { return Serial.write(byte); }
};

Wire wire;
Fieldpost gateway(wire);

static void command(const char *name, const char *args) {
    if (strcmp(name, "led") == 0 && Fieldpost::number(args, "on", 0) == 1) gateway.ok();
}

void setup() {
    Serial.begin(115200);
    gateway.boot("fw=2");
    gateway.println();
    gateway.print(F("attic temp="));
    gateway.print(-0.25);
    gateway.print(F(" wind="));
    gateway.println(NAN);
    gateway.println("text=\"two words\"");
    gateway.poll(command);
    done();
}

void loop() {}
"#;

/// The figures of a row of the README's table: `| name | 1,071 | 83 |`.
fn stated(readme: &str, row: &str) -> Size {
    let line = readme.lines().find(|line| line.starts_with(&format!("| {row}")));
    let line = line.unwrap_or_else(|| panic!("the README has no row {row:?}"));
    let figures: Vec<u64> =
        line.split('|').filter_map(|cell| cell.trim().replace(',', "").parse().ok()).collect();
    let [flash, ram] = figures[..] else { panic!("two figures in {line:?}") };
    Size { flash, ram }
}

#[test]
fn memory_is_what_the_readme_states() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(library().join("../README.md"))?;
    let dir = tempfile::tempdir()?;
    let sketch = dir.path().join("bare.ino");
    std::fs::write(&sketch, BARE)?;
    let bare = tools().size(&tools().build(&sketch, dir.path())?)?;
    let example = library().join("examples/Greenhouse/Greenhouse.ino");
    let whole = tools().size(&tools().build(&example, dir.path())?)?;
    let pump = library().join("examples/Pump/Pump.ino");
    let pump = tools().size(&tools().build(&pump, dir.path())?)?;
    let alone = tools().size(&tools().compile_library(Target::Uno, dir.path(), false)?)?;
    println!("bare {bare:?}, whole {whole:?}, pump {pump:?}, library alone {alone:?}");
    // What a Fieldpost object takes is in nobody's section but the sketch's.
    let object = stated(&readme, "the library").ram;
    let asserted = dir.path().join("asserted.ino");
    let size =
        format!("#include <Fieldpost.h>\nstatic_assert(sizeof(Fieldpost) == {object}, \"\");\n");
    std::fs::write(&asserted, size + "void setup() {}\nvoid loop() {}\n")?;
    tools().build(&asserted, dir.path()).context("an object is not as large as the README says")?;
    for (row, seen) in [
        ("the library", Size { ram: object, ..alone }),
        ("the example without", bare),
        ("the example *Greenhouse*", whole),
        ("the example *Pump*", pump),
    ] {
        let stated = stated(&readme, row);
        // Another compiler's code is a little longer or shorter.
        let near = |stated: u64, seen: u64| stated.abs_diff(seen) <= stated / 20;
        assert!(
            near(stated.flash, seen.flash) && near(stated.ram, seen.ram),
            "{row}: {seen:?}, and the README says {stated:?}"
        );
    }
    assert!(whole.ram - bare.ram >= object, "an object of {object} bytes is in {whole:?}");
    Ok(())
}

#[test]
fn the_examples_compile_for_boards_with_other_serial_ports() -> anyhow::Result<()> {
    for example in ["Greenhouse", "TwoWires", "Pump"] {
        let sketch = library().join(format!("examples/{example}/{example}.ino"));
        for target in [Target::Uno, Target::Mega, Target::Leonardo] {
            let dir = tempfile::tempdir()?;
            tools().check(target, &sketch, dir.path())?;
        }
    }
    Ok(())
}

#[test]
fn every_line_that_is_shown_has_the_checksum_that_it_shows() -> anyhow::Result<()> {
    let mut shown = 0;
    for file in ["../README.md", "src/Fieldpost.h", "examples/Greenhouse/Greenhouse.ino"] {
        let text = std::fs::read_to_string(library().join(file))?;
        for (at, _) in text.match_indices('*') {
            let sum = text.get(at + 1..at + 5).unwrap_or_default();
            if !sum.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F')) || sum.len() < 4
            {
                continue;
            }
            // It begins where the comment or the code span around it does.
            let start = ["//", "`", "\n", ": "]
                .iter()
                .filter_map(|begin| Some(text[..at].rfind(begin)? + begin.len()));
            let line = text[start.max().unwrap_or(0)..at].trim();
            assert_eq!(sum, format!("{:04X}", crc16(line.as_bytes())), "{file}: {line:?}");
            shown += 1;
        }
    }
    assert!(shown >= 8, "only {shown} lines were found");
    Ok(())
}

#[test]
fn any_stream_carries_lines_that_the_gateway_reads() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let sketch = dir.path().join("own.ino");
    let sealed = |text: &str| format!("{text}*{:04X}", crc16(text.as_bytes()));
    let mut text = OWN_STREAM.to_owned();
    for command in [">7 led on=1", ">8 fan"] {
        text = text.replace(command, &sealed(command));
    }
    std::fs::write(&sketch, text)?;
    let done = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/done.h");
    std::fs::copy(done, dir.path().join("done.h"))?;
    let printed = printed(tools(), &tools().build(&sketch, dir.path())?)?;
    let counters = Arc::new(Counters::default());
    let mut decoder = Decoder::new(PortConfig::new("port", "/dev/null"), counters.clone());
    let mut said = Vec::new();
    decoder.push(&printed, |decoded| {
        said.push(match decoded {
            Decoded::Reading { source, metrics } => {
                format!("{source} {}", metrics.to_json().unwrap_or_default())
            }
            Decoded::Boot(text) => format!("boot {text}"),
            Decoded::Answer(answer) => format!("{} {} {}", answer.id, answer.ok, answer.text),
            other => format!("{other:?}"),
        });
    });
    let expected = [
        "boot fw=2",
        r#"attic {"temp":-0.25,"wind":null}"#,
        r#"port {"text":"two words"}"#,
        "7 true ",
        "8 false not known",
    ];
    assert_eq!(said, expected, "{:?}", String::from_utf8_lossy(&printed));
    let counted = counters.snapshot();
    assert_eq!((counted.numbered, counted.lines_lost, counted.refused()), (4, 0, 0));
    Ok(())
}
