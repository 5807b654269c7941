//! Golden bytes, round trips, and garbage.

use proptest::prelude::*;
use raft::eraftpb::{ConfState, EntryType};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::layout::PAYLOAD_PARTS_MAX;
use super::*;
use crate::test_support::batch_bytes;

const GROUP: GroupId = GroupId(7);

fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = 2;
    message.to = 1;
    message.term = 3;
    message
}

fn entry(index: u64, data: Bytes) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = 3;
    entry.data = data;
    entry
}

fn append() -> Message {
    let mut message = message(MessageType::MsgAppend);
    (message.log_term, message.index, message.commit) = (2, 8, 7);
    let mut log_start = entry(11, Bytes::from_static(b"\x05\0\0\0\0\0\0\0"));
    log_start.context = Bytes::from_static(&[2]);
    let mut change = entry(12, Bytes::new());
    change.set_entry_type(EntryType::EntryConfChangeV2);
    message.set_entries(
        vec![entry(9, Bytes::new()), entry(10, batch_bytes(4, 3, 1, 5)), log_start, change].into(),
    );
    message
}

fn snapshot() -> Message {
    let mut snapshot = Snapshot::default();
    snapshot.data = Bytes::from_static(b"state");
    snapshot.mut_metadata().index = 9;
    snapshot.mut_metadata().term = 2;
    snapshot.mut_metadata().set_conf_state(ConfState::from((vec![1, 2], vec![3])));
    let mut message = message(MessageType::MsgSnapshot);
    message.set_snapshot(snapshot);
    message
}

fn transfer_vote() -> Message {
    let mut message = message(MessageType::MsgRequestVote);
    (message.log_term, message.index, message.commit, message.commit_term) = (2, 8, 7, 2);
    message.context = Bytes::from_static(b"CampaignTransfer");
    message
}

fn rejection() -> Message {
    let mut message = message(MessageType::MsgAppendResponse);
    (message.log_term, message.index, message.commit, message.reject_hint) = (1, 8, 3, 5);
    message.reject = true;
    message
}

fn samples() -> Vec<Message> {
    vec![append(), snapshot(), transfer_vote(), rejection(), message(MessageType::MsgTimeoutNow)]
}

