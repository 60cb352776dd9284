//! A model of the outbox: what is on the card, and what a process knows of it.
//!
//! It does what `fieldpost_gateway::outbox` does, on rows instead of pages; the real one has
//! its own tests on SQLite.

mod image;

use std::collections::BTreeMap;

use fieldpost_gateway::outbox::{StreamInfo, Trusted};
use fieldpost_protocol::{Clock, Epoch, Seq, Stream, StreamKey};

use crate::mutants::Rules;

use image::Held;
pub use image::{EpochRow, Image, Row};

/// The clocks of a machine, as the product's `Now`.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub boot_ms: i64,
    pub wall_ms: i64,
    pub synchronised: bool,
}

impl Now {
    pub fn skew_ms(self) -> i64 {
        self.wall_ms - self.boot_ms
    }
}

/// How it is kept; in rows instead of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub seal_rows: usize,
    pub rows_max: usize,
    pub drop_oldest: bool,
    pub retention_ms: i64,
    pub retention_rows: usize,
    pub tombstones_max: usize,
}

/// The epoch that the process appends to.
#[derive(Debug, Clone, Copy)]
pub struct Current {
    pub epoch: Epoch,
    pub boot: u64,
    pub start: Now,
    pub base: Option<(i64, Clock)>,
}

/// What a process knows.
pub struct Outbox {
    pub current: Current,
    acked: BTreeMap<StreamKey, Seq>,
    confirmed: BTreeMap<StreamKey, Seq>,
    /// Last rows as the process knows them: after a commit in doubt the card may hold more.
    known: BTreeMap<StreamKey, Seq>,
    trusted: Option<Trusted>,
    pub limits: Limits,
    rules: Rules,
}

/// A batch before its envelope.
pub struct Batch {
    pub first: Seq,
    pub floor: Seq,
    pub last: Seq,
    pub base: Option<(i64, Clock)>,
    pub rows: Vec<Row>,
}

/// Rows that are let go: key, first, last, and whether nobody may have them.
pub type LetGo = Vec<(StreamKey, Seq, Seq, bool)>;

impl Outbox {
    pub fn new(current: Current, image: &Image, limits: Limits, rules: Rules) -> Outbox {
        let acked = image
            .streams()
            .map(|(key, held)| (key, held.saved_acked.max(held.floor - 1)))
            .collect();
        let (confirmed, known) = (BTreeMap::new(), BTreeMap::new());
        let trusted = image.trusted;
        Outbox { current, acked, confirmed, known, trusted, limits, rules }
    }

    /// What opening does to the card, in one go: clocks of earlier boots, tails of earlier epochs.
    pub fn recover(&self, image: &mut Image, now: Now) {
        for row in &mut image.epochs {
            if row.base.is_none()
                && row.boot != self.current.boot
                && self.rules.other_boot_is_unsynced
            {
                row.base = Some((row.wall_ms, Clock::Unsynced));
            }
        }
        if now.synchronised {
            self.fix_bases(image, now.skew_ms(), Clock::Ntp);
        }
        self.seal_old_tails(image);
    }

    pub fn fix_bases(&self, image: &mut Image, skew_ms: i64, clock: Clock) {
        for row in &mut image.epochs {
            let mine = row.boot == self.current.boot || !self.rules.other_boot_is_unsynced;
            if row.base.is_none() && mine {
                row.base = Some((row.start_ms + skew_ms, clock));
            }
        }
    }

    pub fn learn_base(&mut self, skew_ms: i64, clock: Clock) {
        self.current.base.get_or_insert((self.current.start.boot_ms + skew_ms, clock));
    }

    pub fn seal_old_tails(&self, image: &mut Image) {
        let current = self.current.epoch;
        for row in image.epochs.iter_mut().filter(|row| row.epoch != current) {
            if let Some(held) = &mut row.streams[1] {
                let last = held.last();
                if held.tail_from() <= last {
                    held.seals.push_back(last);
                }
            }
        }
    }

    /// Reads from the card what each stream holds.
    pub fn streams(&mut self, image: &Image) -> Vec<StreamInfo> {
        self.known = image.streams().map(|(key, held)| (key, held.last())).collect();
        let mut all: Vec<StreamInfo> = image
            .streams()
            .map(|(key, held)| {
                let (floor, last) = (held.floor, held.last());
                StreamInfo { key, floor, last, acked: self.acked_of(key, held) }
            })
            .collect();
        for &(key, last) in &image.tombstones {
            all.push(StreamInfo { key, floor: last + 1, last, acked: last });
        }
        all
    }

    fn acked_of(&self, key: StreamKey, held: &Held) -> Seq {
        self.acked.get(&key).copied().unwrap_or(0).clamp(held.floor - 1, held.last())
    }

