//! `scripts/wear`; and the gateway and the bridge that it runs, which are this very program.

fn main() -> std::process::ExitCode {
    if std::env::var_os(fieldpost_demo::world::ROLE).is_some() {
        return fieldpost_demo::main();
    }
    fieldpost_tests::wear::main()
}
