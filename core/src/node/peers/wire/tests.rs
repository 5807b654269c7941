use std::sync::Arc;

use chronik_raft::eraftpb::MessageType;

use super::*;

fn frames(message: PeerMessage, shard_count: u16) -> Vec<Frame> {
    let mut frames = Vec::new();
    encode(message, shard_count, |frame| frames.push(frame));
    frames
}

fn leader(partition: i32, in_sync: Option<&[i32]>) -> LeaderEvent {
    let in_sync = in_sync.map(|nodes| nodes.iter().copied().map(NodeId).collect::<Arc<[NodeId]>>());
    let topic_id = Uuid::from_u128(7 + partition as u128);
    LeaderEvent { topic_id, partition, term: Term(u64::MAX - 3), leader: NodeId(i32::MAX), in_sync }
}

#[test]
fn leaders_come_back_as_they_were_and_long_lists_are_cut() {
    let few = vec![leader(0, None), leader(1, Some(&[])), leader(2, Some(&[1, 2, 3]))];
    let [frame] = <[Frame; 1]>::try_from(frames(PeerMessage::Leaders(few.clone()), 4)).unwrap();
    assert_eq!(frame.target_shard, 0);
    let PeerMessage::Leaders(back) = decode(frame).unwrap() else { panic!() };
    assert_eq!(back, few);
    let many: Vec<LeaderEvent> = (0..10_000).map(|partition| leader(partition, Some(&[1, 2]))).collect();
    let cut = frames(PeerMessage::Leaders(many.clone()), 1);
    assert_eq!(cut.len(), 3);
    let back = cut.into_iter().flat_map(|frame| match decode(frame).unwrap() {
        PeerMessage::Leaders(events) => events,
        other => panic!("{other:?}"),
    });
    assert!(back.eq(many));
    assert!(frames(PeerMessage::Leaders(Vec::new()), 1).is_empty());
}

#[test]
fn damaged_leaders_are_refused_at_any_length_and_byte() {
    let events = vec![leader(0, Some(&[1, 2, 3])), leader(1, None)];
    let [good] = <[Frame; 1]>::try_from(frames(PeerMessage::Leaders(events), 1)).unwrap();
    let body = good.parts[0].clone();
    for length in 0..body.len() {
        let cut = Frame { parts: vec![body.slice(..length)], ..good.clone() };
        assert!(decode(cut).is_err(), "cut at {length}");
    }
    let mut longer = body.to_vec();
    longer.push(0);
    assert!(decode(Frame { parts: vec![longer.into()], ..good.clone() }).is_err());
    for at in 0..body.len() {
        let mut flipped = body.to_vec();
        flipped[at] ^= 0x80;
        // Whatever comes of it, it neither panics nor allocates beyond the body.
        let _ = decode(Frame { parts: vec![flipped.into()], ..good.clone() });
    }
    for small in [[2, 0, 0, 0, 2, 0, 0, 0], [1, 0, 0, 0, 255, 255, 255, 255], [1, 0, 0, 0, 1, 0, 0, 0]] {
        let mut frame = good.clone();
        frame.small[..8].copy_from_slice(&small);
        assert!(decode(frame).is_err(), "{small:?}");
    }
    assert!(decode(Frame { parts: Vec::new(), ..good.clone() }).is_err());
    assert!(decode(Frame { kind: 200, ..good }).is_err());
}

#[test]
fn questions_and_answers_keep_number_and_body() {
    let body = Bytes::from_static(b"who leads?");
    for message in [
        PeerMessage::Ask { id: u64::MAX, body: body.clone() },
        PeerMessage::Answer { id: 3, body: body.clone() },
    ] {
        let said = format!("{message:?}");
        let [frame] = <[Frame; 1]>::try_from(frames(message, 8)).unwrap();
        assert_eq!(frame.target_shard, 0);
        let two = Frame { parts: vec![body.clone(), body.clone()], ..frame.clone() };
        assert!(decode(two).is_err());
        assert_eq!(format!("{:?}", decode(frame).unwrap()), said);
    }
}

#[test]
fn raft_goes_to_the_shard_that_owns_the_group_there() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term, message.index) = (1, 2, 3, 4);
    let raft = PeerMessage::Raft { group: GroupId(7), message: message.clone() };
    let [frame] = <[Frame; 1]>::try_from(frames(raft, 3)).unwrap();
    assert_eq!((frame.target_shard, frame.group), (1, 7));
    let PeerMessage::Raft { group, message: back } = decode(frame).unwrap() else { panic!() };
    assert_eq!((group, back), (GroupId(7), message));
}

#[test]
fn heartbeats_are_cut_by_owning_shard() {
    let heartbeat = |group: u64| {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        (message.from, message.to, message.term, message.commit) = (1, 2, 3, group);
        (GroupId(group), message)
    };
    let mut all: Vec<_> = (1..=7).map(heartbeat).collect();
    let mut back = Vec::new();
    let sent = frames(PeerMessage::Heartbeats(all.clone()), 3);
    assert_eq!(sent.len(), 3);
    for frame in sent {
        let target = ShardId(frame.target_shard);
        let PeerMessage::Heartbeats(list) = decode(frame).unwrap() else { panic!() };
        assert!(list.iter().all(|(group, _)| shard_of(*group, 3) == target));
        back.extend(list);
    }
    back.sort_by_key(|(group, _)| *group);
    assert_eq!(back, all);
    assert_eq!(frames(PeerMessage::Heartbeats(all.clone()), 1).len(), 1);
    all[2].1.context = Bytes::from_static(b"read");
    let sent = frames(PeerMessage::Heartbeats(all.clone()), 1);
    assert_eq!(sent.len(), 2);
    let PeerMessage::Raft { group, message } = decode(sent[0].clone()).unwrap() else { panic!() };
    assert_eq!((group, message), all[2]);
}
