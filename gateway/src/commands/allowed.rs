//! What may be called, with which arguments: as the configuration says, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fieldpost_protocol::{Metrics, Value};

use super::builtin::Builtin;

/// The longest number of a line to a board, and its checksum: `>4294967295 ` and `*E820`.
const LINE_BYTES_AROUND: usize = 17;

/// What an argument has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number, from the first to the second.
    Int(i64, i64),
    /// A number, from the first to the second.
    Float(f64, f64),
    /// Text of at most so many bytes, without control characters.
    Text(usize),
    /// One of these texts.
    OneOf(Vec<String>),
}

/// An argument that may, or has to be given.
#[derive(Debug, Clone, PartialEq)]
pub struct Arg {
    /// What it has to be.
    pub kind: Kind,
    /// It may be left out.
    pub optional: bool,
}

/// A command to a board.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardCommand {
    /// The name of its port.
    pub port: Arc<str>,
    /// How long its answer may take.
    pub timeout: Duration,
    /// What the board has room for: a line with number and checksum, without its end. Longer: rejected.
    pub line_bytes_max: usize,
    /// Its arguments, by name.
    pub args: BTreeMap<String, Arg>,
}

/// All that may be called.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Allowed {
    /// Commands to the gateway itself.
    pub builtins: BTreeSet<Builtin>,
    /// Commands to boards, by name.
    pub boards: BTreeMap<String, BoardCommand>,
}

/// Who does a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Callee<'a> {
    /// The gateway.
    Gateway(Builtin),
    /// A board.
    Board(&'a BoardCommand),
}

impl Allowed {
    /// Who does it, if there is somebody.
    pub fn callee(&self, name: &str) -> Option<Callee<'_>> {
        if let Some(board) = self.boards.get(name) {
            return Some(Callee::Board(board));
        }
        let builtin = name.parse().ok().filter(|builtin| self.builtins.contains(builtin));
        builtin.map(Callee::Gateway)
    }

    /// Whether it may be called so.
    ///
    /// # Errors
    /// What is wrong and what is allowed, for a person.
    pub fn check(&self, name: &str, args: &Metrics) -> Result<(), String> {
        match self.callee(name) {
            Some(Callee::Gateway(builtin)) => check(name, args, &builtin.args()),
            Some(Callee::Board(board)) => {
                check(name, args, &board.args)?;
                let bytes = line(name, args).len() + LINE_BYTES_AROUND;
                if bytes > board.line_bytes_max {
                    let max = board.line_bytes_max;
                    return Err(format!(
                        "{name} is a line of {bytes} bytes with these arguments; line_bytes_max is {max}"
                    ));
                }
                Ok(())
            }
            None if name.parse::<Builtin>().is_ok() => Err(format!(
                "{name} may not be called here: it is not in [commands] allow of the gateway's configuration"
            )),
            None => Err(format!("there is no command {name}; there are: {}", self.names())),
        }
    }

    fn names(&self) -> String {
        let builtins = self.builtins.iter().map(|builtin| builtin.as_str());
        let names: Vec<&str> = self.boards.keys().map(String::as_str).chain(builtins).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

fn check(name: &str, args: &Metrics, rules: &BTreeMap<String, Arg>) -> Result<(), String> {
    for (given, value) in args.iter() {
        let Some(rule) = rules.get(&**given) else {
            let known: Vec<&str> = rules.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("{name} has no argument {given}; there are: {known}"));
        };
        rule.kind.check(value).map_err(|allowed| {
            format!("{given} = {} of {name} is not allowed: {allowed}", shown(value))
        })?;
    }
    match rules.iter().find(|(known, rule)| !rule.optional && args.get(known).is_none()) {
        Some((missing, rule)) => {
            Err(format!("{name} needs the argument {missing}: {}", rule.kind.allowed()))
        }
        None => Ok(()),
    }
}

