//! Commands to a board with real firmware that remembers them: whatever dies in between, it doses at most
//! once, by the count in its own EEPROM.

use std::path::PathBuf;

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, Programs, Settings};
use fieldpost_tests::avr::{AvrBoard, Told, library};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::tools;

on_each_broker! {
    a_board_doses_once_for_each_command,
    a_gateway_that_is_killed_before_the_answer_learns_it_from_the_board,
    a_gateway_that_is_killed_before_it_writes_learns_that_nothing_was_done,
    a_board_that_is_reset_in_the_middle_doses_no_second_time,
    a_board_that_each_opening_resets_still_tells_what_became_of_a_command,
    a_command_that_comes_again_to_a_new_card_is_answered_by_the_board,
}

const COMMAND: &str = "[[command]]
name = \"dose\"
port = \"arduino\"
timeout = \"20s\"
[command.args.ms]
type = \"int\"
min = 1
max = 10000
";

struct Bench {
    rig: Rig,
    board: AvrBoard,
    person: Client,
}

impl Bench {
    fn new(broker: Broker) -> anyhow::Result<Bench> {
        let mut settings = Settings::new(Programs::Files {
            gateway: PathBuf::from(env!("CARGO_BIN_EXE_test-gateway")),
            bridge: PathBuf::from(env!("CARGO_BIN_EXE_test-bridge")),
        });
        settings.ports = COMMAND.to_owned();
        let mut rig = Rig::on(broker, settings)?;
        let sketch = library().join("examples/Pump/Pump.ino");
        let firmware = tools().build(&sketch, rig.world.dir())?;
        let board = AvrBoard::start(tools(), &firmware, &rig.world.port())?;
        rig.world.start_bridge()?;
        rig.world.wait_bridge_online(0)?;
        rig.world.start_gateway()?;
        let certs = rig.world.dir().join("certs");
        let person = options(&certs, "operator", rig.world.broker_address().port());
        let bench = Bench { rig, board, person: Client::connect(person)? };
        bench.wait_ready()?;
        Ok(bench)
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let pid = self.rig.world.gateway.as_ref().map(|gateway| gateway.id());
        wait_until("a gateway in sync with a board", SOON, || {
            let status = self.rig.status()?;
            let frames = status["ports"][0]["frames"].as_u64();
            Ok(status["broker"] == "in sync"
                && status["pid"].as_u64() == pid.map(u64::from)
                && frames.is_some_and(|frames| frames > 0))
        })
    }

    fn dose(&mut self, id: &str, ms: u32) -> anyhow::Result<()> {
        let json = format!(r#"{{"id":"{id}","name":"dose","args":{{"ms":{ms}}}}}"#);
        self.person.publish([(format!("devices/{DEVICE}/commands"), json.into_bytes())], false)
    }

    /// Waits until storage has this outcome of a command; returns what was said about it.
    fn wait(&self, id: &str, outcome: &str) -> anyhow::Result<String> {
        let conn = read_only(&self.rig.world.storage())?;
        let sql = "SELECT outcome, coalesce(detail, '') || result FROM command_acks
                   WHERE id = ?1 AND outcome <> 'accepted'";
        let mut found: Option<(String, String)> = None;
        wait_until(&format!("the end of {id}"), SOON, || {
            found = conn.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?))).ok();
            Ok(found.is_some())
        })?;
        let (is, said) = found.expect("it was found");
        assert_eq!(is, outcome, "{id}: {said}");
        Ok(said)
    }

    /// How often the board has dosed, by its EEPROM, as it says from now on.
    fn doses(&self) -> anyhow::Result<u64> {
        let before = self.board.told().len();
        let mut doses = None;
        wait_until("its count", SOON, || {
            let told = self.board.told();
            let mut counts = told.iter().skip(before).filter_map(|told| match told {
                Told::Sent(line) => line.strip_prefix("doses=")?.split(' ').next()?.parse().ok(),
                _ => None,
            });
            doses = counts.next_back();
            Ok(doses.is_some())
        })?;
        Ok(doses.expect("it was found"))
    }

    /// The gateway kills itself there, and comes back.
    fn killed_at(
        &mut self,
        point: &str,
        act: impl FnOnce(&mut Bench) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.ended_at(point, act)?;
        self.rig.world.start_gateway()
    }

    /// ... and does not.
    fn ended_at(
        &mut self,
        point: &str,
        act: impl FnOnce(&mut Bench) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.rig.world.stop_gateway()?;
        self.rig.world.environment = vec![("gateway", "FAIL_POINT_KILL", format!("{point}:1"))];
        self.rig.world.start_gateway()?;
        self.wait_ready()?;
        act(self)?;
        wait_until("its end", SOON, || Ok(self.rig.world.ended()?.is_some()))?;
        self.rig.world.gateway = None;
        self.rig.world.environment.clear();
        Ok(())
    }

    fn resets(&self) -> usize {
        self.board.told().iter().filter(|told| **told == Told::Reset).count()
    }
}

