//! Where readings come from: the ports, and the machine itself. They are opened, closed and described
//! anew while all others run on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::System;
use crate::serial::{self, Board, Counters, Measured, PortConfig, PortEvent, PortHandle, Releaser};
use crate::system;

/// A port that is being read, and as what.
#[derive(Debug)]
struct Running {
    config: PortConfig,
    handle: PortHandle,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sources {
    running: Vec<Running>,
    system: Option<(Duration, JoinHandle<()>)>,
    disk_of: PathBuf,
    readings: mpsc::Sender<Measured>,
    events: mpsc::Sender<PortEvent>,
    releasers: watch::Sender<Vec<Releaser>>,
}

impl Sources {
    /// None yet. `disk_of`: the file whose disk is watched.
    pub(crate) fn new(
        disk_of: PathBuf,
        readings: mpsc::Sender<Measured>,
        events: mpsc::Sender<PortEvent>,
    ) -> Self {
        let releasers = watch::Sender::new(Vec::new());
        Sources { running: Vec::new(), system: None, disk_of, readings, events, releasers }
    }

    /// Makes these the sources. A port of the same name and place stays open; what is gone is closed
    /// before anything is opened, since it may be the same device.
    pub(crate) async fn follow(&mut self, ports: &[PortConfig], system: &System) {
        let mut before = std::mem::take(&mut self.running);
        let mut slots: Vec<(&PortConfig, Option<PortHandle>)> = Vec::new();
        for port in ports {
            let same = |it: &Running| it.config.name == port.name && it.config.place == port.place;
            let stays = before.iter().position(same).map(|at| before.swap_remove(at));
            let handle = stays.map(|Running { config, handle }| {
                if config != *port {
                    handle.retune(port.clone());
                }
                handle
            });
            slots.push((port, handle));
        }
        let mut changed = !before.is_empty();
        for gone in before {
            tracing::info!(port = %gone.config.name, "port closed: the configuration names it no more");
            gone.handle.stop().await;
        }
        for (port, stays) in slots {
            changed |= stays.is_none();
            let handle = stays.unwrap_or_else(|| {
                let (readings, events) = (self.readings.clone(), self.events.clone());
                serial::spawn(port.clone(), clock::boottime_ms, readings, events)
            });
            self.running.push(Running { config: port.clone(), handle });
        }
        self.releasers.send_replace(self.of_devices(|port| port.releaser.clone()));
        self.measure(system, changed);
    }

    /// The machine itself: anew where its interval or the ports that it tells of have changed.
    fn measure(&mut self, system: &System, ports_changed: bool) {
        let wanted = system.enabled.then_some(system.interval);
        let is = self.system.as_ref().map(|(interval, _)| *interval);
        if is == wanted && !ports_changed {
            return;
        }
        if let Some((_, task)) = self.system.take() {
            task.abort();
        }
        self.system = wanted.map(|interval| {
            let counters = self.ports().map(|(port, of)| (port.name.clone(), of.clone())).collect();
            let (disk_of, readings) = (self.disk_of.clone(), self.readings.clone());
            let run = system::run(interval, disk_of, counters, clock::boottime_ms, readings);
            (interval, tokio::spawn(run))
        });
    }

    /// Each port, and what it counts.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (&PortConfig, &Arc<Counters>)> {
        self.running.iter().map(|it| (&it.config, &it.handle.counters))
    }

    /// The ways to their boards.
    pub(crate) fn boards(&self) -> Vec<Board> {
        self.of_devices(|port| port.board.clone())
    }

    /// Who closes them for a while, now and after each change.
    pub(crate) fn releasers(&self) -> watch::Receiver<Vec<Releaser>> {
        self.releasers.subscribe()
    }

    fn of_devices<T>(&self, of: impl Fn(&PortHandle) -> T) -> Vec<T> {
        let devices = self.running.iter().filter(|it| !it.config.place.is_socket());
        devices.map(|it| of(&it.handle)).collect()
    }

    /// Closes all of them.
    pub(crate) async fn stop(&mut self) {
        for port in self.running.drain(..) {
            port.handle.stop().await;
        }
        if let Some((_, task)) = self.system.take() {
            task.abort();
        }
    }
}
