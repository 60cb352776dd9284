//! What a person publishes with `mosquitto_pub`, case by case: the table of topics.md.

use std::process::Output;

use anyhow::{Context as _, ensure};

use super::*;

on_each_broker! {
    what_a_person_publishes_does_what_the_contract_says,
    a_device_that_is_away_gets_it_from_a_bridge_or_not_at_all,
    what_is_too_big_is_refused_and_disturbs_nobody,
}

/// The operator looks on meanwhile.
const PERSON: &str = "anna";

impl Bench {
    fn with_anna(broker: Broker) -> anyhow::Result<Bench> {
        let mut bench = Bench::new(broker)?;
        bench.rig.admit(PERSON)?;
        Ok(bench)
    }

    /// `mosquitto_pub` to a device's commands, with what stands in a file.
    fn by_hand(&self, device: &str, message: &[u8], more: &[&str]) -> anyhow::Result<Output> {
        let certs = self.rig.world.dir().join("certs");
        let file = self.rig.world.dir().join("message");
        std::fs::write(&file, message)?;
        let port = self.rig.world.broker_address().port().to_string();
        std::process::Command::new("mosquitto_pub")
            .args(["-h", "localhost", "-p", &port, "-q", "1", "--cafile"])
            .arg(certs.join("ca.pem"))
            .arg("--cert")
            .arg(certs.join(format!("{PERSON}.pem")))
            .arg("--key")
            .arg(certs.join(format!("{PERSON}.key")))
            .args(["-t", &format!("devices/{device}/commands"), "-f"])
            .arg(&file)
            .args(more)
            .output()
            .context("running mosquitto_pub; it is in Debian's package mosquitto-clients")
    }