fn heartbeats() -> Vec<(GroupId, Message)> {
    let mut rest = message(MessageType::MsgHeartbeat);
    (rest.commit, rest.index, rest.reject) = (9, 4, true);
    let mut answer = message(MessageType::MsgHeartbeatResponse);
    answer.commit = 0x0102_0304_0506;
    vec![(GROUP, rest), (GroupId(u64::MAX), answer)]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_an_append() {
    let Encoded { small, parts } = encode(append());
    assert_eq!(hex(&small), "010203000400000002000000000000000100000000000000");
    let fields = [3u64, 2, 8, 7, 0, 0, 0].map(|number| hex(&number.to_le_bytes())).concat();
    let heads = [
        "0900000000000000030000000000000000000000", /* no payload */
        "00000000",
        "0a000000000000000300000000000000420000000000",
        "0000",
        "0b000000000000000300000000000000080000000001",
        "0200",
        "0c000000000000000300000000000000000000000200",
        "0000",
    ];
    assert_eq!(hex(&parts[0]), fields + &heads.concat());
    assert_eq!(parts.len(), 3, "empty payloads have no part");
}

#[test]
fn golden_bytes_of_the_other_forms() {
    let Encoded { small, parts } = encode(transfer_vote());
    assert_eq!(hex(&small), "010105000000000002000000000000000100000000000000");
    let fields = [3u64, 2, 8, 7, 2, 0, 0].map(|number| hex(&number.to_le_bytes())).concat();
    assert_eq!((hex(&parts[0]), &parts[1][..]), (fields, &b"CampaignTransfer"[..]));
    let frames = encode_heartbeats(&heartbeats());
    assert_eq!(frames.len(), 1);
    assert_eq!(hex(&frames[0].small), "010400000200000000000000000000000000000000000000");
    let rows = [
        "07000000000000000200000000000000010000000000000003000000000000000900000000000000",
        "0400000008010000",
        "ffffffffffffffff0200000000000000010000000000000003000000000000000605040302010000",
        "0000000009000000",
    ];
    assert_eq!(hex(&frames[0].parts[0]), rows.concat());
    let Encoded { small, parts } = encode(snapshot());
    assert_eq!(hex(&small), "010307000000000002000000000000000100000000000000");
    assert_eq!(hex(&parts[0]), hex(&3u64.to_le_bytes()) + &"00".repeat(48));
    assert_eq!((hex(&parts[1]), &parts[2][..]), ("0a0608010802100310091802".to_owned(), &b"state"[..]));
}

#[test]
fn every_form_is_read_back() {
    for sample in samples() {
        let Encoded { small, parts } = encode(sample.clone());
        assert_eq!(decode(GROUP, &small, parts), Ok(sample));
    }
    let mut odd = rejection();
    odd.priority = -1;
    odd.set_entries(vec![entry(1, Bytes::new())].into());
    assert_eq!(encode(odd.clone()).small[1], FORM_PROTOBUF);
    let Encoded { small, parts } = encode(odd.clone());
    assert_eq!(decode(GROUP, &small, parts), Ok(odd));
    for frame in encode_heartbeats(&heartbeats()) {
        assert_eq!(decode_heartbeats(&frame.small, &frame.parts), Ok(heartbeats()));
    }
}

#[test]
fn payloads_are_moved_both_ways() {
    let message = append();
    let payload = message.entries[1].data.clone();
    let Encoded { small, parts } = encode(message);
    assert_eq!(parts[1].as_ptr(), payload.as_ptr());
    let read = decode(GROUP, &small, parts).unwrap();
    assert_eq!(read.entries[1].data.as_ptr(), payload.as_ptr());
    let snapshot = encode(snapshot());
    let data = snapshot.parts[2].as_ptr();
    let read = decode(GROUP, &snapshot.small, snapshot.parts).unwrap();
    assert_eq!(read.get_snapshot().data.as_ptr(), data);
}

#[test]
fn more_payloads_than_parts_are_joined_and_too_many_entries_cut() {
    let mut many = append();
    let count = PAYLOAD_PARTS_MAX as u64 + 500;
    many.set_entries((0..count).map(|nth| entry(9 + nth, batch_bytes(0, 3, 1, 7))).collect());
    let Encoded { small, parts } = encode(many.clone());
    assert_eq!(parts.len(), PAYLOAD_PARTS_MAX + 1);
    assert_eq!(decode(GROUP, &small, parts), Ok(many.clone()));
    many.set_entries((0..ENTRIES_MAX as u64 + 3).map(|nth| entry(9 + nth, Bytes::new())).collect());
    let Encoded { small, parts } = encode(many);
    let read = decode(GROUP, &small, parts).unwrap();
    assert_eq!(read.entries.len(), ENTRIES_MAX, "the rest is sent again");
}

#[test]
fn the_word_of_a_follower_without_room_is_read_back() {
    let mut heartbeat = heartbeats().remove(1);
    heartbeat.1.commit_term = SHORT;
    let frame = encode_heartbeats(std::slice::from_ref(&heartbeat)).remove(0);
    assert_eq!(frame.parts[0][45], FLAG_SHORT);
    assert_eq!(decode_heartbeats(&frame.small, &frame.parts), Ok(vec![heartbeat]));
    let mut answer = rejection();
    answer.commit_term = SHORT;
    let Encoded { small, parts } = encode(answer.clone());
    assert_eq!((small[1], decode(GROUP, &small, parts)), (FORM_FIXED, Ok(answer)));
}

#[test]
fn heartbeats_are_cut_into_frames() {
    let one = &heartbeats()[0];
    let many: Vec<_> = (0..HEARTBEATS_MAX as u64 + 1).map(|id| (GroupId(id), one.1.clone())).collect();
    let frames = encode_heartbeats(&many);
    assert_eq!(frames.len(), 2);
    let read = frames.iter().flat_map(|frame| decode_heartbeats(&frame.small, &frame.parts).unwrap());
    assert_eq!(read.collect::<Vec<_>>(), many);
    assert_eq!(encode_heartbeats(&[]), []);
}

#[test]
fn other_versions_and_forms_are_refused() {
    let Encoded { mut small, parts } = encode(append());
    small[0] = 2;
    assert_eq!(decode(GROUP, &small, parts.clone()), Err(FrameFault::Version(2)));
    assert_eq!(decode_heartbeats(&small, &parts), Err(FrameFault::Version(2)));
    small[0] = 1;
    assert_eq!(decode_heartbeats(&small, &parts), Err(FrameFault::Form(2)));
    let frame = encode_heartbeats(&heartbeats()).remove(0);
    assert_eq!(decode(GROUP, &frame.small, frame.parts), Err(FrameFault::Form(4)));
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let good = encode(append());
    let faulty = |change: &dyn Fn(&mut Encoded)| {
        let mut bad = good.clone();
        change(&mut bad);
        decode(GROUP, &bad.small, bad.parts)
    };
    assert_eq!(faulty(&|bad| bad.small[4] += 1), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.parts[0] = bad.parts[0].slice(..57)), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.parts[1] = bad.parts[1].slice(1..)), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.parts.push(Bytes::from_static(b"more"))), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.parts.push(Bytes::new())), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.parts.truncate(2)), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.parts.clear()), Err(FrameFault::Length));
    assert_eq!(faulty(&|bad| bad.small[2] = 200), Err(FrameFault::Kind(200)));
    let mut frame = encode_heartbeats(&heartbeats()).remove(0);
    frame.small[4] = 1;
    assert_eq!(decode_heartbeats(&frame.small, &frame.parts), Err(FrameFault::Length));
    frame.small[4] = 2;
    let mut rows = frame.parts[0].to_vec();
    rows[44] = 3;
    assert_eq!(decode_heartbeats(&frame.small, &[rows.into()]), Err(FrameFault::Kind(3)));
}

