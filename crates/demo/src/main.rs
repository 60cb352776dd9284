//! `cargo demo`. One binary: it starts itself again as gateway and as bridge, so that cargo
//! has to build no other program first.

fn main() -> std::process::ExitCode {
    fieldpost_demo::main()
}
