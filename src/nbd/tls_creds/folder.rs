//! A folder with certificates, under QEMU's file names, and what TLS needs of it.
//!
//! * `ca-cert.pem`: what the peer's certificate must come from
//! * `ca-crl.pem`: which certificates are revoked; optional
//! * `server-cert.pem`, `server-key.pem`: a server's own
//! * `client-cert.pem`, `client-key.pem`: a client's own; optional
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};

use crate::{Error, ErrorKind, Result};

/// See the head of this file.
pub(super) struct CredsFolder {
    path: PathBuf,
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
}

/// A certificate with those between it and the authority, and its key.
struct OwnCertificate {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl CredsFolder {
    /// Reads what both ends need.
    ///
    /// # Errors
    /// A file is missing, or is not what it should be.
    pub(super) fn open(path: &str) -> Result<CredsFolder> {
        let path = PathBuf::from(path);
        let authority = path.join("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authority)? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable(&authority, &error))?;
        }
        Ok(CredsFolder {
            revoked: revocations(&path.join("ca-crl.pem"))?,
            roots: Arc::new(roots),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            path,
        })
    }

    /// How a client does TLS: the server must have a certificate.
    ///
    /// # Errors
    /// The client's own certificate cannot be used.
    pub(super) fn client(&self, sanity_check: bool) -> Result<ClientConfig> {
        let failed = |error: &dyn fmt::Display| unusable(&self.path, error);
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(&self.provider),
        );
        let verifier = verifier
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .enforce_revocation_expiration()
            .build();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_webpki_verifier(verifier.map_err(|error| failed(&error))?);
        if !self.path.join("client-cert.pem").exists() {
            return Ok(builder.with_no_client_auth());
        }
        let OwnCertificate { path, chain, key } = self.own("client", sanity_check)?;
        let config = builder.with_client_auth_cert(chain, key);
        config.map_err(|error| unusable(&path, &error))
    }

    /// How a server does TLS. With `verify_peer`, the client must have a certificate.
    ///
    /// # Errors
    /// The server's own certificate cannot be used.
    pub(super) fn server(&self, verify_peer: bool, sanity_check: bool) -> Result<ServerConfig> {
        let failed = |error: &dyn fmt::Display| unusable(&self.path, error);
        let OwnCertificate { path, chain, key } = self.own("server", sanity_check)?;
        let verifier = match verify_peer {
            true => WebPkiClientVerifier::builder_with_provider(
                Arc::clone(&self.roots),
                Arc::clone(&self.provider),
            )
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| failed(&error))?,
            false => WebPkiClientVerifier::no_client_auth(),
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?;
        let config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| unusable(&path, &error))?;
        // Each connection shows its certificate: nothing is kept of those that have gone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The own certificate of `who`.
    fn own(&self, who: &str, sanity_check: bool) -> Result<OwnCertificate> {
        let path = self.path.join(format!("{who}-cert.pem"));
        let key_path = self.path.join(format!("{who}-key.pem"));
        let chain = certificates(&path)?;
        let key = read(&key_path)?;
        let key = PrivateKeyDer::from_pem_slice(&key);
        let key = key.map_err(|error| unusable(&key_path, &error))?;
        let own = OwnCertificate { path, chain, key };
        if sanity_check {
            self.check(who, &own)?;
        }
        Ok(own)
    }

    /// Refuses an own certificate that no peer with this authority would take.
    fn check(&self, who: &str, own: &OwnCertificate) -> Result<()> {
        let (leaf, between) = own.chain.split_first().ok_or_else(|| empty(&own.path))?;
        let now = UnixTime::now();
        let checked = match who {
            "server" => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &leaf,
                    &self.roots,
                    between,
                    now,
                    algorithms,
                )
            }),
            _ => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::clone(&self.roots),
                    Arc::clone(&self.provider),
                );
                let verifier = verifier
                    .build()
                    .map_err(|error| unusable(&self.path, &error))?;
                verifier.verify_client_cert(leaf, between, now).map(drop)
            }
        };
        checked.map_err(|error| self.distrusted(&own.path, &error))
    }

    fn distrusted(&self, path: &Path, error: &rustls::Error) -> Error {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        let (path, authority) = (path.display(), self.path.join("ca-cert.pem"));
        let message = match error {
            rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
                format!("The certificate {path} has expired")
            }
            rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
                format!("The certificate {path} is not yet active")
            }
            error => format!(
                "Our own certificate {path} failed validation against {}: {error}",
                authority.display()
            ),
        };
        Error::new(ErrorKind::InvalidArgument, message)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(empty(path)),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// The lists in a file, which need not exist.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome.map_err(|error| unreadable(path, error))?,
    };
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        Ok(_) => Err(unusable(path, &"there is no revocation list")),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::os(
        format!("Unable to access credentials {}", path.display()),
        error,
    )
}

fn empty(path: &Path) -> Error {
    unusable(path, &"there is no certificate")
}

fn unusable(path: &Path, why: &dyn fmt::Display) -> Error {
    let message = format!("Unable to import credentials {}: {why}", path.display());
    Error::new(ErrorKind::InvalidArgument, message)
}
