//! Histories that are told, not drawn: what chance rarely brings about, or says nothing of.

use std::sync::atomic::{AtomicU64, Ordering};

use fieldpost_protocol::{HELLO_STREAMS_MAX, Topic};

use crate::mutants::Switches;
use crate::plan::{Action, Plan};
use crate::run::on_all_cores;
use crate::truth::Fact;
use crate::world::World;

fn calm(seed: u64, switches: Switches) -> World {
    World::new(seed, Some(|plan| *plan = Plan::calm()), switches, false)
}

/// Storage goes back to a backup in silence: the next sync ack gives it away.
pub fn a_silent_restore(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.run_until(60_000);
    world.do_action(Action::Backup, 0, 0);
    world.run_until(120_000);
    world.do_action(Action::RestoreSilently, 0, 0);
    world.run_until(180_000);
    world.measuring = false;
    world.run_until(240_000);
    world.unsettled()
}

/// The gateway is off while storage is restored, and on again before a bridge is: nothing of what
/// it still has may go by age, since nobody has told it yet that storage lacks it.
pub fn a_restore_while_the_gateway_was_off(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.plan.limits.retention_ms = 100_000;
    world.do_action(Action::Backup, 0, 0);
    world.run_until(60_000);
    world.stop_gateway_for(0, 120_000);
    world.do_action(Action::RestoreAnnounced, 0, 0);
    world.kill_bridge_for(0, 400_000);
    world.run_until(600_000);
    world.measuring = false;
    world.run_until(660_000);
    let missing = world.store.borrow().db.missing();
    (missing > 0).then(|| format!("{missing} rows were let go before a bridge was heard"))
}

/// A card is pulled with rows that storage has only heard of, another one is in use meanwhile.
pub fn a_card_that_comes_back(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.run_until(30_000);
    world.denied = Some((0, |topic| matches!(topic, Topic::SensorData(_))));
    world.run_until(60_000);
    // It tells of its rows once more.
    world.kill_gateway(0);
    world.run_until(90_000);
    world.do_action(Action::SaveImage, 0, 0);
    world.do_action(Action::WipeCard, 0, 0);
    world.run_until(150_000);
    let gone = world.store.borrow().db.missing();
    world.do_action(Action::RestoreImage, 0, 0);
    world.run_until(210_000);
    let still = world.store.borrow().db.missing();
    if gone == 0 {
        return Some("what was on the card that was pulled is not missing".to_owned());
    }
    // A few rows of the other card may be.
    (still >= gone).then(|| format!("{still} rows are shown as missing, and the card is back"))
}

/// Two cards with the same rows, and one of them goes on: what storage has is more than the other
/// ever gave, and so is no sync ack for it.
pub fn a_clone_that_is_behind(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.faulty = false;
    world.run_until(30_000);
    world.denied = Some((0, |topic| matches!(topic, Topic::SensorData(_))));
    world.run_until(50_000);
    world.do_action(Action::CloneCard, 0, 0);
    world.run_until(80_000);
    world.denied = None;
    world.run_until(120_000);
    world.measuring = false;
    world.run_until(900_000);
    world.unsettled()
}

/// A full outbox drops rows that a hello on its way still names.
pub fn rows_dropped_during_a_hello(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.plan.limits.rows_max = 40;
    world.plan.limits.drop_oldest = true;
    world.denied = Some((0, |topic| matches!(topic, Topic::SensorData(_))));
    world.run_until(30_000);
    world.denied = Some((0, |topic| !matches!(topic, Topic::State(_) | Topic::SyncAcks(_))));
    world.kill_gateway(0);
    world.run_until(120_000);
    world.denied = None;
    world.run_until(900_000);
    world.measuring = false;
    world.run_until(960_000);
    if !world.truth.borrow().has_dropped() {
        return Some("nothing was dropped".to_owned());
    }
    world.unsettled()
}

/// The kernel has called a clock synchronised that was two hours off, and puts it right: what comes
/// after that has its right time.
pub fn a_clock_that_is_put_right(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.truth.borrow_mut().ntp_lies = true;
    world.machines[0].wall_skew_ms = 7_200_000;
    world.run_until(60_000);
    world.machines[0].wall_skew_ms = 0;
    // What waits for its commit now was measured before.
    world.run_until(62_000);
    let right = world.truth.borrow().facts.len();
    world.run_until(120_000);
    let truth = world.truth.borrow();
    let off = |fact: &Fact| fact.stored_ms.is_some_and(|at| (at - fact.time_ms).abs() > 1_000);
    let wrong = truth.facts[right..].iter().filter(|fact| off(fact)).count();
    (wrong > 0).then(|| format!("{wrong} readings have the time of a clock that was wrong"))
}

