//! Bytes of one port to readings, with everything counted on the way. No IO, no clock.

use std::sync::Arc;

use fieldpost_protocol::Metrics;

use super::counters::count;
use super::frame::{Cut, Splitter};
use super::hint::Streak;
use super::line::{self, Answer, Content};
use super::names::Names;
use super::refusal::{Kind, shown};
use super::trailer::{self, Body, LineCounter, Step};
use super::{Counters, Format, PortConfig, Refusal, json};

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
    line_counter: LineCounter,
    names: Names,
    streak: Streak,
}

impl Decoder {
    /// For a port that was just opened, perhaps in the middle of a line.
    pub fn new(port: PortConfig, counters: Arc<Counters>) -> Self {
        let streak = Streak::new(port.name.clone(), port.format, port.checksum, port.baud);
        let lines = Lines {
            port,
            counters,
            line_counter: LineCounter::Unknown,
            names: Names::default(),
            streak,
        };
        Decoder { splitter: Splitter::new(), lines }
    }

    /// Takes the next bytes and gives out what they say, in order.
    pub fn push(&mut self, bytes: &[u8], mut give: impl FnMut(Decoded)) {
        count(&self.lines.counters.bytes, bytes.len() as u64);
        self.splitter.push(bytes, |cut| {
            match cut {
                Cut::Line { bytes, first: false } => self.lines.line(bytes, &mut give),
                Cut::Line { bytes, first: true } => self.lines.first_line(bytes, &mut give),
                Cut::TooLong { start } => self.lines.refuse(start, Refusal::TooLong, &mut give),
                Cut::Endless => self.lines.hint(&[], &Refusal::TooLong, &mut give),
            };
        });
    }

    /// The port was lost: what comes next may begin in the middle of a line.
    pub fn reopened(&mut self) {
        if self.splitter.reset() {
            count(&self.lines.counters.partial, 1);
        }
    }

    /// Bytes held for a line that has not ended, at most 4 KiB.
    pub fn bytes_held(&self) -> usize {
        self.splitter.bytes_held()
    }
}

impl Lines {
    fn line(&mut self, bytes: &[u8], give: &mut impl FnMut(Decoded)) {
        let body = match trailer::split(bytes, self.port.checksum) {
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
    fn first_line(&mut self, bytes: &[u8], give: &mut impl FnMut(Decoded)) {
        let body = trailer::split(bytes, self.port.checksum);
        let whole = |body: &Body<'_>| body.verified || body.text.starts_with('{');
        let decoded =
            body.ok().filter(whole).and_then(|body| Some((self.decode(&body).ok()?, body)));
        match decoded {
            Some(((decoded, nulls), body)) => self.take(&body, decoded, nulls, give),
            None => count(&self.counters.partial, 1),
        }
    }

    fn decode(&mut self, body: &Body<'_>) -> Result<(Decoded, u64), Refusal> {
        let content = match (body.text.as_bytes().first(), self.port.format) {
            (Some(b'!'), _) => return Ok((Decoded::Boot(line::boot(body.text)?.to_owned()), 0)),
            (Some(b'@'), _) => return Ok((Decoded::Answer(line::answer(body.text)?), 0)),
            (_, Format::Native) => line::reading(body.text)?,
            (_, Format::Json) => json::reading(body.text)?,
        };
        let Content { source, metrics, nulls } = content;
        let metrics =
            metrics.into_iter().map(|(name, value)| (self.names.share(&name), value)).collect();
        let metrics = Metrics::new(metrics).map_err(|name| Refusal::Twice(shown(&name)))?;
        let source = match source {
            Some(source) => self.names.share(&source),
            None => self.port.name.clone(),
        };
        Ok((Decoded::Reading { source, metrics }, nulls))
    }

    fn take(
        &mut self,
        body: &Body<'_>,
        decoded: Decoded,
        nulls: u64,
        give: &mut impl FnMut(Decoded),
    ) {
        count(&self.counters.frames, 1);
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
    }

    fn hint(&mut self, line: &[u8], refusal: &Refusal, give: &mut impl FnMut(Decoded)) {
        if let Some(text) = self.streak.refused(line, refusal) {
            give(Decoded::Hint(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::{Checksum, CountersNow, crc16};

    struct Bench {
        decoder: Decoder,
        counters: Arc<Counters>,
    }

    impl Bench {
        fn new(format: Format, checksum: Checksum) -> Self {
            let port = PortConfig {
                name: "port".into(),
                path: "/dev/null".into(),
                baud: 115_200,
                format,
                checksum,
                reset_on_open: true,
            };
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
                    Decoded::Hint(_) => "hint".to_owned(),
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
        assert_eq!(
            bench.push(&signed("{\"source\":\"air\",\"temp\":1} #5")),
            [r#"air {"temp":1}"#]
        );
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
}
