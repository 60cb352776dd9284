//! What a process does with commands: as the product's driver, desk and inbox do it.

use std::collections::{BTreeMap, VecDeque};

use fieldpost_gateway::engine::{Judge, Known, Record, Verdict};
use fieldpost_protocol::{
    Command, CommandId, CommandOutcome, Epoch, EventKind, Metrics, Seq, Stream, StreamKey,
};

use super::{Commit, Process};
use crate::commands::name_of;
use crate::outbox::LetGo;
use crate::world::{Killed, What, World, note};

/// Judged again after a card that refused, or a board that was busy.
const AGAIN_MS: i64 = 500;

/// A row of the inbox, on the card.
#[derive(Debug, Clone)]
pub struct InboxRow {
    pub command: Command,
    pub target: Epoch,
    pub outcome: Option<CommandOutcome>,
    /// What told the outcome last.
    pub event: (Epoch, Seq),
}

/// What waits, and what the board does now.
#[derive(Default)]
pub struct Desk {
    waiting: VecDeque<Command>,
    held: Vec<Command>,
    running: Option<CommandId>,
    /// Perhaps recorded as started, surely not done, and not yet rejected.
    doubtful: VecDeque<Command>,
    /// Other commands under known ids that were refused, and what told it.
    other_contents: BTreeMap<CommandId, (Epoch, Seq)>,
    /// How inexact the time at the bridge is known.
    pub rtt_ms: i64,
}

/// What is recorded with an event.
enum Note {
    /// The id is another command's.
    Nothing,
    Stale,
    Row(Option<CommandOutcome>),
}

impl Process {
    pub(super) fn receive_command(&mut self, payload: &[u8]) {
        let command = Command::decode(payload).expect("only commands are published");
        let is_doubtful = self.desk.doubtful.iter().any(|known| known.id == command.id);
        if !is_doubtful && self.desk.waiting.len() < 64 && !self.desk.waiting.contains(&command) {
            self.desk.waiting.push_back(command);
        }
    }

    pub(super) fn judge_held(&mut self) {
        self.desk.waiting.extend(self.desk.held.drain(..));
    }

    /// What processes that have ended had begun.
    pub(super) fn recall(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        let image = &world.machines[m].image;
        let left: Vec<Command> = image
            .inbox
            .values()
            .filter(|row| row.outcome.is_none())
            .map(|row| row.command.clone())
            .collect();
        for command in left {
            let id = command.id.clone().expect("it was recorded under it");
            if !world.switches.rules.started_is_never_done_again {
                self.do_it(world, m, &command)?;
                continue;
            }
            let remembers = world.plan.board_remembers;
            let outcome = match remembers {
                true if world.machines[m].board.contains(&name_of(&command)) => {
                    CommandOutcome::Succeeded
                }
                // On a copy of the card another board may have done it.
                true if !command.strict => CommandOutcome::Rejected,
                true => CommandOutcome::Unknown,
                false => CommandOutcome::Unknown,
            };
            self.finish_command(world, m, &id, outcome)?;
        }
        Ok(())
    }

    /// Judges what waits, one after the other, while the board is free.
    pub(super) fn serve(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        while self.desk.running.is_none()
            && self.desk.doubtful.is_empty()
            && let Some(command) = self.desk.waiting.pop_front()
        {
            self.take(world, m, command)?;
        }
        Ok(())
    }

