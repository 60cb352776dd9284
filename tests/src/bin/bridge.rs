//! The bridge, for the tests: cargo builds it before they run.

fn main() -> std::process::ExitCode {
    fieldpost_demo::world::end_with_parent();
    fieldpost_bridge::cli::main()
}
