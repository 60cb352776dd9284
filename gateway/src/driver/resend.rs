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
use crate::outbox::{Ending, Gone, Outbox};

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
    last_token: u64,
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

impl Wanted {
    fn of(args: &Metrics) -> Result<Wanted, String> {
        let int = |name: &str| match args.get(name) {
            Some(Value::Int(int)) => Some(*int),
            _ => None,
        };
        let either = "write since (and until) in Unix milliseconds, or epoch and from (and to)";
        match (int("since"), args.get("epoch"), int("from")) {
            (Some(since), None, None) => {
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
            _ => Err(either.to_owned()),
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
            last_token: 0,
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
            let Some((key, from, to)) = resend.spans.pop_front() else { break };
            let rows_max = BATCH_READINGS_MAX.min((to - from + 1) as usize);
            let job = move |outbox: &mut Outbox| outbox.read_batch(key, from, rows_max);
            let Some(batch) = self.on_outbox("a batch once more", job).await? else {
                return self.fail_resend().await;
            };
            // Let go meanwhile, or of an epoch that nobody can date.
            let Some((batch, base)) = batch.and_then(|batch| batch.base.map(|base| (batch, base)))
            else {
                continue;
            };
            let (end, n) = (batch.first + batch.n - 1, batch.n as i64);
            let payload = self.envelope(batch, base).encode();
            let Some(resend) = self.resend.as_mut() else { return Ok(()) };
            if end < to {
                resend.spans.push_front((key, end + 1, to));
            }
            resend.last_token += 1;
            let token = Token(resend.last_token);
            let (Some(session), Some(connection)) = (&self.session, self.connection) else {
                resend.spans.push_front((key, from, to));
                return Ok(());
            };
            let topic = self.topics.name(&Topic::SensorData(self.device.clone()));
            let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain: false, token };
            point!("send.again.before");
            let taken = session.publish(connection, message).is_ok();
            point!("send.again.after");
            if taken {
                resend.handle_sent(token, (key, from, end), n);
            } else {
                resend.spans.push_front((key, from, end));
                return Ok(());
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

    /// The disk gives no more.
    async fn fail_resend(&mut self) -> Result<(), Gone> {
        let Some(resend) = self.resend.take() else { return Ok(()) };
        let detail = Some("the outbox could not be read; send it again".to_owned());
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
    fn handle_sent(&mut self, token: Token, span: Span, readings: i64) {
        self.sent.push_back((token, span, readings));
        (self.batches, self.readings) = (self.batches + 1, self.readings + readings);
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

    #[test]
    fn what_is_sent_again_is_counted_once_though_rows_were_let_go_in_between() {
        let key = StreamKey { epoch: Epoch([1; 16]), stream: Stream::Readings };
        let spans = VecDeque::from([(key, 2_001, 3_000)]);
        let id = "r".parse().unwrap();
        let (sent, last_token, batches, readings) = (VecDeque::new(), 0, 0, 0);
        let mut resend = Resend { id, spans, sent, last_token, batches, readings };
        resend.handle_sent(Token(1), (key, 1, 1_000), 1_000);
        // Rows 1,001 to 1,300 were let go.
        resend.handle_sent(Token(2), (key, 1_001, 2_000), 700);
        assert_eq!((resend.batches, resend.readings), (2, 1_700));
        resend.rewind();
        assert_eq!((resend.batches, resend.readings), (0, 0));
        let spans: Vec<Span> = resend.spans.into();
        assert_eq!(spans, [(key, 1, 1_000), (key, 1_001, 2_000), (key, 2_001, 3_000)]);
    }
}
