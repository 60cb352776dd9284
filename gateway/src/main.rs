//! `fieldpost-gateway`.

fn main() -> std::process::ExitCode {
    fieldpost_gateway::cli::main()
}
