//! The demo, for the tests: cargo builds it before they run.

fn main() -> std::process::ExitCode {
    fieldpost_demo::main()
}
