//! What shards of different nodes say to each other, as frames and back. Pure.
//!
//! ```text
//! kind 1  Raft        group = the group; small and parts by `chronik_raft::frames`
//! kind 2  Heartbeats  small and parts by `chronik_raft::frames`; of groups of the target shard only
//! kind 3  Leaders     small[0] = version 1, small[4..8] = count; one part, an event each:
//!                     topic id [16], partition i32, term u64, leader i32, in-sync count i16 (−1: not said), nodes i32 each
//! kind 4  Ask         group = the asking node's number; one part: the body
//! kind 5  Answer      the same                                                            (all little-endian)
//! ```
//!
//! Invariant: nothing that comes from the network is believed: whatever does not have exactly this form is [`Malformed`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chronik_net::peer::Frame;
use chronik_raft::eraftpb::Message;
use chronik_raft::frames::{self, Encoded, FrameFault};
use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, NodeId, ShardId, Term};
use uuid::Uuid;

use crate::shard::message::{LeaderEvent, PeerMessage};

const KIND_RAFT: u8 = 1;
const KIND_HEARTBEATS: u8 = 2;
const KIND_LEADERS: u8 = 3;
const KIND_ASK: u8 = 4;
const KIND_ANSWER: u8 = 5;

/// Leaders in one frame; a longer list is cut. Some 200 KiB with three replicas in sync each.
const LEADERS_PER_FRAME_MAX: usize = 4_096;

/// Nodes in one in-sync set: more replicas than any placement has.
const IN_SYNC_MAX: usize = 1_024;

/// The form of a leader list.
const LEADERS_VERSION: u8 = 1;

/// A leader event without its in-sync set.
const LEADER_BYTES: usize = 16 + 4 + 8 + 4 + 2;

