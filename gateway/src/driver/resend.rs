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
use crate::commands::Done;
use crate::outbox::{Ending, Gone, Outbox};

/// Batches without a puback: readings that are new have the rest of the window.
const INFLIGHT_MAX: usize = 4;

/// Rows of one stream, both ends included.
pub(crate) type Span = (StreamKey, Seq, Seq);

/// One request.
pub(crate) struct Resend {
    id: CommandId,
    spans: VecDeque<Span>,
    /// Without a puback: what they begin with, to begin there again.
    sent: VecDeque<(Token, Span)>,
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
            let batch = self.on_outbox("a batch once more", job).await?.flatten();
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
                resend.sent.push_back((token, (key, from, end)));
                (resend.batches, resend.readings) = (resend.batches + 1, resend.readings + n);
            } else {
                resend.spans.push_front((key, from, end));
                return Ok(());
            }
        }
        let is_done = |resend: &mut Resend| resend.spans.is_empty() && resend.sent.is_empty();
        if let Some(done) = self.resend.take_if(is_done) {
            let result = vec![
                ("batches".into(), done.batches.into()),
                ("readings".into(), done.readings.into()),
            ];
            let result = Metrics::new(result).unwrap_or_default();
            let ending = Ending { outcome: CommandOutcome::Succeeded, detail: None, result };
            self.handle_done(Done::by_gateway(done.id, ending)).await?;
        }
        Ok(())
    }

    /// The broker has a message.
    pub(super) fn handle_puback(&mut self, token: Token) {
        if let Some(resend) = &mut self.resend {
            resend.sent.retain(|(sent, _)| *sent != token);
        }
    }

    /// What the broker has not confirmed is published again.
    pub(super) fn rewind_resend(&mut self) {
        if let Some(resend) = &mut self.resend {
            while let Some((_, span)) = resend.sent.pop_back() {
                resend.batches -= 1;
                resend.readings -= (span.2 - span.1 + 1) as i64;
                resend.spans.push_front(span);
            }
        }
    }
}
