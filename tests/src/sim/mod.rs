//! Simulation of one node: its real shards over a simulated disk, in virtual time, from one seed.
//!
//! The node is started by `chronik_core::node::data`, as the server is, and its shards are the server's own; what glommio,
//! the device and the helper threads are to the real one is a queue of steps here (`node`). Clients (`clients`, `asks`,
//! `admin`) produce with and without producer ids, repeat what was not answered and what was, fetch, search by time, delete
//! records, commit offsets, make, grow, configure and delete topics. Meanwhile (`faults`) the process is killed, the power
//! fails, at any write and during recovery too, writes and syncs fail, the disk is full or slow, and the node starts with
//! another number of shards. Whatever a client is told must agree with all that any was told before (`model`, `answers`):
//! a node of its own commits what is durable, so that every word of it is for ever. At the end (`finish`) everything is
//! answered, every partition takes a record, and all is read twice, before and after a last power cut.
//!
//! `tests/tests/simulation.rs` runs fresh seeds, one script crashed at every writing step, and planted bugs that must be
//! found. A failure names its seed; `CHRONIK_SEED=n cargo test -p chronik-tests --test simulation fresh_seeds` is that run.
//!
//! # Which test stands for which rule of SAFETY.md (one node)
//!
//! "sim" is the simulation with its checks after every answer and at the end of each run.
//!
//! | rule | tests |
//! |---|---|
//! | 1 turns | `wal::shard_wal::tests::the_next_turn_starts_only_after_the_one_before_is_durable`, `turns_are_whole_blocks_and_stay_within_a_segment`; sim with `Planted::DurableBeforeWrite`, `TurnNotSynced`, `TurnCutShort` |
//! | 2 checksums | `wal::frame::tests::a_frame_header_before_another_sound_batch_does_not_verify`, `every_bit_of_a_frame_is_covered`, `wal::recovery::tests::no_flipped_bit_passes_for_data` |
//! | 3 torn or corrupt | `wal::recovery::tests::a_bad_last_turn_is_a_torn_tail`, `a_bad_turn_below_a_mark_is_corruption`, `a_torn_tail_stays_one_after_the_log_went_on`, `wal::shard_wal::tests::a_segment_ends_only_when_the_next_one_is_prepared`; sim: torn power cuts never damage |
//! | 4 recycling | `wal::shard_wal::tests::nothing_is_released_that_is_still_needed`, `a_checkpoint_is_written_even_when_the_wal_is_at_its_bound`; sim (WALs of 5 to 8 small segments) with `Planted::FilesNotSynced` |
//! | 5 full disk | `wal::shard_wal::tests::a_full_disk_refuses_room_and_recovers_alone`, `wal::partition::tests::writing::a_full_disk_changes_nothing_and_is_forgotten_when_space_returns`; sim: full disks, `Planted::WriteErrorIgnored` |
//! | 6 only committed batches in files | `wal::partition::tests::crash`, `core::partition::apply` (its assertions); sim: offsets dense after every crash |
//! | 7 memory, maps | `raft::driver::tests::the_tail_keeps_within_its_budget_and_never_drops_what_is_only_there`, `wal::partition::tests::reading::{the_cache_stays_bounded, bytes_outlive_the_segment_that_they_come_from}`; sim: the budget after every step |
//! | 10 ready loop | `raft::driver::tests::{what_was_committed_survives_a_crash_at_every_boundary, after_a_restart_committed_entries_come_before_leadership}`; sim |
//! | 11 leader of its own term | `raft::driver::tests::a_new_group_leads_once_its_own_disk_has_its_first_entry`; sim: idempotent retries and commits right after a start, `Planted::ProducersForgotten` |
//! | 12 waiters | `raft::driver::tests::proposals_of_a_turn_share_it_and_come_out_in_order`; sim: answered once and in time, `Planted::AnsweredTwice`, `AnswerLost` |
//! | 13 log start | `raft::driver::tests::the_log_start_moves_when_asked_and_survives_a_restart`, `wal::partition::tests::retention::only_what_the_durable_log_start_says_is_dropped`; sim: it never moves back, nor beyond deletions and retention |
//! | 18 bootstrap | `core::metadata::controller_tests::the_cluster_is_named_once_and_brokers_register_when_they_change`; sim: the id is minted and noted under crashes |
//! | 19 topics and successors | `core::metadata::state_tests::ids_are_never_used_twice_even_after_a_delete`, `wal::partition::tests::writing::{deletion_renames_at_once_and_the_sweep_finishes_it, a_successor_of_the_same_name_waits_for_the_directory}`; sim: names deleted and made again, groups and ids checked |
//! | 20 shard count | `wal::reshard::tests::{one_shard_to_four_to_two, a_crash_at_any_write_of_the_change_loses_nothing}`; sim: a quarter of all starts, 1 to 4 shards |
//! | 21 cheap partitions | `wal::partition::tests::writing::a_partition_without_entries_costs_no_file`, `core::metadata::controller_tests::a_forwarded_retry_is_not_told_that_the_topic_exists`; sim: a change is answered when it is published and led |
//! | 22 time | `raft::driver::promise_tests::a_leader_that_was_asleep_steps_down_before_it_serves` |
//! | 23 order of responses | `net::connection::tests`; sim: FIFO for each connection, `OFFSET_OUT_OF_RANGE` only outside the log |
//! | 24 limits | `wal::shard_wal::tests::a_batch_of_the_largest_size_fits`, `wal::batch::tests`, `tests/tests/decoders.rs` (batch, decompress) |
//! | 25 versions | `wal::recovery::tests::another_owner_and_a_newer_format_are_refused`, `wal::partition::tests::damage::a_newer_format_is_refused`, `wal::identity::tests::another_node_cluster_or_version_is_refused`, `core::metadata::state_tests::images_of_other_versions_and_garbage_are_refused` |
//! | 26 ApiVersions | `net::codec::tests::frames::api_versions_advertises_what_is_served_and_finalises_nothing` |

mod admin;
mod answers;
mod asks;
mod clients;
mod disk;
mod faults;
mod finish;
mod members;
mod model;
mod network;
mod node;
mod queue;
mod records;
mod setup;
mod watch;
mod world;

pub use chronik_wal::planted::Bug;
pub use setup::{Planted, RunPlan};
pub use world::{Report, run};
