//! Gateway, bridge and broker, killed at once at random moments.

use std::time::Duration;

use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::rig::{Rig, pass};

use super::crash::{Crash, quick};

const ROUNDS: u32 = 6;

/// Kills all three in a random order, and starts them again in another.
fn kill_all(crash: &mut Crash, mosquitto: &mut Option<Mosquitto>) -> anyhow::Result<()> {
    let mut order = [0, 1, 2];
    crash.random.shuffle(&mut order);
    for who in order {
        match who {
            0 => crash.rig.world.gateway.take().expect("it runs").kill()?,
            1 => crash.rig.world.bridge.take().expect("it runs").kill()?,
            _ => match mosquitto {
                Some(mosquitto) => mosquitto.kill()?,
                None => crash.rig.world.stop_broker(),
            },
        }
    }
    crash.random.shuffle(&mut order);
    for who in order {
        match who {
            0 => crash.rig.world.start_gateway()?,
            1 => crash.rig.world.start_bridge()?,
            _ => match mosquitto {
                Some(mosquitto) => mosquitto.run()?,
                None => crash.rig.world.start_broker()?,
            },
        }
    }
    Ok(())
}

fn rounds(mut crash: Crash, mut mosquitto: Option<Mosquitto>) -> anyhow::Result<()> {
    crash.rig.world.start_gateway()?;
    for round in 1..=ROUNDS {
        crash.wait_new_lines()?;
        // Some rounds catch connections that are just being made.
        pass(Duration::from_millis(crash.random.u64(0..2_500)));
        // From outside, before the fault: what the file says after it may be no less.
        crash.note(&format!("round {round}"))?;
        kill_all(&mut crash, &mut mosquitto)?;
        if crash.random.bool() {
            crash.wait_settled()?;
        }
    }
    crash.finish(0)
}

#[test]
fn gateway_bridge_and_broker_killed_at_once_lose_nothing_that_the_outbox_had() -> anyhow::Result<()>
{
    rounds(Crash::new("all at once", quick())?, None)
}

#[test]
fn nor_do_they_with_a_mosquitto_that_forgets_what_it_has_pubacked() -> anyhow::Result<()> {
    let (rig, mut mosquitto) = Rig::on_mosquitto(quick())?;
    mosquitto.kill()?;
    // As Debian ships it: it writes down what it has every half an hour, and at an orderly end.
    mosquitto.set("persistence", "true");
    mosquitto.set("persistence_location", &format!("{}/", rig.world.dir().display()));
    mosquitto.run()?;
    rounds(Crash::of("all at once, mosquitto", rig)?, Some(mosquitto))
}
