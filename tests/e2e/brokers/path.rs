//! Everything that Fieldpost asks of a broker, in one run.

use anyhow::{Context as _, ensure};
use fieldpost_demo::world::{BRIDGE, DEVICE};
use fieldpost_mqtt::Delivery;
use fieldpost_protocol::{BridgeStatus, DeviceStatus, Live};
use fieldpost_tests::client::Client;
use fieldpost_tests::rig::{Rig, SOON, wait_until};

/// A path that is tried.
pub struct Path<'p> {
    /// Before every topic; empty or with a `/` at its end.
    pub prefix: &'p str,
    /// A filter with a wildcard is given what is retained.
    pub retained_by_wildcard: bool,
    /// Connects whoever may read everything.
    pub watch: &'p dyn Fn(Vec<String>) -> anyhow::Result<Client>,
    /// Kills the broker and starts it again.
    pub restart: &'p mut dyn FnMut() -> anyhow::Result<()>,
}

impl Path<'_> {
    /// From the board's lines to the bridge's storage, exactly once; what is retained; live values; a
    /// last will after kill -9 of either; kill -9 of the broker; sync acks for all of it.
    pub fn walk(&mut self, rig: &mut Rig) -> anyhow::Result<()> {
        rig.run(50.0)?;
        let watcher = self.watch()?;
        for topic in [self.status(), self.meta(), self.bridge()] {
            let what = format!("{topic}, retained");
            watcher.wait_message(&what, |it| it.topic == topic && it.retain)?;
        }
        let live = format!("{}devices/{DEVICE}/live/fruiting", self.prefix);
        let newest = watcher.wait_message("live values", |it| it.topic == live)?;
        ensure!(Live::from_json(&newest.payload)?.values.get("n").is_some(), "{newest:?}");

        rig.world.gateway.take().context("it runs")?.kill()?;
        watcher.wait_message("the gateway's will", |it| self.says(it, false, false))?;
        rig.world.bridge.take().context("it runs")?.kill()?;
        watcher.wait_message("the bridge's will", |it| self.says(it, true, false))?;
        // Whoever comes now is told the same; RabbitMQ keeps a will a moment after it has said it.
        drop(watcher);
        wait_until("retained wills", SOON, || {
            let watcher = self.watch()?;
            let retained = |topic: String| {
                watcher.wait_message("what is retained", |it| it.topic == topic && it.retain)
            };
            let (gateway, bridge) = (retained(self.status())?, retained(self.bridge())?);
            Ok(self.says(&gateway, false, false) && self.says(&bridge, true, false))
        })?;
        let watcher = self.watch()?;

        let before = rig.ledger.len();
        rig.world.start_bridge()?;
        rig.world.start_gateway()?;
        for bridge in [false, true] {
            watcher.wait_message("online again", |it| self.says(it, bridge, true))?;
        }
        rig.wait_sent(before + 100)?;
        drop(watcher);
        (self.restart)()?;
        rig.wait_sent(rig.ledger.len() + 50)?;
        let found = rig.settle_accepted()?;
        wait_until("a sync ack for everything", SOON, || {
            Ok(rig.status()?["outbox"]["waiting"].as_u64() == Some(0))
        })?;
        println!("{} lines sent, {} stored, each once", rig.ledger.len(), found.stored());
        Ok(())
    }

    fn watch(&self) -> anyhow::Result<Client> {
        let live = format!("{}devices/+/live/#", self.prefix);
        let filters = if self.retained_by_wildcard {
            let wild = |leaf: &str| format!("{}{leaf}", self.prefix);
            ["devices/+/status", "devices/+/meta", "bridge/+/status"].map(wild)
        } else {
            [self.status(), self.meta(), self.bridge()]
        };
        (self.watch)(filters.into_iter().chain([live]).collect())
    }

    fn status(&self) -> String {
        format!("{}devices/{DEVICE}/status", self.prefix)
    }

    fn meta(&self) -> String {
        format!("{}devices/{DEVICE}/meta", self.prefix)
    }

    fn bridge(&self) -> String {
        format!("{}bridge/{BRIDGE}/status", self.prefix)
    }

    /// Whether it is a status of the bridge, else of the gateway, that says this.
    fn says(&self, it: &Delivery, bridge: bool, online: bool) -> bool {
        let says = if bridge {
            (it.topic == self.bridge())
                .then(|| BridgeStatus::from_json(&it.payload).map(|status| status.online))
        } else {
            (it.topic == self.status())
                .then(|| DeviceStatus::from_json(&it.payload).map(|status| status.online))
        };
        matches!(says, Some(Ok(says)) if says == online)
    }
}
