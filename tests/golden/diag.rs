//! CBOR diagnostic notation (RFC 8949, chapter 8), as far as our payloads need it: no tags,
//! and of indefinite length only maps: `{_ "t": 1}`.

use std::fmt::Write;

/// The one item that `bytes` holds, without blanks. Panics where it is not one.
pub fn print(bytes: &[u8]) -> String {
    let mut printer = Printer { rest: bytes, text: String::new() };
    printer.item();
    assert!(printer.rest.is_empty(), "{} bytes follow after the end", printer.rest.len());
    printer.text
}

/// Notation without comments (`/ so /`) and without the blanks and line ends that people
/// set, but for those within text.
pub fn bare(notation: &str) -> String {
    let mut bare = String::new();
    let mut in_text = false;
    let mut in_comment = false;
    for c in notation.chars() {
        match c {
            '/' if !in_text => in_comment = !in_comment,
            _ if in_comment => {}
            '"' => {
                in_text = !in_text;
                bare.push(c);
            }
            c if c.is_whitespace() && !in_text => {}
            c => bare.push(c),
        }
    }
    bare
}

/// RFC 8949, 3.2.1 and 3.2.2.
const INDEFINITE_MAP: u8 = 0xbf;
const BREAK: u8 = 0xff;

struct Printer<'b> {
    rest: &'b [u8],
    text: String,
}

impl<'b> Printer<'b> {
    fn item(&mut self) {
        let head = self.take(1)[0];
        let (major, low) = (head >> 5, head & 31);
        if major == 7 {
            return self.simple_or_float(low);
        }
        if head == INDEFINITE_MAP {
            return self.indefinite_map();
        }
        let argument = self.argument(low);
        match major {
            0 => self.put(argument),
            1 => self.put(-1 - i128::from(argument)),
            2 => {
                let hex: String =
                    self.take(argument as usize).iter().map(|b| format!("{b:02x}")).collect();
                self.put(format_args!("h'{hex}'"));
            }
            3 => {
                let text =
                    std::str::from_utf8(self.take(argument as usize)).expect("text is UTF-8");
                let text = serde_json::to_string(text).expect("text is JSON");
                self.put(text);
            }
            4 => self.list('[', ']', argument, |printer| printer.item()),
            5 => self.list('{', '}', argument, |printer| {
                printer.item();
                printer.put(':');
                printer.item();
            }),
            _ => panic!("a tag: our payloads have none"),
        }
    }

    fn indefinite_map(&mut self) {
        self.put("{_");
        let mut comma = "";
        while self.rest.first() != Some(&BREAK) {
            self.put(comma);
            self.item();
            self.put(':');
            self.item();
            comma = ",";
        }
        self.take(1);
        self.put('}');
    }

    fn list(&mut self, open: char, close: char, items: u64, one: impl Fn(&mut Self)) {
        self.put(open);
        for at in 0..items {
            if at > 0 {
                self.put(',');
            }
            one(self);
        }
        self.put(close);
    }

    fn simple_or_float(&mut self, low: u8) {
        match low {
            20 => self.put("false"),
            21 => self.put("true"),
            22 => self.put("null"),
            25 => {
                let half = self.argument(low) as u16;
                self.float(half_to_f64(half));
            }
            26 => {
                let single = f32::from_bits(self.argument(low) as u32);
                self.float(f64::from(single));
            }
            27 => {
                let double = f64::from_bits(self.argument(low));
                self.float(double);
            }
            _ => panic!("simple value {low}: our payloads have none"),
        }
    }

    fn float(&mut self, value: f64) {
        match value {
            v if v.is_nan() => self.put("NaN"),
            v if v.is_infinite() => self.put(if v > 0.0 { "Infinity" } else { "-Infinity" }),
            v => self.put(format_args!("{v:?}")),
        }
    }

    fn argument(&mut self, low: u8) -> u64 {
        match low {
            0..=23 => u64::from(low),
            24..=27 => {
                self.take(1 << (low - 24)).iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
            }
            _ => panic!("an indefinite length: our payloads have none"),
        }
    }

    fn take(&mut self, n: usize) -> &'b [u8] {
        let (taken, rest) =
            self.rest.split_at_checked(n).expect("CBOR does not end within an item");
        self.rest = rest;
        taken
    }

    fn put(&mut self, what: impl std::fmt::Display) {
        write!(self.text, "{what}").expect("a String takes all");
    }
}

/// RFC 8949, appendix D.
fn half_to_f64(half: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(half >> 10 & 31), f64::from(half & 1023));
    let value = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
    };
    if half & 0x8000 == 0 { value } else { -value }
}

#[test]
fn the_notation_is_that_of_the_rfc() {
    // RFC 8949, appendix A.
    for (hex, notation) in [
        (&[0x19, 0x03, 0xe8][..], "1000"),
        (&[0x39, 0x03, 0xe7], "-1000"),
        (&[0xf9, 0x3e, 0x00], "1.5"),
        (&[0xfb, 0xc0, 0x10, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66], "-4.1"),
        (&[0x44, 1, 2, 3, 4], "h'01020304'"),
        (
            &[0xbf, 0x61, 0x61, 0x01, 0x61, 0x62, 0x82, 0x02, 0x03, 0xff],
            "{_ \"a\": 1, \"b\": [2, 3]}",
        ),
        (&[0x63, 0xc3, 0xbc, 0x0a], "\"ü\\n\""),
        (
            &[0xa2, 0x61, 0x61, 0x01, 0x61, 0x62, 0x82, 0x02, 0xf6],
            "{\"a\": 1, \"b\": [2, / none / null]}",
        ),
    ] {
        assert_eq!(print(hex), bare(notation));
    }
}
