//! `resend`: readings that are held, published once more for whoever reads along.
//!
//! A cursor of its own, which knows nothing of `acked`: storage takes these batches for what they are,
//! duplicates. It goes after everything else, a few batches at a time, and begins again where the broker
//! had got to when a connection breaks.

use std::collections::VecDeque;

use fieldpost_fail_point::point;
use fieldpost_mqtt::{Message, Qos, Token};
use fieldpost_protocol::{
    BATCH_READINGS_MAX, CommandId, CommandOutcome, Epoch, Metrics, SEQ_MAX, Seq, Stream, StreamKey,
    Topic, Value,
};

use super::Driver;
use crate::commands::{Builtin, Done};
use crate::outbox::{Batch, Ending, Gone, Outbox};

/// Batches without a puback: readings that are new have the rest of the window.
const INFLIGHT_MAX: usize = 4;

/// Rows of one stream, both ends included.
pub(crate) type Span = (StreamKey, Seq, Seq);

/// One request.
pub(crate) struct Resend {
    id: CommandId,
    spans: VecDeque<Span>,
    /// Without a puback: what they hold, and how many readings, to begin there again.
    sent: VecDeque<(Token, Span, i64)>,
    batches: i64,
    readings: i64,
}

/// What is asked for.
enum Wanted {
    /// From one moment to another, Unix milliseconds.
    Time(i64, i64),
    /// These rows.
    Rows(Span),
}

/// The arguments of the two ways in which one asks.
const BY_TIME: [&str; 2] = ["since", "until"];
const BY_ROW: [&str; 3] = ["epoch", "from", "to"];
const EITHER: &str = "write since (and until, if not up to now) in Unix milliseconds, as in \
    {\"since\": 1795248000000, \"until\": 1795251600000}, or epoch and from (and to, if not up to the last), as in \
    {\"epoch\": \"5e0d0102030405060708090a0b0c0d0e\", \"from\": 1, \"to\": 1000}";

impl Wanted {
    fn of(args: &Metrics) -> Result<Wanted, String> {
        let int = |name: &str| match args.get(name) {
            Some(Value::Int(int)) => Some(*int),
            _ => None,
        };
        let given = |names: &[&str]| {
            let names: Vec<&str> =
                names.iter().copied().filter(|name| args.get(name).is_some()).collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        if let (Some(time), Some(row)) = (given(&BY_TIME), given(&BY_ROW)) {
            return Err(format!("{row} cannot stand beside {time}: {EITHER}"));
        }
        match (int("since"), args.get("epoch"), int("from")) {
            (Some(since), ..) => {
                let until = int("until").unwrap_or(i64::MAX);
                if since > until {
                    return Err(format!("since = {since} is after until = {until}"));
                }
                Ok(Wanted::Time(since, until))
            }
            (None, Some(Value::Text(epoch)), Some(from)) => {
                let epoch = epoch.parse::<Epoch>().map_err(|error| format!("epoch: {error}"))?;
                let to = int("to").unwrap_or(SEQ_MAX as i64);
                if from > to {
                    return Err(format!("from = {from} is after to = {to}"));
                }
                let key = StreamKey { epoch, stream: Stream::Readings };
                Ok(Wanted::Rows((key, from as Seq, to as Seq)))
            }
            _ => Err(EITHER.to_owned()),
        }
    }
}

impl Driver {
    /// Begins. `Err`: what is wrong with the request.
    pub(super) async fn begin_resend(
        &mut self,
        id: CommandId,
        args: &Metrics,
    ) -> Result<Result<(), String>, Gone> {
        if self.resend.is_some() {
            return Ok(Err("another resend is under way; wait for its end".to_owned()));
        }
        let wanted = match Wanted::of(args) {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Err(why)),
        };
        let job = move |outbox: &mut Outbox| match wanted {
            Wanted::Time(since, until) => outbox.spans_between(since, until),
            Wanted::Rows(span) => outbox.span_within(span).map(|span| span.into_iter().collect()),
        };
        let Some(spans) = self.on_outbox("what is held", job).await? else {
            return Ok(Err("the outbox could not be read".to_owned()));
        };
        self.resend = Some(Resend {
            id,
            spans: spans.into(),
            sent: VecDeque::new(),
            batches: 0,
            readings: 0,
        });
        Ok(Ok(()))
    }

