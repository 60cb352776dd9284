//! An MQTT session that loses nothing in silence.
//!
//! Each connection is a client of its own with a clean session: what was queued or in flight
//! on the last one is gone, and the caller is told that the connection is gone. Nobody
//! resends here; the outbox does (a client's own queue drops messages on a reconnect).
//!
//! ```text
//! caller --publish, puback--> Session ==> task: connect, subscribe, poll --> Event
//!                                          ^                          |
//!                                          +---- backoff, again <-----+
//! ```
//!
//! Always true here:
//! - [`Event::Connected`] comes after CONNACK *and* a granted SUBACK of every subscription.
//! - What belongs to an older connection is refused: a publish, a puback.
//! - The client is polled by one task, which nothing cancels but to throw the client away
//!   (polling it is not cancel-safe), under a time-out of three keep-alives. Should it panic on
//!   what a broker sends, the connection is lost and not the session.
//! - No puback for [`Options::puback_timeout`] while something is in flight ends the connection:
//!   a known livelock keeps pings alive while nothing is published.
//! - Certificates and password files are read anew for each connection.
//! - [`EVENTS_MAX`] events wait for the caller. At the bound the task waits and reads the
//!   socket no more, so that the broker's window holds the rest back: what was pubacked is
//!   delivered. A caller that stays away for longer than a keep-alive may lose the connection,
//!   since no pings are sent meanwhile, and is told so ([`DisconnectReason::EventsNotTaken`]).

mod backoff;
mod client;
mod event;
mod file;
mod options;
mod polled;
mod reason;
mod session;
mod task;
mod tls;

pub use event::{
    Connection, Delivery, EVENTS_MAX, Event, Message, PubackError, PublishError, Qos, Token,
};
pub use file::{check_is_file, check_is_file_or_pipe, instead_of_a_file};
pub use options::{Ca, ClientCertificate, Login, Options, OptionsError, Password, Tls, Will};
pub use reason::{CertificateFault, DisconnectReason};
pub use session::Session;
