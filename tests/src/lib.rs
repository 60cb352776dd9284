//! The harness of the tests that run the real programs, and the fixed series that sizes
//! are stated on.

pub mod afar;
pub mod avr;
pub mod broker;
pub mod client;
pub mod disk;
pub mod documented;
pub mod fill;
pub mod machine;
pub mod mosquitto;
pub mod netns;
pub mod others;
pub mod proxy;
pub mod rig;
pub mod series;
pub mod soak;
pub mod strace;
pub mod wear;
pub mod wired;
