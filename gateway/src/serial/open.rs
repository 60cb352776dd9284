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

use super::PortConfig;

/// A driver that answers at all answers in milliseconds.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// Opens one port, again and again. At most one thread of it hangs in a driver.
#[derive(Debug, Default)]
pub(super) struct Opener {
    under_way: Option<oneshot::Receiver<Result<SerialStream, tokio_serial::Error>>>,
}

impl Opener {
    /// Opens the port. Nothing that it holds is flushed: it may be the board's first lines.
    ///
    /// # Errors
    /// What happened, and what to do, for a person.
    pub(super) async fn open(&mut self, port: &PortConfig) -> Result<SerialStream, String> {
        let path = port.path.display();
        let under_way = match &mut self.under_way {
            Some(hanging) => hanging,
            none => none.insert(
                start(port.clone())
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
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(explain(port, &error)),
            Err(_) => Err(format!("{path} cannot be opened: the thread that tried has ended")),
        }
    }
}

/// In a thread of its own, which a hanging driver may keep without holding up anything, not
/// even the end of the process.
fn start(
    port: PortConfig,
) -> io::Result<oneshot::Receiver<Result<SerialStream, tokio_serial::Error>>> {
    let (done, opened) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new().name("open-port".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        // Nobody waits any more: the port closes again.
        let _ = done.send(open(&port));
    })?;
    Ok(opened)
}

fn open(port: &PortConfig) -> Result<SerialStream, tokio_serial::Error> {
    // Held until the real opening is done, or its close would drop DTR.
    let _held = if port.reset_on_open { None } else { keep_dtr(&port.path).ok() };
    SerialStream::open(&tokio_serial::new(port.path.to_string_lossy(), port.baud))
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

fn explain(port: &PortConfig, error: &tokio_serial::Error) -> String {
    let next = match error.kind() {
        ErrorKind::Io(io::ErrorKind::NotFound) => {
            "is it plugged in? `ls /dev/serial/by-id` shows what is"
        }
        ErrorKind::Io(io::ErrorKind::PermissionDenied) => {
            "let the gateway's user read it: `usermod -aG dialout USER`, then start the gateway again"
        }
        ErrorKind::NoDevice => {
            "does another program have it open? `fuser -v` with this path shows it"
        }
        _ => "is it a serial port?",
    };
    format!("{} cannot be opened: {error}; {next}", port.path.display())
}
