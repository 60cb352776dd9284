//! Bytes of one port to readings, with everything counted on the way. No IO, no clock.

use std::sync::Arc;

use fieldpost_protocol::{Metrics, Value};

use super::counters::count;
use super::format::{self, Answer, Content, Reader};
use super::frame::{Cut, Ends, Splitter};
use super::hint::Streak;
use super::names::Names;
use super::refusal::{Kind, Refusal, shown};
use super::trailer::{self, Body, Inside, LineCounter, Step};
use super::{Counters, Format, PortConfig};

/// What a port said.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// A measurement.
    Reading {
        /// Who measured: named in the line, or the port's name.
        source: Arc<str>,
        /// At least one.
        metrics: Metrics,
    },
    /// The board has started; what it says about itself.
    Boot(String),
    /// The board answers a command.
    Answer(Answer),
    /// A line that came whole and measures nothing that is kept.
    Ignored,
    /// A line that is no reading, and why.
    Refused(Refusal),
    /// Ten lines in a row were refused. What a person should do about it.
    Hint(String),
}

/// The decoder of one port. It holds at most one line, whatever comes.
#[derive(Debug)]
pub struct Decoder {
    splitter: Splitter,
    lines: Lines,
}

/// What is known from the lines before.
#[derive(Debug)]
struct Lines {
    port: PortConfig,
    counters: Arc<Counters>,
    reader: Reader,
    line_counter: LineCounter,
    names: Names,
    streak: Streak,
}

impl Decoder {
    /// For a port that was just opened, perhaps in the middle of a line, or for one connection
    /// to a socket.
    pub fn new(port: PortConfig, counters: Arc<Counters>) -> Self {
        let ends = ends_of(&port.format);
        let splitter =
            if port.place.is_socket() { Splitter::from_start(ends) } else { Splitter::new(ends) };
        let lines = Lines {
            streak: Streak::new(&port),
            port,
            counters,
            reader: Reader::default(),
            line_counter: LineCounter::Unknown,
            names: Names::default(),
        };
        Decoder { splitter, lines }
    }

    /// Takes the next bytes and gives out what they say, in order.
    pub fn push(&mut self, bytes: &[u8], mut give: impl FnMut(Decoded)) {
        count(&self.lines.counters.bytes, bytes.len() as u64);
        self.splitter.push(bytes, |cut| {
            match cut {
                Cut::Line { bytes, first } => self.lines.line(bytes, first, &mut give),
                Cut::TooLong { start } => self.lines.refuse(start, Refusal::TooLong, &mut give),
                Cut::Endless => self.lines.hint(&[], &Refusal::TooLong, &mut give),
            };
        });
    }

    /// From the next byte on the port is described by this. A line that has begun goes on, unless
    /// something else ends lines now: then it is dropped, as after an opening.
    pub fn retune(&mut self, port: PortConfig) {
        let ends = ends_of(&port.format);
        if ends != ends_of(&self.lines.port.format) {
            self.ended();
            self.splitter.change_ends(ends);
        }
        if port.format != self.lines.port.format {
            self.lines.reader = Reader::default();
        }
        self.lines.streak = Streak::new(&port);
        self.lines.port = port;
    }

    /// The port was lost: what comes next may begin in the middle of a line.
    pub fn reopened(&mut self) {
        self.ended();
        self.lines.reader.reopened();
    }

    /// Nothing comes any more. True if that was in the middle of a line, which is dropped.
    pub(super) fn ended(&mut self) -> bool {
        let fragment = self.splitter.reset();
        count(&self.lines.counters.partial, u64::from(fragment));
        fragment
    }

    /// Bytes held for a line that has not ended, at most 4 KiB.
    pub fn bytes_held(&self) -> usize {
        self.splitter.bytes_held()
    }
}

fn ends_of(format: &Format) -> Ends {
    if matches!(format, Format::Cobs(_)) { Ends::Zero } else { Ends::Text }
}

impl Lines {
    /// `first`: its front may be missing.
    fn line(&mut self, bytes: &[u8], first: bool, give: &mut impl FnMut(Decoded)) {
        let unstuffed = match self.port.format {
            Format::Cobs(_) => format::unstuffed(bytes),
            _ => None,
        };
        let body = match (&self.port.format, &unstuffed) {
            (Format::Cobs(_), None) => Err(Refusal::Stuffing),
            (Format::Cobs(fields), Some(packet)) => {
                trailer::split_packet(packet, self.port.checksum, !fields.is_empty())
            }
            _ if self.is_ignored(bytes) => {
                count(&self.counters.ignored, 1);
                // It came: its number is not missing.
                if let Ok(body) = trailer::split(bytes, self.port.checksum)
                    && (body.verified || !first)
                {
                    self.step(&body);
                }
                return give(Decoded::Ignored);
            }
            _ => trailer::split(bytes, self.port.checksum),
        };
        if first { self.first_line(body, give) } else { self.whole_line(bytes, body, give) }
    }

    /// For people, and perhaps without a checksum where all others have one.
    fn is_ignored(&self, bytes: &[u8]) -> bool {
        let mut patterns = self.port.ignore_lines.iter();
        std::str::from_utf8(bytes).is_ok_and(|line| patterns.any(|pattern| pattern.matches(line)))
    }

