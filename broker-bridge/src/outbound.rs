//! Answers that wait for room on the `-out` connection: bounded, and never in the way.
//!
//! Sync acks of one stream melt into one: rows lo..hi are stored, and what was said of rows
//! below the highest lo, or of fewer rows, is no longer news.

use std::collections::{BTreeMap, VecDeque};

use fieldpost_protocol::{
    Ack, Command, DeviceId, SYNC_ACKS_MAX, State, StreamKey, SyncAcks, VERSION,
};

use crate::ingest::Answer;
use crate::store::Identity;

/// States that wait, of all devices and of one: the pages of one hello. At the bound of all a
/// new one is dropped, at that of one its oldest: the gateway asks again.
const STATES_MAX: usize = 4_096;
const DEVICE_STATES_MAX: usize = 256;
/// Streams with a sync ack that waits, of all devices and of one. At the bound a new one is
/// dropped: its gateway sends again, and is answered again.
const STREAMS_MAX: usize = 65_536;
const DEVICE_STREAMS_MAX: usize = 4_096;
/// Commands that wait, of all devices and of one: as many as one hello issues. At the bound a new one
/// is dropped: the ledger has when it is to be published again.
const COMMANDS_MAX: usize = 4_096;
const DEVICE_COMMANDS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbound {
    devices: BTreeMap<DeviceId, Waiting>,
    /// Devices with an answer that waits, each once, in the order in which they are served:
    /// one that asks without a pause does not hold up the others.
    turns: VecDeque<DeviceId>,
    states: usize,
    streams: usize,
    commands: usize,
    identity: Option<Identity>,
}

/// The answers of one device; never without any.
#[derive(Debug, Default)]
struct Waiting {
    states: VecDeque<State>,
    commands: VecDeque<Command>,
    acks: BTreeMap<StreamKey, Ack>,
}

