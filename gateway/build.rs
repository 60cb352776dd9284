//! Hands on whether SQLite was built to sync with fdatasync(): `status` says it, and a build
//! without the flag is warned about (it costs a card more than twice the bytes).

fn main() {
    println!("cargo::rerun-if-env-changed=LIBSQLITE3_FLAGS");
    let flags = std::env::var("LIBSQLITE3_FLAGS").unwrap_or_default();
    if flags.contains("HAVE_FDATASYNC=1") {
        println!("cargo::rustc-env=FIELDPOST_FDATASYNC=1");
    } else {
        println!(
            "cargo::warning=SQLite is built without HAVE_FDATASYNC: each commit costs the card more than twice \
             the bytes. Build inside the checkout, or set LIBSQLITE3_FLAGS=-DHAVE_FDATASYNC=1"
        );
    }
}
