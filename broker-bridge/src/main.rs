//! `fieldpost-bridge`.

fn main() -> std::process::ExitCode {
    fieldpost_bridge::cli::main()
}
