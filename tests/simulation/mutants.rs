//! Every guard of the protocol that can be switched off, to see that some invariant needs it.
//!
//! A guard of the engines is a field of their `Guards`. One that stands in the drivers, the
//! outbox or the storage is a field of [`Rules`], which the models of those obey.

use fieldpost_bridge::engine::Guards as BridgeGuards;
use fieldpost_gateway::engine::Guards as GatewayGuards;

use crate::plan::{Action, Plan, Scenario};
use crate::stories;

/// What the drivers, the outbox and the storage hold to; all true in the product.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Only a sync ack lets go; a puback never does.
    pub puback_means_nothing: bool,
    /// A new epoch at every start of a gateway.
    pub epoch_per_start: bool,
    /// A new epoch after a commit that may be durable or not.
    pub epoch_after_doubt: bool,
    /// Readings of a commit in doubt are never inserted again.
    pub doubt_is_refused: bool,
    /// An epoch's base is written down before its first batch leaves.
    pub base_is_persisted: bool,
    /// The trusted store is written down.
    pub pin_is_persisted: bool,
    /// `acked` that moves back is written down at once.
    pub acked_back_is_persisted: bool,
    /// By age or size only rows go that a state of this gen has listed.
    pub purge_needs_confirmation: bool,
    /// Another gen forgets what was listed and acked, in the engine as in the outbox.
    pub gen_change_forgets: bool,
    /// ... and writes both down together.
    pub gen_forgets_at_once: bool,
    /// Batches and hellos state the lowest row held.
    pub floor_is_stated: bool,
    /// `last` survives the rows that it was read from.
    pub last_survives: bool,
    /// Answers leave after the commit.
    pub answers_after_commit: bool,
    /// A stream is read after it was locked.
    pub lock_before_read: bool,
    /// A gen is read in the transaction that is acknowledged.
    pub gen_in_transaction: bool,
    /// The engine hears of a new epoch before it hears of the streams.
    pub epoch_before_streams: bool,
    /// Every row that coverage takes in is inserted.
    pub rows_are_inserted: bool,
    /// An epoch that has claimed rows is never forgotten.
    pub claims_are_never_forgotten: bool,
    /// A row that storage refuses for good becomes a dead letter.
    pub poison_is_kept: bool,
    /// An epoch of another boot without a base is marked `unsynced`.
    pub other_boot_is_unsynced: bool,
    /// A step of the clock begins a new epoch.
    pub clock_step_is_noticed: bool,
    /// What a process that has ended had begun is not begun again.
    pub started_is_never_done_again: bool,
    /// A command is recorded, then done.
    pub started_before_done: bool,
    /// Whether a command has expired is told by the bridge's time.
    pub expiry_by_cloud_time: bool,
    /// What was stale may yet run, issued again.
    pub stale_is_no_outcome: bool,
}

impl Rules {
    const PRODUCT: Rules = Rules {
        puback_means_nothing: true,
        epoch_per_start: true,
        epoch_after_doubt: true,
        doubt_is_refused: true,
        base_is_persisted: true,
        pin_is_persisted: true,
        acked_back_is_persisted: true,
        purge_needs_confirmation: true,
        gen_change_forgets: true,
        gen_forgets_at_once: true,
        floor_is_stated: true,
        last_survives: true,
        answers_after_commit: true,
        lock_before_read: true,
        gen_in_transaction: true,
        epoch_before_streams: true,
        rows_are_inserted: true,
        claims_are_never_forgotten: true,
        poison_is_kept: true,
        other_boot_is_unsynced: true,
        clock_step_is_noticed: true,
        started_is_never_done_again: true,
        started_before_done: true,
        expiry_by_cloud_time: true,
        stale_is_no_outcome: true,
    };
}

/// All of it.
#[derive(Debug, Clone, Copy)]
pub struct Switches {
    pub gateway: GatewayGuards,
    pub bridge: BridgeGuards,
    pub rules: Rules,
}

impl Switches {
    /// As it ships.
    pub fn product() -> Switches {
        Switches {
            gateway: GatewayGuards::default(),
            bridge: BridgeGuards::default(),
            rules: Rules::PRODUCT,
        }
    }

    pub fn of(mutant: &Mutant) -> Switches {
        let mut switches = Switches::product();
        (mutant.switch_off)(&mut switches);
        switches
    }
}

/// One guard that is off.
pub struct Mutant {
    pub name: &'static str,
    pub switch_off: fn(&mut Switches),
    pub shown: Shown,
}

/// In what kind of history a mutant is caught. By chance, unless that takes too many.
#[derive(Clone, Copy)]
pub enum Shown {
    Chance,
    Plan(Scenario),
    Story(fn(u64, Switches) -> Option<String>),
}

macro_rules! mutants {
    ($($name:literal: $($field:ident).+ $(=> $shown:expr)?,)*) => {
        &[$(Mutant {
            name: $name,
            switch_off: |switches| switches.$($field).+ = false,
            shown: mutants!(@ $($shown)?),
        }),*]
    };
    (@) => { Shown::Chance };
    (@ $shown:expr) => { $shown };
}

