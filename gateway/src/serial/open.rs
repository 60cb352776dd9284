//! Opening a device: never longer than five seconds, and with a reason that helps.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_serial::{ErrorKind, SerialStream};

use super::settings::{Place, PortConfig};
use super::site;
use crate::local::Listener;

/// A driver that answers at all answers in milliseconds.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// A port that is open.
pub(super) enum Opened {
    /// With what will keep it from working.
    Device(SerialStream, Vec<String>),
    Socket(Listener),
}

/// What a thread comes back with: the port, or what is wrong and what to do.
type Answer = Result<(SerialStream, Vec<String>), String>;

/// Opens one port, again and again. At most one thread of it hangs in a driver.
#[derive(Debug, Default)]
pub(super) struct Opener {
    under_way: Option<oneshot::Receiver<Answer>>,
}

impl Opener {
    /// Opens the port. Nothing that it holds is flushed: it may be the board's first lines.
    ///
    /// # Errors
    /// What happened, and what to do, for a person.
    pub(super) async fn open(&mut self, port: &PortConfig) -> Result<Opened, String> {
        if let Place::Socket(path) = &port.place {
            return Listener::bind(path).await.map(Opened::Socket);
        }
        let path = port.place.path().display();
        let under_way = match &mut self.under_way {
            Some(hanging) => hanging,
            none => none.insert(
                start(port.place.clone())
                    .map_err(|error| format!("no thread to open {path}: {error}"))?,
            ),
        };
        let opened = match timeout(OPEN_MAX, under_way).await {
            Ok(opened) => opened,
            Err(_) => {
                return Err(format!(
                    "{path} does not open within {} s: its driver hangs; unplug the device and plug it in again",
                    OPEN_MAX.as_secs()
                ));
            }
        };
        self.under_way = None;
        match opened {
            Ok(answer) => answer.map(|(stream, hints)| Opened::Device(stream, hints)),
            Err(_) => Err(format!("{path} cannot be opened: the thread that tried has ended")),
        }
    }
}

/// In a thread of its own, which a hanging driver may keep without holding up anything, not
/// even the end of the process.
fn start(place: Place) -> io::Result<oneshot::Receiver<Answer>> {
    let (done, opened) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new().name("open-port".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        let answer = match open(&place) {
            Ok(stream) => Ok((stream, site::hints(Path::new("/"), &place))),
            Err(error) => Err(explain(place.path(), &error)),
        };
        // Nobody waits any more: the port closes again.
        let _ = done.send(answer);
    })?;
    Ok(opened)
}

fn open(place: &Place) -> Result<SerialStream, tokio_serial::Error> {
    let Place::Device { path, baud, reset_on_open } = place else {
        return Err(tokio_serial::Error::new(ErrorKind::InvalidInput, "a socket is no device"));
    };
    // Held until the real opening is done, or its close would drop DTR.
    let _held = if *reset_on_open { None } else { keep_dtr(path).ok() };
    SerialStream::open(&tokio_serial::new(path.to_string_lossy(), *baud))
}

/// Tells the driver not to drop DTR when the port is closed (HUPCL, termios(3)): then the
/// next opening does not raise it again, and that edge is what resets an Uno.
fn keep_dtr(path: &Path) -> io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(path, flags, Mode::empty())?;
    let mut modes = tcgetattr(&device)?;
    modes.control_modes.remove(ControlModes::HUPCL);
    tcsetattr(&device, OptionalActions::Now, &modes)?;
    Ok(device)
}

fn explain(path: &Path, error: &tokio_serial::Error) -> String {
    let next = match error.kind() {
        ErrorKind::Io(io::ErrorKind::NotFound) => {
            "is it plugged in? `ls /dev/serial/by-id` shows what is".to_owned()
        }
        // EPERM, where EACCES is a matter of groups.
        ErrorKind::Io(io::ErrorKind::PermissionDenied)
            if error.to_string().contains("not permitted") =>
        {
            "the service may not have this kind of device: `systemctl edit fieldpost-gateway`, there [Service] and DeviceAllow=char-NUMBER rw, with its number in /proc/devices".to_owned()
        }
        ErrorKind::Io(io::ErrorKind::PermissionDenied) => {
            "let the gateway's user read it: `usermod -aG dialout USER`, then start the gateway again".to_owned()
        }
        ErrorKind::NoDevice => {
            let who = site::holder(path).unwrap_or_else(|| {
                "another program (`sudo fuser -v` with this path shows which; ModemManager tries every new port)".to_owned()
            });
            format!(
                "{who} has it open; close it there. To write a sketch to the board while the gateway runs, ask for the port: `fieldpost-gateway release`"
            )
        }
        _ => "is it a serial port?".to_owned(),
    };
    format!("{} cannot be opened: {error}; {next}", path.display())
}
