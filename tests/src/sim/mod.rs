//! Simulation of a node, and of clusters: their real shards over simulated disks and links, in virtual time, from one seed.
//!
//! A node is started by `chronik_core::node::data`, as the server is, and its shards are the server's own; what glommio,
//! the device and the helper threads are to the real one is a queue of steps here (`node`), and what links are is `network`.
//! Clients (`clients`, `asks`, `admin`) produce with and without producer ids, repeat what was not answered and what was,
//! fetch, from followers too, search by time, ask where leader epochs ended (`followers`), delete records, commit offsets as
//! members of groups and without (`groups`), make, grow, configure and delete topics and move their replicas; a fourth node
//! joins. Meanwhile (`faults`) processes are killed, the power fails, at any write and during recovery too, writes and syncs
//! fail, disks are full, slow or wiped, bits of a stopped node's WAL turn over, networks are cut, processes stand still,
//! clocks jump, and a node of its own starts with another number of shards. Whatever a
//! client is told must agree with all that any was told before (`model`, `answers`), and what no client sees, every replica
//! after each of its turns, with what was committed (`watch`, `members`). At the end (`finish`) everything is answered,
//! every replica is where it is to be, every partition takes a record, and all is read twice, before and after a last power cut.
//!
//! `tests/tests/simulation.rs` runs fresh seeds, one script crashed at every writing step, and planted bugs that must be
//! found. A failure names its seed; `CHRONIK_SEED=n cargo test -p chronik-tests --test simulation fresh_seeds` is that run.
//!
//! # Which test stands for which rule of SAFETY.md
//!
//! "sim" is the simulation with its checks after every answer and at the end of each run, "clusters" those of its runs with three
//! nodes. `restarts` is `tests/tests/cluster_restarts.rs`, three real processes.
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
//! | 8 one id, one incarnation | `core::shard::tests::formation::a_node_with_an_empty_disk_comes_back_as_another_peer`, `core::metadata::state_tests::another_directory_is_another_peer_everywhere`, `net::peer::registry::a_second_node_with_the_same_id_or_directory_is_refused_while_the_first_lives`, restarts: `a_wiped_node_rejoins_and_is_filled`, `a_flipped_byte_is_repaired_from_the_peers`; clusters: wiped disks, `watch` (a peer id lives on one disk and forgets nothing), `Planted::WipedVotes` |
//! | 9 snapshots | `raft::storage::tests::the_snapshot_lies_at_the_log_start_with_the_newest_configuration`, `raft::guard::tests::unusable_snapshots_are_dropped_and_a_good_one_replaces_the_log`, `raft::driver::promise_tests::{a_snapshot_also_replaces_the_entries_above_it, a_configuration_counts_as_applied_once_it_is_durable}`, `core::shard::tests::membership::a_new_replica_is_filled_from_the_log_start_on`; clusters: replicas compared entry by entry |
//! | 10 ready loop | `raft::driver::tests::{what_was_committed_survives_a_crash_at_every_boundary, after_a_restart_committed_entries_come_before_leadership}`; sim; `raft::driver::promise_tests::{a_vote_leaves_only_when_it_is_durable, a_follower_acknowledges_only_what_is_durable}`, `raft::cluster_tests::clusters_keep_their_promises`; clusters with `Bug::HardStateDropped`, `Bug::TruncationSkipped` |
//! | 11 leader of its own term | `raft::driver::tests::a_new_group_leads_once_its_own_disk_has_its_first_entry`; sim: idempotent retries and commits right after a start, `Planted::ProducersForgotten`; `core::shard::tests::failover::a_new_leader_knows_what_the_old_one_has_acknowledged`; clusters with `Bug::ProducersForgotten` |
//! | 12 waiters | `raft::driver::tests::proposals_of_a_turn_share_it_and_come_out_in_order`; sim: answered once and in time, `Planted::AnsweredTwice`, `AnswerLost`; `core::shard::tests::failover::what_was_in_flight_and_is_lost_is_forgotten_with_its_offset`, `core::shard::tests::hold`; clusters with `Bug::WaiterByIndex` |
//! | 13 log start | `raft::driver::tests::the_log_start_moves_when_asked_and_survives_a_restart`, `wal::partition::tests::retention::only_what_the_durable_log_start_says_is_dropped`; sim: it never moves back, nor beyond deletions and retention; clusters with `Bug::TrimmedAlone` |
//! | 14 in sync | `core::shard::tests::acks::{acks_all_waits_for_as_many_disks_as_the_topic_wants, a_follower_that_lags_too_long_is_out_of_sync_until_it_has_caught_up, too_few_in_sync_are_refused_before_the_append_and_served_again_once_there_are_enough}`, `core::metadata::snapshot_tests::{the_in_sync_set_comes_from_the_newest_leader_only, the_leader_is_fenced_by_term_and_never_forgotten}`; clusters: `min.insync.replicas` 2, everything acknowledged outlives power cuts and wiped disks |
//! | 15 randomness and order | `raft::cluster_tests::the_same_seed_gives_the_same_run`, `tests/tests/simulation.rs: a_seed_is_a_run` |
//! | 16 quiescence | `raft::driver::rest_tests`, `raft::cluster_tests::calm::{a_cluster_in_which_nothing_happens_does_nothing, a_resting_leader_that_is_cut_off_is_replaced_and_follows}`; clusters: nothing is sent by Raft at the end of each run |
//! | 17 elections in time | `raft::driver::election_tests::{the_first_in_line_stands_at_once_when_the_leaders_process_is_gone, a_storm_of_elections_is_bounded}`, `raft::driver::tick_tests`, restarts: `produce_goes_on_when_the_leader_is_killed` |
//! | 18 bootstrap | `core::metadata::bootstrap_tests::{lists_that_differ_form_nothing, there_are_never_two_clusters, a_cluster_that_is_there_is_joined_whatever_the_lists_say}`, `core::shard::tests::formation::{fresh_nodes_form_one_cluster_and_any_of_them_takes_changes, a_power_cut_at_any_moment_of_forming_leaves_a_cluster_that_forms}`, `core::metadata::controller_tests::the_cluster_is_named_once_and_brokers_register_when_they_change`; sim: the id is minted and noted under crashes |
//! | 19 topics and successors | `core::metadata::state_tests::ids_are_never_used_twice_even_after_a_delete`, `wal::partition::tests::writing::{deletion_renames_at_once_and_the_sweep_finishes_it, a_successor_of_the_same_name_waits_for_the_directory}`; sim: names deleted and made again, groups and ids checked |
//! | 20 shard count | `wal::reshard::tests::{one_shard_to_four_to_two, a_crash_at_any_write_of_the_change_loses_nothing}`; sim: a quarter of all starts, 1 to 4 shards |
//! | 21 cheap partitions | `wal::partition::tests::writing::a_partition_without_entries_costs_no_file`, `core::metadata::controller_tests::a_forwarded_retry_is_not_told_that_the_topic_exists`; sim: a change is answered when it is published and led |
//! | 22 time | `raft::driver::promise_tests::a_leader_that_was_asleep_steps_down_before_it_serves`, `raft::driver::tick_tests::a_leader_that_was_suspended_steps_down_at_once`, `core::shard::tests::contact::{a_leader_cut_off_says_nothing_until_it_knows, a_leader_that_slept_does_not_answer_from_before_its_sleep}`; clusters: paused processes and jumping clocks, `answers::check_stale`, `Bug::QuorumUnchecked` |
//! | 23 order of responses | `net::connection::tests`; sim: FIFO for each connection, `OFFSET_OUT_OF_RANGE` only outside the log |
//! | 24 limits | `wal::shard_wal::tests::a_batch_of_the_largest_size_fits`, `wal::batch::tests`, `tests/tests/decoders.rs` (batch, decompress) |
//! | 25 versions | `wal::recovery::tests::another_owner_and_a_newer_format_are_refused`, `wal::partition::tests::damage::a_newer_format_is_refused`, `wal::identity::tests::another_node_cluster_or_version_is_refused`, `core::metadata::state_tests::images_of_other_versions_and_garbage_are_refused`; `net::peer::tests::another_version_is_refused_in_a_frame_that_any_version_reads`, `net::peer::handshake::tests::the_newest_common_version_is_chosen`, `raft::frames::tests::other_versions_and_forms_are_refused`, `core::metadata::forward_tests::newer_and_broken_bodies_are_refused`, `core::metadata::command::tests::newer_and_malformed_records_are_refused` |
//! | 26 ApiVersions | `net::codec::tests::frames::api_versions_advertises_what_is_served_and_finalises_nothing` |
//! | 27 majority lost | `core::node::repair::recover_tests::{every_replica_goes_on_alone_under_another_name_with_all_that_it_holds, a_crash_at_any_write_leaves_three_or_one, a_second_recovery_finds_one_node}` |

mod admin;
mod answers;
mod asks;
mod clients;
mod disk;
mod faults;
mod finish;
mod followers;
mod groups;
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
