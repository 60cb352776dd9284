//! A gateway without a broker.

use std::time::Duration;

use fieldpost_tests::broker::Broker;
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

on_each_broker! {
    what_was_recorded_without_a_broker_arrives_once_there_is_one,
}

fn what_was_recorded_without_a_broker_arrives_once_there_is_one(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut alone = settings();
    alone.broker = false;
    let mut rig = Rig::on(broker, alone)?;
    rig.world.start_gateway()?;
    rig.plug(200.0)?;
    rig.wait_sent(600)?;
    let board = rig.board.take().expect("plugged in above");
    board.pause();
    let sent = rig.ledger.len();
    wait_until("recording", SOON, || Ok(rig.accepted()?.len() as u64 == sent))?;
    rig.world.gateway.take().expect("started above").stop()?;
    board.unplug()?;

    rig.world.set_broker(true)?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    rig.wait_stored(sent)?;
    let found = rig.drain()?;
    assert_clean(&found);
    assert_eq!(found.stored(), sent);
    Ok(())
}

#[test]
fn a_recorder_says_that_it_is_one() -> anyhow::Result<()> {
    let mut alone = settings();
    alone.broker = false;
    let mut rig = Rig::new(alone)?;
    rig.world.start_gateway()?;
    wait_until("the status file", Duration::from_secs(20), || {
        Ok(rig.world.dir().join("status.json").exists())
    })?;
    let status = rig.world.run_gateway(&["status"])?;
    assert!(status.contains("broker    none"), "{status}");
    assert!(status.contains("commits by fdatasync"), "{status}");
    Ok(())
}
