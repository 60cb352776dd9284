//! The whole path of a reading on one machine, watched from outside.
//!
//! ```text
//! Board --pseudo-terminal--> gateway --TLS--> Relay --TLS--> broker --> bridge
//!   |                           |               |                          |
//!   Ledger                   outbox.db       bytes counted            bridge.db
//!   +------------- Judge: what was sent, accepted, stored ----------------+
//! ```
//!
//! The demo runs it once for a person; the end-to-end tests run it with faults. Gateway and
//! bridge are processes of their own, the very programs that are shipped; the judge looks
//! into their files as `sqlite3` would, and asks neither of them.

pub mod board;
pub mod cli;
pub mod judge;
pub mod ledger;
pub mod operator;
pub mod relay;
pub mod report;
pub mod world;

/// The whole program: the demo, or, where the environment says so, one of the processes
/// that it starts.
pub fn main() -> std::process::ExitCode {
    match std::env::var(world::ROLE) {
        Ok(role) if role == "gateway" => {
            world::end_with_parent();
            fieldpost_gateway::cli::main()
        }
        Ok(role) if role == "bridge" => {
            world::end_with_parent();
            fieldpost_bridge::cli::main()
        }
        _ => cli::main(),
    }
}
