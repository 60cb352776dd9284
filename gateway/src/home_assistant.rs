//! MQTT discovery of Home Assistant: which entries there are to be, and which of them are to be
//! published next. Pure: the driver publishes, and writes down what it will publish.
//!
//! ```text
//! live value --see--> entity --due--> noted in the outbox --> published, retained
//! turned off, another prefix, another kind --gone--> published empty --> struck off in the outbox
//! ```
//!
//! A broker may forbid all this: by silence, or by ending the connection. The first is not noticed;
//! after the second, twice in a row, the entries are set aside for an hour, so that readings go on.

mod entry;
#[cfg(test)]
mod tests;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fieldpost_protocol::Metrics;

pub(crate) use entry::About;
use entry::{Kind, Name};

/// Entries of a gateway, also those of earlier starts: a board that invents names fills no broker.
const ENTRIES_MAX: usize = 512;
/// Entries published between two ticks of the driver.
const PER_TICK: usize = 16;
/// Home Assistant's advice: not everybody in the same moment.
const SPREAD: Duration = Duration::from_secs(5);
/// However often it says that it is back.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Connections that ended with an entry on its way, in a row.
const STRIKES_MAX: u32 = 2;
/// How long the entries are set aside then.
const ASIDE: Duration = Duration::from_secs(3_600);
/// ... and after the outbox could not be written.
const NOTE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// One entry to be published, retained; empty to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    /// `None`: turned off.
    about: Option<About>,
    /// What was seen on the live topics.
    entities: BTreeMap<Name, Kind>,
    due: BTreeSet<Name>,
    gone: BTreeSet<String>,
    /// What the outbox has down, and with it the broker, perhaps.
    noted: BTreeSet<String>,
    /// Removed at the broker; not struck off yet.
    removed: Vec<String>,
    /// Whose entry, or that of which nothing is to be left.
    on_its_way: Option<(String, Option<Name>)>,
    /// The broker was asked to tell of Home Assistant on this connection.
    asked: bool,
    budget: usize,
    /// All of them at this moment: Home Assistant is back.
    again_at: Option<Duration>,
    last_again: Option<Duration>,
    strikes: u32,
    aside_until: Option<Duration>,
    full_told: bool,
}

impl Announcer {
    /// `noted`: what earlier starts may have published.
    pub(crate) fn new(about: Option<About>, noted: Vec<String>) -> Self {
        let mut announcer = Announcer { noted: noted.into_iter().collect(), ..Self::default() };
        announcer.change(about);
        announcer
    }

    /// Another configuration: what is the same is not published again.
    pub(crate) fn change(&mut self, about: Option<About>) {
        let stays = |topic: &String| {
            let prefix = about.as_ref().map(|about| format!("{}/", about.prefix));
            prefix.is_some_and(|prefix| topic.starts_with(&prefix))
        };
        self.gone.extend(self.noted.iter().filter(|topic| !stays(topic)).cloned());
        self.gone.retain(|topic| !stays(topic));
        if about != self.about {
            self.about = about;
            self.asked = false;
            self.due_all();
        }
    }

    /// A connection: the broker may have lost everything.
    pub(crate) fn handle_connected(&mut self) {
        self.on_its_way = None;
        self.asked = false;
        self.due_all();
    }

    /// Its end. True: the entries are the likely reason, and are set aside.
    pub(crate) fn handle_disconnected(&mut self, now: Duration) -> bool {
        if self.on_its_way.take().is_none() {
            return false;
        }
        self.strikes += 1;
        if self.strikes < STRIKES_MAX {
            return false;
        }
        // One more then is enough.
        self.strikes = STRIKES_MAX - 1;
        self.aside_until = Some(now + ASIDE);
        true
    }

    /// What has just been published live.
    pub(crate) fn see(&mut self, source: &str, values: &Metrics) {
        if self.about.is_none() {
            return;
        }
        for (metric, value) in values.iter() {
            let Some(seen) = Kind::of(value) else { continue };
            let name = (source.to_owned(), metric.to_string());
            let before = self.entities.get(&name).copied();
            let kind = before.map_or(seen, |before| before.and(seen));
            if before == Some(kind) || (before.is_none() && self.entities.len() >= ENTRIES_MAX) {
                continue;
            }
            let topic_of = |kind| self.about.as_ref().and_then(|about| about.topic(&name, kind));
            if let Some(old) =
                before.and_then(topic_of).filter(|old| Some(old) != topic_of(kind).as_ref())
            {
                self.gone.insert(old);
            }
            self.entities.insert(name.clone(), kind);
            self.due.insert(name);
        }
    }

