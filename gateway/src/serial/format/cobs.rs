//! Packets with Consistent Overhead Byte Stuffing: a zero byte ends each, and none stands within. Pure.
//!
//! ```text
//! packet  = cobs( content [CRC-16, two bytes, the high one first] ) 00
//! content = the port's `fields`, packed, little-endian, as a C struct lies in an AVR's memory
//! ```
//!
//! Without `fields` the content is a line of the native format. [`Packets`] cuts, and holds at
//! most one packet of 4 KiB.

use std::str::FromStr;

use fieldpost_protocol::{Value, check_metric};

use super::value::Printed;
use super::{Content, Refusal};

/// One member of the struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The metric; `None`: it is passed over.
    name: Option<String>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    I64,
    F32,
    F64,
    Bool,
}

const KINDS: [(&str, Kind, usize); 10] = [
    ("u8", Kind::U8, 1),
    ("i8", Kind::I8, 1),
    ("u16", Kind::U16, 2),
    ("i16", Kind::I16, 2),
    ("u32", Kind::U32, 4),
    ("i32", Kind::I32, 4),
    ("i64", Kind::I64, 8),
    ("f32", Kind::F32, 4),
    ("f64", Kind::F64, 8),
    ("bool", Kind::Bool, 1),
];

impl FromStr for Field {
    type Err = String;

    /// `temp:i16`; `_:u8` is passed over.
    fn from_str(text: &str) -> Result<Field, String> {
        let shape = || "a field is written name:kind, such as temp:i16".to_owned();
        let (name, kind) = text.split_once(':').ok_or_else(shape)?;
        let known = KINDS.iter().find(|(word, ..)| *word == kind);
        let (_, kind, _) = known.ok_or_else(|| {
            format!("{kind:?} is no kind; allowed are {}", KINDS.map(|(word, ..)| word).join(", "))
        })?;
        let name = match name {
            "_" => None,
            name => {
                check_metric(name).map_err(|error| error.to_string())?;
                Some(name.to_owned())
            }
        };
        Ok(Field { name, kind: *kind })
    }
}

impl Field {
    /// The metric; `None`: it is passed over.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn bytes(&self) -> usize {
        KINDS.iter().find(|(_, kind, _)| *kind == self.kind).map_or(0, |(.., bytes)| *bytes)
    }
}

/// Reads the members of a struct.
pub(super) fn reading(fields: &[Field], content: &[u8]) -> Result<Content<'static>, Refusal> {
    let expected = fields.iter().map(Field::bytes).sum();
    if content.len() != expected {
        return Err(Refusal::PacketLength { expected, found: content.len() });
    }
    let mut reading = Content::new();
    let mut rest = content;
    for field in fields {
        let (bytes, after) = rest.split_at(field.bytes());
        rest = after;
        if let Some(name) = &field.name {
            reading.push(name.clone().into(), value(field.kind, bytes));
        }
    }
    reading.filled()
}

fn value(kind: Kind, bytes: &[u8]) -> Printed {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let raw = u64::from_le_bytes(wide);
    let float = |float: f64| {
        if float.is_finite() { Printed::Value(Value::Float(float)) } else { Printed::NotANumber }
    };
    match kind {
        // The decimal that the board meant: 23.1, not 23.100000381469727.
        Kind::F32 => float(f32::from_bits(raw as u32).to_string().parse().unwrap_or(f64::NAN)),
        Kind::F64 => float(f64::from_bits(raw)),
        Kind::Bool => Printed::Value(Value::Bool(raw != 0)),
        Kind::U8 | Kind::U16 | Kind::U32 => Printed::Value(Value::Int(raw as i64)),
        Kind::I8 => Printed::Value(Value::Int(i64::from(raw as i8))),
        Kind::I16 => Printed::Value(Value::Int(i64::from(raw as i16))),
        Kind::I32 => Printed::Value(Value::Int(i64::from(raw as i32))),
        Kind::I64 => Printed::Value(Value::Int(raw as i64)),
    }
}

/// Takes the stuffing out. `None`: a code points past the end, so bytes were lost.
pub(in crate::serial) fn unstuffed(packet: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::with_capacity(packet.len());
    let mut rest = packet;
    while let Some((&code, after)) = rest.split_first() {
        let run = usize::from(code).checked_sub(1)?;
        if run > after.len() {
            return None;
        }
        let (bytes, next) = after.split_at(run);
        content.extend_from_slice(bytes);
        if code < 0xFF && !next.is_empty() {
            content.push(0);
        }
        rest = next;
    }
    Some(content)
}
