//! The gateway, killed while a rule raises its alert or clears it.

use fieldpost_demo::judge::read_only;
use fieldpost_protocol::{AlertState, Event, EventKind};
use fieldpost_tests::rig::{SOON, wait_until};

use super::crash::{Crash, quick};

pub(super) const POINTS: &[&str] = &[
    "outbox.append.before_raised",
    "outbox.append.after_raised",
    "send.live_alert.before",
    "send.live_alert.after",
];
/// Around the same transaction, and listed elsewhere.
const COMMIT: &[&str] = &["outbox.append.before_commit", "outbox.append.after_commit"];

const RULE: &str = "
[[port]]
name = \"script\"
socket = \"{dir}/script.sock\"
[[alert]]
name = \"too_warm\"
source = \"script\"
metric = \"temp\"
above = 28
";

/// What the file says: the events of the rule that it holds, and what is raised.
fn in_file(crash: &Crash) -> anyhow::Result<(Vec<AlertState>, bool)> {
    let conn = read_only(&crash.rig.world.outbox())?;
    let snapshot = conn.unchecked_transaction()?;
    let mut query = snapshot.prepare("SELECT body FROM event ORDER BY id")?;
    let bodies = query.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let mut states = Vec::new();
    for body in bodies {
        if let EventKind::Alert { name, state, lasting: true, .. } = Event::decode(&body?)?.kind {
            assert_eq!(name, "too_warm");
            states.push(state);
        }
    }
    let raised = "SELECT count(*) FROM raised";
    Ok((states, snapshot.query_row(raised, [], |row| row.get::<_, i64>(0))? > 0))
}

/// In turn, and what is raised is what the last event says.
fn assert_whole(crash: &Crash, at: &str) -> anyhow::Result<usize> {
    let (states, raised) = in_file(crash)?;
    let in_turn =
        |(at, state): (usize, &AlertState)| (*state == AlertState::Raised) == (at % 2 == 0);
    assert!(states.iter().enumerate().all(in_turn), "{at}: {states:?}");
    assert_eq!(raised, states.len() % 2 == 1, "{at}: {states:?}");
    Ok(states.len())
}

#[test]
fn a_gateway_killed_while_a_rule_raises_or_clears_tells_it_once_all_the_same() -> anyhow::Result<()>
{
    let mut settings = quick();
    settings.ports = RULE.to_owned();
    let mut crash = Crash::new("rules", settings)?;
    let send = |crash: &Crash, temp: i64| {
        let line = format!("temp={temp}");
        crash.rig.world.run_gateway(&["send", "--port", "script", &line]).is_ok()
    };
    let mut told = 0;
    for point in POINTS.iter().chain(COMMIT).flat_map(|point| [point, point]) {
        // Raised, then cleared, then raised.
        let temp = if told % 2 == 0 { 30 } else { 20 };
        crash.rig.world.start_gateway()?;
        crash.wait_new_lines()?;
        crash.rig.world.gateway.take().expect("started above").kill()?;
        crash.arm("gateway", point, 1);
        crash.rig.world.start_gateway()?;
        wait_until("a line to be taken, or the kill", SOON, || {
            Ok(send(&crash, temp) || crash.rig.world.ended()?.is_some())
        })?;
        crash.wait_killed("gateway", point)?;
        let after = assert_whole(&crash, point)?;
        println!("killed at {point}: {} of {} events", after, told + 1);
        assert!(after == told || after == told + 1, "{point}");
        crash.rig.world.start_gateway()?;
        wait_until("the event", SOON, || {
            Ok(send(&crash, temp) && in_file(&crash)?.0.len() == told + 1)
        })?;
        told = assert_whole(&crash, "started again")?;
        crash.rig.world.stop_gateway()?;
    }
    crash.rig.world.start_gateway()?;
    let stored = |crash: &Crash, state: &str| {
        let conn = read_only(&crash.rig.world.storage())?;
        let sql = "SELECT count(*) FROM alerts WHERE name = 'too_warm' AND state = ?1";
        anyhow::Ok(conn.query_row(sql, [state], |row| row.get::<_, i64>(0))? as usize)
    };
    wait_until("each event in storage", SOON, || {
        Ok(stored(&crash, "raised")? + stored(&crash, "cleared")? >= told)
    })?;
    assert_eq!((stored(&crash, "raised")?, stored(&crash, "cleared")?), (told / 2, told / 2));
    crash.finish(0)
}
