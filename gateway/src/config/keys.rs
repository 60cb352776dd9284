//! The keys of each section: name, default and range.

use std::time::Duration;

use fieldpost_protocol::{BATCH_READINGS_MAX, Topics};

use super::allowed::{
    self, boolean, duration, filled, host, number, parsed, path, size, when_full,
};
use super::section::{Kind, Section};
use super::{
    Alerts, Broker, Ca, ClientCertificate, Control, Device, HomeAssistant, Login, Outbox, Password,
    Publish, Remote, Status, System, Tls, overlay,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// The reserve for events is 1 MiB; below this little is left for readings.
const SIZE_MIN: u64 = 4 << 20;
/// What the SQLite file may reach with its pages of 1 KiB.
const SIZE_MAX: u64 = 1 << 40;

/// `[device]`; `None` is reported.
pub(super) fn device(mut section: Section<'_>) -> Option<Device> {
    let next = "give the gateway a name that no other gateway has, such as id = \"greenhouse-1\"";
    let id = section.required("id", Kind::Text, next, parsed);
    let name = section.optional("name", Kind::Text, filled);
    let location = section.optional("location", Kind::Text, filled);
    section.finish();
    Some(Device { id: id?, name, location })
}

/// `[outbox]`
pub(super) fn outbox(mut section: Section<'_>) -> Outbox {
    let outbox = Outbox {
        path: section.or("path", Kind::Text, "/var/lib/fieldpost/outbox.db", path),
        commit_interval: section.or(
            "commit_interval",
            Kind::Text,
            "1s",
            duration(Duration::from_millis(50)..=60 * SECOND),
        ),
        retention_age: section.or(
            "retention_age",
            Kind::Text,
            "7d",
            duration(Duration::ZERO..=3_650 * DAY),
        ),
        retention_size: section.or("retention_size", Kind::Text, "64MB", size(0..=SIZE_MAX)),
        size_max: section.or("size_max", Kind::Text, "1GB", size(SIZE_MIN..=SIZE_MAX)),
        when_full: section.or("when_full", Kind::Text, "refuse", when_full),
        queue_readings: section.or("queue_readings", Kind::Number, "8192", number(1..=1_000_000)),
    };
    if outbox.retention_size >= outbox.size_max {
        section.warn("retention_size is not below outbox.size_max: acknowledged readings fill the outbox and then yield to new ones");
    }
    section.finish();
    outbox
}

/// `[publish]`
pub(super) fn publish(mut section: Section<'_>) -> Publish {
    let publish_interval =
        section.or("publish_interval", Kind::Text, "1s", duration(Duration::ZERO..=HOUR));
    let batch_readings_max =
        section.or("batch_readings_max", Kind::Number, "1000", number(1..=BATCH_READINGS_MAX));
    let live_interval = section.or("live_interval", Kind::Text, "5s", |text| match text {
        "off" => Ok(None),
        text => duration(Duration::from_millis(100)..=HOUR)(text)
            .map(Some)
            .map_err(|why| format!("{why}, or \"off\"")),
    });
    let topics = section.or("topic_prefix", Kind::Text, "", Topics::new);
    section.finish();
    Publish { publish_interval, batch_readings_max, live_interval, topics }
}

/// `[broker]`; `None` is reported.
pub(super) fn broker(mut section: Section<'_>) -> Option<Broker> {
    let next = "write the broker's host name, such as host = \"broker.example.org\"; without a broker, leave out the section [broker] and every variable FIELDPOST_BROKER_*";
    let host = section.required("host", Kind::Text, next, host);
    let tls = section.or("tls", Kind::Bool, "true", boolean);
    let default_port = if tls { "8883" } else { "1883" };
    let port = section.or("port", Kind::Number, default_port, number(1..=u16::MAX));
    let keep_alive = section.or("keep_alive", Kind::Text, "20s", |text| {
        let duration = duration(5 * SECOND..=HOUR)(text)?;
        if duration.subsec_millis() != 0 {
            return Err("MQTT counts it in whole seconds, such as \"20s\"".to_owned());
        }
        Ok(duration)
    });
    let tls = if tls { tls_files(&mut section) } else { no_tls(&mut section) };
    let login = login(&mut section);
    if login.is_some() && tls.is_none() {
        section.warn("tls = false: the password travels in the clear; set tls = true unless the broker is on this machine");
    }
    section.finish();
    Some(Broker { host: host?, port, tls, login, keep_alive })
}

fn tls_files(section: &mut Section<'_>) -> Option<Tls> {
    let ca = section.or("ca", Kind::Text, "system", |text| match text {
        "system" => Ok(Ca::System),
        text => path(text).map(Ca::File),
    });
    let cert = section.optional("client_cert", Kind::Text, path);
    let key = section.optional("client_key", Kind::Text, path);
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
        (None, None) => None,
        _ => {
            section.conflict(
                "client_cert, broker.client_key",
                "a client certificate needs its key: write both, or neither",
            );
            None
        }
    };
    Some(Tls { ca, client })
}

