//! What the programs tell systemd, with a socket in its place.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use fieldpost_tests::disk::Disk;
use fieldpost_tests::rig::{Rig, SOON, pass, wait_until};

use crate::settings;

/// What the manager of these tests waits for a sign of life: a tenth of what the units say.
const WATCHDOG: Duration = Duration::from_secs(6);

/// In place of systemd: notes what it is told, and when.
struct Manager {
    path: PathBuf,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Manager {
    fn listen(dir: &Path) -> anyhow::Result<Manager> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let notes = said.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.push((Instant::now(), text));
            }
        });
        Ok(Manager { path, said })
    }

    /// In the environment of `program`, as systemd puts it there.
    fn watch(&self, rig: &mut Rig, program: &'static str) {
        let path = self.path.display().to_string();
        rig.world.environment.push((program, "NOTIFY_SOCKET", path));
        rig.world.environment.push((program, "WATCHDOG_USEC", WATCHDOG.as_micros().to_string()));
    }

    fn times(&self, text: &str) -> Vec<Instant> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().filter(|(_, message)| message.starts_with(text)).map(|(at, _)| *at).collect()
    }

    fn wait(&self, text: &str, more_than: usize) -> anyhow::Result<()> {
        wait_until(text, SOON, || Ok(self.times(text).len() > more_than))
    }

    /// Signs of life come while all is well, and each in time.
    fn assert_alive(&self) -> anyhow::Result<()> {
        let before = self.times("WATCHDOG=1").len();
        self.wait("WATCHDOG=1", before + 2)?;
        let at = self.times("WATCHDOG=1");
        let longest = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        println!("{} signs of life, at most {longest:.1?} between two", at.len());
        ensure!(longest < WATCHDOG, "systemd would have ended it after {longest:?}");
        Ok(())
    }

    /// None comes while the disk answers nobody; they come again when it does.
    fn assert_dead_while_frozen(&self, disk: &Disk) -> anyhow::Result<()> {
        let frozen = disk.freeze()?;
        // One may be on its way.
        pass(WATCHDOG / 2 + Duration::from_secs(2));
        let before = self.times("WATCHDOG=1").len();
        pass(WATCHDOG + Duration::from_secs(2));
        let after = self.times("WATCHDOG=1").len();
        drop(frozen);
        ensure!(after == before, "{} signs of life with a disk that hangs", after - before);
        self.wait("WATCHDOG=1", after + 1)
    }

    fn assert_order(&self) {
        let (ready, stopping) = (self.times("READY=1"), self.times("STOPPING=1"));
        assert_eq!((ready.len(), stopping.len()), (1, 1));
        assert!(self.times("WATCHDOG=1").iter().all(|at| *at > ready[0] && *at < stopping[0]));
    }
}

#[test]
fn a_gateway_is_ready_without_network_or_port_and_silent_when_its_disk_hangs() -> anyhow::Result<()>
{
    let disk = Disk::new(16)?;
    let mut settings = settings();
    settings.outbox_dir = Some(disk.path());
    let mut rig = Rig::new(settings)?;
    let manager = Manager::listen(rig.world.dir())?;
    manager.watch(&mut rig, "gateway");
    // Nothing but the question whether it lives is to lead the driver to the outbox.
    rig.world.environment.push(("gateway", "FIELDPOST_STATUS_HEARTBEAT", "1h".to_owned()));
    rig.world.stop_broker();
    rig.world.start_gateway()?;
    manager.wait("READY=1", 0)?;
    ensure!(rig.world.outbox().exists(), "ready, and no outbox");
    manager.wait("STATUS=offline, ", 0)?;
    manager.assert_alive()?;

    rig.plug(20.0)?;
    rig.wait_accepting()?;
    manager.assert_dead_while_frozen(&disk)?;
    rig.world.start_broker()?;
    manager.wait("STATUS=connected, ", 0)?;
    rig.world.start_bridge()?;
    manager.wait("STATUS=in sync, ", 0)?;

    rig.world.stop_gateway()?;
    manager.wait("STOPPING=1", 0)?;
    manager.assert_order();
    Ok(())
}

#[test]
fn a_bridge_is_ready_without_a_broker_and_silent_when_its_storage_hangs() -> anyhow::Result<()> {
    let disk = Disk::new(16)?;
    let (mut rig, mut mosquitto) = Rig::on_mosquitto(settings())?;
    std::fs::copy(rig.world.storage(), disk.path().join("bridge.db"))?;
    std::fs::remove_file(rig.world.storage())?;
    std::os::unix::fs::symlink(disk.path().join("bridge.db"), rig.world.storage())?;
    let manager = Manager::listen(rig.world.dir())?;
    manager.watch(&mut rig, "bridge");
    mosquitto.stop()?;
    rig.world.start_bridge()?;
    manager.wait("READY=1", 0)?;
    manager.wait("STATUS=waiting for the broker: 0 of 3", 0)?;
    // With nothing to do, too.
    manager.assert_alive()?;

    mosquitto.run()?;
    manager.wait("STATUS=online, ", 0)?;
    rig.world.start_gateway()?;
    rig.plug(20.0)?;
    rig.wait_stored(20)?;
    manager.assert_dead_while_frozen(&disk)?;
    manager.wait("STATUS=offline: storage takes nothing", 0)?;

    rig.world.stop_bridge()?;
    manager.wait("STOPPING=1", 0)?;
    manager.assert_order();
    Ok(())
}