impl Outbound {
    /// Adds an answer.
    pub fn push(&mut self, answer: Answer) {
        match answer {
            Answer::State(device, state) => {
                self.incarnation(Identity { store: state.store, r#gen: state.r#gen });
                self.state(&device, state);
            }
            Answer::SyncAcks(device, acks) => {
                self.incarnation(Identity { store: acks.store, r#gen: acks.r#gen });
                for ack in acks.acks {
                    self.ack(&device, ack);
                }
            }
            Answer::Command(device, command) => self.command(&device, command),
        }
    }

    /// The next message, of the device whose turn it is: its states first, since it waits for
    /// one before it sends; then its commands, of which somebody may wait for the answer.
    pub fn next(&self) -> Option<Answer> {
        let device = self.turns.front()?;
        let waiting = self.devices.get(device)?;
        if let Some(state) = waiting.states.front() {
            return Some(Answer::State(device.clone(), state.clone()));
        }
        if let Some(command) = waiting.commands.front() {
            return Some(Answer::Command(device.clone(), command.clone()));
        }
        let Identity { store, r#gen } = self.identity?;
        let acks = waiting.acks.values().take(SYNC_ACKS_MAX).copied().collect();
        Some(Answer::SyncAcks(device.clone(), SyncAcks { v: VERSION, store, r#gen, acks }))
    }

    /// The connection has taken what `next` gave.
    pub fn taken(&mut self, answer: &Answer) {
        let Some(device) = self.turns.pop_front() else { return };
        let Some(waiting) = self.devices.get_mut(&device) else { return };
        match answer {
            Answer::State(..) => {
                self.states -= usize::from(waiting.states.pop_front().is_some());
            }
            Answer::Command(..) => {
                self.commands -= usize::from(waiting.commands.pop_front().is_some());
            }
            Answer::SyncAcks(_, acks) => {
                for ack in &acks.acks {
                    self.streams -= usize::from(waiting.acks.remove(&ack.key).is_some());
                }
            }
        }
        if waiting.is_empty() {
            self.devices.remove(&device);
        } else {
            self.turns.push_back(device);
        }
    }

    /// A connection is gone: every gateway will say hello again.
    pub fn clear(&mut self) {
        *self = Outbound::default();
    }

    /// What an earlier incarnation of the storage had may be gone from this one.
    fn incarnation(&mut self, identity: Identity) {
        if self.identity.is_some_and(|known| known != identity) {
            self.clear();
        }
        self.identity = Some(identity);
    }

    fn state(&mut self, device: &DeviceId, state: State) {
        let full = self.states >= STATES_MAX;
        match self.devices.get_mut(device) {
            Some(known) if known.states.len() >= DEVICE_STATES_MAX => {
                known.states.pop_front();
                known.states.push_back(state);
            }
            _ if full => {}
            _ => {
                self.waiting(device).states.push_back(state);
                self.states += 1;
            }
        }
    }

    fn command(&mut self, device: &DeviceId, command: Command) {
        let of_device = self.devices.get(device).map_or(0, |waiting| waiting.commands.len());
        if self.commands < COMMANDS_MAX && of_device < DEVICE_COMMANDS_MAX {
            self.waiting(device).commands.push_back(command);
            self.commands += 1;
        }
    }

    fn ack(&mut self, device: &DeviceId, ack: Ack) {
        let full = self.streams >= STREAMS_MAX;
        if let Some(known) = self.devices.get_mut(device) {
            if let Some(known) = known.acks.get_mut(&ack.key) {
                known.lo = known.lo.max(ack.lo);
                known.hi = known.hi.max(ack.hi);
                return;
            }
            if known.acks.len() >= DEVICE_STREAMS_MAX {
                return;
            }
        }
        if !full {
            self.waiting(device).acks.insert(ack.key, ack);
            self.streams += 1;
        }
    }

    /// The device's answers, to which one is about to be added.
    fn waiting(&mut self, device: &DeviceId) -> &mut Waiting {
        if !self.devices.contains_key(device) {
            self.turns.push_back(device.clone());
        }
        self.devices.entry(device.clone()).or_default()
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.states.is_empty() && self.commands.is_empty() && self.acks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::{Epoch, Gen, Nonce, StoreId, Stream};

    use super::*;

    fn acks(generation: u8, epochs: std::ops::Range<u8>, lo: u64, hi: u64) -> Answer {
        acks_of("pi-1", generation, epochs, lo, hi)
    }

    fn acks_of(
        device: &str,
        generation: u8,
        epochs: std::ops::Range<u8>,
        lo: u64,
        hi: u64,
    ) -> Answer {
        let key = |epoch| StreamKey { epoch: Epoch([epoch; 16]), stream: Stream::Readings };
        let acks = epochs.map(|epoch| Ack { key: key(epoch), lo, hi }).collect();
        let (store, r#gen) = (StoreId([1; 16]), Gen([generation; 16]));
        Answer::SyncAcks(device.parse().unwrap(), SyncAcks { v: VERSION, store, r#gen, acks })
    }

    fn state_of(device: &str, page: u32) -> Answer {
        let (store, r#gen) = (StoreId([1; 16]), Gen([1; 16]));
        let (versions, streams, nonce) = (Vec::new(), Vec::new(), Nonce([0; 16]));
        let state =
            State { v: VERSION, nonce, attempt: 1, page, versions, store, r#gen, time: 0, streams };
        Answer::State(device.parse().unwrap(), state)
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

    #[test]
    fn a_device_that_asks_without_a_pause_does_not_hold_up_the_others() {
        let mut outbound = Outbound::default();
        for page in 0..10_000 {
            outbound.push(state_of("a-flood", page));
        }
        outbound.push(acks_of("b", 1, 0..1, 1, 2));
        outbound.push(state_of("c", 1));
        let mut served = Vec::new();
        for page in 0..6 {
            outbound.push(state_of("a-flood", page));
            let answer = outbound.next().unwrap();
            outbound.taken(&answer);
            served.push(match answer {
                Answer::State(device, _)
                | Answer::SyncAcks(device, _)
                | Answer::Command(device, _) => device.to_string(),
            });
        }
        assert_eq!(served[..3], ["a-flood", "b", "c"]);
        assert!(outbound.states <= DEVICE_STATES_MAX);
        while let Some(answer) = outbound.next() {
            outbound.taken(&answer);
        }
        assert_eq!((outbound.states, outbound.streams, outbound.devices.len()), (0, 0, 0));
    }

    fn command(device: &str, id: &str) -> Answer {
        let json = format!(r#"{{"id":"{id}","name":"led"}}"#);
        Answer::Command(device.parse().unwrap(), Command::decode(json.as_bytes()).unwrap())
    }

    #[test]
    fn commands_wait_behind_the_state_of_their_device_and_not_for_another_s() {
        let mut outbound = Outbound::default();
        outbound.push(acks_of("b", 1, 0..1, 1, 2));
        for no in 0..100 {
            outbound.push(command("b", &format!("c{no}")));
        }
        outbound.push(state_of("b", 1));
        outbound.push(command("c", "other"));
        let mut told = Vec::new();
        while let Some(answer) = outbound.next() {
            outbound.taken(&answer);
            told.push(match answer {
                Answer::State(..) => "state".to_owned(),
                Answer::SyncAcks(..) => "acks".to_owned(),
                Answer::Command(_, command) => command.id.unwrap().to_string(),
            });
        }
        assert_eq!(told[..4], ["state", "other", "c0", "c1"]);
        assert_eq!((told.len(), told.last().unwrap().as_str()), (67, "acks"));
        assert_eq!((outbound.commands, outbound.devices.len()), (0, 0));
    }

    #[test]
    fn no_command_of_an_earlier_incarnation_goes_out() {
        let mut outbound = Outbound::default();
        outbound.push(acks(1, 0..1, 1, 20));
        outbound.push(command("pi-1", "c1"));
        outbound.push(acks(2, 0..1, 1, 3));
        assert_eq!(drain(&mut outbound), [[(1, 3)]]);
        assert_eq!(outbound.commands, 0);
    }
}
