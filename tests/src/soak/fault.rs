//! The faults: which, how long, and how each is mended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fieldpost_demo::judge::read_only;
use rusqlite::Connection;

use super::account::{self, Account};
use crate::proxy::{End, Proxy};
use crate::wired::Wired;

/// The installation and its account.
pub(super) struct Soaked {
    pub(super) wired: Wired,
    pub(super) account: Account,
    pub(super) rate: f64,
}

/// What can go wrong; several may at once, unless they concern the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    GatewayKilled,
    BridgeKilled,
    BrokerKilled,
    AllKilled,
    BrokerStopped,
    NearStalled,
    FarStalled,
    Cut,
    StorageLocked,
    Unplugged,
}

const ALL: [Fault; 10] = [
    Fault::GatewayKilled,
    Fault::BridgeKilled,
    Fault::BrokerKilled,
    Fault::AllKilled,
    Fault::BrokerStopped,
    Fault::NearStalled,
    Fault::FarStalled,
    Fault::Cut,
    Fault::StorageLocked,
    Fault::Unplugged,
];

/// Milliseconds from one fault to the next.
const GAP_MS: std::ops::Range<u64> = 300..6_000;

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::GatewayKilled => "gateway killed",
            Fault::BridgeKilled => "bridge killed",
            Fault::BrokerKilled => "broker killed",
            Fault::AllKilled => "all three killed",
            Fault::BrokerStopped => "broker stopped",
            Fault::NearStalled => "gateway's network stalled",
            Fault::FarStalled => "bridge's network stalled",
            Fault::Cut => "connections cut",
            Fault::StorageLocked => "storage locked",
            Fault::Unplugged => "port unplugged",
        }
    }

    /// How long, milliseconds: for some so short that nobody has noticed, for others longer than
    /// every time-out that the programs have for it.
    fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            Fault::GatewayKilled | Fault::AllKilled => 0..3_000,
            Fault::BridgeKilled => 0..8_000,
            Fault::BrokerKilled | Fault::BrokerStopped => 0..10_000,
            Fault::NearStalled | Fault::FarStalled => 500..15_000,
            Fault::Cut => 0..1,
            Fault::StorageLocked => 500..15_000,
            Fault::Unplugged => 0..3_000,
        }
    }

    /// What it concerns.
    fn subjects(self) -> &'static [&'static str] {
        match self {
            Fault::GatewayKilled => &["gateway"],
            Fault::BridgeKilled => &["bridge"],
            Fault::BrokerKilled | Fault::BrokerStopped => &["broker"],
            Fault::AllKilled => &["gateway", "bridge", "broker"],
            Fault::NearStalled => &["near"],
            Fault::FarStalled => &["far"],
            Fault::Cut => &[],
            Fault::StorageLocked => &["storage"],
            Fault::Unplugged => &["port"],
        }
    }
}

struct Active {
    fault: Fault,
    until: Instant,
    /// Holds the writer's lock of the storage.
    lock: Option<Connection>,
}

/// What has begun and not ended, and what is to come.
pub(super) struct Faults {
    random: fastrand::Rng,
    active: Vec<Active>,
    counts: BTreeMap<Fault, u64>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        let random = fastrand::Rng::with_seed(seed);
        Faults { random, active: Vec::new(), counts: BTreeMap::new() }
    }

    /// How many so far.
    pub(super) fn begun(&self) -> u64 {
        self.counts.values().sum()
    }

    /// In words, what holds now.
    pub(super) fn active(&self) -> String {
        let names: Vec<&str> = self.active.iter().map(|active| active.fault.name()).collect();
        if names.is_empty() { String::new() } else { format!("  ({})", names.join(", ")) }
    }

    /// In words, what there was.
    pub(super) fn summary(&self) -> String {
        let words = self.counts.iter().map(|(fault, n)| format!("{} {n}", fault.name()));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Begins one, if none of what it concerns is in trouble already. Returns when the next is due.
    pub(super) fn begin_one(&mut self, soaked: &mut Soaked) -> anyhow::Result<Duration> {
        // All of them are drawn, whatever is made of it: the seed decides, not the machine.
        let fault = ALL[self.random.usize(..ALL.len())];
        let lasts = Duration::from_millis(self.random.u64(fault.lasts_ms()));
        let reset = self.random.bool();
        let gap = Duration::from_millis(self.random.u64(GAP_MS));
        let taken =
            |subject| self.active.iter().any(|active| active.fault.subjects().contains(subject));
        if fault.subjects().iter().any(taken) {
            return Ok(gap);
        }
        let lock = soaked.begin(fault, reset).with_context(|| fault.name())?;
        *self.counts.entry(fault).or_default() += 1;
        self.active.push(Active { fault, until: Instant::now() + lasts, lock });
        Ok(gap)
    }

    /// Ends those whose time has come.
    pub(super) fn heal_due(&mut self, soaked: &mut Soaked) -> anyhow::Result<()> {
        let now = Instant::now();
        self.heal(soaked, |active| active.until <= now)?;
        if let Some((name, status)) = soaked.wired.rig.world.ended()? {
            anyhow::bail!("the {name} has ended by itself: {status}; its log says why");
        }
        Ok(())
    }

    /// Ends all.
    pub(super) fn heal_all(&mut self, soaked: &mut Soaked) -> anyhow::Result<()> {
        self.heal(soaked, |_| true)
    }

    fn heal(&mut self, soaked: &mut Soaked, due: impl Fn(&Active) -> bool) -> anyhow::Result<()> {
        let (over, rest) = std::mem::take(&mut self.active).into_iter().partition(|one| due(one));
        self.active = rest;
        let over: Vec<Active> = over;
        for Active { fault, lock, .. } in over {
            drop(lock);
            soaked.end(fault).with_context(|| format!("the end of: {}", fault.name()))?;
        }
        Ok(())
    }
}