/// More streams than a page of a hello holds.
fn many_streams(seed: u64, switches: Switches) -> World {
    let mut world = calm(seed, switches);
    for _ in 0..80 {
        world.run_until(world.now + 15_000);
        world.kill_gateway(0);
    }
    world.run_until(world.now + 60_000);
    world
}

/// A new storage answers the first page of a hello, and the answer to another page is lost: of
/// that page's rows it has said nothing.
pub fn half_a_hello_to_a_new_storage(seed: u64, switches: Switches) -> Option<String> {
    let mut world = many_streams(seed, switches);
    world.do_action(Action::EmptyStore, 0, 0);
    world.plan.lose = 0.4;
    let new = Some(world.store.borrow().db.identity.r#gen);
    let end = world.now + 300_000;
    while world.machines[0].image.heard_gen != new && world.now < end {
        world.run_until(world.now + 5);
    }
    if let Some(process) = &mut world.machines[0].process {
        process.outbox.limits.retention_ms = 1_000;
    }
    world.trim_gateway(0);
    world.truth.borrow().violation.clone()
}

/// A new storage answers one page of a hello, and the gateway is killed. What follows finds no broker,
/// and an outbox that is full.
pub fn a_kill_after_a_new_gen(seed: u64, switches: Switches) -> Option<String> {
    let mut world = many_streams(seed, switches);
    world.do_action(Action::EmptyStore, 0, 0);
    world.plan.lose = 0.4;
    let new = Some(world.store.borrow().db.identity.r#gen);
    let end = world.now + 300_000;
    while world.machines[0].image.heard_gen != new && world.now < end {
        world.run_until(world.now + 5);
    }
    start_alone_on_a_full_card(&mut world);
    world.truth.borrow().violation.clone()
}

/// A silent restore is heard of, and the gateway is killed: what it let go before the restore is
/// lost, but nothing that it lets go now.
pub fn a_kill_after_a_silent_restore(seed: u64, switches: Switches) -> Option<String> {
    let mut world = calm(seed, switches);
    world.run_until(30_000);
    world.do_action(Action::Backup, 0, 0);
    world.run_until(120_000);
    world.denied = Some((0, |topic| matches!(topic, Topic::SensorData(_))));
    world.do_action(Action::RestoreSilently, 0, 0);
    world.restart_broker(1_000);
    let acked = |world: &World| {
        let process = world.machines[0].process.as_ref();
        process
            .map(|process| process.engine.acked_streams().iter().map(|(_, seq)| seq).sum::<u64>())
    };
    let (before, end) = (acked(&world), world.now + 300_000);
    while acked(&world) >= before && world.now < end {
        world.run_until(world.now + 5);
    }
    world.restored_silently = false;
    start_alone_on_a_full_card(&mut world);
    world.truth.borrow().violation.clone()
}

fn start_alone_on_a_full_card(world: &mut World) {
    world.kill_gateway(0);
    world.restart_broker(600_000);
    world.plan.limits.rows_max = 10;
    world.run_until(world.now + 60_000);
}

/// Half an hour without a broker; the board goes on.
const OUTAGE_MS: i64 = 30 * 60_000;

#[test]
fn after_an_outage_of_half_an_hour_draining_begins_within_a_minute() {
    let slowest = AtomicU64::new(0);
    on_all_cores(200, |seed| {
        let mut world = calm(seed, Switches::product());
        world.run_until(60_000);
        world.restart_broker(OUTAGE_MS);
        world.run_until(world.now + OUTAGE_MS);
        world.first_batch_after = None;
        let back = world.now;
        world.run_until(back + 300_000);
        let first = world.first_batch_after.expect("nothing was sent in five minutes");
        slowest.fetch_max((first - back) as u64, Ordering::Relaxed);
        assert!(first - back <= 60_000, "seed {seed}: after {} ms", first - back);
        world.measuring = false;
        world.run_until(world.now + 120_000);
        assert_eq!(world.unsettled(), None, "seed {seed}");
        true
    });
    println!(
        "the first batch within {slowest:?} ms of the broker's return, in each of 200 histories"
    );
}

#[test]
fn hellos_of_several_pages_heal_a_storage_as_one_page_does() {
    on_all_cores(20, |seed| {
        let mut world = many_streams(seed, Switches::product());
        world.do_action(Action::EmptyStore, 0, 0);
        world.run_until(world.now + 600_000);
        world.measuring = false;
        world.run_until(world.now + 120_000);
        let listed = world.machines[0].image.streams().count();
        assert!(listed > HELLO_STREAMS_MAX, "only {listed} streams");
        assert_eq!(world.unsettled(), None, "seed {seed}");
        assert!(!world.is_broken(), "seed {seed}: {:?}", world.truth.borrow().violation);
        true
    });
}
