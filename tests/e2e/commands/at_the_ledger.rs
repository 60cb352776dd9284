//! `fieldpost-bridge command`, beside a running bridge.

use std::process::Output;

use super::*;

on_each_broker! {
    whoever_waits_sees_the_acks_and_exits_by_the_outcome,
    what_was_not_issued_can_be_taken_back,
}

impl Bench {
    fn command(&self, arguments: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let output = self.rig.world.command("bridge").arg("command").args(arguments).output()?;
        let Output { status, stdout, stderr } = output;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok((status.code().unwrap_or(-1), text(&stdout), text(&stderr)))
    }
}

fn whoever_waits_sees_the_acks_and_exits_by_the_outcome(broker: Broker) -> anyhow::Result<()> {
    let bench = Bench::new(broker)?;
    for (command, code, lines) in [
        (&["led", "on=1"][..], 0, &["accepted", "succeeded  "][..]),
        (&["fail"], 3, &["accepted", "failed: no such pin"]),
        (&["led", "on=7"], 5, &["rejected: ", "a whole number from 0 to 1"]),
        (&["lamp"], 5, &["rejected: there is no command lamp"]),
    ] {
        let arguments = [&["send", DEVICE][..], command, &["--wait"]].concat();
        let (status, said, errors) = bench.command(&arguments)?;
        assert_eq!(status, code, "{said}{errors}");
        assert!(said.contains("the bridge sends it now"), "{said}");
        for line in lines {
            assert!(said.contains(line), "{line}: {said}");
        }
    }
    // Nobody answers in time: neither the board nor the gateway.
    bench.rig.board.as_ref().expect("plugged in above").answer(false);
    let (status, said, errors) =
        bench.command(&["send", DEVICE, "fail", "--wait", "--timeout", "1s", "--id", "slow"])?;
    assert_eq!(status, 8, "{said}{errors}");
    assert!(errors.contains("no answer yet") && errors.contains("command show"), "{errors}");
    let (status, said, errors) = bench.command(&["send", DEVICE, "fail", "--wait"])?;
    assert_eq!(status, 4, "{said}{errors}");
    let (status, said, errors) = bench.command(&["show", DEVICE, "slow"])?;
    assert_eq!(status, 0, "{errors}");
    assert!(said.contains("timed_out"), "{said}");
    assert_eq!(bench.rig.ledger.commands(), ["led on=1", "fail", "fail", "fail"]);
    let (status, said, errors) = bench.command(&["send", "attic", "led", "on=1"])?;
    assert_eq!((status, said.as_str()), (1, ""));
    assert!(errors.contains(&format!("it knows {DEVICE}")), "{errors}");
    Ok(())
}

fn what_was_not_issued_can_be_taken_back(broker: Broker) -> anyhow::Result<()> {
    let mut bench = Bench::new(broker)?;
    bench.rig.world.stop_gateway()?;
    for id in ["c1", "c2"] {
        let (status, said, errors) =
            bench.command(&["send", DEVICE, "led", "on=1", "--id", id, "--expires", "1h"])?;
        assert_eq!(status, 0, "{errors}");
        assert!(said.contains("the bridge sends it when it is back"), "{said}");
    }
    let (status, said, errors) = bench.command(&["cancel", DEVICE, "c1"])?;
    assert_eq!(status, 0, "{said}{errors}");
    let (_, open, _) = bench.command(&["list", DEVICE])?;
    assert!(open.contains("c2") && !open.contains("c1"), "{open}");
    bench.start_gateway()?;
    bench.wait("c2", "succeeded")?;
    let (status, _, errors) = bench.command(&["cancel", DEVICE, "c2"])?;
    assert_eq!(status, 1);
    assert!(errors.contains("done already") || errors.contains("may have run"), "{errors}");
    let (_, all, _) = bench.command(&["list", DEVICE, "--all", "--json"])?;
    assert!(all.contains("cancelled") && all.contains("succeeded"), "{all}");
    assert_eq!(bench.rig.ledger.commands(), ["led on=1"]);
    bench.end()
}
