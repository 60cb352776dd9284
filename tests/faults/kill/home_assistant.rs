//! The gateway, killed while it announces itself to Home Assistant and while it takes that back: in the
//! end the broker has the entry, or has it no more, and no reading is lost.

use fieldpost_tests::client::{Client, options};
use fieldpost_tests::rig::{SOON, wait_until};

use super::at_once;
use super::crash::{Crash, quick};

pub(super) const POINTS: &[&str] = &[
    "outbox.announced.before_commit",
    "outbox.announced.after_commit",
    "send.entry.before",
    "send.entry.after",
];
const SECTION: &str = "[home_assistant]\nenabled = true\n";

/// Whether the broker has an entry for whoever comes now.
fn is_kept(crash: &Crash) -> anyhow::Result<bool> {
    let certs = crash.rig.world.dir().join("certs");
    let port = crash.rig.world.broker_address().port();
    let mut person = options(&certs, "operator", port);
    person.subscriptions = ["homeassistant/#", "devices/+/meta"].map(str::to_owned).to_vec();
    let mut person = Client::connect_again(&person)?;
    person.wait_message("what is retained", |it| it.topic.ends_with("/meta"))?;
    // Its puback comes after what was sent to this client before.
    person.publish([("devices/nobody/commands".to_owned(), b"{}".to_vec())], false)?;
    Ok(person.received().iter().any(|it| it.retain && it.topic.starts_with("homeassistant/")))
}

fn kill_at((point, removing): (&'static str, bool)) -> anyhow::Result<()> {
    let mut settings = quick();
    settings.ports = SECTION.to_owned();
    let mut crash = Crash::new(point, settings)?;
    if removing {
        crash.rig.world.start_gateway()?;
        wait_until("an entry", SOON, || is_kept(&crash))?;
        crash.rig.world.stop_gateway()?;
        let file = crash.rig.world.dir().join("gateway.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replace(SECTION, ""))?;
    }
    crash.arm("gateway", point, 1);
    crash.rig.world.start_gateway()?;
    crash.wait_killed("gateway", point)?;
    crash.note(point)?;
    crash.rig.world.start_gateway()?;
    crash.wait_new_lines()?;
    wait_until(&format!("kept or gone after a kill at {point}"), SOON, || {
        Ok(is_kept(&crash)? != removing)
    })?;
    crash.finish(0)
}

#[test]
fn what_home_assistant_is_told_is_told_or_taken_back_wherever_the_gateway_is_killed()
-> anyhow::Result<()> {
    let steps: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|removing| POINTS.iter().map(move |at| (*at, removing)))
        .collect();
    at_once(&steps, kill_at)
}
