//! What a process writes to its card: readings, times, `acked`, and what it lets go.

use std::time::Duration;

use fieldpost_gateway::engine::Notice;
use fieldpost_gateway::outbox::StreamInfo;
use fieldpost_protocol::{Clock, Epoch, Seq, Stream, StreamKey};

use super::{Commit, Process, short, told};
use crate::outbox::{Current, LetGo};
use crate::world::{Killed, What, World, note};

impl Process {
    pub(super) fn notice(
        &mut self,
        world: &mut World,
        m: usize,
        notice: Notice,
    ) -> Result<(), Killed> {
        match notice {
            Notice::Trust(trusted) => {
                self.outbox.trust(trusted);
                self.save_if_back(world, m)?;
            }
            Notice::Confirmed(confirmed) => {
                self.excuse_progress(&confirmed);
                self.outbox.set_confirmed(&confirmed);
                self.save_if_back(world, m)?;
            }
            Notice::CloudTime { skew_ms, rtt } => {
                self.desk.rtt_ms = rtt.as_millis() as i64;
                self.judge_held();
                self.learn_time(world, m, skew_ms, rtt)?;
            }
            Notice::OtherStore(_) | Notice::NoCommonVersion(_) | Notice::Stuck { .. } => {}
        }
        Ok(())
    }

    fn save_if_back(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        let image = &world.machines[m].image;
        let owed = self.outbox.owed_trust(image);
        if owed.is_some() || self.outbox.must_save_back(image) {
            let outbox = &self.outbox;
            let pin_is_persisted = world.switches.rules.pin_is_persisted;
            world.write(m, |image| {
                if let Some(trusted) = owed {
                    image.trusted = pin_is_persisted.then_some(trusted);
                    image.trusts.get_or_insert(trusted.store);
                    image.heard_gen = trusted.r#gen;
                }
                outbox.save_acked(image);
            })?;
        }
        Ok(())
    }

    pub(super) fn learn_time(
        &mut self,
        world: &mut World,
        m: usize,
        skew_ms: i64,
        rtt: Duration,
    ) -> Result<(), Killed> {
        let now = world.clock_of(m);
        let (skew, clock) =
            if now.synchronised { (now.skew_ms(), Clock::Ntp) } else { (skew_ms, Clock::Bridge) };
        let outbox = &self.outbox;
        let truth = world.truth.clone();
        let off_ms_max = if clock == Clock::Bridge { rtt.as_millis() as i64 / 2 } else { 0 };
        let current = outbox.current.epoch;
        let done = world.write(m, |image| {
            let mut truth = truth.borrow_mut();
            let open = image.epochs.iter().filter(|row| row.base.is_none()).map(|row| row.epoch);
            open.chain([current]).for_each(|epoch| truth.may_be_off(epoch, off_ms_max));
            outbox.fix_bases(image, skew, clock);
        })?;
        if done == Commit::Done {
            self.outbox.learn_base(skew, clock);
        } else {
            self.time_owed = Some((skew_ms, rtt));
        }
        let current = self.outbox.current;
        let Some((base, clock)) = current.base else { return Ok(()) };
        let off = (base - current.start.boot_ms) - skew_ms;
        if off.abs() > 1_000 + rtt.as_millis() as i64 / 2 && clock == Clock::Bridge {
            self.begin_epoch(world, m);
            self.follow_epoch(world, m);
        }
        Ok(())
    }

    pub(super) fn begin_epoch(&mut self, world: &mut World, m: usize) {
        let epoch = Epoch(world.dice.id());
        note!(world, "gateway {m} begins epoch {}", short(epoch));
        let (boot, start) = (world.machines[m].boot, world.clock_of(m));
        self.outbox.current = Current { epoch, boot, start, base: None };
        self.old_tails = true;
        self.hellos.clear();
    }

    /// The engine hears of it with the first rows, or from the time that a bridge told.
    fn follow_epoch(&mut self, world: &World, m: usize) {
        let epoch = self.outbox.current.epoch;
        if self.told_epoch != epoch {
            self.told_epoch = epoch;
            self.engine.handle_epoch(world.boottime(m), epoch);
        }
    }

