//! Gateway, bridge and broker, alone and together, killed at random moments.

use std::time::Duration;

use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::rig::{Rig, pass};

use super::crash::{Crash, quick};

/// Who is killed: gateway 1, bridge 2, broker 4, and their sums.
const ROUNDS: std::ops::RangeInclusive<u32> = 1..=7;

/// Kills them in a random order, and starts them again in another.
fn kill(crash: &mut Crash, mosquitto: &mut Option<Mosquitto>, who: u32) -> anyhow::Result<()> {
    let mut order: Vec<u32> = [1, 2, 4].into_iter().filter(|one| who & one != 0).collect();
    crash.random.shuffle(&mut order);
    for &who in &order {
        match who {
            1 => crash.rig.world.gateway.take().expect("it runs").kill()?,
            2 => crash.rig.world.bridge.take().expect("it runs").kill()?,
            _ => match mosquitto {
                Some(mosquitto) => mosquitto.kill()?,
                None => crash.rig.world.stop_broker(),
            },
        }
    }
    crash.random.shuffle(&mut order);
    for who in order {
        match who {
            1 => crash.rig.world.start_gateway()?,
            2 => crash.rig.world.start_bridge()?,
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
    let mut rounds: Vec<u32> = ROUNDS.collect();
    crash.random.shuffle(&mut rounds);
    for who in rounds {
        crash.wait_new_lines()?;
        // Some rounds catch connections that are just being made.
        pass(Duration::from_millis(crash.random.u64(0..2_500)));
        // From outside, before the fault: what the file says after it may be no less.
        crash.note(&format!("the kill of {who}"))?;
        kill(&mut crash, &mut mosquitto, who)?;
        if crash.random.bool() {
            crash.wait_settled()?;
        }
    }
    crash.finish(0)
}

#[test]
fn gateway_bridge_and_broker_killed_alone_and_together_lose_nothing_that_the_outbox_had()
-> anyhow::Result<()> {
    rounds(Crash::new("alone and together", quick())?, None)
}

#[test]
fn nor_do_they_with_a_mosquitto_that_forgets_what_it_has_pubacked() -> anyhow::Result<()> {
    let (rig, mut mosquitto) = Rig::on_mosquitto(quick())?;
    mosquitto.kill()?;
    // As Debian ships it: it writes down what it has every half an hour, and at an orderly end.
    mosquitto.set("persistence", "true");
    mosquitto.set("persistence_location", &format!("{}/", rig.world.dir().display()));
    mosquitto.run()?;
    rounds(Crash::of("alone and together, mosquitto", rig)?, Some(mosquitto))
}
