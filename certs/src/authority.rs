//! The CA and what it signs: ECDSA P-256, small enough for a microcontroller.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use crate::Error;

/// Subject O. Letters and digits only: the embedded broker reads it, and refuses anything else.
const ORGANIZATION: &str = "Fieldpost";
const CA_DAYS: u32 = 3_650;
/// Valid from yesterday on, for machines whose clock is a little behind.
const BACKDATED: Duration = Duration::DAY;

/// A certificate to be issued.
#[derive(Debug)]
pub(crate) struct Leaf {
    /// Common name, and name of its files.
    pub(crate) name: String,
    pub(crate) role: Role,
}

#[derive(Debug)]
pub(crate) enum Role {
    Server { hosts: Vec<String> },
    Client,
}

/// A certificate and its key.
pub(crate) struct Made {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new CA. Its common name carries part of its key: two CAs of this tool can be told apart.
    pub(crate) fn create() -> Result<(Self, Made), Error> {
        let failed = |error: rcgen::Error| Error::Issue {
            name: "the CA".to_owned(),
            problem: error.to_string(),
        };
        let key = KeyPair::generate().map_err(failed)?;
        let mark: String =
            key.der_bytes().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
        let mut params = params(&format!("{ORGANIZATION} development CA {mark}"), CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(failed)?;
        let made = Made { cert_pem: cert.pem(), key_pem: key.serialize_pem() };
        Ok((Authority { issuer: Issuer::new(params, key) }, made))
    }

    /// The CA of an earlier run, or one of the user's own.
    pub(crate) fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key_pem).map_err(|error| format!("ca.key: {error}"))?;
        let public = key.subject_public_key_info();
        let issuer =
            Issuer::from_ca_cert_pem(cert_pem, key).map_err(|error| format!("ca.pem: {error}"))?;
        if !holds_key(cert_pem, &public) {
            return Err("ca.key is not the key of ca.pem".to_owned());
        }
        Ok(Authority { issuer })
    }

    pub(crate) fn issue(&self, leaf: &Leaf, days: u32) -> Result<Made, Error> {
        let failed = |error: rcgen::Error| Error::Issue {
            name: leaf.name.clone(),
            problem: error.to_string(),
        };
        let mut params = params(&leaf.name, days);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        match &leaf.role {
            Role::Client => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Server { hosts } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names =
                    CertificateParams::new(hosts.clone()).map_err(failed)?.subject_alt_names;
            }
        }
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Made { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

fn params(common_name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days.into());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// Whether a certificate is for this public key: a certificate carries it as it is.
fn holds_key(cert_pem: &str, public_key_der: &[u8]) -> bool {
    CertificateDer::from_pem_slice(cert_pem.as_bytes())
        .is_ok_and(|cert| cert.windows(public_key_der.len()).any(|window| window == public_key_der))
}