    pub(super) fn append(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        self.commit_planned = false;
        self.tell_acked(world, m)?;
        let now = world.clock_of(m);
        if self.outbox.stepped(now) {
            self.begin_epoch(world, m);
        }
        if self.old_tails {
            let outbox = &self.outbox;
            if world.write(m, |image| outbox.seal_old_tails(image))? != Commit::Done {
                return self.append_later(world, m);
            }
            self.old_tails = false;
            self.streams_changed = true;
        }
        if self.outbox.current.base.is_none() && now.synchronised {
            let outbox = &self.outbox;
            if world.write(m, |image| outbox.fix_bases(image, now.skew_ms(), Clock::Ntp))?
                != Commit::Done
            {
                return self.append_later(world, m);
            }
            self.outbox.learn_base(now.skew_ms(), Clock::Ntp);
        }
        let (readings, events) =
            (std::mem::take(&mut self.readings), std::mem::take(&mut self.events));
        let epoch = self.outbox.current.epoch;
        let mut let_go = LetGo::new();
        let mut written = false;
        let outbox = &self.outbox;
        let truth = world.truth.clone();
        let doubtful = std::mem::take(&mut self.doubtful);
        let outcome = world.write(m, |image| {
            image.forget_newest(epoch, doubtful);
            outbox.append(image, &readings, &events, &mut let_go);
            written = true;
            if let Some(row) = image.epoch(epoch) {
                let mut truth = truth.borrow_mut();
                for stream in [Stream::Events, Stream::Readings] {
                    let Some(held) = row.held(stream) else { continue };
                    let key = StreamKey { epoch, stream };
                    let newest =
                        if stream == Stream::Events { events.len() } else { readings.len() };
                    for at in held.rows.len().saturating_sub(newest)..held.rows.len() {
                        truth.give(key, held.floor + at as Seq, held.rows[at].id);
                    }
                }
            }
        });
        if written {
            // Whether the process lives to see it or not.
            world.note_let_go(m, &let_go);
        }
        match outcome? {
            Commit::Done => self.appended(world, m, &readings, &events, !let_go.is_empty())?,
            Commit::Failed => {
                (self.readings, self.events) = (readings, events);
                self.append_later(world, m)?;
            }
            Commit::InDoubt => {
                if world.switches.rules.epoch_after_doubt {
                    self.begin_epoch(world, m);
                } else if written {
                    // As far as the process knows, these numbers are still to be given.
                    self.doubtful = [events.len(), readings.len()];
                }
                // An alert may come twice instead; it is another row then.
                let mut truth = world.truth.borrow_mut();
                for (id, boot_ms) in events {
                    let again = truth.facts[id].clone();
                    self.events.push((truth.measure(again.time_ms, again.poison), boot_ms));
                }
                drop(truth);
                if !world.switches.rules.doubt_is_refused {
                    self.readings = readings;
                }
                self.append_later(world, m)?;
            }
        }
        Ok(())
    }

    fn append_later(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        let nothing = self.readings.is_empty() && self.events.is_empty();
        if !(self.commit_planned || nothing) {
            self.commit_planned = true;
            let life = world.machines[m].life;
            world.after(world.plan.commit_interval_ms.max(100), What::Commit(m, life));
        }
        Ok(())
    }

    pub(super) fn appended(
        &mut self,
        world: &mut World,
        m: usize,
        readings: &[(usize, i64)],
        events: &[(usize, i64)],
        floors_moved: bool,
    ) -> Result<(), Killed> {
        let mut truth = world.truth.borrow_mut();
        for (id, _) in readings.iter().chain(events) {
            // Refused for want of room: it has no row.
            let fact = &mut truth.facts[*id];
            fact.accepted = fact.row.is_some();
        }
        drop(truth);
        let image = &world.machines[m].image;
        self.outbox.learn_rows(image);
        let now = world.boottime(m);
        if world.switches.rules.epoch_before_streams {
            self.follow_epoch(world, m);
        }
        let image = &world.machines[m].image;
        if floors_moved || std::mem::take(&mut self.streams_changed) {
            self.engine.handle_streams(&self.outbox.streams(image));
        }
        if !world.switches.rules.epoch_before_streams {
            self.pump(world, m)?;
            self.follow_epoch(world, m);
        }
        let image = &world.machines[m].image;
        let epoch = self.outbox.current.epoch;
        let row = image.epoch(epoch);
        for stream in [Stream::Events, Stream::Readings] {
            if let Some(held) = row.and_then(|row| row.held(stream)) {
                self.engine.handle_appended(now, StreamKey { epoch, stream }, held.last());
            }
        }
        Ok(())
    }

    /// What the driver does twice a second, and the model before each commit.
    pub(super) fn tell_acked(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        if let Some((skew_ms, rtt)) = self.time_owed.take() {
            self.learn_time(world, m, skew_ms, rtt)?;
        }
        self.outbox.set_acked(&self.engine.acked_streams());
        self.save_if_back(world, m)
    }

    pub(super) fn trim(&mut self, world: &mut World, m: usize) -> Result<(), Killed> {
        self.tell_acked(world, m)?;
        let wall_ms = world.clock_of(m).wall_ms;
        let mut let_go = LetGo::new();
        // Nothing to let go costs no commit.
        let mut dry = world.machines[m].image.clone();
        let age = |row: &crate::outbox::EpochRow, at: crate::outbox::Row| {
            wall_ms - (row.base.map_or(row.wall_ms, |(base, _)| base) + at.offset_ms)
        };
        self.outbox.trim(&mut dry, age, &mut let_go);
        if let_go.is_empty() {
            return Ok(());
        }
        let mut written = false;
        let outcome = world.write(m, |image| {
            *image = dry;
            written = true;
        });
        if written {
            world.note_let_go(m, &let_go);
        }
        outcome?;
        self.follow_epoch(world, m);
        // Also after an error: the commit may have happened.
        let streams: Vec<StreamInfo> = self.outbox.streams(&world.machines[m].image);
        self.engine.handle_streams(&streams);
        Ok(())
    }
}

impl World {
    /// Rows that a gateway let go: rightly?
    fn note_let_go(&mut self, m: usize, let_go: &LetGo) {
        for &(key, lo, hi, lost) in let_go {
            note!(
                self,
                "gateway {m} lets {} {lo}-{hi} go{}",
                told(key),
                if lost { ", dropped" } else { "" }
            );
            let machine = &self.machines[m];
            if machine.image.trusts.is_some_and(|store| store != crate::store::TRUSTED) {
                continue;
            }
            self.truth.borrow_mut().purge(key, lo, hi, lost);
            self.judge_purge(m, key, lo, hi, lost);
        }
    }
}
