//! The path on brokers that somebody else runs, or that are no mosquitto, with the settings and files
//! that docs/brokers.md gives.

mod hosted;
mod others;
mod path;
