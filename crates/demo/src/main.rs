//! `cargo demo`. One binary: it starts itself again as gateway and as bridge, so that cargo
//! has to build no other program first.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::var(fieldpost_demo::world::ROLE) {
        Ok(role) if role == "gateway" => {
            fieldpost_demo::world::end_with_parent();
            fieldpost_gateway::cli::main()
        }
        Ok(role) if role == "bridge" => {
            fieldpost_demo::world::end_with_parent();
            fieldpost_bridge::cli::main()
        }
        _ => fieldpost_demo::cli::main(),
    }
}
