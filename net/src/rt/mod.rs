//! What the shards run on: the only part of this crate, with the connections, that knows glommio.
//!
//! Reading order: [`executor`] starts the shards; [`mailbox`] is the only way into one; [`safety`] bounds how late a
//! wake-up can be; [`event`] wakes tasks within a shard; [`helper`] takes blocking work off it; [`writev`] sends without
//! copying; [`clock`] tells the time; [`preflight`] says before the start what is missing; [`signal`] asks for the end.

pub mod clock;
pub mod event;
pub mod executor;
pub mod helper;
pub mod mailbox;
pub mod preflight;
mod registered;
pub mod safety;
pub(crate) mod scratch;
pub mod signal;
pub(crate) mod socket;
pub mod writev;
