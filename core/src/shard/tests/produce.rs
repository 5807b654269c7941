//! Produce: what is acknowledged, when, and what is refused.

use super::*;
use crate::shard::message::*;
use chronik_net::codec::ErrorCode;

#[test]
fn nothing_is_acknowledged_before_its_turn_is_durable() {
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let mut rig = Rig::new();
        let group = rig.topic(TOPIC, 1, &[]);
        rig.hold_turns = true;
        let call = rig.ask(Request::Produce(slice(vec![(group, records_of(&[b"a", b"b"], WALL_MS))], acks)));
        rig.settle();
        assert!(rig.turn.is_some(), "the batch is on its way to the disk");
        assert!(rig.take(call).is_none(), "{acks:?} is not answered before the disk has it");
        assert_eq!(rig.fetch(group, 0).high_watermark.0, 0, "nor is it readable");
        rig.hold_turns = false;
        rig.write_turn();
        rig.settle();
        let Some(Reply::Produce(outcomes)) = rig.take(call) else { panic!("answered now") };
        assert_eq!((outcomes[0].error, outcomes[0].base_offset.0), (ErrorCode::None, 0));
        assert_eq!(rig.fetch(group, 0).high_watermark.0, 2);
        let mut rig = rig.crash();
        assert_eq!(rig.read_all(group, 0), [0, 1], "an acknowledged record outlives a power cut");
    }
}
