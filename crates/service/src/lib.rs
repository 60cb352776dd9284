//! What a program tells the service manager that has started it: ready, alive, how it is, stopping.
//!
//! ```text
//! NOTIFY_SOCKET = /run/systemd/notify     one datagram a message, to there (sd_notify(3))
//! WATCHDOG_USEC = 60000000                WATCHDOG=1 at least so often, or the program is ended
//! ```
//!
//! Always true here: no call waits, and none reads a clock: `now` is of any that is never set.
//! A manager that takes nothing must not stop what a program is for; what it misses is said again.
//! That is why this is not the crate `sd-notify` (small, well kept, and its `send` blocks): a
//! gateway would hang with a frozen manager, some minutes later.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Bytes of a status: one line of a terminal, more or less.
const STATUS_BYTES_MAX: usize = 200;
/// A status whose first word stays is said again only after so long: numbers in it move all the time.
const STATUS_PAUSE: Duration = Duration::from_secs(10);

/// The way to the service manager; by default nobody listens, and nothing is sent.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<UnixDatagram>,
    /// A quarter of what the manager waits: nobody can be asked while a disk stalls, so from the
    /// last sign of life on it may stall for three quarters.
    interval: Option<Duration>,
    alive_at: Option<Duration>,
    status: Option<(String, Duration)>,
}

impl Service {
    /// As the environment of the process says.
    ///
    /// # Errors
    /// A socket that cannot be had. The program can run all the same, but its manager will end it.
    pub fn of_environment() -> io::Result<Self> {
        let own = |pid: OsString| pid.to_str() == Some(&*std::process::id().to_string());
        let watchdog = std::env::var_os("WATCHDOG_PID").is_none_or(own);
        let watchdog = std::env::var("WATCHDOG_USEC").ok().filter(|_| watchdog);
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) => Service::new(&name, watchdog.as_deref()),
            None => Ok(Service::default()),
        }
    }

    /// `name` is a path, or an abstract address that begins with `@`.
    fn new(name: &OsString, watchdog_usec: Option<&str>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        let usec = watchdog_usec.and_then(|text| text.parse().ok()).filter(|usec| *usec > 0);
        let interval = usec.map(|usec| Duration::from_micros(usec) / 4);
        Ok(Service { socket: Some(socket), interval, ..Service::default() })
    }

    /// The program does what it is for.
    pub fn ready(&mut self) {
        self.send("READY=1");
    }

    /// It has begun to end.
    pub fn stopping(&mut self) {
        self.send("STOPPING=1");
    }

    /// How it is, for `systemctl status`: one line, the first word for the state that it is in. May be
    /// called as often as one likes.
    pub fn status(&mut self, now: Duration, text: &str) {
        if self.socket.is_none() {
            return;
        }
        let word = |text: &str| text.split([' ', ',', ':', ';']).next().map(str::to_owned);
        if let Some((said, at)) = &self.status
            && (said == text
                || (word(said) == word(text) && now.saturating_sub(*at) < STATUS_PAUSE))
        {
            return;
        }
        let end = text.floor_char_boundary(STATUS_BYTES_MAX);
        let line = text[..end].replace('\n', " ");
        if self.send(&format!("STATUS={line}")) {
            self.status = Some((text.to_owned(), now));
        }
    }

    /// Whether it is time to find out if the program is alive, for [`alive`](Self::alive).
    pub fn is_alive_due(&self, now: Duration) -> bool {
        self.interval.is_some_and(|interval| {
            self.alive_at.is_none_or(|said| now.saturating_sub(said) >= interval)
        })
    }

    /// It is. To be called when that was found out, and not out of habit.
    pub fn alive(&mut self, now: Duration) {
        if self.interval.is_some() && self.send("WATCHDOG=1") {
            self.alive_at = Some(now);
        }
    }

    /// `false` where the manager took nothing now.
    fn send(&self, message: &str) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.send(message.as_bytes()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(manager: &UnixDatagram) -> Vec<String> {
        manager.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let mut said = Vec::new();
        while let Ok(n) = manager.recv(&mut bytes) {
            said.push(String::from_utf8_lossy(&bytes[..n]).into_owned());
        }
        said
    }

    #[test]
    fn it_says_only_what_is_new_or_due() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut service = Service::new(&path.into_os_string(), Some("60000000")).unwrap();
        let start = Duration::from_secs(5);
        service.ready();
        assert!(service.is_alive_due(start));
        service.alive(start);
        assert!(!service.is_alive_due(start + Duration::from_secs(14)));
        assert!(service.is_alive_due(start + Duration::from_secs(15)));
        service.status(start, "waiting: 1");
        service.status(start, "waiting: 2");
        service.status(start, "connected: 2");
        service.status(start + STATUS_PAUSE, "connected: 3\n4");
        service.stopping();
        let expected = [
            "READY=1",
            "WATCHDOG=1",
            "STATUS=waiting: 1",
            "STATUS=connected: 2",
            "STATUS=connected: 3 4",
            "STOPPING=1",
        ];
        assert_eq!(said(&manager), expected);
    }

    #[test]
    fn a_manager_that_takes_nothing_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut service = Service::new(&path.into_os_string(), Some("2")).unwrap();
        let now = Duration::from_secs(5);
        for _ in 0..10_000 {
            service.alive(now);
        }
        service.status(now, "waiting");
        assert!(service.status.is_none(), "what was not taken is said again");
        drop(manager);
        service.ready();
    }

    #[test]
    fn an_abstract_address_begins_with_an_at() {
        let name = format!("fieldpost-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let mut service = Service::new(&format!("@{name}").into(), None).unwrap();
        assert!(!service.is_alive_due(Duration::ZERO), "nobody watches");
        service.ready();
        assert_eq!(said(&manager), ["READY=1"]);
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let mut service = Service::default();
        service.ready();
        service.status(Duration::ZERO, "waiting");
        assert!(service.status.is_none());
    }
}