    fn say(&self, json: &str) -> anyhow::Result<()> {
        let output = self.by_hand(DEVICE, json.as_bytes(), &[])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What the bridge's ledger has of a command: state, origin and how often it was issued.
    fn ledger(&self, id: &str) -> anyhow::Result<Option<(String, String, i64)>> {
        let conn = read_only(&self.rig.world.storage())?;
        let sql = "SELECT state, origin, issued FROM commands WHERE id = ?1";
        let mut query = conn.prepare(sql)?;
        let mut rows = query.query_map([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.next().transpose()?)
    }

    fn wait_ledger(&self, id: &str, state: &str) -> anyhow::Result<()> {
        wait_until(&format!("{id} {state} in the ledger"), SOON, || {
            Ok(self.ledger(id)?.is_some_and(|row| row.0 == state))
        })
    }

    fn wait_said(&self, program: &'static str, what: &str) -> anyhow::Result<()> {
        wait_until(&format!("{what:?} in the log of the {program}"), SOON, || {
            Ok(self.rig.times_said(program, what)? > 0)
        })
    }

    /// The ids of commands that were issued once without having had one.
    fn given_ids(&self) -> anyhow::Result<Vec<String>> {
        let conn = read_only(&self.rig.world.storage())?;
        let sql = "SELECT id FROM commands WHERE origin = 'person' AND length(id) = 16";
        let mut query = conn.prepare(sql)?;
        let ids = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(ids)
    }
}

fn what_a_person_publishes_does_what_the_contract_says(broker: Broker) -> anyhow::Result<()> {
    let bench = Bench::with_anna(broker)?;
    // Valid.
    bench.say(r#"{"id":"v1","name":"led","args":{"on":1}}"#)?;
    bench.wait("v1", "succeeded")?;
    bench.wait_ledger("v1", "succeeded")?;
    assert_eq!(bench.ledger("v1")?.map(|row| row.1).as_deref(), Some("person"));

    // With a key that nobody reads: it runs without, and whoever sent it is told.
    bench.say(r#"{"id":"k1","name":"led","args":{"on":1},"strct":true}"#)?;
    let told = bench.wait_seen("strct; known are")?;
    assert_eq!((told.id.as_ref().map(|id| id.as_str()), told.outcome), (Some("k1"), None));
    bench.wait("k1", "succeeded")?;

    // Without an id: the bridge gives it one, and it runs.
    bench.say(r#"{"name":"led","args":{"on":0}}"#)?;
    let left = bench.wait_seen("left to the bridge")?;
    assert_eq!((left.id, left.outcome), (None, None));
    wait_until("an id of the bridge's", SOON, || Ok(bench.given_ids()?.len() == 1))?;
    let given = bench.given_ids()?.remove(0);
    bench.wait(&given, "succeeded")?;
    assert_eq!(bench.stored(&given)?, ["accepted", "succeeded"]);

    // Malformed.
    bench.say(r#"{"id":"m1","name":"led","args":"#)?;
    let ack = bench.wait_seen("not a valid command")?;
    assert_eq!((ack.id, ack.outcome.map(|it| it.as_str())), (None, Some("rejected")));
    assert_eq!(bench.ledger("m1")?, None);

    // Repeated, and repeated with other content.
    bench.say(r#"{"id":"v1","name":"led","args":{"on":1}}"#)?;
    bench.say(r#"{"id":"v1","name":"led","args":{"on":0}}"#)?;
    wait_until("the other one's rejection", SOON, || {
        Ok(bench.stored("v1")?.iter().any(|outcome| outcome == "rejected"))
    })?;
    bench.wait_said("bridge", "command_id_reused")?;
    assert_eq!(bench.ledger("v1")?.map(|row| row.0).as_deref(), Some("succeeded"));

    // Expired.
    bench.say(r#"{"id":"e1","name":"led","args":{"on":1},"expires":1000}"#)?;
    bench.wait("e1", "expired")?;
    bench.wait_ledger("e1", "expired")?;

    // For another device: not for this one, and nobody has heard of that one.
    let output = bench.by_hand("attic", br#"{"id":"o1","name":"led","args":{"on":1}}"#, &[])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.wait_said("bridge", "command_for_nobody")?;
    assert_eq!(bench.ledger("o1")?, None);

    assert_eq!(bench.rig.ledger.commands(), ["led on=1", "led on=1", "led on=0"]);
    bench.end()
}

fn a_device_that_is_away_gets_it_from_a_bridge_or_not_at_all(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::with_anna(broker)?;
    bench.rig.world.stop_gateway()?;
    // With a bridge. The last will or the farewell has told it by the time that this comes.
    bench.say(r#"{"id":"w1","name":"led","args":{"on":1}}"#)?;
    bench.say(r#"{"name":"led","args":{"on":0}}"#)?;
    bench.wait_ledger("w1", "open")?;
    wait_until("an id of the bridge's", SOON, || Ok(bench.given_ids()?.len() == 1))?;
    let given = bench.given_ids()?.remove(0);
    let past = 1_000 + i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_millis())?;
    bench.say(&format!(r#"{{"id":"w2","name":"led","args":{{"on":1}},"expires":{past}}}"#))?;
    bench.wait_ledger("w2", "open")?;
    wait_until("the end of w2's time", SOON, || {
        Ok(std::time::UNIX_EPOCH.elapsed()?.as_millis() as i64 > past)
    })?;
    // Retained, too: the broker's copy is passed over, the bridge's is issued.
    let output = bench.by_hand(DEVICE, br#"{"id":"w3","name":"ping"}"#, &["-r"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.wait_ledger("w3", "open")?;
    bench.start_gateway()?;
    for id in ["w1", &given, "w3"] {
        bench.wait_ledger(id, "succeeded")?;
        assert_eq!(bench.stored(id)?, ["accepted", "succeeded"], "{id}");
    }
    bench.wait_ledger("w2", "expired")?;
    bench.wait_said("gateway", "a retained command is never run")?;
    assert_eq!(bench.rig.ledger.commands().len(), 2, "w1, and the one without an id");

    // Without one, neither comes ever.
    bench.rig.world.stop_gateway()?;
    bench.rig.world.stop_bridge()?;
    bench.say(r#"{"id":"n1","name":"led","args":{"on":1}}"#)?;
    bench.say(r#"{"name":"led","args":{"on":1}}"#)?;
    bench.rig.world.start_bridge()?;
    bench.start_gateway()?;
    bench.say(r#"{"id":"p1","name":"ping"}"#)?;
    bench.wait_ledger("p1", "succeeded")?;
    assert_eq!((bench.ledger("n1")?, bench.given_ids()?.len()), (None, 1));

    // With a gateway and no bridge: what has an id runs, what has none is left to nobody.
    bench.rig.world.stop_bridge()?;
    bench.say(r#"{"name":"led","args":{"on":1}}"#)?;
    bench.say(r#"{"id":"g1","name":"led","args":{"on":1}}"#)?;
    wait_until("the third that the board does", SOON, || {
        Ok(bench.rig.ledger.commands().len() == 3)
    })?;
    let online = bench.rig.world.times_online()?;
    bench.rig.world.start_bridge()?;
    bench.rig.world.wait_bridge_online(online)?;
    bench.wait("g1", "succeeded")?;
    assert_eq!(bench.rig.ledger.commands().len(), 3);
    bench.end()
}

fn what_is_too_big_is_refused_and_disturbs_nobody(broker: Broker) -> anyhow::Result<()> {
    let bench = Bench::with_anna(broker)?;
    let big = |bytes: usize| {
        format!(r#"{{"id":"big","name":"led","args":{{"on":"{}"}}}}"#, "x".repeat(bytes))
    };
    let connections = bench.rig.times_said("gateway", "connected broker=")?;
    // The broker takes no such packet, and breaks the connection of whoever sends it.
    let output = bench.by_hand(DEVICE, big(1024 * 1024).as_bytes(), &[])?;
    println!("1 MB: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    ensure!(!output.status.success(), "mosquitto_pub is told nothing");
    // One that the broker takes, and the gateway does not.
    let output = bench.by_hand(DEVICE, big(100_000).as_bytes(), &[])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ack = bench.wait_seen("at most 8192")?;
    assert_eq!(ack.outcome.map(|it| it.as_str()), Some("rejected"));
    bench.wait_said("bridge", "at most 8192")?;
    bench.say(r#"{"id":"p1","name":"ping"}"#)?;
    bench.wait("p1", "succeeded")?;
    assert_eq!(bench.ledger("big")?, None);
    assert_eq!(bench.rig.ledger.commands(), Vec::<String>::new());
    assert_eq!(
        bench.rig.times_said("gateway", "connected broker=")?,
        connections,
        "the gateway has kept its connection"
    );
    bench.end()
}
