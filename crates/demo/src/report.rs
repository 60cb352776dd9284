//! What a run came to, for a person and for a program.

use std::fmt::Write as _;

use serde::Serialize;

/// The last line of `cargo demo --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Lines that the board has sent; `"unverifiable"` for a real board that counts none.
    pub frames_sent: FramesSent,
    /// Lines that the outbox file holds.
    pub accepted: u64,
    /// Lines that the gateway refused.
    pub refused: u64,
    /// Lines that storage holds at least once.
    pub stored: u64,
    /// Accepted and not stored, or shown as missing by storage itself.
    pub missing: u64,
    /// Rows that storage holds beyond the first.
    pub duplicates: u64,
    /// Rows whose value, source or time is not what was sent.
    pub wrong: u64,
    /// What the operator has asked for.
    pub commands: Commands,
    /// From the line's sending to its row in storage.
    pub latency_ms: Latency,
    /// Bytes between gateway and broker, both ways, with TLS and MQTT, without TCP and IP.
    pub wire_bytes_per_reading: Option<f64>,
    /// What was run.
    pub config: RunConfig,
}

/// Commands of the operator.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Commands {
    /// Published.
    pub sent: u64,
    /// Of these, with this outcome in storage.
    pub succeeded: u64,
    /// How often the board did one by storage's account: another person may have asked, too.
    pub told: u64,
    /// How often the board did one by its own; `null` for a real board.
    pub done: Option<u64>,
}

impl Commands {
    fn are_good(&self) -> bool {
        self.succeeded == self.sent && self.done.is_none_or(|done| done == self.told)
    }
}

/// How many lines were sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FramesSent {
    /// So many.
    Known(u64),
    /// `"unverifiable"`.
    Unknown(&'static str),
}

/// Milliseconds; `null` without a row.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Half of the rows came within this.
    pub p50: Option<u32>,
    /// 99 of 100 came within this.
    pub p99: Option<u32>,
}

/// What was run.
#[derive(Debug, Clone, Serialize)]
pub struct RunConfig {
    /// Seconds that the board sent; `null`: until somebody stopped it.
    pub seconds: Option<u64>,
    /// Lines a second; `null` for a real board.
    pub rate: Option<f64>,
    /// The port.
    pub serial: String,
    /// `commit_interval`, a shipped default.
    pub commit_interval_ms: u64,
    /// `publish_interval`, a shipped default.
    pub publish_interval_ms: u64,
    /// How far a stored time may be from the sending.
    pub time_tolerance_ms: i64,
}

impl Report {
    /// Whether everything that was sent is stored exactly once, as it was sent.
    pub fn is_good(&self) -> bool {
        let whole = match self.frames_sent {
            FramesSent::Known(sent) => sent == self.accepted,
            FramesSent::Unknown(_) => true,
        };
        let spoiled = self.refused + self.missing + self.duplicates + self.wrong;
        let commands = self.commands.are_good();
        whole && self.accepted > 0 && self.stored == self.accepted && spoiled == 0 && commands
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let sent = match &self.frames_sent {
            FramesSent::Known(sent) => sent.to_string(),
            FramesSent::Unknown(word) => (*word).to_owned(),
        };
        let ms = |value: Option<u32>| value.map_or("-".to_owned(), |value| format!("{value} ms"));
        let _ = writeln!(text, "sent       {sent}");
        let _ = writeln!(text, "accepted   {} (refused {})", self.accepted, self.refused);
        let _ = writeln!(
            text,
            "stored     {} (missing {}, duplicates {}, wrong {})",
            self.stored, self.missing, self.duplicates, self.wrong
        );
        let Commands { sent, succeeded, done, told } = self.commands;
        let others = told.saturating_sub(succeeded);
        let whose = if others == 0 { String::new() } else { format!(" and {others} of others") };
        let done = done.map(|done| format!(", done by the board {done} times")).unwrap_or_default();
        let _ = writeln!(text, "commands   {sent}{whose} (succeeded {}{done})", succeeded + others);
        let _ = writeln!(
            text,
            "latency    half within {}, 99% within {}",
            ms(self.latency_ms.p50),
            ms(self.latency_ms.p99)
        );
        if let Some(bytes) = self.wire_bytes_per_reading {
            let _ = writeln!(
                text,
                "on the wire {bytes:.1} bytes a reading, with TLS and MQTT, both ways"
            );
        }
        let verdict = if self.is_good() {
            "good: every line that was sent is stored exactly once, as it was sent, and every command was done once"
        } else {
            "NOT GOOD: see above, and the logs"
        };
        let _ = writeln!(text, "{verdict}");
        text
    }
}
