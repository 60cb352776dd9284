//! What may go wrong in one history: each kind of fault is there or not, and how often, drawn
//! from the seed (histories in which everything fails at once find less than many that each
//! have a few faults).

use fieldpost_protocol::HELLO_STREAMS_MAX;

use crate::dice::Dice;
use crate::outbox::Limits;

/// Something that happens to the world from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    KillGateway,
    StopGateway,
    PowerCut,
    WipeCard,
    SaveImage,
    RestoreImage,
    CloneCard,
    DiskFails,
    KillBridge,
    StorageFails,
    Backup,
    RestoreAnnounced,
    RestoreSilently,
    OtherStore,
    EmptyStore,
    Migrate,
    RestartBroker,
    StopBroker,
    LoseGateway,
    StallGateway,
    StallBridge,
    DenyBatches,
    DenyHellos,
    DenyAcks,
    SetClock,
    SyncClock,
    SetBridgeClock,
    ForgeAck,
}

use Action::*;

/// With how often each happens where it happens at all.
const ACTIONS: &[(Action, i64)] = &[
    (KillGateway, 4),
    (StopGateway, 2),
    (PowerCut, 3),
    (WipeCard, 1),
    (SaveImage, 2),
    (RestoreImage, 1),
    (CloneCard, 1),
    (DiskFails, 2),
    (KillBridge, 4),
    (StorageFails, 2),
    (Backup, 3),
    (RestoreAnnounced, 1),
    (RestoreSilently, 1),
    (OtherStore, 1),
    (EmptyStore, 1),
    (Migrate, 1),
    (RestartBroker, 3),
    (StopBroker, 1),
    (LoseGateway, 3),
    (StallGateway, 2),
    (StallBridge, 2),
    (DenyBatches, 1),
    (DenyHellos, 1),
    (DenyAcks, 1),
    (SetClock, 1),
    (SyncClock, 2),
    (SetBridgeClock, 1),
    (ForgeAck, 3),
];

/// Changes a plan, so that something rare happens in it.
pub type Scenario = fn(&mut Plan);

/// See the module. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct Plan {
    pub faulty_ms: i64,
    pub devices: usize,
    pub bridges: usize,
    pub one_writer: bool,
    pub measure_every_ms: i64,
    pub commit_interval_ms: i64,
    pub publish_interval_ms: u64,
    pub batch_max: usize,
    pub hello_streams_max: usize,
    pub trim_every_ms: i64,
    pub limits: Limits,
    pub delay_ms: (i64, i64),
    pub reorder: bool,
    pub lose: f64,
    pub duplicate: f64,
    /// A duplicate may come so much later.
    pub duplicate_late_ms: i64,
    pub queue_max: usize,
    pub window: usize,
    pub kill_effect: f64,
    pub disk_fails: f64,
    pub txn_fails: f64,
    pub txn_ambiguous: f64,
    pub txn_ms: i64,
    pub txn_messages_max: usize,
    pub gap: f64,
    pub lying_card: f64,
    pub poison: f64,
    pub synchronised: bool,
    /// 0: nobody asks for anything.
    pub ask_every_ms: i64,
    /// ... under an id that was given before.
    pub id_reused: f64,
    pub board_ms: i64,
    pub board_silent: f64,
    pub board_remembers: bool,
    pub actions: Vec<(Action, i64)>,
    pub action_every_ms: i64,
}

impl Plan {
    /// No faults.
    pub fn calm() -> Plan {
        Plan {
            faulty_ms: 60_000,
            devices: 1,
            bridges: 1,
            one_writer: true,
            measure_every_ms: 1_000,
            commit_interval_ms: 1_000,
            publish_interval_ms: 1_000,
            batch_max: 4,
            hello_streams_max: HELLO_STREAMS_MAX,
            trim_every_ms: 60_000,
            limits: Limits {
                seal_rows: 8,
                rows_max: 10_000,
                drop_oldest: false,
                retention_ms: 7 * 86_400_000,
                retention_rows: 10_000,
                tombstones_max: 4_096,
            },
            delay_ms: (5, 40),
            reorder: false,
            lose: 0.0,
            duplicate: 0.0,
            duplicate_late_ms: 0,
            queue_max: 1_000,
            window: 20,
            kill_effect: 0.0,
            disk_fails: 0.0,
            txn_fails: 0.0,
            txn_ambiguous: 0.0,
            txn_ms: 20,
            txn_messages_max: 64,
            gap: 0.0,
            lying_card: 0.0,
            poison: 0.0,
            synchronised: true,
            ask_every_ms: 0,
            id_reused: 0.0,
            board_ms: 100,
            board_silent: 0.0,
            board_remembers: false,
            actions: Vec::new(),
            action_every_ms: 10_000,
        }
    }

