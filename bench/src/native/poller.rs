//! epoll: one for each thread. Sockets are watched edge-triggered, so that interest never has to
//! be changed: who is told reads or writes until the socket has no more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

const EVENTS_MAX: usize = 64;

/// Waits for sockets.
pub struct Poller {
    epoll: OwnedFd,
    /// Of the sockets found ready last.
    tokens: Vec<u64>,
}

impl Poller {
    /// A poller that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, tokens: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches a socket until it is closed.
    pub fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)?)
    }

    /// Watches another poller, which is ready as long as one of its sockets is.
    pub fn watch_poller(&self, other: &Poller, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, &other.epoll, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Waits until a socket is ready or `timeout_ns` has passed; the tokens of the ready ones.
    pub fn wait(&mut self, timeout_ns: u64) -> io::Result<&[u64]> {
        let timeout = Timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as _,
        };
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        self.tokens.clear();
        match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((ready, _)) => self.tokens.extend(ready.iter().map(|event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(&self.tokens)
    }
}