    fn take(&mut self, world: &mut World, m: usize, command: Command) -> Result<(), Killed> {
        // Steps of the clock, old tails, times: what each append does first.
        self.append(world, m)?;
        if self.old_tails {
            return Ok(());
        }
        let id = command.id.clone().expect("each has one here");
        let (now, epoch) = (world.boottime(m), self.outbox.current.epoch);
        let cloud_ms = match world.switches.rules.expiry_by_cloud_time {
            true => self.engine.cloud_ms(now),
            false => Some(world.clock_of(m).wall_ms),
        };
        let image = &world.machines[m].image;
        let known = image.inbox.get(&id).map(|row| Known {
            content: row.command.content(),
            outcome: row.outcome,
            told: self.outbox.is_told(image, row.event),
        });
        let stale = command.target.and_then(|target| image.stale.get(&(id.clone(), target)));
        let stale = stale.map(|event| self.outbox.is_told(image, *event));
        let other = self.desk.other_contents.get(&id);
        let other = other.map(|event| self.outbox.is_told(image, *event));
        let judge = Judge { epoch, cloud_ms, guards: world.switches.gateway };
        let verdict = judge.judge(&command, &Record { known, other, stale }, Ok(()));
        note!(world, "gateway {m} judges {id}: {verdict:?}");
        match verdict {
            Verdict::Wait | Verdict::LeaveToBridge => Ok(()),
            Verdict::OtherContent => {
                let rejected = CommandOutcome::Rejected;
                let before = self.outbox.current.epoch;
                self.end(world, m, &command, rejected, Note::Nothing)?;
                let key = StreamKey { epoch: before, stream: Stream::Events };
                let last = world.machines[m].image.held(key).map_or(0, |held| held.last());
                self.desk.other_contents.insert(id, (before, last));
                Ok(())
            }
            Verdict::Hold => {
                self.desk.held.push(command);
                Ok(())
            }
            Verdict::Repeat => {
                let outcome = known.and_then(|known| known.outcome).expect("it was told before");
                self.record(world, m, &command, outcome, Note::Row(Some(outcome))).map(drop)
            }
            Verdict::Stale if world.switches.rules.stale_is_no_outcome => {
                self.record(world, m, &command, CommandOutcome::Stale, Note::Stale).map(drop)
            }
            Verdict::Stale => {
                let stale = CommandOutcome::Stale;
                self.record(world, m, &command, stale, Note::Row(Some(stale))).map(drop)
            }
            Verdict::Reject(_) => {
                let rejected = CommandOutcome::Rejected;
                self.end(world, m, &command, rejected, Note::Row(Some(rejected)))
            }
            Verdict::Expire => {
                let expired = CommandOutcome::Expired;
                self.end(world, m, &command, expired, Note::Row(Some(expired)))
            }
            Verdict::Start => self.start(world, m, &command),
        }
    }

    fn end(
        &mut self,
        world: &mut World,
        m: usize,
        command: &Command,
        outcome: CommandOutcome,
        note: Note,
    ) -> Result<(), Killed> {
        if self.record(world, m, command, outcome, note)? == Commit::Done {
            world.judge_outcome(command, outcome, self.desk.rtt_ms + 50);
        }
        Ok(())
    }

    fn start(&mut self, world: &mut World, m: usize, command: &Command) -> Result<(), Killed> {
        if !world.switches.rules.started_before_done {
            self.do_it(world, m, command)?;
        }
        let accepted = CommandOutcome::Accepted;
        match self.record(world, m, command, accepted, Note::Row(None))? {
            Commit::Done if world.switches.rules.started_before_done => {
                self.do_it(world, m, command)
            }
            Commit::Done | Commit::Failed => Ok(()),
            // It may stand there as started, and was not done.
            Commit::InDoubt => {
                self.begin_epoch(world, m);
                self.desk.waiting.retain(|known| known.id != command.id);
                self.desk.held.retain(|known| known.id != command.id);
                self.desk.doubtful.push_back(command.clone());
                self.reject_doubtful(world, m)
            }
        }
    }

    pub(super) fn reject_doubtful(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        while let Some(command) = self.desk.doubtful.front().cloned() {
            self.append(world, m)?;
            let rejected = CommandOutcome::Rejected;
            let row = Note::Row(Some(rejected));
            let done = match self.old_tails {
                true => Commit::Failed,
                false => self.record(world, m, &command, rejected, row)?,
            };
            if done == Commit::InDoubt {
                self.begin_epoch(world, m);
            }
            if done != Commit::Done {
                let life = world.machines[m].life;
                world.after(AGAIN_MS, What::Doubt(m, life));
                return Ok(());
            }
            self.desk.doubtful.pop_front();
            world.judge_outcome(&command, rejected, 0);
        }
        Ok(())
    }

