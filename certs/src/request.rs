//! What is to be there, and the names it may bear.

use fieldpost_protocol::DeviceId;

use crate::Leaf;
use crate::authority::Role;

/// Names that are not for devices: files and users of other things.
const RESERVED: [&str; 3] = ["ca", "broker", "operator"];
/// The bridge's connections, each a client of its own.
const BRIDGE_CONNECTIONS: [&str; 3] = ["readings", "events", "out"];

/// What is to be there. What is missing is made; the rest is left alone.
///
/// ```no_run
/// use fieldpost_certs::{Request, issue};
/// let request = Request { devices: vec!["greenhouse-1".to_owned()], ..Request::default() };
/// let written = issue("certs/dev".as_ref(), &request)?;
/// # Ok::<(), fieldpost_certs::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Further names or addresses of the broker, beside localhost, 127.0.0.1 and ::1. They enter
    /// a broker certificate when it is made: see `renew`.
    pub hosts: Vec<String>,
    /// Name of the bridge: its three connections are `<name>-readings`, `-events`, `-out`.
    pub bridge: String,
    /// Device ids.
    pub devices: Vec<String>,
    /// How long leaf certificates are valid, 1 to 3,650 days. The CA: 3,650 days.
    pub days: u32,
    /// Issue everything in this request anew, under the CA that is there.
    pub renew: bool,
    /// Make a new CA although there is one, and everything in this request anew.
    pub force: bool,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            hosts: Vec::new(),
            bridge: "bridge".to_owned(),
            devices: Vec::new(),
            days: 730,
            renew: false,
            force: false,
        }
    }
}

/// A name or number that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a device id, or not the name of a bridge.
    #[error("{what}: {problem}")]
    Malformed {
        /// Device or bridge.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A device would get the broker's user name of something else.
    #[error(
        "device id {0:?} means something else here: broker, operator, ca, and what ends in -readings, \
         -events or -out is a bridge's connection; choose another"
    )]
    Reserved(String),
    /// Not a host name or address.
    #[error("host {0:?} is no name or address that a certificate can hold")]
    Host(String),
    /// Not a usable number of days.
    #[error("{0} days are not possible; allowed are 1 to 3650")]
    Days(u32),
}

impl Request {
    /// The certificates below the CA, checked.
    pub(crate) fn leaves(&self) -> Result<Vec<Leaf>, NameError> {
        if !(1..=3_650).contains(&self.days) {
            return Err(NameError::Days(self.days));
        }
        check("bridge", &self.bridge)?;
        if let Some(host) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(NameError::Host(host.clone()));
        }
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        hosts.extend(self.hosts.iter().cloned());
        let client = |name: String| Leaf { name, role: Role::Client };
        let mut leaves = vec![Leaf { name: "broker".to_owned(), role: Role::Server { hosts } }];
        leaves.extend(BRIDGE_CONNECTIONS.map(|end| client(format!("{}-{end}", self.bridge))));
        leaves.push(client("operator".to_owned()));
        for device in &self.devices {
            check("device", device)?;
            let lower = device.to_ascii_lowercase();
            // Of any bridge: its certificate would be taken for one that is there already.
            let ends = |end: &&str| lower.ends_with(&format!("-{end}"));
            let taken = BRIDGE_CONNECTIONS.iter().any(ends);
            if taken || RESERVED.iter().any(|name| name.eq_ignore_ascii_case(device)) {
                return Err(NameError::Reserved(device.clone()));
            }
        }
        leaves.extend(self.devices.iter().cloned().map(client));
        Ok(leaves)
    }
}

/// The rule for device ids holds for bridges too; it also keeps a file name inside its folder.
fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    match name.parse::<DeviceId>() {
        Ok(_) if name.starts_with('.') => Err(NameError::Malformed {
            what,
            problem: format!("{name:?} starts with a dot, so its files would be hidden"),
        }),
        Ok(_) => Ok(()),
        Err(error) => Err(NameError::Malformed { what, problem: error.to_string() }),
    }
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    host.parse::<std::net::IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label))
}
