//! A monitor that connects to its client.
//!
//! # Threads
//! The monitor's.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use gio::prelude::*;
use glib::thread_guard::ThreadGuard;

use super::chardev::{ChardevAddress, SessionStyle};
use super::stream::Stream;
use crate::{Error, ErrorKind, Result};

/// Connects to a client, and again after the connection has ended if it is asked to. Dropping it ends the attempts.
pub(super) struct QmpConnector {
    address: ChardevAddress,
    /// The address from the root: the process may go to another directory.
    connectable: gio::SocketConnectable,
    reconnect: Option<Duration>,
    style: Rc<SessionStyle>,
    this: Weak<QmpConnector>,
    cancellable: gio::Cancellable,
    retry: RefCell<Option<glib::Source>>,
    is_over: Cell<bool>,
}

impl QmpConnector {
    /// Connects. With `reconnect`, the first attempt may fail.
    pub(super) fn open(
        address: ChardevAddress,
        reconnect: Option<Duration>,
        style: Rc<SessionStyle>,
    ) -> Result<Rc<QmpConnector>> {
        let connectable = connectable(&address)?;
        let connector = Rc::new_cyclic(|this: &Weak<QmpConnector>| QmpConnector {
            address,
            connectable,
            reconnect,
            style,
            this: this.clone(),
            cancellable: gio::Cancellable::new(),
            retry: RefCell::new(None),
            is_over: Cell::new(false),
        });
        if reconnect.is_some() {
            connector.connect();
        } else {
            connector.connect_now()?;
        }
        Ok(connector)
    }

    fn connect_now(&self) -> Result<()> {
        let client = gio::SocketClient::new();
        let address = &self.connectable;
        let connected = SocketClientExt::connect(&client, address, None::<&gio::Cancellable>);
        let connection = connected.map_err(|error| self.failed(&error))?;
        self.serve(connection);
        Ok(())
    }

    /// Connects in the background.
    fn connect(&self) {
        let this = self.this.clone();
        let client = gio::SocketClient::new();
        client.connect_async(
            &self.connectable,
            Some(&self.cancellable),
            move |connected| {
                let Some(connector) = this.upgrade() else {
                    return;
                };
                match connected {
                    Ok(connection) => connector.serve(connection),
                    Err(_) => connector.connect_later(),
                }
            },
        );
    }

    /// Connects after the pause, if there is to be another attempt.
    fn connect_later(&self) {
        let Some(pause) = self.reconnect.filter(|_| !self.is_over.get()) else {
            return;
        };
        let this = ThreadGuard::new(self.this.clone());
        let name = Some("qcontext-monitor-reconnect");
        let source = glib::timeout_source_new(pause, name, glib::Priority::DEFAULT, move || {
            if let Some(connector) = this.get_ref().upgrade() {
                connector.connect();
            }
            glib::ControlFlow::Break
        });
        source.attach(Some(&glib::MainContext::default()));
        self.retry.replace(Some(source));
    }

    fn serve(&self, connection: gio::SocketConnection) {
        let this = self.this.clone();
        let ended = move || {
            if let Some(connector) = this.upgrade() {
                connector.connect_later();
            }
        };
        if let Some(stream) = Stream::of(connection) {
            self.style.start(stream, Some(Box::new(ended)));
        }
    }

    fn failed(&self, error: &glib::Error) -> Error {
        let name = match &self.address {
            ChardevAddress::Unix(path) => path.display().to_string(),
            ChardevAddress::Inet { host, port } => format!("{host}:{port}"),
        };
        let reason = match error.kind::<gio::IOErrorEnum>() {
            Some(gio::IOErrorEnum::NotFound) => "No such file or directory",
            Some(gio::IOErrorEnum::ConnectionRefused) => "Connection refused",
            _ => error.message(),
        };
        Error::new(
            ErrorKind::Os,
            format!("Failed to connect to '{name}': {reason}"),
        )
    }

    /// Makes no further attempt.
    pub(super) fn stop(&self) {
        self.is_over.set(true);
        self.cancellable.cancel();
        if let Some(source) = self.retry.take() {
            source.destroy();
        }
    }
}

fn connectable(address: &ChardevAddress) -> Result<gio::SocketConnectable> {
    Ok(match address {
        ChardevAddress::Unix(path) => {
            let failed =
                |error| Error::os(format!("Failed to connect to '{}'", path.display()), error);
            let absolute = std::path::absolute(path).map_err(failed)?;
            gio::UnixSocketAddress::new(&absolute).upcast()
        }
        ChardevAddress::Inet { host, port } => gio::NetworkAddress::new(host, *port).upcast(),
    })
}

impl Drop for QmpConnector {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for QmpConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QmpConnector")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