    /// The board gets it; its answer comes, or does not.
    fn do_it(&mut self, world: &mut World, m: usize, command: &Command) -> Result<(), Killed> {
        world.effect()?;
        world.run_command(m, command);
        let (id, content) = name_of(command);
        world.machines[m].board.insert((id.clone(), content));
        self.desk.running = Some(id.clone());
        world.effect()?;
        let silent = world.faulty && world.dice.chance(world.plan.board_silent);
        let outcome = if silent { CommandOutcome::TimedOut } else { CommandOutcome::Succeeded };
        let after_ms = if silent { 5_000 } else { world.dice.around(world.plan.board_ms) };
        let life = world.machines[m].life;
        world.after(after_ms, What::Board(m, life, id.clone(), outcome));
        Ok(())
    }

    pub(super) fn finish_command(
        &mut self,
        world: &mut World,
        m: usize,
        id: &CommandId,
        outcome: CommandOutcome,
    ) -> Result<(), Killed> {
        self.append(world, m)?;
        let Some(row) = world.machines[m].image.inbox.get(id) else {
            // Only a mutant does what was not recorded.
            self.desk.running.take_if(|running| running == id);
            return Ok(());
        };
        let command = Command { target: Some(row.target), ..row.command.clone() };
        let done = match self.old_tails {
            true => Commit::Failed,
            false => self.record(world, m, &command, outcome, Note::Row(Some(outcome)))?,
        };
        if done == Commit::Done {
            self.desk.running.take_if(|running| running == id);
            world.judge_outcome(&command, outcome, 0);
            return Ok(());
        }
        if done == Commit::InDoubt {
            self.begin_epoch(world, m);
        }
        // In whichever epoch there is then: the ledger keeps the first.
        let life = world.machines[m].life;
        world.after(AGAIN_MS, What::Board(m, life, id.clone(), outcome));
        Ok(())
    }

    /// An event, and what it tells of, in one transaction.
    fn record(
        &mut self,
        world: &mut World,
        m: usize,
        command: &Command,
        outcome: CommandOutcome,
        note: Note,
    ) -> Result<Commit, Killed> {
        let id = command.id.clone().expect("each has one here");
        let epoch = self.outbox.current.epoch;
        let known = world.machines[m].image.inbox.get(&id);
        let same = known.filter(|row| row.command.content() == command.content());
        let target = same.map_or(command.target.unwrap_or(epoch), |row| row.target);
        let unix_ms = world.unix_ms();
        let fact = {
            let mut truth = world.truth.borrow_mut();
            let fact = truth.measure(unix_ms, false);
            let kind = EventKind::CommandAck {
                id: id.clone(),
                target,
                content: Some(command.content()),
                outcome,
                detail: Some(fact.to_string()),
                result: Metrics::default(),
            };
            truth.acks.insert(fact, kind);
            fact
        };
        let boot_ms = world.clock_of(m).boot_ms;
        let events = [(fact, boot_ms)];
        let truth = world.truth.clone();
        let outbox = &self.outbox;
        let mut let_go = LetGo::new();
        let done = world.write(m, |image| {
            outbox.append(image, &[], &events, &mut let_go);
            let key = StreamKey { epoch, stream: Stream::Events };
            let seq = image.held(key).map_or(0, |held| held.last());
            truth.borrow_mut().give(key, seq, fact);
            let event = (epoch, seq);
            match note {
                Note::Nothing => {}
                Note::Stale => drop(image.stale.insert((id, target), event)),
                Note::Row(outcome) => {
                    let command = command.clone();
                    image.inbox.insert(id, InboxRow { command, target, outcome, event });
                }
            }
        })?;
        if done == Commit::Done {
            self.appended(world, m, &[], &events, false)?;
        }
        Ok(done)
    }
}

impl World {
    /// What was in doubt is tried again.
    pub fn doubt(&mut self, m: usize, life: u64) {
        if self.machines[m].life == life {
            self.with(m, |process, world| {
                process.reject_doubtful(world, m)?;
                process.serve(world, m)
            });
        }
    }

    /// The board has answered, or has not in time.
    pub fn board_answers(&mut self, m: usize, life: u64, id: &CommandId, outcome: CommandOutcome) {
        if self.machines[m].life == life {
            self.with(m, |process, world| process.finish_command(world, m, id, outcome));
        }
    }
}