impl Soaked {
    fn begin(&mut self, fault: Fault, reset: bool) -> anyhow::Result<Option<Connection>> {
        let Wired { rig, mosquitto, near, far } = &mut self.wired;
        match fault {
            Fault::GatewayKilled => self.kill_gateway()?,
            Fault::BridgeKilled => rig.world.bridge.take().context("it runs")?.kill()?,
            Fault::BrokerKilled => mosquitto.kill()?,
            Fault::AllKilled => {
                rig.world.bridge.take().context("it runs")?.kill()?;
                mosquitto.kill()?;
                self.kill_gateway()?;
            }
            Fault::BrokerStopped => mosquitto.stop()?,
            Fault::NearStalled => stall(near, reset),
            Fault::FarStalled => stall(far, reset),
            Fault::Cut => {
                let end = if reset { End::Rst } else { End::Fin };
                near.cut_now(end);
                far.cut_now(end);
            }
            Fault::StorageLocked => {
                let lock = Connection::open(rig.world.storage())?;
                lock.busy_timeout(Duration::from_secs(10))?;
                lock.execute_batch("BEGIN IMMEDIATE")?;
                return Ok(Some(lock));
            }
            Fault::Unplugged => {
                rig.board = None;
                self.account.lost_lines_at(rig.ledger.len());
            }
        }
        Ok(None)
    }

    fn end(&mut self, fault: Fault) -> anyhow::Result<()> {
        let Wired { rig, mosquitto, near, far } = &mut self.wired;
        match fault {
            Fault::GatewayKilled => rig.world.start_gateway()?,
            Fault::BridgeKilled => rig.world.start_bridge()?,
            Fault::BrokerKilled | Fault::BrokerStopped => mosquitto.run()?,
            Fault::AllKilled => {
                rig.world.start_gateway()?;
                mosquitto.run()?;
                rig.world.start_bridge()?;
            }
            Fault::NearStalled => near.heal(),
            Fault::FarStalled => far.heal(),
            Fault::Cut | Fault::StorageLocked => {}
            Fault::Unplugged => rig.plug(self.rate)?,
        }
        Ok(())
    }

    /// What the outbox had is read before and after: the file may have grown in between.
    fn kill_gateway(&mut self) -> anyhow::Result<()> {
        let world = &mut self.wired.rig.world;
        self.account.look()?;
        self.account.hear(&world.dir().join("status.json"));
        world.gateway.take().context("it runs")?.kill()?;
        self.account.look()?;
        self.account.lost_lines_at(self.wired.rig.ledger.len());
        Ok(())
    }

    /// How far it is.
    pub(super) fn progress(&mut self) -> anyhow::Result<String> {
        self.account.look()?;
        let rig = &self.wired.rig;
        let stored = account::stored(rig)?;
        let missing = "SELECT coalesce(sum(n), 0) FROM missing WHERE stream = 'readings'";
        let missing: i64 =
            read_only(&rig.world.storage())?.query_row(missing, [], |row| row.get(0))?;
        let (sent, accepted) = (rig.ledger.len(), self.account.accepted());
        // The look came first: a row may be accepted and stored since.
        let waiting = accepted.saturating_sub(stored);
        Ok(format!(
            "{sent:>8} sent {accepted:>8} accepted {stored:>8} stored {waiting:>6} waiting {missing:>3} missing"
        ))
    }
}

/// Nothing moves any more, in both directions or in one.
fn stall(network: &Proxy, both: bool) {
    network.change(|conditions| conditions.stalled = [true, both]);
}
