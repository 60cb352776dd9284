//! Another configuration while everything runs: what is the same is not touched.

use std::sync::Arc;

use super::{Driver, Port};
use crate::clock;
use crate::config::Config;
use crate::outbox::Gone;

impl Driver {
    /// Makes this the configuration that runs. What only a start can change stays as it is: its keys
    /// come back.
    pub(super) async fn apply(&mut self, mut config: Config) -> Result<Vec<&'static str>, Gone> {
        let left = leave(&self.config, &mut config);
        let config = Arc::new(config);
        let before = std::mem::replace(&mut self.config, config.clone());
        let now = clock::boottime();
        let publish = &config.publish;
        self.engine.change_settings(now, publish.publish_interval, publish.batch_readings_max);
        self.commit_interval.send_replace(config.outbox.commit_interval);
        let kept = config.outbox.clone();
        self.outbox.call(move |outbox| outbox.change_retention(&kept)).await?;
        self.sources.follow(&config.ports, &config.system).await;
        self.follow_ports();
        self.desk.change(config.commands.clone(), self.sources.boards());
        self.rules.replace(config.rules.clone(), clock::boottime_ms());
        if config.broker != before.broker {
            self.broker.change(crate::run::address_of(&config));
            self.session_is_old = true;
        } else if config.meta != before.meta {
            self.publish_meta();
        }
        self.announcer.change(super::about(&config));
        self.last_heartbeat = None;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        Ok(left)
    }

    /// What is known of a port that stays is kept, and what was said of one that is gone is over.
    fn follow_ports(&mut self) {
        let mut before = std::mem::take(&mut self.ports);
        for (config, counters) in self.sources.ports() {
            let same = |port: &Port| Arc::ptr_eq(&port.counters, counters);
            let stays = before.iter().position(same).map(|at| before.swap_remove(at));
            self.ports.push(stays.unwrap_or_else(|| Port::new(config, counters.clone())));
        }
        let boot_ms = clock::boottime_ms();
        for gone in before {
            let why = "the configuration names this port no more, or another place for it";
            self.alerts.clear(boot_ms, "port_lost", Some(&gone.name), why);
        }
    }
}

/// Keeps what only a start can change.
fn leave(before: &Config, config: &mut Config) -> Vec<&'static str> {
    let mut left = Vec::new();
    let mut keep = |key, differs: bool, put: &mut dyn FnMut()| {
        if differs {
            put();
            left.push(key);
        }
    };
    keep("device.id", before.device.id != config.device.id, &mut || {
        config.device.id = before.device.id.clone();
    });
    let (old, new) = (&before.outbox, &mut config.outbox);
    keep("outbox.path", old.path != new.path, &mut || new.path = old.path.clone());
    keep("outbox.size_max", old.size_max != new.size_max, &mut || new.size_max = old.size_max);
    keep("outbox.when_full", old.when_full != new.when_full, &mut || new.when_full = old.when_full);
    keep("outbox.queue_readings", old.queue_readings != new.queue_readings, &mut || {
        new.queue_readings = old.queue_readings;
    });
    keep("publish.topic_prefix", before.publish.topics != config.publish.topics, &mut || {
        config.publish.topics = before.publish.topics.clone();
    });
    keep("control.socket", before.control.socket != config.control.socket, &mut || {
        config.control.socket = before.control.socket.clone();
    });
    // A recorder lets go of readings that nobody has.
    keep("broker", before.broker.is_some() != config.broker.is_some(), &mut || {
        config.broker = before.broker.clone();
    });
    left
}
