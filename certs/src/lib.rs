//! A development CA and the certificates that Fieldpost needs.
//!
//! ```text
//! ca.pem ca.key                                the CA; ca.key stays on the machine that issues
//! broker.pem broker.key                        server: localhost, 127.0.0.1, ::1 and `hosts`
//! <bridge>-readings|-events|-out.pem .key      one for each of the bridge's three connections
//! operator.pem operator.key                    a person with a client such as MQTT Explorer
//! <device>.pem <device>.key                    one for each gateway; common name = device id
//! ```
//!
//! Always true here: a key is readable by its owner only from the moment it exists, a CA is never
//! replaced unless told so, and what is there is left alone. A broker takes the common name for
//! the user name, so nobody gets a name that means someone else.

mod authority;
mod files;
mod request;

use std::path::{Path, PathBuf};

use authority::{Authority, Leaf};
pub use files::FileError;
pub use request::{NameError, Request};

/// Why nothing, or not everything, was made. What was written before is complete and usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Half of the CA is there.
    #[error(
        "{present:?} is there, {missing:?} is not: nothing can be issued. Put it back, or make a new CA with --force (all certificates of the old one become useless)"
    )]
    HalfCa {
        /// The half that is there.
        present: PathBuf,
        /// The half that is not.
        missing: PathBuf,
    },
    /// A CA that cannot be used.
    #[error("the CA in {dir:?} cannot be used: {problem}. A new one is made with --force")]
    BadCa {
        /// Its folder.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The library refused.
    #[error("cannot make the certificate of {name:?}: {problem}")]
    Issue {
        /// Whose certificate.
        name: String,
        /// Why.
        problem: String,
    },
}

/// Makes what is missing in `dir` (and the folder itself, mode 0700); returns the paths of what
/// it wrote, in order.
///
/// # Errors
/// See [`Error`].
pub fn issue(dir: &Path, request: &Request) -> Result<Vec<PathBuf>, Error> {
    let leaves = request.leaves()?;
    files::create_folder(dir)?;
    let (authority, mut written) = open_or_create(dir, request.force)?;
    for leaf in &leaves {
        let (cert, key) = pair(dir, &leaf.name);
        let there = cert.exists() && key.exists();
        if there && !request.renew && !request.force {
            continue;
        }
        let made = authority.issue(leaf, request.days)?;
        files::write_pair(&cert, &made.cert_pem, &key, &made.key_pem)?;
        written.extend([cert, key]);
    }
    Ok(written)
}

fn open_or_create(dir: &Path, force: bool) -> Result<(Authority, Vec<PathBuf>), Error> {
    let (cert, key) = pair(dir, "ca");
    match (cert.exists(), key.exists()) {
        (true, true) if !force => {
            let (cert_pem, key_pem) = (files::read(&cert)?, files::read(&key)?);
            let authority = Authority::from_pem(&cert_pem, &key_pem)
                .map_err(|problem| Error::BadCa { dir: dir.to_owned(), problem })?;
            Ok((authority, Vec::new()))
        }
        (true, false) if !force => Err(Error::HalfCa { present: cert, missing: key }),
        (false, true) if !force => Err(Error::HalfCa { present: key, missing: cert }),
        _ => {
            let (authority, made) = Authority::create()?;
            files::write_pair(&cert, &made.cert_pem, &key, &made.key_pem)?;
            Ok((authority, vec![cert, key]))
        }
    }
}

fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}