/// The body of a frame is none of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is no message of Raft.
    #[error(transparent)]
    Raft(#[from] FrameFault),
    /// Something else is wrong.
    #[error("malformed: {0}")]
    Other(&'static str),
}

/// Turns a message into frames for a node of `shard_count` shards and hands them out in order.
pub fn encode(message: PeerMessage, shard_count: u16, mut take: impl FnMut(Frame)) {
    match message {
        PeerMessage::Raft { group, message } => take(raft_frame(group, message, shard_count)),
        PeerMessage::Heartbeats(mut list) => {
            // What heartbeats in a row have no room for goes alone.
            let with_context = list.extract_if(.., |(_, message)| !message.context.is_empty());
            let alone: Vec<(GroupId, Message)> = with_context.collect();
            alone.into_iter().for_each(|(group, message)| take(raft_frame(group, message, shard_count)));
            for (target, list) in by_shard(list, shard_count) {
                for Encoded { small, parts } in frames::encode_heartbeats(&list) {
                    take(Frame { small, parts, ..Frame::new(KIND_HEARTBEATS, target.0, 0) });
                }
            }
        }
        PeerMessage::Leaders(events) => {
            events.chunks(LEADERS_PER_FRAME_MAX).for_each(|events| take(encode_leaders(events)));
        }
        PeerMessage::Ask { id, body } => take(Frame { parts: vec![body], ..Frame::new(KIND_ASK, 0, id) }),
        PeerMessage::Answer { id, body } => {
            take(Frame { parts: vec![body], ..Frame::new(KIND_ANSWER, 0, id) });
        }
    }
}

/// What a frame says.
///
/// # Errors
/// When its body is none of its kind, or there is no such kind.
pub fn decode(frame: Frame) -> Result<PeerMessage, Malformed> {
    match frame.kind {
        KIND_RAFT => {
            let group = GroupId(frame.group);
            Ok(PeerMessage::Raft { group, message: frames::decode(group, &frame.small, frame.parts)? })
        }
        KIND_HEARTBEATS => {
            Ok(PeerMessage::Heartbeats(frames::decode_heartbeats(&frame.small, &frame.parts)?))
        }
        KIND_LEADERS => Ok(PeerMessage::Leaders(decode_leaders(frame)?)),
        KIND_ASK => Ok(PeerMessage::Ask { id: frame.group, body: sole_part(frame)? }),
        KIND_ANSWER => Ok(PeerMessage::Answer { id: frame.group, body: sole_part(frame)? }),
        _ => Err(Malformed::Other("a frame of a kind that this version does not know")),
    }
}

fn raft_frame(group: GroupId, message: Message, shard_count: u16) -> Frame {
    let Encoded { small, parts } = frames::encode(message);
    Frame { small, parts, ..Frame::new(KIND_RAFT, shard_of(group, shard_count).0, group.0) }
}

fn sole_part(frame: Frame) -> Result<Bytes, Malformed> {
    let [part]: [Bytes; 1] = frame.parts.try_into().map_err(|_| Malformed::Other("not one part"))?;
    Ok(part)
}

/// Heartbeats by the shard that owns their group, each list in the order of the whole.
fn by_shard<T>(list: Vec<(GroupId, T)>, shard_count: u16) -> Vec<(ShardId, Vec<(GroupId, T)>)> {
    if shard_count == 1 {
        return vec![(ShardId(0), list)];
    }
    let mut shards: Vec<Vec<(GroupId, T)>> = (0..shard_count).map(|_| Vec::new()).collect();
    for (group, item) in list {
        shards[usize::from(shard_of(group, shard_count).0)].push((group, item));
    }
    let shards = (0..shard_count).map(ShardId).zip(shards);
    shards.filter(|(_, list)| !list.is_empty()).collect()
}

fn encode_leaders(events: &[LeaderEvent]) -> Frame {
    let mut body = BytesMut::with_capacity(events.len() * (LEADER_BYTES + 12));
    for event in events {
        body.extend_from_slice(event.topic_id.as_bytes());
        body.put_i32_le(event.partition);
        body.put_u64_le(event.term.0);
        body.put_i32_le(event.leader.0);
        match &event.in_sync {
            Some(nodes) => {
                let nodes = &nodes[..nodes.len().min(IN_SYNC_MAX)];
                // At most IN_SYNC_MAX, which fits.
                body.put_i16_le(nodes.len() as i16);
                nodes.iter().for_each(|node| body.put_i32_le(node.0));
            }
            None => body.put_i16_le(-1),
        }
    }
    let mut frame = Frame { parts: vec![body.freeze()], ..Frame::new(KIND_LEADERS, 0, 0) };
    frame.small[0] = LEADERS_VERSION;
    frame.small[4..8].copy_from_slice(&(events.len() as u32).to_le_bytes());
    frame
}

fn decode_leaders(frame: Frame) -> Result<Vec<LeaderEvent>, Malformed> {
    if frame.small[0] != LEADERS_VERSION {
        return Err(Malformed::Other("a list of leaders of another version"));
    }
    let count = u32::from_le_bytes([frame.small[4], frame.small[5], frame.small[6], frame.small[7]]) as usize;
    let mut body = sole_part(frame)?;
    if count > LEADERS_PER_FRAME_MAX || count * LEADER_BYTES > body.len() {
        return Err(Malformed::Other("more leaders than its body holds"));
    }
    let events = (0..count).map(|_| decode_leader(&mut body).ok_or(Malformed::Other("a leader")));
    let events = events.collect::<Result<_, _>>()?;
    if body.has_remaining() { Err(Malformed::Other("bytes behind the last leader")) } else { Ok(events) }
}

fn decode_leader(body: &mut Bytes) -> Option<LeaderEvent> {
    let mut topic_id = [0; 16];
    body.try_copy_to_slice(&mut topic_id).ok()?;
    let partition = body.try_get_i32_le().ok()?;
    let term = Term(body.try_get_u64_le().ok()?);
    let leader = NodeId(body.try_get_i32_le().ok()?);
    let in_sync = match body.try_get_i16_le().ok()? {
        -1 => None,
        count => {
            let count = usize::try_from(count).ok().filter(|count| *count <= IN_SYNC_MAX)?;
            let nodes = (0..count).map(|_| body.try_get_i32_le().ok().map(NodeId));
            Some(nodes.collect::<Option<Vec<_>>>()?.into())
        }
    };
    let valid = partition >= 0 && leader.0 >= 0;
    valid.then(|| LeaderEvent { topic_id: Uuid::from_bytes(topic_id), partition, term, leader, in_sync })
}

#[cfg(test)]
mod tests;
