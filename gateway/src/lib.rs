//! The edge process: serial ports to a durable outbox to MQTT.
//!
//! ```text
//! port --frame--> serial --Measured--> intake --commit--> outbox          (accepted)
//!                                        |                  |
//!                                        +--rows committed--+-> engine
//! broker <--session-- driver <--what to send--------------------+ ^
//!    |                  |                                         |
//!    +-- state, sync acks, bridge status -------------------------+
//! ```

mod alerts;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
mod control;
mod driver;
pub mod engine;
pub mod fail_points;
pub mod history;
mod home_assistant;
mod intake;
mod live;
mod local;
mod log;
pub mod outbox;
mod remote;
mod rules;
pub mod run;
pub mod serial;
mod sources;
mod status;
mod system;
mod words;
