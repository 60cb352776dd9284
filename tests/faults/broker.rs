//! The broker refuses, drops in silence, forgets, or has other certificates.

use fieldpost_tests::rig::{Rig, pass};
use std::time::Duration;

use crate::settings;

#[test]
fn a_mosquitto_that_is_killed_and_forgets_all_it_had_loses_nothing() -> anyhow::Result<()> {
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    rig.world.start_bridge()?;
    rig.world.start_gateway()?;
    rig.plug(200.0)?;
    for round in 1..=3 {
        rig.wait_stored(300 * round)?;
        mosquitto.kill()?;
        // The outage is the fault.
        pass(Duration::from_secs(2));
        mosquitto.run()?;
    }
    let sent = rig.ledger.len();
    rig.wait_stored(sent)?;
    let found = rig.drain()?;
    crate::assert_clean(&found);
    assert_eq!(found.stored(), rig.ledger.len());
    Ok(())
}
