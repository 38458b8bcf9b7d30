//! Certificates for TLS as an object: `-object tls-creds-x509,id=tls0,dir=PATH,endpoint=client|server`.
//!
//! Names, defaults and error texts are QEMU's. [`folder`] says which files the directory has.
//!
//! # Threads
//! Objects are made and deleted by the monitor's thread; any thread may find them. The configuration never changes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustls::{ClientConfig, ServerConfig};

use crate::object::types::{self, Type};
use crate::object::{Object, Options, Property, Value, not_found, not_writable, tree};
use crate::{Error, ErrorKind, Result};

mod folder;

use folder::CredsFolder;

const TYPE: &str = "tls-creds-x509";

/// Certificates; see the head of this file.
pub(crate) struct TlsCreds {
    dir: String,
    verify_peer: bool,
    sanity_check: bool,
    endpoint: TlsEndpoint,
}

/// For which end of a connection they are.
enum TlsEndpoint {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl TlsEndpoint {
    fn name(&self) -> &'static str {
        match self {
            TlsEndpoint::Client(_) => "client",
            TlsEndpoint::Server(_) => "server",
        }
    }
}

impl fmt::Debug for TlsCreds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsCreds")
            .field("dir", &self.dir)
            .field("endpoint", &self.endpoint.name())
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
    /// `NotFound` if there is none; it is of another type.
    pub(crate) fn find(id: &str) -> Result<Arc<TlsCreds>> {
        let found = all().get(id).and_then(Weak::upgrade);
        found.ok_or_else(|| match tree::resolve(&format!("/objects/{id}")) {
            Ok(_) => {
                let message = format!("Object with id '{id}' is not TLS credentials");
                Error::new(ErrorKind::InvalidArgument, message)
            }
            Err(_) => {
                let message = format!("No TLS credentials with id '{id}'");
                Error::new(ErrorKind::NotFound, message)
            }
        })
    }

    /// How to do TLS as a client.
    ///
    /// # Errors
    /// They are a server's.
    pub(crate) fn client(&self) -> Result<&Arc<ClientConfig>> {
        match &self.endpoint {
            TlsEndpoint::Client(config) => Ok(config),
            TlsEndpoint::Server(_) => Err(wrong_endpoint("client")),
        }
    }

    /// How to do TLS as a server.
    ///
    /// # Errors
    /// They are a client's.
    pub(crate) fn server(&self) -> Result<&Arc<ServerConfig>> {
        match &self.endpoint {
            TlsEndpoint::Server(config) => Ok(config),
            TlsEndpoint::Client(_) => Err(wrong_endpoint("server")),
        }
    }
}

fn wrong_endpoint(expected: &str) -> Error {
    let message = format!("Expected TLS credentials for a {expected} endpoint");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Makes the type known to `-object` and `object-add`.
pub(crate) fn register() {
    types::register(Type {
        name: TYPE,
        parent: "object",
        properties: properties(),
        options: vec![
            ("dir", "string"),
            ("endpoint", "client|server"),
            ("passwordid", "string"),
            ("priority", "string"),
            ("sanity-check", "bool"),
            ("verify-peer", "bool"),
        ],
        option_types: &[],
        create: Some(create),
    });
}

fn properties() -> Vec<Property> {
    let all = [
        ("type", "string"),
        ("dir", "string"),
        ("endpoint", "string"),
        ("sanity-check", "bool"),
        ("verify-peer", "bool"),
    ];
    all.map(|(name, kind)| Property::new(name, kind)).into()
}

fn create(id: &str, mut options: Options) -> Result<Arc<dyn Object>> {
    let creds = Arc::new(load(&mut options)?);
    options.finish()?;
    let object: Arc<dyn Object> = Arc::new(CredsObject {
        id: id.to_owned(),
        creds: Arc::clone(&creds),
    });
    tree::add_child(&format!("/objects/{id}"), Arc::clone(&object))?;
    all().insert(id.to_owned(), Arc::downgrade(&creds));
    Ok(object)
}

fn load(options: &mut Options) -> Result<TlsCreds> {
    let unsupported = |message: &'static str| Error::new(ErrorKind::Unsupported, message);
    if options.take_str("priority")?.is_some() {
        return Err(unsupported(
            "priority is not supported: TLS 1.2 and 1.3 with safe ciphers are used",
        ));
    }
    if options.take_str("passwordid")?.is_some() {
        return Err(unsupported(
            "passwordid is not supported: the key must not be encrypted",
        ));
    }
    let wanted = options.take_str("endpoint")?;
    let is_server = match wanted.as_deref() {
        None | Some("client") => false,
        Some("server") => true,
        Some(other) => {
            let message = format!("Parameter 'endpoint' does not accept value '{other}'");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    };
    let verify_peer = options.take_bool("verify-peer")?.unwrap_or(true);
    if !verify_peer && !is_server {
        return Err(unsupported(
            "verify-peer=off is not supported with endpoint=client",
        ));
    }
    let sanity_check = options.take_bool("sanity-check")?.unwrap_or(true);
    let dir = options
        .take_str("dir")?
        .ok_or_else(|| Error::new(ErrorKind::MissingArgument, "Missing 'dir' property value"))?;
    let folder = CredsFolder::open(&dir)?;
    let endpoint = match is_server {
        true => TlsEndpoint::Server(Arc::new(folder.server(verify_peer, sanity_check)?)),
        false => TlsEndpoint::Client(Arc::new(folder.client(sanity_check)?)),
    };
    Ok(TlsCreds {
        dir,
        verify_peer,
        sanity_check,
        endpoint,
    })
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
            "endpoint" => Ok(self.creds.endpoint.name().into()),
            "sanity-check" => Ok(Value::Bool(self.creds.sanity_check)),
            "verify-peer" => Ok(Value::Bool(self.creds.verify_peer)),
            _ => Err(not_found(TYPE, name)),
        }
    }

    fn set(&self, name: &str, _value: Value) -> Result<()> {
        self.get(name)?;
        Err(not_writable(TYPE, name))
    }

    /// Nodes and the server that use it have a reference of their own, under the lock of the list.
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