    /// Publishes what there is room for; after the last puback the command has succeeded.
    pub(super) async fn go_on_resending(&mut self) -> Result<(), Gone> {
        while self.has_room() {
            let Some(resend) = self.resend.as_mut() else { return Ok(()) };
            if resend.sent.len() >= INFLIGHT_MAX {
                return Ok(());
            }
            let Some(&(key, from, to)) = resend.spans.front() else { break };
            let rows_max = BATCH_READINGS_MAX.min((to - from + 1) as usize);
            let job = move |outbox: &mut Outbox| match outbox.read_batch(key, from, rows_max)? {
                Some(batch) => Ok(Ok(batch)),
                None => outbox.first_held(key, from).map(Err),
            };
            let Some(read) = self.on_outbox("a batch once more", job).await? else {
                return self.fail_resend("the outbox could not be read").await;
            };
            // Without a base: of an epoch that nobody can date.
            let dated = |batch: Batch| batch.base.map(|base| (batch, base)).ok_or(None);
            let (batch, base) = match read.and_then(dated) {
                Ok(dated) => dated,
                Err(next) => {
                    // Rows that were let go meanwhile, or are gone, are left out; what stands behind them
                    // is not.
                    if let Some(resend) = &mut self.resend {
                        resend.pass_over(next);
                    }
                    continue;
                }
            };
            let (end, n) = (batch.first + batch.n - 1, batch.n as i64);
            let payload = self.envelope(batch, base).encode();
            let (Some(session), Some(connection)) = (&self.session, self.connection) else {
                return Ok(());
            };
            let token = Token(self.resend_token + 1);
            let topic = self.topics.name(&Topic::SensorData(self.device.clone()));
            let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain: false, token };
            point!("send.again.before");
            let taken = session.publish(connection, message).is_ok();
            point!("send.again.after");
            if !taken {
                return Ok(());
            }
            self.resend_token += 1;
            if let Some(resend) = &mut self.resend {
                resend.handle_sent(token, end, n);
            }
        }
        let is_done = |resend: &mut Resend| resend.spans.is_empty() && resend.sent.is_empty();
        if let Some(done) = self.resend.take_if(is_done) {
            let (result, detail) = (done.result(), None);
            let ending = Ending { outcome: CommandOutcome::Succeeded, detail, result };
            self.handle_done(done.done(ending)).await?;
        }
        Ok(())
    }

    /// Ends it, if one is under way, before all was published.
    pub(super) async fn fail_resend(&mut self, why: &str) -> Result<(), Gone> {
        let Some(resend) = self.resend.take() else { return Ok(()) };
        let detail = Some(format!("{why}; send it again"));
        let ending = Ending { outcome: CommandOutcome::Failed, detail, result: resend.result() };
        self.handle_done(resend.done(ending)).await
    }

    /// The broker has a message.
    pub(super) fn handle_puback(&mut self, token: Token) {
        if let Some(resend) = &mut self.resend {
            resend.sent.retain(|(sent, ..)| *sent != token);
        }
    }

    /// What the broker has not confirmed is published again.
    pub(super) fn rewind_resend(&mut self) {
        if let Some(resend) = &mut self.resend {
            resend.rewind();
        }
    }
}

impl Resend {
    /// The first span is published up to this row; the rest of it is still to come.
    fn handle_sent(&mut self, token: Token, end: Seq, readings: i64) {
        let Some((key, from, to)) = self.spans.pop_front() else { return };
        if end < to {
            self.spans.push_front((key, end + 1, to));
        }
        self.sent.push_back((token, (key, from, end), readings));
        (self.batches, self.readings) = (self.batches + 1, self.readings + readings);
    }

    /// Of the first span there is nothing before `next`.
    fn pass_over(&mut self, next: Option<Seq>) {
        let Some((key, from, to)) = self.spans.pop_front() else { return };
        if let Some(next) = next.filter(|next| (from + 1..=to).contains(next)) {
            self.spans.push_front((key, next, to));
        }
    }

    fn rewind(&mut self) {
        while let Some((_, span, readings)) = self.sent.pop_back() {
            (self.batches, self.readings) = (self.batches - 1, self.readings - readings);
            self.spans.push_front(span);
        }
    }

    fn done(self, ending: Ending) -> Done {
        Done::by_gateway(self.id, Builtin::Resend.as_str(), ending)
    }

