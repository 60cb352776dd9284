//! TLS settings from files, made anew for each connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use crate::{Ca, ClientCertificate, Tls};

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Missing, unreadable, or no PEM.
    #[error("{what} {} cannot be read: {why}", path.display())]
    File {
        /// CA, certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Readable, and holding nothing of use.
    #[error("{what} {} holds no certificate; it has to be PEM", path.display())]
    Empty {
        /// CA or certificate.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no CAs.
    #[error("the system has no CA certificates ({0}); install ca-certificates, or name a CA file")]
    NoSystemCa(String),
    /// The key is not the certificate's.
    #[error("certificate {} and key {} do not fit together: {why}", cert.display(), key.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library says.
        why: String,
    },
}

/// `None` for a connection in the clear. `lacks_certificate` is set when a broker asks for a
/// certificate and there is none.
pub(crate) fn client_config(
    tls: &Tls,
    lacks_certificate: &Arc<AtomicBool>,
) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let Tls::On { ca, client } = tls else { return Ok(None) };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots(ca)?);
    let mut config = match client {
        None => builder.with_client_cert_resolver(Arc::new(Without(lacks_certificate.clone()))),
        Some(ClientCertificate { cert, key }) => {
            let chain = certificates("certificate", cert)?;
            check_kind("key", key)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
                what: "key",
                path: key.clone(),
                why: error.to_string(),
            })?;
            builder.with_client_auth_cert(chain, private).map_err(|error| TlsError::Mismatch {
                cert: cert.clone(),
                key: key.clone(),
                why: error.to_string(),
            })?
        }
    };
    // Each connection has a configuration of its own: there is nothing to resume.
    config.resumption = Resumption::disabled();
    Ok(Some(Arc::new(config)))
}

/// No certificate, but a note that one was asked for.
#[derive(Debug)]
struct Without(Arc<AtomicBool>);

impl ResolvesClientCert for Without {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn roots(ca: &Ca) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Ca::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map_or("none found".to_owned(), ToString::to_string);
                return Err(TlsError::NoSystemCa(why));
            }
        }
        Ca::File(path) => {
            for certificate in certificates("CA", path)? {
                roots.add(certificate).map_err(|error| TlsError::File {
                    what: "CA",
                    path: path.clone(),
                    why: error.to_string(),
                })?;
            }
        }
    }
    Ok(roots)
}

fn check_kind(what: &'static str, path: &Path) -> Result<(), TlsError> {
    let unreadable = |error: std::io::Error| TlsError::File {
        what,
        path: path.to_owned(),
        why: error.to_string(),
    };
    crate::check_is_file(path).map_err(unreadable)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error: rustls::pki_types::pem::Error| TlsError::File {
        what,
        path: path.to_owned(),
        why: error.to_string(),
    };
    check_kind(what, path)?;
    let chain =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned() });
    }
    Ok(chain)
}
