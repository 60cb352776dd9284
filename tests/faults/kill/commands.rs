//! The gateway, killed at any point on a command's way. The command comes again until it is answered, as
//! a bridge would send it; the board has done it at most once, and the outcome does not lie.

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::DEVICE;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::rig::{SOON, wait_until};

use super::at_once;
use super::crash::{Crash, quick};

const LED: &str = r#"{"id":"c1","name":"led","args":{"on":1}}"#;
const LAMP: &str = r#"{"id":"c1","name":"lamp"}"#;
/// Strict, so that the bridge does not issue it once more to the epoch that is there.
const OLD: &str = r#"{"id":"c1","name":"led","args":{"on":1},"target":"000102030405060708090a0b0c0d0e0f","strict":true}"#;
const AGAIN: &str = r#"{"id":"c1","name":"resend","args":{"since":0}}"#;

/// Each with the command that leads there.
const STEPS: &[(&str, &str)] = &[
    ("command.before_taken", LED),
    ("outbox.inbox.before_start", LED),
    ("command.taken", LED),
    ("command.written", LED),
    ("command.done", LED),
    ("outbox.inbox.before_outcome", LED),
    ("command.finished", LED),
    ("send.live_command_ack.before", LED),
    ("send.live_command_ack.after", LED),
    ("outbox.inbox.before_done", LAMP),
    ("outbox.inbox.before_stale", OLD),
    ("send.again.before", AGAIN),
    ("send.again.after", AGAIN),
    // A minute after the start, by itself.
    ("outbox.inbox.before_forget", LED),
    ("outbox.inbox.after_forget", LED),
];

pub(super) fn points() -> Vec<&'static str> {
    STEPS.iter().map(|(point, _)| *point).collect()
}

struct Asking {
    crash: Crash,
    person: Client,
    command: &'static str,
}

impl Asking {
    fn new(point: &str, command: &'static str) -> anyhow::Result<Asking> {
        let crash = Crash::new(point, quick())?;
        let certs = crash.rig.world.dir().join("certs");
        let person = options(&certs, "operator", crash.rig.world.broker_address().port());
        Ok(Asking { crash, person: Client::connect(person)?, command })
    }

    fn wait_in_sync(&self) -> anyhow::Result<()> {
        let pid = self.crash.rig.world.gateway.as_ref().map(|gateway| u64::from(gateway.id()));
        wait_until("a gateway in sync", SOON, || {
            let status = self.crash.rig.status()?;
            Ok(status["broker"] == "in sync" && status["pid"].as_u64() == pid)
        })
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let topic = format!("devices/{DEVICE}/commands");
        self.person.publish([(topic, self.command.as_bytes().to_vec())], false)
    }

    /// The last outcome in storage, but `accepted`.
    fn outcome(&self) -> anyhow::Result<Option<String>> {
        let conn = read_only(&self.crash.rig.world.storage())?;
        let sql = "SELECT outcome FROM command_acks WHERE outcome <> 'accepted' ORDER BY time DESC";
        Ok(conn.query_row(sql, [], |row| row.get(0)).ok())
    }
}

fn kill_at(point: &'static str) -> anyhow::Result<()> {
    let (_, command) = STEPS.iter().find(|(known, _)| *known == point).expect("it is one of them");
    let mut asking = Asking::new(point, command)?;
    asking.crash.arm("gateway", point, 1);
    asking.crash.rig.world.start_gateway()?;
    asking.wait_in_sync()?;
    asking.publish()?;
    asking.crash.wait_killed("gateway", point)?;
    asking.crash.note(point)?;
    asking.crash.rig.world.start_gateway()?;
    asking.wait_in_sync()?;
    asking.publish()?;
    let mut outcome = None;
    wait_until(&format!("an answer after a kill at {point}"), SOON, || {
        outcome = asking.outcome()?;
        Ok(outcome.is_some())
    })?;
    // Once more, now that it is known.
    asking.publish()?;
    asking.crash.wait_new_lines()?;
    let outcome = outcome.expect("it was waited for");
    let times = asking.crash.rig.ledger.commands().len();
    println!("{point}: {outcome}, done {times} times");
    match (outcome.as_str(), command) {
        ("succeeded", &AGAIN) => {}
        ("succeeded", _) => assert_eq!(times, 1, "{point}"),
        ("rejected" | "stale", _) => assert_eq!(times, 0, "{point}"),
        ("unknown", _) => assert!(times <= 1, "{point}: {times} times"),
        (other, _) => panic!("{point}: {other}"),
    }
    asking.crash.finish(0)
}

#[test]
fn a_command_runs_at_most_once_wherever_its_gateway_is_killed() -> anyhow::Result<()> {
    at_once(&points(), kill_at)
}
