//! Keeps messages away from raft-rs that would stop the process or bend its log.
//!
//! raft-rs trusts its peers: on input that its own algorithm never makes it calls `fatal!` or panics. A peer that lost its
//! disk, runs another version, or is not ours at all must not be able to stop a node. What is refused here, and why:
//!
//! | message | refused when | raft-rs otherwise |
//! |---------|--------------|-------------------|
//! | any kind but the ten below | always | forwards `MsgPropose`, `MsgReadIndex`; "term should not be set" on `MsgTransferLeader`; panics on an empty `MsgPropose` |
//! | any | term 0 or beyond 31 bits, an index beyond 2^62 | takes term 0 for local; overflows; an epoch must fit an i32 |
//! | append | indexes not contiguous, terms stepping back, term beyond the message's | "conflict with committed entry", "slice out of bound" |
//! | append | log term 0 with an index above 0 | matches an index past the end (its term reads as 0) and leaves a gap |
//! | append | unreadable entry, or a batch whose offset steps back | stored; our own asserts would stop the process |
//! | heartbeat | commit past the last index | "to_commit is out of range" |
//! | append response | index or hint past the leader's last index, a requested snapshot | commits and probes past the end; "need non-empty snapshot" |
//! | snapshot | index 0, unreadable data, unusable configuration, offset behind what is committed | "unable to restore config", "invalid restore" |
//! | timeout-now | while a snapshot is being installed, or as sole voter with unsynced entries | "error getting unapplied entries", assertion in `become_leader` |
//!
//! Responses from peers that are no members are refused by `RawNode::step` itself.

use chronik_wal::types::{PeerId, RaftIndex};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use crate::convert;
use crate::error::StepError;
use crate::group::Group;
use crate::snapshot;

/// Terms are leader epochs, which Kafka gives 31 bits.
const TERM_MAX: u64 = i32::MAX as u64;

/// No log reaches this; sums with entry counts stay far from overflow.
const INDEX_MAX: u64 = 1 << 62;

/// Says whether raft-rs may see this message.
pub(crate) fn check(group: &Group, from: PeerId, message: &Message) -> Result<(), StepError> {
    use MessageType::{
        MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgRequestPreVote,
        MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse, MsgSnapshot, MsgTimeoutNow,
    };
    if message.from != from.0
        || message.from == 0
        || message.from == group.peer.0
        || message.to != group.peer.0
    {
        return Err(StepError::Address);
    }
    check_ranges(message)?;
    match message.get_msg_type() {
        MsgAppend => check_append(group, message),
        MsgAppendResponse => check_append_response(group, message),
        MsgHeartbeat => check_heartbeat(group, message),
        MsgSnapshot => check_snapshot(group, message),
        MsgTimeoutNow => check_timeout_now(group),
        MsgHeartbeatResponse
        | MsgRequestVote
        | MsgRequestVoteResponse
        | MsgRequestPreVote
        | MsgRequestPreVoteResponse => Ok(()),
        _ => Err(StepError::Kind),
    }
}

fn check_ranges(message: &Message) -> Result<(), StepError> {
    let terms = [message.log_term, message.commit_term];
    let indexes = [message.index, message.commit, message.reject_hint];
    let in_range = (1..=TERM_MAX).contains(&message.term)
        && terms.iter().all(|term| *term <= TERM_MAX)
        && indexes.iter().all(|index| *index <= INDEX_MAX);
    if in_range { Ok(()) } else { Err(StepError::Range) }
}

fn check_append(group: &Group, message: &Message) -> Result<(), StepError> {
    if message.log_term == 0 && message.index != 0 {
        return Err(StepError::Range);
    }
    let mut term = message.log_term;
    for (entry, index) in message.entries.iter().zip(message.index + 1..) {
        if entry.index != index || entry.term < term || entry.term > message.term || entry.term == 0 {
            return Err(StepError::Entries);
        }
        if !convert::is_well_formed(entry) {
            return Err(StepError::Entries);
        }
        term = entry.term;
    }
    check_offsets(group, message)
}

/// Offsets must rise from what this log has at the message's index. Where raft-rs will not append, there is nothing to check.
fn check_offsets(group: &Group, message: &Message) -> Result<(), StepError> {
    let log = &group.node.raft.raft_log;
    let will_append = message.term >= group.node.raft.term
        && message.index >= log.committed
        && message.index <= log.last_index()
        && log.match_term(message.index, message.log_term);
    if !will_append {
        return Ok(());
    }
    let mut end = group.offset_after(RaftIndex(message.index));
    for entry in &message.entries {
        let Some(after) = convert::offset_after(entry) else { continue };
        if convert::batch_base_offset(&entry.data) < end {
            return Err(StepError::Entries);
        }
        end = after;
    }
    Ok(())
}

fn check_append_response(group: &Group, message: &Message) -> Result<(), StepError> {
    if message.request_snapshot != 0 {
        return Err(StepError::Kind);
    }
    let raft = &group.node.raft;
    let hint_is_odd = message.reject && message.reject_hint > message.index;
    // Only a leader looks at it. One that crashed and lost its unsynced end may well get answers about that, as a follower.
    let is_looked_at = message.term == raft.term && raft.state == StateRole::Leader;
    if is_looked_at && (message.index > group.last_index().0 || hint_is_odd) {
        return Err(StepError::PastEnd);
    }
    Ok(())
}

fn check_heartbeat(group: &Group, message: &Message) -> Result<(), StepError> {
    if message.commit > group.node.raft.raft_log.last_index() {
        return Err(StepError::PastEnd);
    }
    Ok(())
}

fn check_snapshot(group: &Group, message: &Message) -> Result<(), StepError> {
    let meta = message.get_snapshot().get_metadata();
    if meta.index > INDEX_MAX || meta.term > message.term {
        return Err(StepError::Snapshot);
    }
    if group.installing.is_some() {
        return Err(StepError::NotNow);
    }
    let content = snapshot::read(message.get_snapshot()).ok_or(StepError::Snapshot)?;
    let log = &group.node.raft.raft_log;
    // What is committed here is a prefix of the leader's log, so a snapshot above it cannot begin at a lower offset.
    let steps_back = meta.index >= log.committed
        && content.log_start.base_offset < group.offset_after(RaftIndex(log.committed));
    if steps_back { Err(StepError::Snapshot) } else { Ok(()) }
}

fn check_timeout_now(group: &Group) -> Result<(), StepError> {
    let is_unready_sole_voter = group.is_sole_voter() && !group.is_at_rest();
    if !group.may_elect() || is_unready_sole_voter { Err(StepError::NotNow) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
