//! The table of who is talked to, and greetings on the wire.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;

fn greeting(node: i32) -> Greeting {
    Greeting {
        versions: (1, 1),
        node,
        directory: Uuid::from_u128(node as u128),
        incarnation: node as u64 * 10,
        shard_count: 4,
        cluster: ClusterId::new("4L6g3nShT-eMCtK--X86sw"),
        source_shard: 3,
        dialled_node: 1,
        address: Some("host2.example:5001".into()),
    }
}

fn members() -> Members {
    let nodes = BTreeMap::from([(1, None), (2, Some(Uuid::from_u128(2))), (4, None)]);
    Members { nodes, removed: BTreeSet::from([Uuid::from_u128(4)]), ..Members::default() }
}

fn code(dialled: Option<i32>, theirs: &Greeting) -> Option<RefusalCode> {
    let refusal = judge(&greeting(1), &members(), dialled, theirs).err()?;
    assert!(!refusal.text.is_empty() && !refusal.text.contains('\n'));
    assert!(refusal.text.len() <= REFUSAL_TEXT_BYTES_MAX);
    Some(refusal.code)
}

#[test]
fn each_reason_for_a_refusal() {
    let two = greeting(2);
    assert_eq!(code(None, &two), None);
    assert_eq!(code(Some(2), &two), None);
    let other = |change: fn(&mut Greeting)| {
        let mut theirs = greeting(2);
        change(&mut theirs);
        code(None, &theirs)
    };
    assert_eq!(other(|theirs| theirs.versions = (2, 3)), Some(RefusalCode::Version));
    assert_eq!(other(|theirs| theirs.versions = (0, 0)), Some(RefusalCode::Version));
    assert_eq!(other(|theirs| theirs.versions = (0, 9)), None);
    assert_eq!(other(|theirs| theirs.cluster = ClusterId::new("other")), Some(RefusalCode::Cluster));
    assert_eq!(other(|theirs| theirs.cluster = None), None, "a fresh node may talk");
    assert_eq!(other(|theirs| theirs.dialled_node = 3), Some(RefusalCode::WrongNode));
    assert_eq!(code(Some(3), &two), Some(RefusalCode::WrongNode));
    assert_eq!(other(|theirs| theirs.node = 1), Some(RefusalCode::DuplicateNode));
    assert_eq!(code(Some(2), &greeting(1)), Some(RefusalCode::Itself));
    assert_eq!(other(|theirs| theirs.directory = Uuid::from_u128(9)), Some(RefusalCode::Directory));
    assert_eq!(other(|theirs| theirs.directory = Uuid::from_u128(1)), Some(RefusalCode::Directory));
    assert_eq!(code(None, &greeting(7)), Some(RefusalCode::Stranger));
    let fresh = |node: i32| Greeting { cluster: None, directory: Uuid::from_u128(50), ..greeting(node) };
    assert_eq!(code(None, &fresh(7)), None, "a node that wants to join");
    assert_eq!(code(None, &fresh(2)), None, "a node with an empty disk wants to join again");
    let removed = greeting(4);
    for theirs in [removed.clone(), Greeting { cluster: None, ..removed.clone() }] {
        assert_eq!(code(None, &theirs), Some(RefusalCode::Removed), "though the list names it");
        assert_eq!(code(Some(4), &theirs), Some(RefusalCode::Removed));
    }
    assert_eq!(code(None, &fresh(4)), None, "it joins again");
    let open = Members { admits_strangers: true, ..members() };
    assert_eq!(judge(&greeting(1), &open, None, &greeting(7)), Ok(1));
}

#[test]
fn the_newest_common_version_is_chosen() {
    let ours = Greeting { versions: (2, 5), ..greeting(1) };
    for (theirs, agreed) in [((1, 3), Some(3)), ((5, 9), Some(5)), ((1, 1), None), ((6, 9), None)] {
        let theirs = Greeting { versions: theirs, ..greeting(2) };
        assert_eq!(judge(&ours, &members(), None, &theirs).ok(), agreed);
    }
}

