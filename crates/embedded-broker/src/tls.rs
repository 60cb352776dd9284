//! The TLS files, checked before they are used: the library looks at them only when a client
//! comes, and then only logs what is wrong.

use std::path::Path;
use std::sync::Arc;

use rumqttd::TlsConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::{Error, TlsPaths};

pub(crate) fn check(paths: &TlsPaths) -> Result<TlsConfig, Error> {
    certificates("CA", &paths.ca)?;
    let chain = certificates("certificate", &paths.cert)?;
    let key = PrivateKeyDer::from_pem_file(&paths.key)
        .map_err(|error| problem("key", &paths.key, error))?;
    let provider = Arc::new(ring::default_provider());
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        problem("key", &paths.key, format!("does not fit {:?}: {error}", paths.cert))
    })?;
    Ok(TlsConfig::Rustls {
        capath: Some(text("CA", &paths.ca)?),
        certpath: text("certificate", &paths.cert)?,
        keypath: text("key", &paths.key)?,
    })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| problem(what, path, error))?.collect();
    match all {
        Ok(all) if all.is_empty() => Err(problem(what, path, "holds no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(error) => Err(problem(what, path, error)),
    }
}

/// The library takes paths as text.
fn text(what: &'static str, path: &Path) -> Result<String, Error> {
    let text = path.to_str().ok_or_else(|| problem(what, path, "the path is not UTF-8"))?;
    Ok(text.to_owned())
}

fn problem(what: &'static str, path: &Path, problem: impl ToString) -> Error {
    Error::Tls { what, path: path.to_owned(), problem: problem.to_string() }
}
