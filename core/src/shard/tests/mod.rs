//! A whole shard on a simulated disk, driven from outside: requests in, replies out, time and crashes as the test says.

mod acks;
mod cluster;
mod cluster_rig;
mod contact;
mod controller;
mod doubt;
mod elections;
mod failover;
mod fetch;
mod followers;
mod formation;
mod groups;
mod handover;
mod hold;
mod making;
mod membership;
mod memory;
mod offsets;
mod produce;
mod recycle;
mod requests;
mod resets;
mod rig;
mod stop;
mod topics;
mod write_behind;

pub(super) use cluster_rig::*;
pub(super) use requests::*;
pub(super) use rig::*;
