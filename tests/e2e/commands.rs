//! Commands that a person publishes: what the board has done, and what storage was told.

use fieldpost_demo::judge::read_only;
use fieldpost_demo::world::{DEVICE, Settings};
use fieldpost_protocol::{CommandOutcome, Envelope, LiveCommandAck};
use fieldpost_tests::broker::Broker;
use fieldpost_tests::client::{Client, options};
use fieldpost_tests::on_each_broker;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

use crate::{assert_clean, settings};

mod at_the_ledger;
mod by_hand;

on_each_broker! {
    a_command_runs_once_and_its_acks_are_stored_and_seen,
    a_command_that_comes_again_runs_no_second_time,
    what_may_not_run_is_answered_with_the_reason,
    what_a_broker_has_kept_never_runs,
    a_command_without_an_id_is_left_to_the_bridge,
    what_the_gateway_does_itself_is_answered_too,
    readings_are_published_once_more_and_stored_no_second_time,
    a_gateway_starts_again_on_request_and_says_so_itself,
    a_board_that_gives_no_answer_has_timed_out_and_the_next_command_runs,
    a_silent_board_keeps_out_its_own_commands_and_no_others,
    a_gateway_that_is_killed_before_the_answer_says_that_nobody_knows,
    a_gateway_that_ends_waits_for_the_answers_of_its_boards,
    a_resend_goes_on_with_another_session,
    a_resend_leaves_out_what_is_gone_and_goes_on_behind_it,
    a_resend_that_is_cut_short_by_an_end_has_failed,
}

/// A gateway with a board, a bridge, and a person with MQTT Explorer.
struct Bench {
    rig: Rig,
    person: Client,
}

impl Bench {
    fn new(broker: Broker) -> anyhow::Result<Bench> {
        Bench::with(broker, settings())
    }

    fn with(broker: Broker, settings: Settings) -> anyhow::Result<Bench> {
        Bench::on(Rig::on(broker, settings)?)
    }

    fn on(mut rig: Rig) -> anyhow::Result<Bench> {
        rig.start(20.0)?;
        rig.wait_stored(5)?;
        let certs = rig.world.dir().join("certs");
        let port = rig.world.broker_address().port();
        let subscriptions = vec![
            format!("devices/{DEVICE}/live/command_acks"),
            format!("devices/{DEVICE}/sensor_data"),
        ];
        let person = fieldpost_mqtt::Options { subscriptions, ..options(&certs, "operator", port) };
        Ok(Bench { rig, person: Client::connect(person)? })
    }

    fn publish(&mut self, json: &str) -> anyhow::Result<()> {
        self.publish_to(DEVICE, json, false)
    }

    fn publish_to(&mut self, device: &str, json: &str, retain: bool) -> anyhow::Result<()> {
        let topic = format!("devices/{device}/commands");
        self.person.publish([(topic, json.as_bytes().to_vec())], retain)
    }

    /// Outcomes of a command in storage, in their order.
    fn stored(&self, id: &str) -> anyhow::Result<Vec<String>> {
        let conn = read_only(&self.rig.world.storage())?;
        let sql = "SELECT outcome FROM command_acks WHERE id = ?1 ORDER BY time, seq";
        let mut query = conn.prepare(sql)?;
        let outcomes = query.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(outcomes)
    }