#[test]
fn golden_greeting() {
    let frame = greeting(2).to_frame(KIND_HELLO);
    let hex: String = frame.parts[0].iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "0100010004000300".to_owned() // versions, shard count, source shard
        + "0200000001000000" // node, dialled
        + "1400000000000000" // incarnation
        + "00000000000000000000000000000002"
        + "344c3667336e5368542d654d43744b2d2d583836737700000000000000000000"
        + "1200686f7374322e6578616d706c653a35303031";
    assert_eq!((frame.kind, hex), (240, expected));
    assert_eq!(Greeting::from_frame(&frame), Ok(greeting(2)));
}

#[test]
fn greetings_cut_short_or_senseless_are_refused_and_longer_ones_read() {
    let body = greeting(2).to_frame(KIND_HELLO).parts[0].to_vec();
    let parse = |body: &[u8]| {
        let parts = vec![Bytes::copy_from_slice(body)];
        Greeting::from_frame(&Frame { parts, ..Frame::new(KIND_HELLO, 0, 0) })
    };
    for length in 0..body.len() {
        assert_eq!(parse(&body[..length]).unwrap_err().code, RefusalCode::Malformed);
    }
    assert!(Greeting::from_frame(&Frame::new(KIND_HELLO, 0, 0)).is_err());
    let mut longer = body.clone();
    longer.extend_from_slice(b"of a later version");
    assert_eq!(parse(&longer), Ok(greeting(2)));
    let nowhere = Greeting { address: None, ..greeting(2) };
    assert_eq!(parse(&nowhere.to_frame(KIND_HELLO).parts[0]), Ok(nowhere));
    for address in ["no port", "host:", ":5001", "host:70000", "ho st:1", "host\n:1"] {
        let mut body = body[..size_of::<GreetingBytes>()].to_vec();
        body.extend_from_slice(&(address.len() as u16).to_le_bytes());
        body.extend_from_slice(address.as_bytes());
        assert_eq!(parse(&body).unwrap_err().code, RefusalCode::Malformed, "{address:?}");
    }
    // No shard; 257 shards; a shard beyond the count; a negative node; a cluster id with a gap, with a control character.
    for (position, bytes) in
        [(4, &[0, 0][..]), (4, &[1, 1]), (6, &[4, 0]), (11, &[0x80]), (45, &[0]), (45, &[7])]
    {
        let mut body = body.clone();
        body[position..position + bytes.len()].copy_from_slice(bytes);
        assert_eq!(parse(&body).unwrap_err().code, RefusalCode::Malformed, "at {position}");
    }
}

#[test]
fn refusals_travel_and_cannot_write_lines_into_our_log() {
    let refusal = Refusal::new(RefusalCode::Cluster, "another cluster".to_owned());
    assert_eq!(Refusal::from_frame(&refusal.to_frame()), refusal);
    let removed = Refusal::new(RefusalCode::Removed, "it was removed".to_owned());
    assert_eq!(Refusal::from_frame(&removed.to_frame()), removed);
    let long = Refusal::new(RefusalCode::Version, "ü".repeat(1_000));
    assert_eq!(Refusal::from_frame(&long.to_frame()).text, "ü".repeat(REFUSAL_TEXT_BYTES_MAX / 2));
    let hostile =
        Frame { parts: vec![Bytes::from_static(b"\x63\x00a\nERROR\x1b[0m\xFF")], ..Frame::new(242, 0, 0) };
    let read = Refusal::from_frame(&hostile);
    assert_eq!((read.code, read.text.as_str()), (RefusalCode::Unknown, "a?ERROR?[0m\u{FFFD}"));
    assert_eq!(Refusal::from_frame(&Frame::new(242, 0, 0)).code, RefusalCode::Unknown);
}

proptest! {
    #[test]
    fn any_body_is_a_greeting_or_a_refusal(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = Frame { parts: vec![body.into()], ..Frame::new(KIND_HELLO, 0, 0) };
        if let Ok(greeting) = Greeting::from_frame(&frame) {
            let _ = judge(&greeting, &Members::default(), None, &greeting);
            prop_assert_eq!(Greeting::from_frame(&greeting.to_frame(KIND_HELLO)), Ok(greeting));
        }
        let _ = Refusal::from_frame(&frame);
    }
}
