//! A queue's way to the export of an NBD server.
//!
//! Requests of a batch are sent together, and replies are taken as they come. Where the server says that connections see the same
//! data (`CAN_MULTI_CONN`), a queue has a connection of its own; until that is there, and when it is lost, the queue uses the main
//! one.
//!
//! * [`server`]: where the server is, what it says of the export
//! * [`handshake`], [`attempt`]: how a connection begins
//! * [`link`]: a connection that comes again; [`session`]: while it is there
//! * [`flight`]: requests on their way; [`sender`], [`receiver`], [`chunks`]: how they get there and back
//! * [`user`]: a queue as connections know it
//!
//! # Threads
//! As all ways: the channel uses it on the home of the queue.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gsource::{AioContext, Clock};

use crate::block::gate::Gate;
use crate::block::request::{Finished, Op, Request, Submission};
use crate::{ErrorKind, Result};

mod attempt;
mod chunks;
mod flight;
mod handshake;
mod link;
mod receiver;
mod sender;
pub(in crate::block) mod server;
mod session;
mod user;

use handshake::Opened;
use link::NbdLink;
use server::{NbdServer, ServerOptions};
use user::{LinkInbox, LinkUser};

/// When a queue that has lost its connection makes another one.
const OWN_AGAIN_NS: i64 = 5_000_000_000;
/// Pauses between attempts to open a node.
const OPEN_PAUSES_NS: [i64; 2] = [50_000_000, 1_000_000_000];

/// The server of a node, and the main connection to it.
#[derive(Clone, Debug)]
pub(in crate::block) struct NbdExport {
    pub(in crate::block) server: Arc<NbdServer>,
    main: Arc<NbdLink>,
}

impl NbdExport {
    /// Connects to the server. It tries again for as long as `open-timeout` says.
    ///
    /// # Errors
    /// That of the last attempt.
    pub(in crate::block) async fn open(
        aio: AioContext,
        options: ServerOptions,
    ) -> Result<NbdExport> {
        let opened = open_in_time(&aio, &options).await?;
        let server = Arc::new(NbdServer::new(options, opened.1));
        let main = NbdLink::main(&server, opened);
        Ok(NbdExport { server, main })
    }
}

async fn open_in_time(aio: &AioContext, options: &ServerOptions) -> Result<Opened> {
    let now = || Clock::Realtime.now_ns();
    let end = now().saturating_add(options.open_timeout_ns);
    let [mut pause, longest] = OPEN_PAUSES_NS;
    loop {
        let left = match options.open_timeout_ns {
            0 => i64::MAX,
            _ => end - now(),
        };
        let error = match handshake::open(aio, options, left).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if error.kind() == ErrorKind::Protocol || now().saturating_add(pause) >= end {
            return Err(error);
        }
        aio.sleep_ns(Clock::Realtime, pause).await;
        pause = (2 * pause).min(longest);
    }
}

/// A queue's way; see the head of this file.
#[derive(Debug)]
pub(in crate::block) struct NbdWay {
    export: NbdExport,
    user: LinkUser,
    own: Option<Arc<NbdLink>>,
    /// When the queue may have another connection of its own.
    own_again_ns: i64,
}

impl NbdWay {
    pub(in crate::block) fn open(export: &NbdExport, gate: &Arc<Gate>) -> NbdWay {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let user = LinkUser {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            gate: Arc::clone(gate),
            inbox: Arc::new(LinkInbox::default()),
        };
        export.main.join(&user);
        NbdWay {
            export: export.clone(),
            user,
            own: None,
            own_again_ns: 0,
        }
    }

    pub(super) fn submit(&mut self, request: Box<Request>) -> Submission {
        if matches!(request.op, Op::Read | Op::Write) {
            self.want_own();
        }
        match self.link().submit(self.user.id, request) {
            Ok(()) => Submission::Queued,
            Err(request) => Submission::Done(Finished {
                request,
                result: -libc::EIO,
            }),
        }
    }

    /// Where requests go now.
    fn link(&self) -> &Arc<NbdLink> {
        let own = self.own.as_ref().filter(|own| own.is_connected());
        own.unwrap_or(&self.export.main)
    }

    /// Begins a connection of the queue's own, if the server allows that and others use the main one.
    fn want_own(&mut self) {
        if self.own.is_some() || !self.export.server.allows_several() {
            return;
        }
        let now = Clock::Realtime.now_ns();
        if now < self.own_again_ns || self.export.main.is_home(self.user.id) {
            return;
        }
        self.own_again_ns = now.saturating_add(OWN_AGAIN_NS);
        if self.export.main.is_connected() && self.export.server.take_place() {
            self.own = Some(NbdLink::own(&self.export.server, &self.user));
        }
    }

    pub(super) fn flush_submissions(&mut self) {
        self.export.main.flush();
        if let Some(own) = &self.own {
            own.flush();
        }
    }

    pub(super) fn reap(&mut self, finished: &mut Vec<Finished>) {
        if self.own.as_ref().is_some_and(|own| own.is_over()) {
            self.drop_own();
        }
        for request in self.user.inbox.take(finished) {
            if let Err(request) = self.export.main.submit(self.user.id, request) {
                let result = -libc::EIO;
                finished.push(Finished { request, result });
            }
        }
        self.flush_submissions();
        // After what went from one connection to the other, so that this is hurried too.
        self.hurry();
    }

    /// Limits the waits for a server, if the queue is to have its requests back soon.
    fn hurry(&self) {
        if self.user.gate.is_hurried() {
            let links = [Some(&self.export.main), self.own.as_ref()];
            let links = links.into_iter().flatten();
            links.for_each(|link| link.hurry(self.user.id));
        }
    }

    fn drop_own(&mut self) {
        if let Some(own) = self.own.take() {
            own.leave(self.user.id);
            self.export.server.give_place();
        }
    }
}

impl Drop for NbdWay {
    fn drop(&mut self) {
        self.drop_own();
        self.export.main.leave(self.user.id);
    }
}