/// No bridge for a while, and a full outbox drops its oldest rows.
fn full_outboxes(plan: &mut Plan) {
    plan.actions = vec![(Action::StorageFails, 1), (Action::DenyBatches, 1)];
    plan.measure_every_ms = 500;
    plan.limits.rows_max = 5 * plan.limits.seal_rows;
    plan.limits.drop_oldest = true;
}

/// Storage goes back to a backup, as it should be done.
fn announced_restores(plan: &mut Plan) {
    plan.actions =
        vec![(Action::Backup, 2), (Action::RestoreAnnounced, 1), (Action::LoseGateway, 1)];
    plan.action_every_ms = 6_000;
    plan.ask_every_ms = 0;
    plan.limits.retention_ms = 1_000;
}

/// Each of them has to be caught.
pub const MUTANTS: &[Mutant] = mutants! {
    // The gateway's engine.
    "any state is believed (no nonce)": gateway.nonce,
    "another store is believed": gateway.store,
    "the gen is ignored": gateway.r#gen => Shown::Plan(announced_restores),
    "hi > last is believed": gateway.hi_within_last,
    "lo is ignored": gateway.lo_joins_acked,
    "hi < acked is ignored": gateway.hello_when_hi_is_low => Shown::Story(stories::a_silent_restore),
    "no hourly hello": gateway.hourly_hello,
    "no tombstones": gateway.tombstones,
    "a hello lists only what is not acked": gateway.lists_acked,
    "the floor moves without acked": gateway.acked_follows_floor => Shown::Plan(full_outboxes),
    "a stream overtakes a hello that lacks it": gateway.waits_for_hello,
    "rows dropped during a hello are not told": gateway.hello_when_floors_move => Shown::Story(stories::rows_dropped_during_a_hello),
    "no backoff": gateway.backoff,
    // The bridge's engine.
    "no dedup": bridge.dedup,
    "a sync ack past a hole": bridge.hi_stops_at_hole,
    "a sync ack past what was claimed": bridge.hi_stops_at_last => Shown::Story(stories::a_clone_that_is_behind),
    "no tail claim": bridge.last_is_claimed,
    "the floor moves back": bridge.floor_moves_forward,
    "a floor by absence stays": bridge.absence_yields => Shown::Story(stories::a_card_that_comes_back),
    "what is absent is not missing": bridge.absent_is_missing,
    "what a rolled-back card has lost waits": bridge.rolled_back_is_missing,
    "a late hello is obeyed": bridge.lower_no_ignored,
    "a superseded epoch's hello is obeyed": bridge.superseded_ignored,
    // The drivers, the outbox, the storage.
    "trim on puback": rules.puback_means_nothing,
    "a persistent epoch": rules.epoch_per_start,
    "no new epoch after a commit in doubt": rules.epoch_after_doubt,
    "a failed commit's readings are inserted again": rules.doubt_is_refused,
    "the base is not persisted": rules.base_is_persisted,
    "the trusted store is not persisted": rules.pin_is_persisted,
    "acked that moves back is not persisted": rules.acked_back_is_persisted => Shown::Story(stories::a_kill_after_a_silent_restore),
    "a purge without confirmation": rules.purge_needs_confirmation => Shown::Story(stories::a_restore_while_the_gateway_was_off),
    "a new gen keeps what was confirmed": rules.gen_change_forgets => Shown::Story(stories::half_a_hello_to_a_new_storage),
    "a new gen is written down before it forgets": rules.gen_forgets_at_once => Shown::Story(stories::a_kill_after_a_new_gen),
    "no floor": rules.floor_is_stated,
    "last dies with its rows": rules.last_survives,
    "a sync ack before the commit": rules.answers_after_commit,
    "the lock is taken after the read": rules.lock_before_read,
    "the gen is read before the transaction": rules.gen_in_transaction,
    "the streams of a new epoch come before it": rules.epoch_before_streams,
    "a row is covered and not stored": rules.rows_are_inserted,
    "an epoch with claims is forgotten": rules.claims_are_never_forgotten,
    "poison is tried for ever": rules.poison_is_kept,
    "an epoch of another boot takes this boot's time": rules.other_boot_is_unsynced,
    // Commands.
    "what was started is done again": rules.started_is_never_done_again,
    "a command is recorded after it was done": rules.started_before_done,
    "a command expires by the wall clock": rules.expiry_by_cloud_time,
    "stale is the outcome of an id": rules.stale_is_no_outcome,
    "no target epoch": gateway.target,
    "expired is said by another epoch": gateway.stale_before_expired,
    "the bridge's time is counted from the first attempt": gateway.time_from_answered,
    "the bridge's time is counted from its receipt": gateway.time_from_sending,
    "a target is not written down": bridge.target_is_written,
    "a command is issued to whoever is there": bridge.target_stays,
    "strict is issued twice": bridge.strict_is_issued_once,
    "what was issued is called expired": bridge.issued_is_not_expired,
    "an answer to another command counts": bridge.content_is_compared,
    "a later outcome replaces the first": bridge.first_outcome_stays,
    "a step of the clock is not noticed": rules.clock_step_is_noticed => Shown::Story(stories::a_clock_that_is_put_right),
};