    /// Drawn.
    pub fn swarm(dice: &Dice) -> Plan {
        let some = |probability: f64, most: f64| {
            if dice.chance(probability) { most * dice.between(1, 100) as f64 / 100.0 } else { 0.0 }
        };
        let actions = ACTIONS.iter().copied().filter(|_| dice.chance(0.35)).collect();
        let seal_rows = dice.between(2, 12) as usize;
        let short_retention = dice.chance(0.5);
        let slowest = dice.pick(&[20, 100, 500, 3_000]);
        // Now and then a few hours, with little happening: hourly hellos, and what waits ten minutes.
        let long = dice.chance(0.004);
        Plan {
            faulty_ms: if long { 9_000_000 } else { dice.pick(&[60_000, 120_000, 300_000]) },
            devices: if dice.chance(0.15) { 2 } else { 1 },
            bridges: dice.pick(&[1, 1, 2, 3]),
            one_writer: dice.chance(0.3),
            measure_every_ms: if long { 60_000 } else { dice.pick(&[500, 1_000, 3_000, 8_000]) },
            commit_interval_ms: dice.pick(&[0, 500, 2_000]),
            publish_interval_ms: dice.pick(&[0, 200, 1_000, 5_000]),
            batch_max: dice.between(1, 12) as usize,
            // Few, so that hellos have several pages; but never more pages than a bridge takes.
            hello_streams_max: match long {
                false => dice.pick(&[1, 2, 3, 5, HELLO_STREAMS_MAX]),
                true => HELLO_STREAMS_MAX,
            },
            trim_every_ms: dice.pick(&[5_000, 20_000, 60_000]),
            limits: Limits {
                seal_rows,
                rows_max: if dice.chance(0.3) {
                    seal_rows * dice.between(3, 10) as usize
                } else {
                    10_000
                },
                drop_oldest: dice.chance(0.3),
                retention_ms: if short_retention {
                    dice.pick(&[1_000, 20_000, 90_000])
                } else {
                    86_400_000
                },
                retention_rows: if dice.chance(0.3) {
                    dice.between(0, 30) as usize
                } else {
                    10_000
                },
                tombstones_max: 4_096,
            },
            delay_ms: (dice.between(0, 10), slowest),
            reorder: dice.chance(0.3),
            lose: some(0.4, 0.3),
            duplicate: some(0.4, 0.3),
            duplicate_late_ms: dice.pick(&[1_000, 60_000, 600_000]),
            queue_max: dice.pick(&[5, 100, 1_000]),
            window: dice.pick(&[1, 20, 20, 100]),
            kill_effect: some(0.4, 0.01),
            disk_fails: some(0.3, 0.1),
            txn_fails: some(0.3, 0.3),
            txn_ambiguous: some(0.3, 0.3),
            txn_ms: dice.pick(&[1, 20, 500, 2_000]),
            txn_messages_max: dice.pick(&[1, 8, 64]),
            gap: some(0.7, 0.5),
            lying_card: some(0.15, 1.0),
            poison: some(0.2, 0.03),
            synchronised: dice.chance(0.6),
            ask_every_ms: match dice.chance(0.4) {
                true => dice.pick(&[3_000, 10_000, 40_000]) * if long { 10 } else { 1 },
                false => 0,
            },
            id_reused: some(0.4, 0.8),
            board_ms: dice.pick(&[10, 200, 4_000]),
            board_silent: some(0.3, 0.5),
            board_remembers: dice.chance(0.3),
            actions,
            action_every_ms: if long {
                300_000
            } else {
                dice.pick(&[2_000, 6_000, 20_000, 60_000])
            },
        }
    }

    pub fn may(&self, action: Action) -> bool {
        self.actions.iter().any(|(known, _)| *known == action)
    }
}