    fn whole_line(
        &mut self,
        bytes: &[u8],
        body: Result<Body<'_>, Refusal>,
        give: &mut impl FnMut(Decoded),
    ) {
        let body = match body {
            Ok(body) => body,
            Err(refusal) => return self.refuse(bytes, refusal, give),
        };
        match self.decode(&body) {
            Ok((decoded, nulls)) => self.take(&body, decoded, nulls, give),
            Err(refusal) => {
                // It came whole, so it is not lost, only of no use.
                self.step(&body);
                self.refuse(bytes, refusal, give);
            }
        }
    }

    /// The end of a line may look like a line: `5 co2=800` of `temp=24.5 co2=800`. So the
    /// first line counts only if its checksum shows that it is whole, or if it is an object:
    /// no end of an object is one.
    fn first_line(&mut self, body: Result<Body<'_>, Refusal>, give: &mut impl FnMut(Decoded)) {
        let objects = self.port.format == Format::Json;
        let whole = |body: &Body<'_>| {
            let is_object = matches!(body.inside, Inside::Text(text) if text.starts_with('{'));
            body.verified || (objects && is_object)
        };
        let decoded =
            body.ok().filter(whole).and_then(|body| Some((self.decode(&body).ok()?, body)));
        match decoded {
            Some(((decoded, nulls), body)) => self.take(&body, decoded, nulls, give),
            None => count(&self.counters.partial, 1),
        }
    }

    fn decode(&mut self, body: &Body<'_>) -> Result<(Decoded, u64), Refusal> {
        if let Inside::Text(text) = body.inside
            && let Some(own) = self.own_word(text)
        {
            return own.map(|decoded| (decoded, 0));
        }
        let Some(content) =
            self.reader.reading(&self.port.format, &self.port.rules, body.inside)?
        else {
            return Ok((Decoded::Ignored, 0));
        };
        let Content { source, metrics, mut nulls } = content;
        let mut kept = Vec::with_capacity(metrics.len());
        for (name, value) in metrics {
            let was_null = value == Value::Null;
            let Some((name, value)) = self.port.rules.apply(self.names.share(&name), value) else {
                continue;
            };
            // It is too large for a float now.
            nulls += u64::from(value == Value::Null && !was_null);
            kept.push((name, value));
        }
        let metrics = kept;
        if metrics.is_empty() {
            return Ok((Decoded::Ignored, 0));
        }
        let metrics = Metrics::new(metrics).map_err(|name| Refusal::Twice(shown(&name)))?;
        let source = match source {
            Some(source) => self.names.share(&source),
            None => self.port.name.clone(),
        };
        Ok((Decoded::Reading { source, metrics }, nulls))
    }

    /// What a board says beside its measurements. In a format that is not ours a line may begin
    /// like that and mean something else.
    fn own_word(&self, text: &str) -> Option<Result<Decoded, Refusal>> {
        let own = match text.as_bytes().first()? {
            b'!' => format::boot(text).map(|text| Decoded::Boot(text.to_owned())),
            b'@' => format::answer(text).map(Decoded::Answer),
            _ => return None,
        };
        (own.is_ok() || self.port.format.is_ours()).then_some(own)
    }

    fn take(
        &mut self,
        body: &Body<'_>,
        decoded: Decoded,
        nulls: u64,
        give: &mut impl FnMut(Decoded),
    ) {
        let counter = match decoded {
            Decoded::Ignored => &self.counters.ignored,
            _ => &self.counters.frames,
        };
        count(counter, 1);
        count(&self.counters.nulls, nulls);
        count(&self.counters.unverified, u64::from(!body.verified));
        self.streak.end();
        if let Decoded::Boot(_) = decoded {
            self.line_counter = LineCounter::Booted;
        } else {
            self.step(body);
        }
        give(decoded);
    }

    fn step(&mut self, body: &Body<'_>) {
        count(&self.counters.numbered, u64::from(body.counter.is_some()));
        match body.counter.map(|counter| self.line_counter.step(counter)) {
            Some(Step::Lost(lines)) => count(&self.counters.lines_lost, lines),
            Some(Step::Repeated) => count(&self.counters.repeated, 1),
            None => {}
        }
    }

    fn refuse(&mut self, line: &[u8], refusal: Refusal, give: &mut impl FnMut(Decoded)) {
        let counter = match refusal.kind() {
            Kind::Checksum => &self.counters.refused_checksum,
            Kind::Syntax => &self.counters.refused_syntax,
            Kind::TooLong => &self.counters.refused_too_long,
        };
        count(counter, 1);
        tracing::debug!(port = %self.port.name, line = %line.escape_ascii(), "refused: {refusal}");
        self.hint(line, &refusal, give);
        give(Decoded::Refused(refusal));
    }

    fn hint(&mut self, line: &[u8], refusal: &Refusal, give: &mut impl FnMut(Decoded)) {
        if let Some(text) = self.streak.refused(line, refusal) {
            give(Decoded::Hint(text));
        }
    }
}

#[cfg(test)]
mod tests;