    /// Whether storage has an event; what is no longer held, it has.
    pub fn is_told(&self, image: &Image, (epoch, seq): (Epoch, Seq)) -> bool {
        let key = StreamKey { epoch, stream: Stream::Events };
        image.held(key).is_none_or(|held| seq <= self.acked_of(key, held))
    }

    /// The rows of the current epoch that a commit has made.
    pub fn learn_rows(&mut self, image: &Image) {
        let epoch = self.current.epoch;
        let mine = image.streams().filter(|(key, _)| key.epoch == epoch);
        self.known.extend(mine.map(|(key, held)| (key, held.last())));
    }

    /// Whether the clock was set since the epoch began.
    pub fn stepped(&self, now: Now) -> bool {
        (now.skew_ms() - self.current.start.skew_ms()).abs() > 1_000
            && self.rules.clock_step_is_noticed
    }

    /// Makes room, then appends; returns how many readings were refused. `ids` with their
    /// moments of boot time.
    pub fn append(
        &self,
        image: &mut Image,
        readings: &[(usize, i64)],
        events: &[(usize, i64)],
        let_go: &mut LetGo,
    ) -> usize {
        let mut refused = 0;
        while image.count() + readings.len() > self.limits.rows_max {
            if !self.drop_segment(image, let_go) {
                refused = readings.len();
                break;
            }
        }
        let readings = if refused > 0 { &[] } else { readings };
        if readings.is_empty() && events.is_empty() {
            return refused;
        }
        let Current { epoch, boot, start, base } = self.current;
        if image.epoch(epoch).is_none() {
            let (start_ms, wall_ms) = (start.boot_ms, start.wall_ms);
            image.epochs.push(EpochRow {
                epoch,
                boot,
                start_ms,
                wall_ms,
                base,
                streams: [None, None],
            });
        }
        let row = image.epochs.iter_mut().find(|row| row.epoch == epoch).expect("it was just made");
        let to_row = |&(id, boot_ms): &(usize, i64)| Row { id, offset_ms: boot_ms - start.boot_ms };
        if !events.is_empty() {
            row.held_mut(Stream::Events).rows.extend(events.iter().map(to_row));
        }
        let mut sealed = false;
        if !readings.is_empty() {
            let held = row.held_mut(Stream::Readings);
            held.rows.extend(readings.iter().map(to_row));
            while held.last() + 1 - held.tail_from() >= self.limits.seal_rows as Seq {
                held.seals.push_back(held.tail_from() + self.limits.seal_rows as Seq - 1);
                sealed = true;
            }
        }
        if sealed {
            self.save_acked(image);
        }
        refused
    }

    pub fn save_acked(&self, image: &mut Image) {
        for row in &mut image.epochs {
            for (stream, held) in
                [Stream::Events, Stream::Readings].into_iter().zip(&mut row.streams)
            {
                let key = StreamKey { epoch: row.epoch, stream };
                if let Some(held) = held {
                    held.saved_acked = self.acked_of(key, held);
                }
            }
        }
    }

    /// Storage has lost what the card says it has.
    pub fn must_save_back(&self, image: &Image) -> bool {
        self.rules.acked_back_is_persisted
            && image
                .streams()
                .any(|(key, held)| self.acked_of(key, held) < held.saved_acked.max(held.floor - 1))
    }

    pub fn set_acked(&mut self, acked: &[(StreamKey, Seq)]) {
        self.acked.extend(acked.iter().copied());
    }

    pub fn set_confirmed(&mut self, confirmed: &[(StreamKey, Seq)]) {
        self.confirmed.extend(confirmed.iter().copied());
        self.acked.extend(confirmed.iter().copied());
    }

    pub fn trust(&mut self, trusted: Trusted) {
        self.trusted = Some(trusted);
        if self.rules.gen_change_forgets && self.rules.gen_forgets_at_once {
            self.confirmed.clear();
            self.acked.clear();
        }
    }