    fn result(&self) -> Metrics {
        let counts =
            [("batches".into(), self.batches.into()), ("readings".into(), self.readings.into())];
        Metrics::new(counts.into()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: StreamKey = StreamKey { epoch: Epoch([1; 16]), stream: Stream::Readings };

    fn resend(spans: &[(Seq, Seq)]) -> Resend {
        let spans = spans.iter().map(|&(from, to)| (KEY, from, to)).collect();
        let id = "r".parse().unwrap();
        Resend { id, spans, sent: VecDeque::new(), batches: 0, readings: 0 }
    }

    fn spans(resend: &Resend) -> Vec<(Seq, Seq)> {
        resend.spans.iter().map(|&(_, from, to)| (from, to)).collect()
    }

    #[test]
    fn what_is_sent_again_is_counted_once_though_rows_were_let_go_in_between() {
        let mut resend = resend(&[(1, 3_000)]);
        resend.handle_sent(Token(1), 1_000, 1_000);
        resend.pass_over(Some(1_301));
        assert_eq!(spans(&resend), [(1_301, 3_000)], "rows 1,001 to 1,300 were let go");
        resend.handle_sent(Token(2), 2_000, 700);
        assert_eq!((resend.batches, resend.readings), (2, 1_700));
        assert_eq!(spans(&resend), [(2_001, 3_000)]);
        resend.rewind();
        assert_eq!((resend.batches, resend.readings), (0, 0));
        assert_eq!(spans(&resend), [(1, 1_000), (1_301, 2_000), (2_001, 3_000)]);
    }

    #[test]
    fn each_row_is_to_come_or_on_its_way_whenever_the_connection_goes() {
        for sent_before in 0..=4 {
            let mut resend = resend(&[(1, 2_500), (4_001, 4_500)]);
            for (token, end, n) in
                [(1, 1_000, 1_000), (2, 2_000, 1_000), (3, 2_500, 500), (4, 4_500, 500)]
                    .into_iter()
                    .take(sent_before)
            {
                resend.handle_sent(Token(token), end, n);
            }
            resend.rewind();
            let rows: Vec<Seq> =
                spans(&resend).into_iter().flat_map(|(from, to)| from..=to).collect();
            let all: Vec<Seq> = (1..=2_500).chain(4_001..=4_500).collect();
            assert_eq!(rows, all, "after {sent_before}: each once, in order");
            assert_eq!((resend.batches, resend.readings), (0, 0));
        }
    }

    #[test]
    fn a_span_of_which_nothing_more_is_held_ends() {
        for next in [None, Some(1), Some(3_001)] {
            let mut resend = resend(&[(1, 3_000), (4_001, 5_000)]);
            resend.pass_over(next);
            assert_eq!(spans(&resend), [(4_001, 5_000)], "{next:?}");
        }
    }

    #[test]
    fn an_argument_of_the_other_form_is_refused_and_named() {
        let wanted = |json: &str| Wanted::of(&Metrics::from_json(json).unwrap());
        let epoch = r#""epoch":"5e0d0102030405060708090a0b0c0d0e""#;
        for (args, said) in [
            (r#""since":0,"to":5"#.to_owned(), "to cannot stand beside since: write since"),
            (
                r#""since":0,"until":9,"from":1,"to":5"#.to_owned(),
                "from, to cannot stand beside since, until",
            ),
            (format!(r#"{epoch},"from":1,"until":9"#), "epoch, from cannot stand beside until"),
            (r#""until":9"#.to_owned(), "write since (and until"),
            (r#""from":1,"to":5"#.to_owned(), "or epoch and from (and to"),
            (String::new(), "write since"),
        ] {
            let why = wanted(&format!("{{{args}}}")).err().unwrap_or_else(|| panic!("{args}"));
            assert!(why.contains(said), "{args}: {why}");
        }
        for args in [
            r#""since":0"#.to_owned(),
            r#""since":0,"until":9"#.to_owned(),
            format!(r#"{epoch},"from":1"#),
            format!(r#"{epoch},"from":1,"to":5"#),
        ] {
            assert!(wanted(&format!("{{{args}}}")).is_ok(), "{args}");
        }
        // What is said as an example is one.
        let mut examples = 0;
        for example in EITHER.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            assert!(wanted(&format!("{{{example}}}")).is_ok(), "{example}");
            examples += 1;
        }
        assert_eq!(examples, 2);
    }
}