    /// Where Home Assistant says that it is back, to be subscribed to: once on a connection.
    pub(crate) fn take_filter(&mut self) -> Option<String> {
        let about = self.about.as_ref().filter(|_| !self.asked)?;
        self.asked = true;
        Some(about.status_topic())
    }

    /// A message is Home Assistant's word about itself.
    pub(crate) fn is_status(&self, topic: &str) -> bool {
        self.about.as_ref().is_some_and(|about| about.status_topic() == topic)
    }

    /// It says `online`: all entries once more, after a random share (0 to 1) of five seconds.
    pub(crate) fn handle_online(&mut self, now: Duration, share: f64) {
        if self.again_at.is_none() {
            let earliest = self.last_again.map_or(now, |last| now.max(last + AGAIN_AFTER));
            self.again_at = Some(earliest + SPREAD.mul_f64(share));
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.budget = PER_TICK;
        if self.again_at.is_some_and(|at| now >= at) {
            (self.again_at, self.last_again) = (None, Some(now));
            self.due_all();
        }
        if self.aside_until.is_some_and(|until| now >= until) {
            self.aside_until = None;
        }
    }

    /// The topics to be written down before anything is published to them.
    pub(crate) fn to_note(&self) -> Vec<String> {
        let Some(about) = self.about.as_ref().filter(|_| self.aside_until.is_none()) else {
            return Vec::new();
        };
        let topic = |name: &Name| about.topic(name, *self.entities.get(name)?);
        let new = self.due.iter().filter_map(topic).filter(|topic| !self.noted.contains(topic));
        new.take(ENTRIES_MAX.saturating_sub(self.noted.len())).collect()
    }

    /// They are.
    pub(crate) fn handle_noted(&mut self, topics: Vec<String>) {
        self.noted.extend(topics);
    }

    /// They are not: the disk refused.
    pub(crate) fn handle_not_noted(&mut self, now: Duration) {
        self.aside_until = Some(now + NOTE_AGAIN_AFTER);
    }

    /// The topics to be struck off, once nothing is left to be removed.
    pub(crate) fn take_removed(&mut self) -> Vec<String> {
        let noted = &self.noted;
        self.removed.retain(|topic| !noted.contains(topic));
        let quiet = self.gone.is_empty() && self.on_its_way.is_none();
        if quiet { std::mem::take(&mut self.removed) } else { Vec::new() }
    }

    /// The next entry; one is on its way at a time. What has no room or no topic is passed over, and
    /// the first time that happens is told.
    pub(crate) fn next(&mut self) -> Option<Entry> {
        if self.on_its_way.is_some() || self.budget == 0 || self.aside_until.is_some() {
            return None;
        }
        let removal = self.gone.first().cloned();
        let entry = match removal {
            Some(topic) => (Entry { topic, payload: Vec::new() }, None),
            None => self.next_due().map(|(entry, name)| (entry, Some(name)))?,
        };
        self.budget -= 1;
        self.on_its_way = Some((entry.0.topic.clone(), entry.1));
        Some(entry.0)
    }

    fn next_due(&mut self) -> Option<(Entry, Name)> {
        while let Some(name) = self.due.pop_first() {
            let (Some(about), Some(kind)) = (&self.about, self.entities.get(&name)) else {
                continue;
            };
            let topic = about.topic(&name, *kind).filter(|topic| self.noted.contains(topic));
            match topic {
                Some(topic) => {
                    let payload = about.payload(&name, *kind);
                    return Some((Entry { topic, payload }, name));
                }
                None if self.full_told => {}
                None => {
                    self.full_told = true;
                    tracing::warn!(
                        source = name.0,
                        metric = name.1,
                        "not announced to Home Assistant: there are {ENTRIES_MAX} entries already, or the names are too \
                         long. To begin anew without those of metrics that are gone: [home_assistant] enabled = false, \
                         start, and true again"
                    );
                }
            }
        }
        None
    }

    /// The connection did not take it: at the next tick.
    pub(crate) fn handle_not_taken(&mut self) {
        self.budget = 0;
        if let Some((_, Some(name))) = self.on_its_way.take() {
            self.due.insert(name);
        }
    }

    /// The broker has it.
    pub(crate) fn handle_puback(&mut self) {
        self.strikes = 0;
        let Some((topic, name)) = self.on_its_way.take() else { return };
        // Wanted again meanwhile: then it is due.
        if name.is_none() && self.gone.remove(&topic) {
            self.noted.remove(&topic);
            self.removed.push(topic);
        }
    }

    fn due_all(&mut self) {
        self.due = match self.about {
            Some(_) => self.entities.keys().cloned().collect(),
            None => BTreeSet::new(),
        };
    }
}