    /// Waits until storage knows this last outcome; returns detail and result.
    fn wait(&self, id: &str, outcome: &str) -> anyhow::Result<(String, String)> {
        wait_until(&format!("{id} {outcome} in storage"), SOON, || {
            Ok(self.stored(id)?.last().is_some_and(|last| last == outcome))
        })?;
        let conn = read_only(&self.rig.world.storage())?;
        let sql =
            "SELECT coalesce(detail, ''), result FROM command_acks WHERE id = ?1 AND outcome = ?2";
        Ok(conn.query_row(sql, [id, outcome], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// What was seen on `live/command_acks`.
    fn seen(&self) -> anyhow::Result<Vec<LiveCommandAck>> {
        let received = self.person.received();
        let live = received.iter().filter(|it| it.topic.ends_with("command_acks"));
        live.map(|it| Ok(LiveCommandAck::from_json(&it.payload)?)).collect()
    }

    fn wait_seen(&self, said: &str) -> anyhow::Result<LiveCommandAck> {
        let mut found = None;
        wait_until(&format!("{said:?} on live/command_acks"), SOON, || {
            let says = |ack: &LiveCommandAck| {
                ack.detail.as_ref().is_some_and(|detail| detail.contains(said))
            };
            found = self.seen()?.into_iter().find(says);
            Ok(found.is_some())
        })?;
        Ok(found.expect("it was found"))
    }

    /// Starts the gateway again, and waits until it hears commands.
    fn start_gateway(&mut self) -> anyhow::Result<()> {
        self.rig.world.start_gateway()?;
        let pid = self.rig.world.gateway.as_ref().map(|gateway| gateway.id());
        wait_until("a gateway in sync", SOON, || {
            let status = self.rig.status()?;
            Ok(status["broker"] == "in sync" && status["pid"].as_u64() == pid.map(u64::from))
        })
    }

    /// The board's readings have come through all of it.
    fn end(mut self) -> anyhow::Result<()> {
        assert_clean(&self.rig.drain()?);
        Ok(())
    }
}

fn a_command_runs_once_and_its_acks_are_stored_and_seen(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.publish(r#"{"id":"a1","name":"led","args":{"on":1}}"#)?;
    let (_, result) = bench.wait("a1", "succeeded")?;
    assert_eq!(result, r#"{"on":1}"#);
    assert_eq!(bench.stored("a1")?, ["accepted", "succeeded"]);
    bench.publish(r#"{"id":"a2","name":"fail"}"#)?;
    let (detail, _) = bench.wait("a2", "failed")?;
    assert_eq!(detail, "no such pin");
    assert_eq!(bench.rig.ledger.commands(), ["led on=1", "fail"]);
    wait_until("four live acks", SOON, || Ok(bench.seen()?.len() >= 4))?;
    let seen: Vec<String> = bench
        .seen()?
        .into_iter()
        .map(|ack| {
            let (id, name) = (ack.id.expect("its id"), ack.name.expect("its name"));
            format!("{id} {name} {}", ack.outcome.expect("its outcome").as_str())
        })
        .collect();
    assert_eq!(seen, ["a1 led accepted", "a1 led succeeded", "a2 fail accepted", "a2 fail failed"]);
    bench.end()
}

fn a_command_that_comes_again_runs_no_second_time(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    let command = r#"{"id":"a1","name":"led","args":{"on":1}}"#;
    for _ in 0..5 {
        bench.publish(command)?;
    }
    bench.wait("a1", "succeeded")?;
    bench.rig.world.gateway.take().expect("started above").kill()?;
    bench.start_gateway()?;
    bench.publish(command)?;
    bench.publish(r#"{"id":"a1","name":"led","args":{"on":0}}"#)?;
    wait_until("the other one's rejection", SOON, || {
        Ok(bench.stored("a1")?.iter().any(|outcome| outcome == "rejected"))
    })?;
    bench.publish(r#"{"id":"a2","name":"led","args":{"on":0}}"#)?;
    bench.wait("a2", "succeeded")?;
    assert_eq!(bench.rig.ledger.commands(), ["led on=1", "led on=0"]);
    bench.end()
}

fn what_may_not_run_is_answered_with_the_reason(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.publish_to("somebody-else", r#"{"id":"theirs","name":"led","args":{"on":1}}"#, false)?;
    for (json, said) in [
        ("on", "not a valid command"),
        (r#"{"name":7}"#, "not a valid command"),
        (&format!(r#"{{"name":"led","args":{{"on":"{}"}}}}"#, "x".repeat(9_000)), "at most 8192"),
    ] {
        bench.publish(json)?;
        let ack = bench.wait_seen(said)?;
        assert_eq!((ack.id, ack.outcome.map(|it| it.as_str())), (None, Some("rejected")));
    }
    for (id, rest, outcome, said) in [
        ("b1", r#""name":"lamp""#, "rejected", "there is no command lamp"),
        ("b2", r#""name":"led","args":{"on":2}"#, "rejected", "a whole number from 0 to 1"),
        ("b3", r#""name":"restart""#, "rejected", "not in [commands] allow"),
        ("b4", r#""name":"led","args":{"on":1},"expires":1000"#, "expired", ""),
        (
            "b5",
            r#""name":"led","args":{"on":1},"strict":true,"target":"000102030405060708090a0b0c0d0e0f""#,
            "stale",
            "",
        ),
    ] {
        bench.publish(&format!(r#"{{"id":"{id}",{rest}}}"#))?;
        let (detail, _) = bench.wait(id, outcome)?;
        assert!(detail.contains(said), "{id}: {detail}");
        assert_eq!(bench.stored(id)?, [outcome]);
    }
    assert_eq!(bench.rig.ledger.commands(), Vec::<String>::new());
    bench.end()
}

fn what_a_broker_has_kept_never_runs(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    // A gateway that is connected gets it without the mark, as MQTT has it, and runs it once.
    bench.publish_to(DEVICE, r#"{"id":"kept","name":"led","args":{"on":1}}"#, true)?;
    bench.wait("kept", "succeeded")?;
    bench.rig.world.stop_gateway()?;
    // A bridge that is connected would take it, too, and issue it.
    bench.rig.world.stop_bridge()?;
    bench.publish_to(DEVICE, r#"{"id":"kept2","name":"led","args":{"on":0}}"#, true)?;
    bench.rig.world.start_bridge()?;
    bench.start_gateway()?;
    bench.publish(r#"{"id":"p1","name":"ping"}"#)?;
    bench.wait("p1", "succeeded")?;
    assert_eq!(bench.rig.ledger.commands(), ["led on=1"]);
    assert_eq!(bench.stored("kept2")?, Vec::<String>::new());
    bench.publish_to(DEVICE, "", true)?;
    bench.end()
}

fn a_command_without_an_id_is_left_to_the_bridge(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.publish(r#"{"name":"led","args":{"on":1}}"#)?;
    let ack = bench.wait_seen("left to the bridge")?;
    assert_eq!((ack.id, ack.name.as_deref(), ack.outcome), (None, Some("led"), None));
    bench.publish(r#"{"id":"s1","name":"led","args":{"on":1},"strict":true}"#)?;
    wait_until("the strict one", SOON, || {
        Ok(bench.seen()?.iter().filter(|ack| ack.outcome.is_none()).count() == 2)
    })?;
    bench.wait("s1", "succeeded")?;
    assert_eq!(bench.rig.ledger.commands(), ["led on=1", "led on=1"]);
    bench.end()
}

fn what_the_gateway_does_itself_is_answered_too(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.publish(r#"{"id":"p1","name":"ping"}"#)?;
    let (_, result) = bench.wait("p1", "succeeded")?;
    assert!(result.contains("\"version\":\"0.1.0\""), "{result}");
    for (id, rest) in [
        ("p2", r#""name":"sync.now""#),
        ("p3", r#""name":"log.level","args":{"level":"debug","time":"1s"}"#),
        ("p4", r#""name":"serial.reopen","args":{"port":"arduino"}"#),
    ] {
        bench.publish(&format!(r#"{{"id":"{id}",{rest}}}"#))?;
        bench.wait(id, "succeeded")?;
    }
    bench.rig.wait_accepting()?;
    for (id, rest, said) in [
        ("q1", r#""name":"serial.release","args":{"port":"attic"}"#, "there are: arduino"),
        ("q2", r#""name":"sync.pause","args":{"time":"1y"}"#, "time = \"1y\""),
    ] {
        bench.publish(&format!(r#"{{"id":"{id}",{rest}}}"#))?;
        let (detail, _) = bench.wait(id, "rejected")?;
        assert!(detail.contains(said), "{id}: {detail}");
    }
    bench.publish(r#"{"id":"r1","name":"sync.pause","args":{"time":"1h"}}"#)?;
    bench.wait("r1", "succeeded")?;
    bench.publish(r#"{"id":"r2","name":"ping"}"#)?;
    bench.wait("r2", "succeeded")?;
    wait_until("an alert", SOON, || bench.rig.stored_alert("sync_paused", "raised"))?;
    let paused = fieldpost_demo::judge::stored(&bench.rig.world.storage(), &bench.rig.ledger)?;
    let sent = bench.rig.ledger.len();
    bench.rig.wait_sent(sent + 40)?;
    let still = fieldpost_demo::judge::stored(&bench.rig.world.storage(), &bench.rig.ledger)?;
    assert_eq!(paused.stored(), still.stored(), "paused");
    bench.publish(r#"{"id":"r3","name":"sync.resume"}"#)?;
    bench.wait("r3", "succeeded")?;
    bench.rig.wait_stored(sent + 40)?;
    wait_until("the end of the alert", SOON, || bench.rig.stored_alert("sync_paused", "cleared"))?;
    bench.end()
}

fn a_gateway_starts_again_on_request_and_says_so_itself(broker: Broker) -> anyhow::Result<()> {
    let mut allowing = settings();
    allowing.gateway.push(("commands", "allow = [\"restart\"]".to_owned()));
    let mut bench = Bench::with(broker, allowing)?;
    let (pid, epoch) = (bench.rig.status()?["pid"].clone(), bench.rig.status()?["epoch"].clone());
    bench.publish(r#"{"id":"r1","name":"restart"}"#)?;
    let (detail, _) = bench.wait("r1", "succeeded")?;
    assert!(detail.contains("has started again"), "{detail}");
    let seen = bench.wait_seen("has started again")?;
    assert_eq!(
        (seen.name.as_deref(), seen.outcome),
        (Some("restart"), Some(CommandOutcome::Succeeded))
    );
    wait_until("the new epoch in the status file", SOON, || {
        let status = bench.rig.status()?;
        Ok(status["epoch"] != epoch && status["broker"] == "in sync")
    })?;
    assert_eq!(bench.rig.status()?["pid"], pid, "for whoever supervises it nothing has happened");
    bench.end()
}

fn readings_are_published_once_more_and_stored_no_second_time(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    let epoch = bench.rig.status()?["epoch"].as_str().expect("an epoch").to_owned();
    bench.rig.wait_stored(100)?;
    let rows = |bench: &Bench, from: usize| -> anyhow::Result<Vec<(u64, u64)>> {
        let received = bench.person.received().into_iter().skip(from);
        let batches = received.filter(|it| it.topic.ends_with("sensor_data"));
        let envelopes = batches.map(|it| Envelope::decode(&it.payload));
        Ok(envelopes.map(|it| it.map(|it| (it.first, it.end()))).collect::<Result<_, _>>()?)
    };
    for (id, args, said) in [
        ("x1", "", "write since"),
        ("x2", r#""since":5,"until":4"#, "since = 5 is after until = 4"),
        ("x3", r#""epoch":"5e","from":1"#, "32 hexadecimal digits"),
        ("x4", r#""since":0,"to":5"#, "to cannot stand beside since: write since"),
    ] {
        bench.publish(&format!(r#"{{"id":"{id}","name":"resend","args":{{{args}}}}}"#))?;
        let (detail, _) = bench.wait(id, "rejected")?;
        assert!(detail.contains(said), "{id}: {detail}");
    }
    for (id, args) in [
        ("y1", r#""since":0"#.to_owned()),
        ("y2", format!(r#""epoch":"{epoch}","from":1,"to":100"#)),
    ] {
        let before = bench.person.received().len();
        bench.publish(&format!(r#"{{"id":"{id}","name":"resend","args":{{{args}}}}}"#))?;
        let (_, result) = bench.wait(id, "succeeded")?;
        let result: serde_json::Value = serde_json::from_str(&result)?;
        assert!(result["readings"].as_u64() >= Some(100), "{result}");
        wait_until("rows 1 to 100 once more", SOON, || {
            let again = rows(&bench, before)?;
            Ok((1..=100).all(|row| again.iter().any(|(first, end)| (*first..=*end).contains(&row))))
        })?;
    }
    bench.end()
}

fn a_board_that_gives_no_answer_has_timed_out_and_the_next_command_runs(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.rig.board.as_ref().expect("plugged in above").answer(false);
    bench.publish(r#"{"id":"t1","name":"fail"}"#)?;
    bench.publish(r#"{"id":"t2","name":"led","args":{"on":0}}"#)?;
    let (detail, _) = bench.wait("t1", "timed_out")?;
    assert!(detail.contains("no answer within 2s"), "{detail}");
    bench.rig.board.as_ref().expect("plugged in above").answer(true);
    wait_until("the end of the second", SOON, || {
        let outcomes = bench.stored("t2")?;
        Ok(outcomes.iter().any(|outcome| outcome == "succeeded" || outcome == "timed_out"))
    })?;
    assert_eq!(bench.rig.ledger.commands(), ["fail", "led on=0"]);
    bench.end()
}

fn a_silent_board_keeps_out_its_own_commands_and_no_others(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.rig.board.as_ref().expect("plugged in above").answer(false);
    let topic = format!("devices/{DEVICE}/commands");
    let fail = |n: usize| format!(r#"{{"id":"f{n}","name":"fail"}}"#).into_bytes();
    bench.person.publish((0..80).map(|n| (topic.clone(), fail(n))), false)?;
    let dropped = bench.wait_seen("64 commands wait for port arduino already")?;
    assert_eq!((dropped.name.as_deref(), dropped.outcome), (Some("fail"), None));
    let gateways = [("p1", "ping", "{}"), ("p2", "serial.reopen", r#"{"port":"arduino"}"#)];
    for (id, name, args) in gateways {
        bench.publish(&format!(r#"{{"id":"{id}","name":"{name}","args":{args}}}"#))?;
        bench.wait(id, "succeeded")?;
    }
    let dropped = bench.seen()?.into_iter().filter(|ack| ack.outcome.is_none());
    let others: Vec<_> = dropped.filter(|ack| ack.name.as_deref() != Some("fail")).collect();
    assert!(others.is_empty(), "dropped beside the board's own: {others:?}");
    assert!(bench.rig.ledger.commands().len() < 20, "most of the board's wait all the time");
    bench.rig.board.as_ref().expect("plugged in above").answer(true);
    bench.end()
}

fn a_gateway_that_is_killed_before_the_answer_says_that_nobody_knows(
    broker: Broker,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.rig.board.as_ref().expect("plugged in above").answer(false);
    let command = r#"{"id":"k1","name":"led","args":{"on":1}}"#;
    bench.publish(command)?;
    wait_until("the board's doing", SOON, || Ok(!bench.rig.ledger.commands().is_empty()))?;
    bench.rig.world.gateway.take().expect("started above").kill()?;
    bench.rig.board.as_ref().expect("plugged in above").answer(true);
    bench.rig.world.start_gateway()?;
    let (detail, _) = bench.wait("k1", "unknown")?;
    assert!(detail.contains("stopped in between"), "{detail}");
    bench.publish(command)?;
    bench.publish(r#"{"id":"k2","name":"led","args":{"on":0}}"#)?;
    bench.wait("k2", "succeeded")?;
    assert_eq!(bench.rig.ledger.commands(), ["led on=1", "led on=0"]);
    bench.end()
}

fn a_gateway_that_ends_waits_for_the_answers_of_its_boards(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.rig.board.as_ref().expect("plugged in above").be_slow(true);
    bench.publish(r#"{"id":"w1","name":"led","args":{"on":1}}"#)?;
    wait_until("the board's doing", SOON, || Ok(!bench.rig.ledger.commands().is_empty()))?;
    let gateway = bench.rig.world.gateway.take().expect("started above");
    let end = std::thread::spawn(move || gateway.stop());
    wait_until("that it waits", SOON, || {
        let log = std::fs::read_to_string(bench.rig.world.log("gateway"))?;
        Ok(log.contains("answers of commands that run are waited for") || end.is_finished())
    })?;
    // Not begun: it comes too late.
    bench.publish(r#"{"id":"w2","name":"led","args":{"on":0}}"#)?;
    bench.rig.board.as_ref().expect("plugged in above").be_slow(false);
    end.join().expect("no panic")?;
    assert_eq!(bench.rig.ledger.commands(), ["led on=1"]);
    bench.start_gateway()?;
    bench.wait("w1", "succeeded")?;
    assert_eq!(bench.stored("w1")?, ["accepted", "succeeded"]);
    bench.end()
}

fn a_resend_goes_on_with_another_session(broker: Broker) -> anyhow::Result<()> {
    let mut allowing = settings();
    allowing.gateway.push(("commands", "allow = [\"resend\", \"config.reload\"]".to_owned()));
    let rig = Rig::on(broker, allowing)?;
    fieldpost_tests::fill::backlog(&rig.world.outbox(), 200_000)?;
    let mut bench = Bench::on(rig)?;
    let file = bench.rig.world.dir().join("gateway.toml");
    let before = std::fs::read_to_string(&file)?;
    let changed = before.replacen("[broker]\n", "[broker]\nkeep_alive = \"31s\"\n", 1);
    assert_ne!(changed, before);
    std::fs::write(&file, changed)?;
    bench.publish(r#"{"id":"s1","name":"resend","args":{"since":0}}"#)?;
    bench.publish(r#"{"id":"s2","name":"config.reload"}"#)?;
    bench.wait("s2", "succeeded")?;
    assert_eq!(bench.stored("s1")?, ["accepted"], "it goes on meanwhile");
    let (_, result) = bench.wait("s1", "succeeded")?;
    let result: serde_json::Value = serde_json::from_str(&result)?;
    assert!(result["readings"].as_u64() >= Some(200_000), "{result}");
    Ok(())
}

fn a_resend_leaves_out_what_is_gone_and_goes_on_behind_it(broker: Broker) -> anyhow::Result<()> {
    let rig = Rig::on(broker, settings())?;
    fieldpost_tests::fill::backlog(&rig.world.outbox(), 5_000)?;
    let outbox = rusqlite::Connection::open(rig.world.outbox())?;
    let epoch: String =
        outbox.query_row("SELECT lower(hex(epoch)) FROM epoch", [], |row| row.get(0))?;
    assert_eq!(outbox.execute("DELETE FROM segment WHERE first = 2001", [])?, 1);
    drop(outbox);
    let mut bench = Bench::on(rig)?;
    bench.publish(&format!(
        r#"{{"id":"h1","name":"resend","args":{{"epoch":"{epoch}","from":1500,"to":4500}}}}"#
    ))?;
    let (_, result) = bench.wait("h1", "succeeded")?;
    assert_eq!(result, r#"{"batches":3,"readings":2001}"#, "1,500 to 2,000 and 3,001 to 4,500");
    Ok(())
}

fn a_resend_that_is_cut_short_by_an_end_has_failed(broker: Broker) -> anyhow::Result<()> {
    let rig = Rig::on(broker, settings())?;
    fieldpost_tests::fill::backlog(&rig.world.outbox(), 200_000)?;
    let mut bench = Bench::on(rig)?;
    bench.publish(r#"{"id":"e1","name":"resend","args":{"since":0}}"#)?;
    wait_until("its start", SOON, || Ok(!bench.seen()?.is_empty()))?;
    bench.rig.world.gateway.take().expect("started above").stop()?;
    bench.start_gateway()?;
    let (detail, _) = bench.wait("e1", "failed")?;
    assert!(detail.contains("ended before all was published"), "{detail}");
    assert_eq!(bench.stored("e1")?, ["accepted", "failed"]);
    Ok(())
}
