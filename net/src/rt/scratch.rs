//! The receive buffer that all sockets of a shard share, so that an idle one owns none.

use std::cell::Cell;

/// Size of the buffer.
const SCRATCH_BYTES: usize = 64 << 10;

/// The receive buffer of a shard. Taken for the length of one poll.
#[derive(Default)]
pub(crate) struct Scratch(Cell<Vec<u8>>);

impl Scratch {
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut buffer = self.0.take();
        // Empty only the first time, or if a connection were polled from within a call.
        buffer.resize(SCRATCH_BYTES, 0);
        let result = act(&mut buffer);
        self.0.set(buffer);
        result
    }
}