/// Whatever is read from damaged frames can be written again and read to the same message.
#[test]
fn garbage_never_panics() {
    let mut random = SmallRng::seed_from_u64(1);
    let frames: Vec<Encoded> =
        samples().into_iter().map(encode).chain(encode_heartbeats(&heartbeats())).collect();
    let mut read_count = 0;
    for _ in 0..20_000 {
        let mut frame = frames[random.random_range(0..frames.len())].clone();
        for _ in 0..random.random_range(1..4) {
            match random.random_range(0..5) {
                0 => frame.small[random.random_range(0..24)] = random.random(),
                1 => frame.parts.truncate(random.random_range(0..=frame.parts.len())),
                2 => frame.parts.push(Bytes::copy_from_slice(&random.next_u64().to_le_bytes())),
                _ if !frame.parts.is_empty() => {
                    let nth = random.random_range(0..frame.parts.len());
                    let mut bytes = frame.parts[nth].to_vec();
                    let at = random.random_range(0..=bytes.len());
                    if at < bytes.len() {
                        bytes[at] = random.random()
                    } else {
                        bytes.push(0)
                    }
                    frame.parts[nth] = bytes.into();
                }
                _ => {}
            }
        }
        let _ = decode_heartbeats(&frame.small, &frame.parts);
        if let Ok(read) = decode(GROUP, &frame.small, frame.parts) {
            read_count += 1;
            let again = encode(read.clone());
            assert_eq!(decode(GROUP, &again.small, again.parts), Ok(read));
        }
    }
    assert!(read_count > 1000, "some damage leaves a message: {read_count}");
}

proptest! {
    #[test]
    fn any_bytes(small: [u8; 24], parts: Vec<Vec<u8>>) {
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        let _ = decode_heartbeats(&small, &parts);
        let _ = decode(GROUP, &small, parts);
    }

    #[test]
    fn any_append(
        numbers: [u64; 9],
        reject: bool,
        entries in prop::collection::vec((any::<[u64; 2]>(), 0i32..3, 0usize..4, 0usize..200), 0..20),
    ) {
        let mut message = message(MessageType::MsgAppend);
        [
            message.from, message.to, message.term, message.log_term, message.index, message.commit,
            message.commit_term, message.reject_hint, message.request_snapshot,
        ] = numbers;
        message.reject = reject;
        let entries = entries.into_iter().map(|([index, term], kind, context_bytes, bytes)| {
            let mut entry = entry(index, Bytes::from(vec![9; bytes]));
            entry.term = term;
            entry.set_entry_type(EntryType::from_i32(kind).unwrap());
            entry.context = Bytes::from(vec![8; context_bytes]);
            entry
        });
        message.set_entries(entries.collect());
        let Encoded { small, parts } = encode(message.clone());
        prop_assert_eq!(decode(GROUP, &small, parts), Ok(message));
    }
}