fn a_board_doses_once_for_each_command(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    for (n, id) in ["d1", "d2", "d3"].iter().enumerate() {
        bench.dose(id, 10)?;
        bench.dose(id, 10)?;
        let said = bench.wait(id, "succeeded")?;
        assert_eq!(said, format!("{{\"doses\":{}}}", n + 1));
    }
    assert_eq!(bench.doses()?, 3);
    Ok(())
}

fn a_gateway_that_is_killed_before_the_answer_learns_it_from_the_board(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.killed_at("command.written", |bench| bench.dose("k1", 2_000))?;
    bench.wait("k1", "succeeded")?;
    assert_eq!(bench.doses()?, 1);
    bench.dose("k1", 2_000)?;
    bench.dose("k2", 10)?;
    bench.wait("k2", "succeeded")?;
    assert_eq!(bench.doses()?, 2);
    Ok(())
}

fn a_gateway_that_is_killed_before_it_writes_learns_that_nothing_was_done(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.killed_at("command.taken", |bench| bench.dose("k1", 10))?;
    let said = bench.wait("k1", "rejected")?;
    assert!(said.contains("it did not run"), "{said}");
    assert_eq!(bench.doses()?, 0);
    Ok(())
}

fn a_board_that_is_reset_in_the_middle_doses_no_second_time(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.dose("r1", 8_000)?;
    let conn = read_only(&bench.rig.world.storage())?;
    let begun = "SELECT count(*) FROM command_acks WHERE outcome = 'accepted'";
    wait_until("its begin", SOON, || {
        Ok(conn.query_row(begun, [], |row| row.get::<_, i64>(0))? == 1)
    })?;
    // It says nothing while it doses.
    let mut lines = usize::MAX;
    wait_until("dosing", SOON, || {
        let told = bench.board.told().len();
        let is_silent = told == lines;
        lines = told;
        if is_silent {
            fieldpost_tests::rig::pass(std::time::Duration::from_secs(1))
        }
        Ok(is_silent && bench.board.told().len() == told)
    })?;
    bench.board.press()?;
    let said = bench.wait("r1", "unknown")?;
    assert!(said.contains("it began, and restarted"), "{said}");
    assert_eq!(bench.doses()?, 1);
    bench.dose("r2", 10)?;
    assert_eq!(bench.wait("r2", "succeeded")?, "{\"doses\":2}");
    Ok(())
}

fn a_board_that_each_opening_resets_still_tells_what_became_of_a_command(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.board.reset_on_open()?;
    // Before it has heard the answer, and after the board has given it.
    bench.ended_at("command.written", |bench| bench.dose("u1", 10))?;
    bench.board.wait_told("its answer", |told| {
        told.iter().any(|told| matches!(told, Told::Sent(line) if line.contains(" ok doses=1 ")))
    })?;
    let resets = bench.resets();
    bench.rig.world.start_gateway()?;
    bench.wait("u1", "succeeded")?;
    assert!(bench.resets() > resets, "opening its port has reset it");
    // Before it has written.
    bench.killed_at("command.taken", |bench| bench.dose("u2", 10))?;
    let said = bench.wait("u2", "rejected")?;
    assert!(said.contains("it never came; it did not run"), "{said}");
    assert_eq!(bench.doses()?, 1);
    // Just opened: it waits until the board has started.
    bench.rig.world.stop_gateway()?;
    bench.rig.world.start_gateway()?;
    bench.dose("u3", 10)?;
    assert_eq!(bench.wait("u3", "succeeded")?, "{\"doses\":2}");
    Ok(())
}

fn a_command_that_comes_again_to_a_new_card_is_answered_by_the_board(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.dose("c1", 10)?;
    bench.wait("c1", "succeeded")?;
    bench.rig.world.stop_gateway()?;
    let outbox = bench.rig.world.outbox();
    for suffix in ["", "-wal", "-shm"] {
        // A clean stop leaves the file alone.
        let _ = std::fs::remove_file(format!("{}{suffix}", outbox.display()));
    }
    bench.rig.world.start_gateway()?;
    bench.wait_ready()?;
    bench.dose("c1", 10)?;
    let conn = read_only(&bench.rig.world.storage())?;
    let ends = "SELECT count(*) FROM command_acks WHERE id = 'c1' AND outcome <> 'accepted'";
    wait_until("its second end", SOON, || {
        Ok(conn.query_row(ends, [], |row| row.get::<_, i64>(0))? == 2)
    })?;
    let remembered = format!("{ends} AND outcome = 'succeeded' AND detail = 'ok'");
    let remembered: i64 = conn.query_row(&remembered, [], |row| row.get(0))?;
    assert_eq!(remembered, 1, "the second from the board's memory");
    assert_eq!(bench.doses()?, 1);
    Ok(())
}
