//! What the example sketch answers to commands, on its port, without a gateway.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use fieldpost_gateway::serial::crc16;
use fieldpost_tests::avr::{AvrBoard, library};
use fieldpost_tests::rig::{SOON, wait_until};
use rustix::fs::{Mode, OFlags};

use crate::tools;

/// The gateway's end of a port.
struct Terminal {
    port: File,
    held: String,
}

impl Terminal {
    fn open(path: &Path) -> anyhow::Result<Terminal> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        Ok(Terminal { port, held: String::new() })
    }

    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.port.write_all(text.as_bytes())?)
    }

    /// The next line that is no reading, without counter and checksum.
    fn answer(&mut self) -> anyhow::Result<String> {
        let mut answer = None;
        wait_until("an answer", SOON, || {
            let mut bytes = [0; 256];
            match self.port.read(&mut bytes) {
                Ok(read) => self.held.push_str(&String::from_utf8_lossy(&bytes[..read])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            while let Some((line, rest)) = self.held.split_once('\n') {
                let (text, sum) = line.rsplit_once('*').unwrap_or((line, ""));
                assert!(line.is_empty() || sum == checksum(text), "damaged: {line:?}");
                let found = text.starts_with('@').then(|| text.to_owned());
                self.held = rest.to_owned();
                if let Some(text) = found {
                    let (text, counter) = text.rsplit_once(" #").unwrap_or((&text, ""));
                    assert!(counter.parse::<u32>().is_ok(), "no counter: {line:?}", line = text);
                    answer = Some(text.to_owned());
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        Ok(answer.unwrap_or_default())
    }
}

fn checksum(text: &str) -> String {
    format!("{:04X}", crc16(text.as_bytes()))
}

fn sealed(text: &str) -> String {
    format!("{text}*{}\n", checksum(text))
}

#[test]
fn the_sketch_answers_each_whole_command_once_and_nothing_else() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let sketch = library().join("examples/Greenhouse/Greenhouse.ino");
    let firmware = tools().build(&sketch, dir.path())?;
    let link = dir.path().join("tty");
    let board = AvrBoard::start(tools(), &firmware, &link)?;
    // Before its Serial.begin() a board is deaf.
    board.wait_told("a line", |told| !told.is_empty())?;
    let mut port = Terminal::open(&link)?;
    board.wait_told("its first lines", |told| told.len() > 3)?;

    let cases = [
        (sealed(">42 led on=1"), "@42 ok on=1"),
        (sealed(">43 led pin=13 on=0"), "@43 ok on=0"),
        (sealed(">44 led"), "@44 ok on=0"),
        // What stands in a text is no value: a gateway has held only the real one to its limits.
        (sealed(r#">44 led note="x on=1" on=0"#), "@44 ok on=0"),
        (sealed(r#">44 led note="a\" on=1" on=0"#), "@44 ok on=0"),
        (sealed(r#">44 led a=\\ note="on=1""#), "@44 ok on=0"),
        (sealed(r#">44 led note="x on=0" on=1"#), "@44 ok on=1"),
        (sealed(">45 fan speed=3"), "@45 err only led is known"),
        // The same number again is another command: a gateway begins with 1 after each start.
        (sealed(">45 led on=1"), "@45 ok on=1"),
        (sealed(">4294967295 led on=1").replace('\n', "\r\n"), "@4294967295 ok on=1"),
    ];
    for (command, expected) in cases {
        port.write(&command)?;
        assert_eq!(port.answer()?, expected, "{command:?}");
    }
    // None of these is answered: the next answer is that of the command behind it.
    let lower = sealed(">50 led on=1").to_lowercase();
    assert_ne!(lower, sealed(">50 led on=1"), "pick a text whose checksum has a letter");
    let damaged = [
        sealed(">50 led on=1").replace("on=1", "on=0"),
        sealed(">50 led on=1").replace('>', ""),
        lower,
        ">50 led on=1\n".to_owned(),
        "*\n>\n\n*0000\n>50*\n".to_owned(),
        sealed(&format!(">50 led on=1 note={}", "x".repeat(60))),
        sealed("@50 led on=1"),
        sealed(">led on=1"),
        "x".repeat(300) + "\n",
    ];
    for (number, line) in (60..).zip(damaged) {
        port.write(&line)?;
        port.write(&sealed(&format!(">{number} led on=1")))?;
        assert_eq!(port.answer()?, format!("@{number} ok on=1"), "behind {line:?}");
    }
    // 64 bytes are the longest that it takes.
    let mut longest = ">99 led on=1 note=".to_owned();
    longest.extend(std::iter::repeat_n('x', 64 - 5 - longest.len()));
    port.write(&sealed(&longest))?;
    assert_eq!(port.answer()?, "@99 ok on=1");
    Ok(())
}
