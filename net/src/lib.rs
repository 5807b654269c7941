//! chronik's wire. (Reading order and invariants are written when the crate is whole.)
// --- codecs (owner: codec)
pub mod codec;
// --- runtime, acceptor, connection (owner: rt)
pub mod acceptor;
pub mod connection;
pub mod frame_reader;
pub mod rt;
