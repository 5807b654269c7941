//! Configuration: of the node (`server`, `cli`) and of brokers and topics by Kafka's own names (all the rest).
//!
//! Reading order: `definition` (what a config is, how a value is checked), `tables` (the configs of Kafka 4.3.1, from two
//! `.tsv` files beside this one), `layers` (where a value comes from, and which one wins), `broker` and `topic` (typed views
//! of what the broker acts on), `server` (the node file, flags and environment), `cli` (the command line).
//!
//! Owned by nobody in particular: everything here is pure data, read at start-up and whenever the metadata group commits a
//! change of configs. It lives in the metadata snapshot on every shard.
//!
//! Invariants: a value that reached a layer has passed its definition's check, so typed views never fail; a config that
//! chronik does not act on is either harmless (`Support::Accepted`) or refused.

pub mod broker;
pub mod cli;
pub mod definition;
pub mod layers;
pub mod server;
pub mod suggest;
pub mod tables;
pub mod topic;
