//! The source `system`: how the Pi itself is doing, and what was lost on its ports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fieldpost_protocol::{Metrics, NAME_BYTES_MAX, Value};
use sysinfo::{Components, DiskRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::serial::{Counters, Measured};

/// A port's name, and what it counts.
pub type Port = (Arc<str>, Arc<Counters>);

/// Measures the machine every `interval`, first after one, and hands it to the queue as a port does: without
/// waiting. `disk_of`: the file whose disk is watched.
pub async fn run(
    interval: Duration,
    disk_of: PathBuf,
    ports: Vec<Port>,
    clock: fn() -> i64,
    readings: mpsc::Sender<Measured>,
) {
    let source: Arc<str> = "system".into();
    let mut machine = Machine::new(disk_of, ports);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once: the sensors of the ports have the first word.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let metrics = machine.measure();
        let measured = Measured { source: source.clone(), boot_ms: clock(), metrics };
        if matches!(readings.try_send(measured), Err(mpsc::error::TrySendError::Closed(_))) {
            return;
        }
    }
}

/// What the platform does not tell is `None`, and null in the reading.
struct Machine {
    system: Option<System>,
    components: Option<Components>,
    disks: Option<Disks>,
    disk_of: PathBuf,
    ports: Vec<Port>,
}

impl Machine {
    fn new(disk_of: PathBuf, ports: Vec<Port>) -> Self {
        let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        Machine {
            system: System::new_with_specifics(memory).ok(),
            components: Components::new_with_refreshed_list().ok(),
            disks: Disks::new_with_refreshed_list_specifics(
                DiskRefreshKind::nothing().with_storage(),
            )
            .ok(),
            disk_of: disk_of.canonicalize().unwrap_or(disk_of),
            ports,
        }
    }

    /// `cpu_temperature_celsius` (null where the machine has no sensor), `load_1min`,
    /// `memory_available_bytes`, `disk_available_bytes` of the disk that holds the outbox; of each
    /// port, since the start, `<port>.lines_lost` and `<port>.lines_refused`.
    fn measure(&mut self) -> Metrics {
        let disk = self.available_on_disk().map_or(Value::Null, Value::Int);
        let load = System::load_average().map_or(Value::Null, |load| Value::Float(load.one));
        let memory = self.available_memory().map_or(Value::Null, Value::Int);
        let temperature = self.temperature().map_or(Value::Null, Value::Float);
        let mut metrics: BTreeMap<Arc<str>, Value> = BTreeMap::from([
            ("cpu_temperature_celsius".into(), temperature),
            ("disk_available_bytes".into(), disk),
            ("load_1min".into(), load),
            ("memory_available_bytes".into(), memory),
        ]);
        for (port, counters) in &self.ports {
            let now = counters.snapshot();
            metrics.insert(of_port(port, "lines_lost"), Value::Int(now.lines_lost as i64));
            metrics.insert(of_port(port, "lines_refused"), Value::Int(now.refused() as i64));
        }
        Metrics::new(metrics.into_iter().collect()).expect("a map has no name twice")
    }

    fn available_memory(&mut self) -> Option<i64> {
        let system = self.system.as_mut()?;
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        Some(system.available_memory() as i64)
    }

    /// The first sensor's, to a tenth: on a Pi there is one, the CPU's.
    fn temperature(&mut self) -> Option<f64> {
        let components = self.components.as_mut()?;
        components.refresh(false);
        let celsius = components
            .iter()
            .filter_map(|component| component.temperature())
            .find(|c| c.is_finite())?;
        Some((f64::from(celsius) * 10.0).round() / 10.0)
    }

    fn available_on_disk(&mut self) -> Option<i64> {
        let disks = self.disks.as_mut()?;
        disks.refresh_specifics(false, DiskRefreshKind::nothing().with_storage());
        let holds = |mount: &Path| self.disk_of.starts_with(mount);
        let disk = disks.iter().filter(|disk| holds(disk.mount_point()));
        let disk = disk.max_by_key(|disk| disk.mount_point().components().count())?;
        Some(disk.available_space() as i64)
    }
}

/// `arduino.lines_lost`; the name of the port is cut where both together would be too long for a
/// metric.
fn of_port(port: &str, what: &str) -> Arc<str> {
    let fits = port.floor_char_boundary(NAME_BYTES_MAX - what.len() - 1);
    format!("{}.{what}", &port[..fits]).into()
}

#[cfg(test)]
mod tests {
    use fieldpost_protocol::check_metric;

    use super::*;

    #[test]
    fn the_machine_has_memory_and_a_disk() {
        let metrics = Machine::new("/".into(), Vec::new()).measure();
        assert!(
            matches!(metrics.get("memory_available_bytes"), Some(Value::Int(bytes)) if *bytes > 1_000_000)
        );
        assert_eq!(metrics.len(), 4);
    }
    #[test]
    fn each_port_tells_what_was_lost_and_refused_on_it() {
        let counters = Arc::new(Counters::default());
        counters.lines_lost.store(3, std::sync::atomic::Ordering::Relaxed);
        counters.refused_checksum.store(2, std::sync::atomic::Ordering::Relaxed);
        let long: Arc<str> = "ü".repeat(32).into();
        let ports = vec![("gh".into(), counters.clone()), (long, counters)];
        let metrics = Machine::new("/".into(), ports).measure();
        assert_eq!(metrics.get("gh.lines_lost"), Some(&Value::Int(3)));
        assert_eq!(metrics.get("gh.lines_refused"), Some(&Value::Int(2)));
        assert_eq!(metrics.len(), 8);
        assert!(metrics.iter().all(|(name, _)| check_metric(name).is_ok()));
    }
}