fn no_tls(section: &mut Section<'_>) -> Option<Tls> {
    for key in ["ca", "client_cert", "client_key"] {
        if section.optional(key, Kind::Text, filled).is_some() {
            section.conflict(
                key,
                "with broker.tls = false nothing is verified; remove this key, or set tls = true",
            );
        }
    }
    None
}

fn login(section: &mut Section<'_>) -> Option<Login> {
    let given = section.has("password") || section.has("password_file");
    let username = section.optional("username", Kind::Text, filled);
    let password = section.secret("password");
    let file = section.optional("password_file", Kind::Text, path);
    let password = match (password, file) {
        (Some(_), Some(_)) => {
            section.conflict(
                "password, broker.password_file",
                "the password stands twice; remove one of them",
            );
            return None;
        }
        (Some(password), None) => Some(Password::Text(password)),
        (None, file) => file.map(Password::File),
    };
    match (username, password) {
        (Some(username), Some(password)) => Some(Login { username, password }),
        (None, None) => None,
        (Some(_), None) if given => None,
        (Some(_), None) => {
            section
                .conflict("username", "a user name needs broker.password or broker.password_file");
            None
        }
        (None, Some(_)) => {
            section.conflict("password", "a password needs broker.username");
            None
        }
    }
}

/// `[system]`
pub(super) fn system(mut section: Section<'_>) -> System {
    let enabled = section.or("enabled", Kind::Bool, "true", boolean);
    let interval = section.or("interval", Kind::Text, "60s", duration(SECOND..=DAY));
    section.finish();
    System { enabled, interval }
}

/// `[alerts]`
pub(super) fn alerts(mut section: Section<'_>) -> Alerts {
    let range = 10 * SECOND..=7 * DAY;
    let no_sync_ack_after =
        section.or("no_sync_ack_after", Kind::Text, "10m", duration(range.clone()));
    let clock_unsynced_after =
        section.or("clock_unsynced_after", Kind::Text, "10m", duration(range));
    section.finish();
    Alerts { no_sync_ack_after, clock_unsynced_after }
}

/// `[status]`
pub(super) fn status(mut section: Section<'_>) -> Status {
    let file = section.or("file", Kind::Text, "/run/fieldpost/status.json", |text| match text {
        "" => Ok(None),
        text => path(text).map(Some),
    });
    let heartbeat = section.or("heartbeat", Kind::Text, "60s", duration(5 * SECOND..=HOUR));
    section.finish();
    Status { file, heartbeat }
}

/// `[control]`
pub(super) fn control(mut section: Section<'_>) -> Control {
    let socket =
        section.or("socket", Kind::Text, "/run/fieldpost/control.sock", |text| match text {
            "" => Ok(None),
            text => allowed::socket(text).map(Some),
        });
    section.finish();
    Control { socket }
}

/// `[remote]`
pub(super) fn remote(mut section: Section<'_>) -> Remote {
    let enabled = section.or("enabled", Kind::Bool, "true", boolean);
    let allow = section.or("allow", Kind::Texts, &overlay::DEFAULT.join("\n"), |text| {
        let known = |word: &str| overlay::SECTIONS.into_iter().find(|known| *known == word);
        let word = |word| {
            known(word).ok_or_else(|| {
                let sections = overlay::SECTIONS.map(|word| format!("{word:?}")).join(" ");
                format!("{word:?} is no section that can be set from afar; those are {sections}")
            })
        };
        text.lines().map(word).collect()
    });
    section.finish();
    Remote { enabled, allow }
}

/// `[home_assistant]`, beside what it hangs on.
pub(super) fn home_assistant(
    mut section: Section<'_>,
    device: Option<&Device>,
    publish: &Publish,
) -> HomeAssistant {
    let enabled = section.or("enabled", Kind::Bool, "false", boolean);
    let prefix = section.or("prefix", Kind::Text, "homeassistant", allowed::prefix);
    let expire_after = section.or("expire_after", Kind::Text, "off", |text| match text {
        "off" => Ok(None),
        text => duration(10 * SECOND..=7 * DAY)(text)
            .map(Some)
            .map_err(|why| format!("{why}, or \"off\"")),
    });
    if enabled && publish.live_interval.is_none() {
        let why = "Home Assistant reads the live values: set publish.live_interval, or home_assistant.enabled = false";
        section.conflict("enabled, publish.live_interval", why);
    }
    if enabled && device.is_some_and(|device| device.id.as_str().contains('.')) {
        let why = "Home Assistant takes no dot in a topic of discovery: give the gateway an id of A-Z a-z 0-9 _ -, or set home_assistant.enabled = false";
        section.conflict("enabled, device.id", why);
    }
    let ours = publish.topics.roots().map(|root| format!("{root}/"));
    if ours.iter().any(|root| format!("{prefix}/").starts_with(root)) {
        let why = format!(
            "{prefix:?} lies below {} and {}, which are Fieldpost's own; write another, such as \"homeassistant\"",
            ours[0], ours[1]
        );
        section.conflict("prefix", &why);
    }
    section.finish();
    HomeAssistant { enabled, prefix, expire_after }
}