    /// What is trusted, if it is not written down yet.
    pub fn owed_trust(&self, image: &Image) -> Option<Trusted> {
        self.trusted.filter(|trusted| image.heard_gen != trusted.r#gen)
    }

    /// The oldest acked segment, or with `drop_oldest` the oldest of all.
    fn drop_segment(&self, image: &mut Image, let_go: &mut LetGo) -> bool {
        let mut chosen = None;
        for (at, row) in image.epochs.iter().enumerate() {
            let Some(held) = row.held(Stream::Readings) else { continue };
            let Some(&seal) = held.seals.front() else { continue };
            let key = StreamKey { epoch: row.epoch, stream: Stream::Readings };
            if seal <= self.acked_of(key, held) {
                chosen = Some((at, false));
                break;
            }
            if self.limits.drop_oldest && chosen.is_none() {
                chosen = Some((at, true));
            }
        }
        let Some((at, lost)) = chosen else { return false };
        let key = StreamKey { epoch: image.epochs[at].epoch, stream: Stream::Readings };
        let held = image.epochs[at].held_mut(Stream::Readings);
        let seal = held.seals.pop_front().expect("it has one");
        self.cut(held, key, seal, lost, let_go);
        true
    }

    fn cut(&self, held: &mut Held, key: StreamKey, last: Seq, lost: bool, let_go: &mut LetGo) {
        let_go.push((key, held.floor, last, lost));
        held.rows.drain(..(last + 1 - held.floor) as usize);
        held.floor = last + 1;
        if held.rows.is_empty() && !self.rules.last_survives {
            held.floor = 1;
        }
    }

    /// Lets go by age and size, by contiguous prefix; buries epochs that are empty.
    pub fn trim(
        &self,
        image: &mut Image,
        now_unix: impl Fn(&EpochRow, Row) -> i64,
        let_go: &mut LetGo,
    ) {
        let mut retained: usize = image
            .streams()
            .filter(|(key, _)| key.stream == Stream::Readings)
            .map(|(key, held)| {
                let may_go =
                    held.seals.iter().take_while(|&&seal| self.may_go(key, held, seal)).last();
                may_go.map_or(0, |seal| (seal + 1 - held.floor) as usize)
            })
            .sum();
        for at in 0..image.epochs.len() {
            let row = image.epochs[at].clone();
            let age =
                |held: &Held, seq: Seq| now_unix(&row, held.rows[(seq - held.floor) as usize]);
            let key = StreamKey { epoch: row.epoch, stream: Stream::Readings };
            if let Some(held) = &mut image.epochs[at].streams[1] {
                while let Some(&seal) = held.seals.front() {
                    let rows = (seal + 1 - held.floor) as usize;
                    let old = age(held, seal) > self.limits.retention_ms;
                    let due = old || retained > self.limits.retention_rows;
                    if !due || !self.may_go(key, held, seal) {
                        break;
                    }
                    retained -= rows.min(retained);
                    held.seals.pop_front();
                    self.cut(held, key, seal, false, let_go);
                }
            }
            let key = StreamKey { epoch: row.epoch, stream: Stream::Events };
            if let Some(held) = &mut image.epochs[at].streams[0] {
                while !held.rows.is_empty()
                    && age(held, held.floor) > self.limits.retention_ms
                    && self.may_go(key, held, held.floor)
                {
                    let last = held.floor;
                    self.cut(held, key, last, false, let_go);
                }
            }
        }
        if !let_go.is_empty() {
            self.save_acked(image);
            self.bury(image);
        }
    }

    fn may_go(&self, key: StreamKey, held: &Held, last: Seq) -> bool {
        let confirmed = self.confirmed.get(&key).copied().unwrap_or(0);
        last <= self.acked_of(key, held)
            && (last <= confirmed || !self.rules.purge_needs_confirmation)
    }

    fn bury(&self, image: &mut Image) {
        let current = self.current.epoch;
        let (gone, kept): (Vec<EpochRow>, Vec<EpochRow>) = std::mem::take(&mut image.epochs)
            .into_iter()
            .partition(|row| row.epoch != current && row.is_empty());
        image.epochs = kept;
        for row in gone {
            for stream in [Stream::Events, Stream::Readings] {
                let key = StreamKey { epoch: row.epoch, stream };
                if let Some(held) = row.held(stream).filter(|held| held.last() > 0) {
                    image.tombstones.push_back((key, held.last()));
                }
            }
        }
        while image.tombstones.len() > self.limits.tombstones_max {
            image.tombstones.pop_front();
        }
    }

    /// The batch that begins at `from`: the rest of its segment, or rows of the tail.
    pub fn read(&self, image: &Image, key: StreamKey, from: Seq, rows_max: usize) -> Option<Batch> {
        let row = image.epoch(key.epoch)?;
        let held = row.held(key.stream)?;
        let last = held.last().min(self.known.get(&key).copied().unwrap_or(0));
        if from < held.floor || from > last {
            return None;
        }
        let end = match key.stream {
            Stream::Events => from,
            Stream::Readings => {
                held.seals.iter().copied().find(|seal| *seal >= from).unwrap_or(held.last())
            }
        };
        let end = end.min(from + rows_max.max(1) as Seq - 1).min(last);
        let rows = (from..=end).map(|seq| held.rows[(seq - held.floor) as usize]).collect();
        Some(Batch { first: from, floor: held.floor, last, base: row.base, rows })
    }
}
