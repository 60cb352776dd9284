//! A message's bytes become work, or an alarm: everything that needs no storage.

use fieldpost_protocol::{Command, DeviceId, DeviceStatus, Envelope, Hello, Meta, Stream, Topic};

use super::{Incoming, Receipt};
use crate::engine::{Content, Poison, check_metrics, clean, judge_event, judge_readings};
use crate::store::Alarm;

/// What a message asks for.
#[derive(Debug)]
pub(super) enum Work<'m> {
    /// A batch of a valid envelope.
    Batch(Box<Batch<'m>>),
    /// A page of a hello.
    Hello(DeviceId, Hello),
    /// A device's status or last will.
    Status {
        /// Whose.
        device: DeviceId,
        /// By its own word.
        online: bool,
        /// The whole of it, JSON.
        json: String,
        /// The broker had kept it: it does not prove that the device is alive.
        retained: bool,
    },
    /// Names, place, units.
    Meta(DeviceId, Meta, bool),
    /// The configuration that a device reports, JSON.
    Reported(DeviceId, String, bool),
    /// A command that somebody has published.
    Command(DeviceId, Box<Command>, Receipt),
    /// Dropped, counted, reported.
    Bad(DeviceId, Alarm),
    /// The same, and not the word of the device that it is about.
    BadCommand(Alarm),
    /// Nothing to do.
    Nothing,
}

/// A batch of a valid envelope, its body judged.
#[derive(Debug)]
pub(super) struct Batch<'m> {
    /// The envelope, with the body.
    pub(super) envelope: Envelope,
    /// It came by `command_acks`.
    pub(super) command_ack: bool,
    /// Its rows, or why it has none.
    pub(super) content: Result<Content, Poison>,
    /// As it came.
    pub(super) message: &'m [u8],
}

pub(super) fn parse(message: &Incoming) -> Work<'_> {
    let Incoming { topic, payload, retained, receipt } = message;
    match topic {
        Topic::SensorData(_) | Topic::Alerts(_) | Topic::CommandAcks(_) | Topic::Hello(_)
            if *retained =>
        {
            // Whoever retained it, it is old: what it holds comes again or is stored.
            Work::Nothing
        }
        Topic::SensorData(device) => batch(device, payload, Stream::Readings, false),
        Topic::Alerts(device) => batch(device, payload, Stream::Events, false),
        Topic::CommandAcks(device) => batch(device, payload, Stream::Events, true),
        Topic::Hello(device) => hello(device, payload),
        Topic::Status(device) => status(device, payload, *retained),
        Topic::Meta(device) => match Meta::from_json(payload) {
            Ok(meta) => Work::Meta(device.clone(), without_nul(meta), *retained),
            Err(error) => bad(device, "meta_invalid", error.to_string()),
        },
        Topic::ConfigReported(device) => match json_text(payload) {
            Ok(json) => Work::Reported(device.clone(), json, *retained),
            Err(why) => bad(device, "config_invalid", why),
        },
        Topic::Commands(device) => command(device, payload, *retained, *receipt),
        _ => Work::Nothing,
    }
}

fn command(device: &DeviceId, payload: &[u8], retained: bool, receipt: Receipt) -> Work<'static> {
    // That is how a retained message is taken away.
    if payload.is_empty() {
        return Work::Nothing;
    }
    let bad = |kind, why| {
        Work::BadCommand(Alarm { kind, about: device.to_string(), message: clean(why) })
    };
    if retained {
        let why = "a command is retained on its topic, and is passed over by everybody: publish an empty \
                   retained message there, and commands without retain";
        return bad("command_retained", why.into());
    }
    let decoded = Command::decode(payload).map_err(|error| error.to_string());
    match decoded.and_then(|command| check_metrics(&command.args).map(|()| command)) {
        Ok(command) => Work::Command(device.clone(), Box::new(command), receipt),
        Err(why) => bad("command_invalid", why),
    }
}

fn batch<'m>(device: &DeviceId, payload: &'m [u8], stream: Stream, command_ack: bool) -> Work<'m> {
    let envelope = match Envelope::decode(payload) {
        Ok(envelope) => envelope,
        Err(error) => return bad(device, "batch_invalid", error.to_string()),
    };
    if envelope.dev != *device {
        let why = format!("a batch on the topic of {device} says that it is of {}", envelope.dev);
        return bad(device, "batch_of_another_device", why);
    }
    if envelope.stream != stream {
        let why = format!("a batch of {} does not belong on this topic", envelope.stream);
        return bad(device, "batch_invalid", why);
    }
    let content = match stream {
        Stream::Readings => judge_readings(&envelope, envelope.base),
        Stream::Events => judge_event(&envelope, envelope.base, command_ack),
    };
    Work::Batch(Box::new(Batch { envelope, command_ack, content, message: payload }))
}

fn hello(device: &DeviceId, payload: &[u8]) -> Work<'static> {
    match Hello::decode(payload) {
        Ok(hello) if hello.no > i64::MAX as u64 => {
            bad(device, "hello_invalid", format!("its number {} is too large", hello.no))
        }
        Ok(hello) => Work::Hello(device.clone(), hello),
        Err(error) => bad(device, "hello_invalid", error.to_string()),
    }
}

fn status(device: &DeviceId, payload: &[u8], retained: bool) -> Work<'static> {
    // Cleared by an operator: nothing is known.
    if payload.is_empty() {
        return Work::Nothing;
    }
    let status = DeviceStatus::from_json(payload).map_err(|error| error.to_string());
    match status.and_then(|status| Ok((status, json_text(payload)?))) {
        Ok((status, json)) => {
            Work::Status { device: device.clone(), online: status.online, json, retained }
        }
        Err(why) => bad(device, "status_invalid", why),
    }
}

/// JSON that is kept as text: valid, of at most 64 KiB, without U+0000 in it.
fn json_text(payload: &[u8]) -> Result<String, String> {
    if payload.len() > 64 * 1024 {
        return Err(format!("{} bytes; at most 65536 are kept", payload.len()));
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).map_err(|error| error.to_string())?;
    let text = String::from_utf8(payload.to_vec()).map_err(|error| error.to_string())?;
    if text.contains("\\u0000") { Err("it holds U+0000".into()) } else { Ok(text) }
}

fn without_nul(mut meta: Meta) -> Meta {
    let clear = |text: &mut Option<String>| {
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            *text = None;
        }
    };
    clear(&mut meta.name);
    clear(&mut meta.location);
    for source in meta.sources.values_mut() {
        clear(&mut source.name);
        source.metrics.values_mut().for_each(|metric| clear(&mut metric.unit));
    }
    meta
}

fn bad(device: &DeviceId, kind: &'static str, why: String) -> Work<'static> {
    Work::Bad(device.clone(), Alarm { kind, about: device.to_string(), message: clean(why) })
}
