//! Answers that wait for room on the `-out` connection: bounded, and never in the way.
//!
//! Sync acks of one stream melt into one: rows lo..hi are stored, and what was said of rows
//! below the highest lo, or of fewer rows, is no longer news.

use std::collections::{BTreeMap, VecDeque};

use fieldpost_protocol::{Ack, DeviceId, SYNC_ACKS_MAX, State, StreamKey, SyncAcks, VERSION};

use crate::ingest::Answer;
use crate::store::Identity;

/// States that wait. At the bound the oldest is dropped: its gateway asks again.
const STATES_MAX: usize = 4_096;
/// Streams with a sync ack that waits. At the bound a new one is dropped: its gateway sends
/// again, and is answered again.
const STREAMS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    states: VecDeque<(DeviceId, State)>,
    acks: BTreeMap<(DeviceId, StreamKey), Ack>,
    identity: Option<Identity>,
}

impl Outbound {
    /// Adds an answer.
    pub(crate) fn push(&mut self, answer: Answer) {
        match answer {
            Answer::State(device, state) => {
                self.incarnation(Identity { store: state.store, r#gen: state.r#gen });
                if self.states.len() >= STATES_MAX {
                    self.states.pop_front();
                }
                self.states.push_back((device, state));
            }
            Answer::SyncAcks(device, acks) => {
                self.incarnation(Identity { store: acks.store, r#gen: acks.r#gen });
                for ack in acks.acks {
                    self.ack(&device, ack);
                }
            }
        }
    }

    /// The next message: states first, since a gateway waits for one before it sends.
    pub(crate) fn next(&self) -> Option<Answer> {
        if let Some((device, state)) = self.states.front() {
            return Some(Answer::State(device.clone(), state.clone()));
        }
        let Identity { store, r#gen } = self.identity?;
        let device = &self.acks.first_key_value()?.0.0;
        let acks = self.acks.iter().take_while(|((of, _), _)| of == device);
        let acks = acks.take(SYNC_ACKS_MAX).map(|(_, ack)| *ack).collect();
        Some(Answer::SyncAcks(device.clone(), SyncAcks { v: VERSION, store, r#gen, acks }))
    }

    /// The connection has taken what `next` gave.
    pub(crate) fn taken(&mut self, answer: &Answer) {
        match answer {
            Answer::State(..) => {
                self.states.pop_front();
            }
            Answer::SyncAcks(device, acks) => {
                for ack in &acks.acks {
                    self.acks.remove(&(device.clone(), ack.key));
                }
            }
        }
    }

    /// A connection is gone: every gateway will say hello again.
    pub(crate) fn clear(&mut self) {
        *self = Outbound::default();
    }

    /// What an earlier incarnation of the storage had may be gone from this one.
    fn incarnation(&mut self, identity: Identity) {
        if self.identity.is_some_and(|known| known != identity) {
            self.clear();
        }
        self.identity = Some(identity);
    }

    fn ack(&mut self, device: &DeviceId, ack: Ack) {
        let full = self.acks.len() >= STREAMS_MAX;
        let key = (device.clone(), ack.key);
        match self.acks.get_mut(&key) {
            Some(known) => {
                known.lo = known.lo.max(ack.lo);
                known.hi = known.hi.max(ack.hi);
            }
            None if full => {}
            None => {
                self.acks.insert(key, ack);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::{Epoch, Gen, StoreId, Stream};

    use super::*;

    fn acks(generation: u8, epochs: std::ops::Range<u8>, lo: u64, hi: u64) -> Answer {
        let key = |epoch| StreamKey { epoch: Epoch([epoch; 16]), stream: Stream::Readings };
        let acks = epochs.map(|epoch| Ack { key: key(epoch), lo, hi }).collect();
        let (store, r#gen) = (StoreId([1; 16]), Gen([generation; 16]));
        Answer::SyncAcks("pi-1".parse().unwrap(), SyncAcks { v: VERSION, store, r#gen, acks })
    }

    fn drain(outbound: &mut Outbound) -> Vec<Vec<(u64, u64)>> {
        let mut all = Vec::new();
        while let Some(answer) = outbound.next() {
            outbound.taken(&answer);
            let Answer::SyncAcks(_, acks) = answer else { panic!("no states here") };
            all.push(acks.acks.iter().map(|ack| (ack.lo, ack.hi)).collect());
        }
        all
    }

    #[test]
    fn sync_acks_of_one_stream_melt_into_one() {
        let mut outbound = Outbound::default();
        outbound.push(acks(1, 0..1, 1, 20));
        outbound.push(acks(1, 0..1, 5, 9));
        assert_eq!(drain(&mut outbound), [[(5, 20)]]);
    }

    #[test]
    fn a_message_holds_as_many_as_it_may() {
        let mut outbound = Outbound::default();
        outbound.push(acks(1, 0..100, 1, 2));
        let messages = drain(&mut outbound);
        assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [64, 36]);
    }

    #[test]
    fn nothing_of_an_earlier_incarnation_goes_out() {
        let mut outbound = Outbound::default();
        outbound.push(acks(1, 0..2, 1, 20));
        outbound.push(acks(2, 0..1, 1, 3));
        assert_eq!(drain(&mut outbound), [[(1, 3)]]);
    }
}
