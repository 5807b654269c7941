//! chronik's multi-raft. (Reading order and invariants are written when the crate is whole.)