impl Kind {
    /// # Errors
    /// What is allowed.
    fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match (self, value) {
            (Kind::Bool, Value::Bool(_)) => true,
            (Kind::Int(min, max), Value::Int(int)) => (min..=max).contains(&int),
            (Kind::Float(min, max), Value::Float(float)) => (min..=max).contains(&float),
            (Kind::Float(min, max), Value::Int(int)) => (*min..=*max).contains(&(*int as f64)),
            (Kind::Text(max), Value::Text(text)) => {
                text.len() <= *max && !text.contains(char::is_control)
            }
            (Kind::OneOf(texts), Value::Text(text)) => texts.iter().any(|known| **known == **text),
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.allowed()) }
    }

    fn allowed(&self) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Int(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Float(min, max) => format!("a number from {min} to {max}"),
            Kind::Text(max) => format!("text of at most {max} bytes, without control characters"),
            Kind::OneOf(texts) => format!("one of {}", texts.join(", ")),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A command as a board reads it, behind its number: `led on=1 pin=7`.
pub(super) fn line(name: &str, args: &Metrics) -> String {
    let mut line = name.to_owned();
    for (name, value) in args.iter() {
        let value = match value {
            Value::Null => "null".to_owned(),
            // What a sketch reads as a number.
            Value::Bool(value) => u8::from(*value).to_string(),
            Value::Int(int) => int.to_string(),
            Value::Float(float) => format!("{float:?}"),
            Value::Text(text) => {
                let quoted = text.is_empty() || text.contains(|c: char| " \t\"#=*\\".contains(c));
                if quoted {
                    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
                } else {
                    text.to_string()
                }
            }
        };
        line.push_str(&format!(" {name}={value}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        let arg = |kind, optional| Arg { kind, optional };
        let args = BTreeMap::from([
            ("on".to_owned(), arg(Kind::Int(0, 1), false)),
            ("level".to_owned(), arg(Kind::Float(0.0, 1.0), true)),
            ("mode".to_owned(), arg(Kind::OneOf(vec!["slow".into(), "fast".into()]), true)),
            ("note".to_owned(), arg(Kind::Text(8), true)),
            ("dry".to_owned(), arg(Kind::Bool, true)),
        ]);
        let led = BoardCommand {
            port: "fruiting".into(),
            timeout: Duration::from_secs(5),
            line_bytes_max: 64,
            args,
        };
        Allowed {
            builtins: BTreeSet::from([Builtin::Ping]),
            boards: BTreeMap::from([("led".to_owned(), led)]),
        }
    }

    fn checked(name: &str, args: &str) -> Result<(), String> {
        allowed().check(name, &Metrics::from_json(args).unwrap())
    }

    #[test]
    fn what_the_configuration_names_may_be_called_with_what_it_allows() {
        let all = r#"{"on":1,"level":0.5,"mode":"slow","note":"a b","dry":true}"#;
        for (name, args) in [("led", r#"{"on":1}"#), ("led", all), ("ping", "{}")] {
            assert_eq!(checked(name, args), Ok(()));
        }
        assert_eq!(checked("led", r#"{"on":0,"level":1}"#), Ok(()), "a whole number is a number");
    }

    #[test]
    fn everything_else_is_refused_with_what_is_allowed() {
        for (name, args, said) in [
            ("lamp", "{}", "there is no command lamp; there are: led, ping"),
            ("restart", "{}", "not in [commands] allow"),
            ("led", "{}", "led needs the argument on: a whole number from 0 to 1"),
            ("led", r#"{"on":2}"#, "on = 2 of led is not allowed: a whole number from 0 to 1"),
            ("led", r#"{"on":1.0}"#, "on = 1.0 of led"),
            ("led", r#"{"on":null}"#, "on = null of led"),
            ("led", r#"{"on":1,"pin":7}"#, "led has no argument pin; there are: dry, level"),
            ("led", r#"{"on":1,"level":1.5}"#, "a number from 0 to 1"),
            ("led", r#"{"on":1,"mode":"warp"}"#, "one of slow, fast"),
            ("led", r#"{"on":1,"note":"123456789"}"#, "at most 8 bytes"),
            (
                "led",
                r#"{"on":1,"level":0.1234567890123,"dry":true,"note":"12 34 78"}"#,
                "line of 69 bytes",
            ),
            ("led", "{\"on\":1,\"note\":\"a\\nb\"}", "without control characters"),
            ("led", r#"{"on":1,"dry":1}"#, "true or false"),
            ("ping", r#"{"on":1}"#, "ping has no argument on; there are: none"),
        ] {
            let why = checked(name, args).unwrap_err();
            assert!(why.contains(said), "{name} {args}: {why}");
        }
    }

    #[test]
    fn a_line_is_what_a_board_can_read() {
        let args = r#"{"a":1,"b":1.0,"c":true,"d":"two words","e":"x","f":"say \"hi\""}"#;
        let args = Metrics::from_json(args).unwrap();
        let expected = r#"led a=1 b=1.0 c=1 d="two words" e=x f="say \"hi\"""#;
        assert_eq!(line("led", &args), expected);
    }
}
