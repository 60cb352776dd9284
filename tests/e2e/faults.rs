//! Outage of the broker, kill -9 of gateway and bridge.

use std::time::Duration;

use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, pass};

use crate::{assert_clean, settings};

on_each_broker! {
    a_broker_that_is_gone_for_fifteen_seconds_loses_nothing,
    a_killed_gateway_loses_nothing_that_its_outbox_had,
    a_killed_bridge_loses_nothing_and_stores_nothing_twice,
}

/// Lines a second in these tests.
const RATE: f64 = 200.0;
/// What may be lost before acceptance at [`RATE`]: the commit interval, 1 s, and what the
/// queue and the terminal hold (8,192 readings and 4 KiB), of which only what came since the
/// last commit can be there.
const UNACCEPTED_MAX: u64 = (RATE as u64) * 2;

fn a_broker_that_is_gone_for_fifteen_seconds_loses_nothing(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(RATE)?;
    rig.wait_stored(400)?;
    rig.stop_broker()?;
    pass(Duration::from_secs(15));
    rig.start_broker()?;
    let sent = rig.ledger.len();
    rig.wait_stored(sent)?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), rig.ledger.len());
    Ok(())
}

fn a_killed_gateway_loses_nothing_that_its_outbox_had(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(RATE)?;
    let mut accepted_before = Vec::new();
    for round in 1..=3 {
        rig.wait_sent(400 * round)?;
        // Read from outside the process, before the fault.
        let accepted = rig.accepted()?;
        let sent = rig.ledger.len();
        rig.world.gateway.take().expect("started above").kill()?;
        println!(
            "kill {round}: {sent} sent, {} accepted, at most {} lost before",
            accepted.len(),
            sent - accepted.len() as u64
        );
        accepted_before.push(accepted);
        rig.world.start_gateway()?;
    }
    rig.wait_sent(1_600)?;
    let found = rig.drain()?;
    assert_clean(&found);
    for (round, accepted) in accepted_before.iter().enumerate() {
        let lost: Vec<&u64> =
            accepted.iter().filter(|line| !found.lines.contains_key(line)).collect();
        assert!(lost.is_empty(), "kill {}: accepted and not stored: {lost:?}", round + 1);
    }
    let lost = rig.ledger.len() - found.stored();
    println!("lost before acceptance in three kills: {lost} of {}", rig.ledger.len());
    assert!(lost <= 3 * UNACCEPTED_MAX, "{lost} lines were lost before acceptance");
    Ok(())
}

fn a_killed_bridge_loses_nothing_and_stores_nothing_twice(broker: Broker) -> anyhow::Result<()> {
    let mut rig = Rig::on(broker, settings())?;
    rig.start(RATE)?;
    for round in 1..=3 {
        rig.wait_stored(400 * round)?;
        rig.world.bridge.take().expect("started above").kill()?;
        rig.wait_sent(rig.ledger.len() + 200)?;
        rig.world.start_bridge()?;
    }
    let sent = rig.ledger.len();
    rig.wait_stored(sent)?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), rig.ledger.len());
    Ok(())
}
