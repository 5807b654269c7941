//! A connection on its way from one shard of the node to another: what travels, and how a shard takes it in.
//!
//! ```text
//! service asks ─▶ nothing more is received ─▶ all is answered and sent ─▶ mailbox ─▶ other shard reads on
//!                      └─ takes too long ─▶ stays       a full mailbox ─▶ stays
//! ```
//! Made on the shard that the connection leaves, taken apart on the one where it arrives. Between the two nobody reads from
//! the socket: what its client sends meanwhile waits in the kernel.
//!
//! Invariants: no request travels that has begun, so none is lost or answered out of order; the bytes that travel unread are
//! at most one receive (64 KiB), because the service asks while it is called and nothing is received from then on. The shard
//! where they arrive counts their memory from then on, whether it has room or not: a step of a frame each, at most.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::BytesMut;

use super::set::Connections;
use super::shared::Shared;
use super::{CloseReason, ConnectionInfo, Service};
use crate::acceptor::Permit;
use crate::frame_reader::FrameReader;
use crate::rt::mailbox::{Full, Receiver, Sender};
use crate::rt::socket::Socket;

/// What was received and has not become a request.
#[derive(Debug)]
pub(super) struct Unread {
    /// The frame that is being received.
    pub(super) frames: FrameReader,
    /// A whole frame that may not start yet, and whether it is pipelined.
    pub(super) held: Option<(BytesMut, bool)>,
    /// What was received after the held frame.
    pub(super) rest: BytesMut,
}

impl Unread {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self { frames: FrameReader::new(frame_bytes_max), held: None, rest: BytesMut::new() }
    }

    /// Memory that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        let held_frame = self.held.as_ref().map_or(0, |(frame, _)| frame.len());
        self.frames.held_bytes() + held_frame + self.rest.len()
    }
}

/// A connection between two shards.
#[derive(Debug)]
pub struct Moved<C> {
    pub(super) info: ConnectionInfo,
    pub(super) socket: OwnedFd,
    pub(super) permit: Permit,
    pub(super) unread: Unread,
    /// What the service keeps of it.
    pub(super) connection: C,
    pub(super) muted_until_ms: u64,
    pub(super) last_activity_ms: u64,
}

/// The way to every shard of the node, in order; empty where connections stay where they are.
pub type Ways<C> = Vec<Sender<Moved<C>>>;

impl<S: Service> Connections<S> {
    /// Takes in connections that come from other shards, until [`Connections::drain`].
    pub async fn serve_moved(self: Rc<Self>, mut inbox: Receiver<Moved<S::Connection>>) {
        loop {
            let moved = inbox.recv().await;
            self.take_in(moved);
        }
    }

    /// Serves a connection that comes from another shard. A shard that is draining closes it.
    pub(super) fn take_in(self: &Rc<Self>, moved: Moved<S::Connection>) {
        let Moved { info, socket, permit, unread, mut connection, muted_until_ms, last_activity_ms } = moved;
        self.service().arrives(&mut connection);
        let socket = Socket::adopt(socket);
        if self.is_draining() {
            socket.finish();
            return self.service().closed(connection, &CloseReason::Shutdown);
        }
        tracing::debug!(connection = info.id, peer = %info.peer, "connection came from another shard");
        self.counters().count_arrival();
        let shared = self.shared(info);
        shared.muted_until_ms.set(muted_until_ms);
        shared.last_activity_ms.set(last_activity_ms);
        self.clone().serve_in_task(shared, socket, permit, connection, unread);
    }

    /// Sends a connection to the shard that it leaves for. It comes back when that takes none now.
    pub(super) fn send_away(
        &self,
        shared: &Shared,
        mut moved: Moved<S::Connection>,
    ) -> Result<(), Box<Moved<S::Connection>>> {
        let way = shared.leaving().and_then(|shard| self.ways().get(shard));
        let Some(way) = way.filter(|way| !way.is_closed()) else {
            return Err(Box::new(moved));
        };
        tracing::debug!(connection = shared.info.id, peer = %shared.info.peer, to = ?shared.leaving(), "connection moves");
        self.service().leaves(&mut moved.connection);
        way.try_send(moved).map_err(|Full(mut moved)| {
            self.service().stays(&mut moved.connection);
            Box::new(moved)
        })
    }
}

/// What travels of `shared` beside what its task owns.
pub(super) fn pack<C>(
    shared: &Shared,
    socket: OwnedFd,
    permit: Permit,
    connection: C,
    unread: Unread,
) -> Moved<C> {
    Moved {
        info: shared.info.clone(),
        socket,
        permit,
        unread,
        connection,
        muted_until_ms: shared.muted_until_ms.get(),
        last_activity_ms: shared.last_activity_ms.get(),
    }
}
