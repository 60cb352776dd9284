//! An MQTT broker in the process: for the demo, the tests and a closed single box.
//!
//! It speaks MQTT 3.1.1 on one port, in the clear or over TLS with client certificates, and can
//! be stopped and started again on the same port.
//!
//! ## What it does not guarantee
//!
//! - **Nobody speaks for a device but that device**: not here. It has no access rules and does not
//!   compare client ids with certificates. Whoever may connect may publish and read everything.
//! - It keeps nothing over a restart: no retained message, no session, no backlog.
//! - It drops in silence at its bounds (see [`bounds`]), although it has sent the PUBACK.
//! - Over TLS one idle TCP connection blocks its accept loop: every later client waits until that
//!   one goes. An unusual client id (with `+`, `$`, `#` or `/`) is cut off without an answer.
//! - A client that is turned away twice, or dies while it connects, can make it begin anew: every
//!   connection breaks, and what it held is gone.
//! - A PUBACK out of order makes it throw the client out, and can lose a message.
//!
//! So it listens on loopback unless told otherwise. In production use mosquitto: configuration and
//! access rules are in the `config` folder.
//!
//! ## Logs
//!
//! The broker logs on its own account, INFO for each connection and ERROR even for what is usual, such as
//! a client that goes away. All of it has targets below [`LOG_TARGET`]: give your subscriber
//! a filter such as `rumqttd=off`.

pub mod bounds;
mod server;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use server::Server;

/// The `tracing` target (a prefix) of everything that the broker logs by itself.
pub const LOG_TARGET: &str = "rumqttd";

/// What the broker is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 chooses a free one: see [`EmbeddedBroker::local_addr`].
    pub listen: SocketAddr,
    /// With TLS every client needs a certificate of this CA.
    pub tls: Option<TlsPaths>,
    /// Allow an address other than loopback.
    pub expose: bool,
}

impl Config {
    /// Plain TCP on a free port of 127.0.0.1.
    pub fn loopback() -> Self {
        Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), tls: None, expose: false }
    }
}

/// PEM files. They are read again for each connection: renewed ones are picked up.
#[derive(Debug, Clone)]
pub struct TlsPaths {
    /// The CA of the client certificates. Only the first certificate of the file counts.
    pub ca: PathBuf,
    /// The broker's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that others can reach, without being told that this is meant.
    #[error(
        "{0} is not a loopback address, and the embedded broker has no access rules: whoever reaches it reads and publishes everything. Use 127.0.0.1, or mosquitto, or set `expose` if that is meant"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("the embedded broker cannot listen on {address}: {error}{}", advice(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A TLS file that cannot be used.
    #[error("the embedded broker's {what} {path:?}: {problem}")]
    Tls {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why it cannot be used.
        problem: String,
    },
    /// It listens, but does not take a connection.
    #[error("the embedded broker on {address} did not answer within {waited:?}")]
    NoAnswer {
        /// The address.
        address: SocketAddr,
        /// How long we waited.
        waited: Duration,
    },
    /// The operating system gave no thread.
    #[error("the embedded broker cannot start a thread: {0}")]
    Thread(io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ". Another process has the port: stop it, or choose another",
        io::ErrorKind::AddrNotAvailable => ". No interface of this machine has that address",
        io::ErrorKind::PermissionDenied => ". Ports below 1024 need privileges: use 1883 or 8883",
        _ => "",
    }
}

/// A running broker. Dropping it stops it.
#[derive(Debug)]
pub struct EmbeddedBroker {
    server: Server,
}

impl EmbeddedBroker {
    /// Starts a broker, and returns once its port answers: within milliseconds, or within
    /// [`bounds::ANSWER`] with an error. It blocks for that long.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(config: Config) -> Result<Self, Error> {
        if !config.listen.ip().is_loopback() && !config.expose {
            return Err(Error::NotLoopback(config.listen));
        }
        let tls = config.tls.as_ref().map(tls::check).transpose()?;
        for _ in 1..bounds::PORT_TRIES_MAX {
            match Server::start(config.listen, tls.clone()) {
                // Somebody took the free port between our look and the broker's.
                Err(Error::Listen { error, .. })
                    if config.listen.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other.map(|server| EmbeddedBroker { server }),
            }
        }
        Server::start(config.listen, tls).map(|server| EmbeddedBroker { server })
    }

    /// Where it listens: the real port, if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// Closes the listener and all connections without a farewell, as a crash would. The port is
    /// free when it returns; it blocks for some milliseconds.
    ///
    /// One sleeping thread stays behind for each broker that was started, with the memory of its
    /// message log: the library has no way to end it.
    pub fn stop(self) {
        drop(self);
    }
}
