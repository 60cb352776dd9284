//! A configuration from afar that cuts its gateway off.

use std::time::Duration;

use fieldpost_demo::world::DEVICE;
use fieldpost_tests::afar::{config, wait_reported};
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

/// The real 120 s, of CLOCK_BOOTTIME, with a kill in between; the broker that is desired is nobody.
#[test]
fn a_broker_that_nobody_reaches_is_undone_within_two_minutes_also_after_a_kill()
-> anyhow::Result<()> {
    let mut settings = settings();
    settings.gateway.push(("remote", r#"allow = ["broker", "publish"]"#.to_owned()));
    let mut rig = Rig::new(settings)?;
    rig.start(20.0)?;
    rig.wait_stored(5)?;
    // Reserved: nobody listens there.
    config(&rig, &["set", DEVICE, "broker.port=1"])?;
    let desired = rig.world.dir().join("outbox.db.desired.json");
    wait_until("a trial", SOON, || {
        Ok(std::fs::read_to_string(&desired).is_ok_and(|it| it.contains("trial")))
    })?;
    let begun = std::time::Instant::now();
    wait_until("offline", SOON, || Ok(rig.status()?["broker"] == "offline"))?;
    rig.world.gateway.take().expect("started above").kill()?;
    rig.world.start_gateway()?;
    wait_until("still in the trial", SOON, || {
        let error = rig.status()?["last_error"].clone();
        Ok(error.as_str().is_some_and(|error| error.contains(":1:")))
    })?;
    let refused = wait_reported(&rig, 1, "refused", Duration::from_secs(240))?;
    println!("undone and reported {:.1} s after the trial began", begun.elapsed().as_secs_f64());
    assert!(refused["why"].to_string().contains("no sync ack within 120 s"), "{refused}");
    assert!(begun.elapsed() >= Duration::from_secs(110), "it was given its time");
    config(&rig, &["set", DEVICE, "--clear"])?;
    wait_reported(&rig, 2, "kept", SOON)?;
    assert_clean(&rig.drain()?);
    Ok(())
}
