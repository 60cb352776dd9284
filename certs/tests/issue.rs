//! What is made, what is left alone, and whether TLS believes it.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use fieldpost_certs::{Error, NameError, Request, issue};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

fn device(id: &str) -> Request {
    Request { devices: vec![id.to_owned()], ..Request::default() }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A handshake in memory between the files of two folders; the error of either side.
fn handshake(server: &Path, client: &Path, name: &str, host: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = |dir: &Path| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
        Arc::new(roots)
    };
    let own = |dir: &Path, name: &str| {
        let cert = CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
        (vec![cert], key)
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(server), provider.clone())
        .build()
        .unwrap();
    let (chain, key) = own(server, "broker");
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let (chain, key) = own(client, name);
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(client))
        .with_client_auth_cert(chain, key)
        .unwrap();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), host).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn every_certificate_is_made_and_its_key_is_the_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep/dev");
    let written = issue(&dir, &device("greenhouse-1")).unwrap();
    let names = [
        "ca",
        "broker",
        "bridge-readings",
        "bridge-events",
        "bridge-out",
        "operator",
        "greenhouse-1",
    ];
    let expected: Vec<_> = names
        .iter()
        .flat_map(|name| [dir.join(format!("{name}.pem")), dir.join(format!("{name}.key"))])
        .collect();
    assert_eq!(written, expected);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), written.len());
    assert_eq!(mode(&dir), 0o700);
    for key in written.iter().filter(|path| path.extension().is_some_and(|end| end == "key")) {
        assert_eq!(mode(key), 0o600, "{key:?}");
    }
}

#[test]
fn a_second_run_adds_what_is_missing_and_leaves_the_rest_alone() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), &Request::default()).unwrap();
    let before = std::fs::read(dir.path().join("ca.pem")).unwrap();
    assert_eq!(issue(dir.path(), &Request::default()).unwrap(), Vec::<std::path::PathBuf>::new());
    let written = issue(dir.path(), &device("greenhouse-1")).unwrap();
    assert_eq!(written, [dir.path().join("greenhouse-1.pem"), dir.path().join("greenhouse-1.key")]);
    assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), before);
    for host in ["localhost", "127.0.0.1", "::1"] {
        handshake(dir.path(), dir.path(), "greenhouse-1", host).unwrap();
    }
    handshake(dir.path(), dir.path(), "bridge-out", "localhost").unwrap();
}

#[test]
fn renewing_keeps_the_ca_and_takes_further_hosts() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), &device("a")).unwrap();
    assert!(handshake(dir.path(), dir.path(), "a", "mqtt.local").is_err());
    let request = Request { hosts: vec!["mqtt.local".to_owned()], renew: true, ..device("a") };
    let before = std::fs::read(dir.path().join("a.pem")).unwrap();
    let written = issue(dir.path(), &request).unwrap();
    assert!(!written.contains(&dir.path().join("ca.pem")));
    assert_ne!(std::fs::read(dir.path().join("a.pem")).unwrap(), before);
    handshake(dir.path(), dir.path(), "a", "mqtt.local").unwrap();
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_both_sides() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    issue(one.path(), &device("a")).unwrap();
    issue(two.path(), &device("a")).unwrap();
    assert!(handshake(one.path(), two.path(), "a", "localhost").is_err());
    // Now the client believes the server, but not the other way round.
    std::fs::copy(one.path().join("ca.pem"), two.path().join("ca.pem")).unwrap();
    assert!(handshake(one.path(), two.path(), "a", "localhost").is_err());
}

#[test]
fn a_clients_certificate_is_not_good_for_a_broker() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), &device("a")).unwrap();
    for end in ["pem", "key"] {
        let from = dir.path().join(format!("a.{end}"));
        std::fs::copy(from, dir.path().join(format!("broker.{end}"))).unwrap();
    }
    assert!(handshake(dir.path(), dir.path(), "a", "localhost").is_err());
}

#[test]
fn a_new_ca_is_made_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), &device("a")).unwrap();
    let ca = dir.path().join("ca.pem");
    let before = std::fs::read(&ca).unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let half = issue(dir.path(), &device("b")).unwrap_err();
    assert!(matches!(half, Error::HalfCa { .. }), "{half}");
    assert_eq!(std::fs::read(&ca).unwrap(), before);
    issue(dir.path(), &Request { force: true, ..device("a") }).unwrap();
    assert_ne!(std::fs::read(&ca).unwrap(), before);
    handshake(dir.path(), dir.path(), "a", "localhost").unwrap();
}

#[test]
fn a_ca_whose_key_is_another_one_issues_nothing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    issue(one.path(), &Request::default()).unwrap();
    issue(two.path(), &Request::default()).unwrap();
    std::fs::copy(two.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    let error = issue(one.path(), &device("a")).unwrap_err();
    assert!(matches!(error, Error::BadCa { .. }), "{error}");
    assert!(!one.path().join("a.pem").exists());
}

#[test]
fn a_name_that_means_something_else_is_refused_before_anything_is_written() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("dev");
    for name in ["operator", "broker", "CA", "bridge-out", "b2-Out", "Bridge-Readings"] {
        let error = issue(&dir, &device(name)).unwrap_err();
        assert!(matches!(error, Error::Name(NameError::Reserved(_))), "{name}: {error}");
    }
    for name in ["", "..", "a/b", "a b", ".hidden", "gärten"] {
        let error = issue(&dir, &device(name)).unwrap_err();
        assert!(matches!(error, Error::Name(NameError::Malformed { .. })), "{name}: {error}");
    }
    let host = Request { hosts: vec!["not a host".to_owned()], ..Request::default() };
    assert!(matches!(issue(&dir, &host).unwrap_err(), Error::Name(NameError::Host(_))));
    let days = Request { days: 0, ..Request::default() };
    assert!(matches!(issue(&dir, &days).unwrap_err(), Error::Name(NameError::Days(0))));
    assert!(!dir.exists());
}
