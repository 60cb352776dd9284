//! Options that cannot work are refused at the start, with what is wrong.

use std::net::SocketAddr;
use std::time::Duration;

use fieldpost_mqtt::{Ca, ClientCertificate, Options, Tls, Will};

use crate::{certificate, certificates, options, tls};

#[tokio::test]
async fn what_is_wrong_is_named() {
    let dir = certificates(&["a"]);
    let dir = dir.path();
    std::fs::write(dir.join("junk.pem"), "junk").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let usual = || options(address, "a");
    let client = |client| Tls::On { ca: Ca::File(dir.join("ca.pem")), client: Some(client) };
    let mixed = ClientCertificate { cert: dir.join("a.pem"), key: dir.join("operator.key") };
    let will = Will { topic: "a/#".to_owned(), payload: Vec::new(), retain: false };
    let wrong = [
        (Options { host: String::new(), ..usual() }, "host"),
        (Options { client_id: String::new(), ..usual() }, "client id"),
        (Options { keep_alive: Duration::from_millis(900), ..usual() }, "900ms"),
        (Options { keep_alive: Duration::from_secs(65_536), ..usual() }, "65536s"),
        (Options { answer_timeout: Duration::ZERO, ..usual() }, "answer timeout"),
        (Options { puback_timeout: Duration::ZERO, ..usual() }, "puback timeout"),
        (Options { packet_bytes_max: 10, ..usual() }, "packet_bytes_max"),
        (Options { inflight_max: 0, ..usual() }, "inflight_max"),
        (Options { inflight_max: 97, ..usual() }, "97"),
        (Options { subscriptions: vec!["a/#/b".to_owned()], ..usual() }, "a/#/b"),
        (Options { will: Some(will), ..usual() }, "a/#"),
        (Options { tls: tls(dir, "missing"), ..usual() }, "missing.pem"),
        (Options { tls: client(certificate(dir, "junk")), ..usual() }, "junk.pem"),
        (Options { tls: client(mixed), ..usual() }, "operator.key"),
        (
            Options {
                tls: Tls::On { ca: Ca::File(dir.join("none.pem")), client: None },
                ..usual()
            },
            "none.pem",
        ),
    ];
    for (options, named) in wrong {
        let error = options.check().unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}
