//! Certificates for TLS as an object: `-object tls-creds-x509,id=tls0,dir=PATH,endpoint=client`.
//!
//! The directory has QEMU's file names: `ca-cert.pem`, which the peer's certificate must come from, and `client-cert.pem` with
//! `client-key.pem`, which are optional.
//!
//! # Threads
//! Objects are made and deleted by the monitor's thread; any thread may find them. The configuration never changes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::object::types::{self, Type};
use crate::object::{Object, Options, Property, Value, not_found, not_writable, tree};
use crate::{Error, ErrorKind, Result};

const TYPE: &str = "tls-creds-x509";

/// Certificates; see the head of this file.
pub(crate) struct TlsCreds {
    dir: String,
    pub(crate) client: Arc<ClientConfig>,
}

impl fmt::Debug for TlsCreds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsCreds")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

static ALL: Mutex<BTreeMap<String, Weak<TlsCreds>>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<String, Weak<TlsCreds>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TlsCreds {
    /// The object of that name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(crate) fn find(id: &str) -> Result<Arc<TlsCreds>> {
        all().get(id).and_then(Weak::upgrade).ok_or_else(|| {
            let message = format!("No TLS credentials with id '{id}'");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    fn load(dir: String) -> Result<TlsCreds> {
        let folder = Path::new(&dir);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&folder.join("ca-cert.pem"))? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable(&folder.join("ca-cert.pem"), &error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let versions = versions.map_err(|error| unusable(folder, &error))?;
        let builder = versions.with_root_certificates(roots);
        let own = folder.join("client-cert.pem");
        let client = if own.exists() {
            let key = key(&folder.join("client-key.pem"))?;
            let with_own = builder.with_client_auth_cert(certificates(&own)?, key);
            with_own.map_err(|error| unusable(&own, &error))?
        } else {
            builder.with_no_client_auth()
        };
        let client = Arc::new(client);
        Ok(TlsCreds { dir, client })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(unusable(path, &"there is no certificate")),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| unusable(path, &error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("Unable to access credentials {}", path.display());
    std::fs::read(path).map_err(|error| Error::os(what(), error))
}

fn unusable(path: &Path, why: &dyn fmt::Display) -> Error {
    let message = format!("Unable to import credentials {}: {why}", path.display());
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Makes the type known to `-object` and `object-add`.
pub(crate) fn register() {
    types::register(Type {
        name: TYPE,
        parent: "object",
        properties: properties(),
        options: vec![("dir", "str"), ("endpoint", "str"), ("verify-peer", "bool")],
        option_types: &[],
        create: Some(create),
    });
}

fn properties() -> Vec<Property> {
    let all = [
        ("type", "string"),
        ("dir", "string"),
        ("endpoint", "string"),
        ("verify-peer", "bool"),
    ];
    all.map(|(name, kind)| Property::new(name, kind)).into()
}

fn create(id: &str, mut options: Options) -> Result<Arc<dyn Object>> {
    let dir = options
        .take_str("dir")?
        .ok_or_else(|| Error::new(ErrorKind::MissingArgument, "Missing 'dir' property value"))?;
    let unsupported = |message: &'static str| Err(Error::new(ErrorKind::Unsupported, message));
    if !matches!(
        options.take_str("endpoint")?.as_deref(),
        None | Some("client")
    ) {
        return unsupported("Only TLS credentials with endpoint=client are supported");
    }
    if options.take_bool("verify-peer")? == Some(false) {
        return unsupported("verify-peer=off is not supported with endpoint=client");
    }
    options.finish()?;
    let creds = Arc::new(TlsCreds::load(dir)?);
    let object: Arc<dyn Object> = Arc::new(CredsObject {
        id: id.to_owned(),
        creds: Arc::clone(&creds),
    });
    tree::add_child(&format!("/objects/{id}"), Arc::clone(&object))?;
    all().insert(id.to_owned(), Arc::downgrade(&creds));
    Ok(object)
}

struct CredsObject {
    id: String,
    creds: Arc<TlsCreds>,
}

impl Object for CredsObject {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn properties(&self) -> Vec<Property> {
        properties()
    }

    fn get(&self, name: &str) -> Result<Value> {
        match name {
            "type" => Ok(TYPE.into()),
            "dir" => Ok(self.creds.dir.as_str().into()),
            "endpoint" => Ok("client".into()),
            "verify-peer" => Ok(Value::Bool(true)),
            _ => Err(not_found(TYPE, name)),
        }
    }

    fn set(&self, name: &str, _value: Value) -> Result<()> {
        self.get(name)?;
        Err(not_writable(TYPE, name))
    }

    /// Nodes that use it have a reference of their own, under the lock of the list.
    fn retire(&self) -> Result<()> {
        let mut all = all();
        if Arc::strong_count(&self.creds) > 1 {
            let message = format!("object '{}' is in use, can not be deleted", self.id);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        all.remove(&self.id);
        drop(all);
        Ok(())
    }
}
