//! Reads from replicas that may not lead (KIP-392), and questions for the ends of leader epochs (KIP-320).
//!
//! A follower shows nothing that is not committed, at no offset another epoch than its leader, and where an epoch ended is
//! the same whoever leads: that of the records that lie there.

use chronik_core::shard::message::{
    EpochAnswer, EpochQuery, FetchItem, FetchOutcome, FetchSlice, Isolation, Request,
};
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, LeaderEpoch};
use rand::Rng;

use super::asks::fetch_item;
use super::clients::Asked;
use super::model::{Bounds, Model};
use super::records::Place;
use super::world::World;

impl World {
    /// A fetch by a client that reads from a node nearby, whoever leads.
    pub(super) fn fetch_nearby(&mut self) {
        let Some((place, leader)) = self.some_place() else { return };
        let node = self.rng.random_range(0..self.plan.nodes);
        let Some(target) = self.target(node, leader.group) else { return };
        let floor = self.model.floor(place);
        let offset = match self.rng.random_range(0..3) {
            0 => floor.high_watermark,
            1 => floor.log_start,
            _ => self.rng.random_range(floor.log_start..=floor.high_watermark.max(floor.log_start)),
        };
        self.count("fetch nearby");
        let max_wait_ms = self.rng.random_range(0..500);
        let item = FetchItem { max_bytes: 8_000, ..fetch_item(target.group, offset) };
        let isolation = Isolation::ReadUncommitted;
        let slice =
            FetchSlice { min_bytes: 1, max_bytes: 1 << 20, max_wait_ms, isolation, items: vec![item] };
        let request = Request::FetchFrom { slice, rack: "nearby".into() };
        let asked = Asked::FetchNearby(place, offset);
        self.ask(target, vec![target.group], 12, asked, u64::from(max_wait_ms), request);
    }

    /// What a replica gave that may not lead: as a leader's, but that it may know less.
    pub(super) fn fetched_nearby(
        &mut self,
        place: Place,
        offset: i64,
        outcome: FetchOutcome,
    ) -> Result<(), String> {
        let group = self.model.partition(place).map(|partition| partition.group);
        // Of a partition of which the making is not answered yet nothing is known.
        let committed = group.map_or(i64::MAX, |group| self.watch.committed_offset(group));
        let log_start = outcome.log_start_offset.0;
        match outcome.error {
            // It does not know yet that this much is committed.
            ErrorCode::OffsetNotAvailable => {
                self.count("not available nearby");
                Ok(())
            }
            // By a follower only below the log start; a leader of an older term may end below what is asked for.
            ErrorCode::OffsetOutOfRange => {
                self.count("out of range nearby");
                Ok(())
            }
            ErrorCode::None if outcome.high_watermark.0 > committed => {
                Err(format!("{place:?}: {} is told, {committed} is committed", outcome.high_watermark))
            }
            ErrorCode::None => {
                self.count(if log_start <= offset { "read nearby" } else { "read below the start" });
                let known = self.model.floor(place);
                let told =
                    Bounds { high_watermark: outcome.high_watermark.0, log_start, ..Bounds::default() };
                self.fetched(place, offset, Bounds::default(), outcome, true)?;
                self.model.shown_nearby(place, told);
                if let Some(partition) = self.model.partition(place) {
                    (partition.high_watermark, partition.log_start) = (known.high_watermark, known.log_start);
                }
                Ok(())
            }
            code => self.may_fail(place, code),
        }
    }

    /// Asks where an epoch ended, whoever believes in an older or newer leader being told so.
    pub(super) fn ask_epoch_end(&mut self) {
        let Some(snapshot) = self.some_snapshot() else { return };
        let Some((place, target)) = self.some_place() else { return };
        let topic = snapshot.topics.values().find(|topic| topic.id == place.0);
        let view = topic.and_then(|topic| topic.partition(place.1));
        let Some(leader) = view.and_then(|view| view.leader) else { return };
        let epoch = self.rng.random_range(0..=leader.epoch.0);
        self.count("epoch asked");
        let floor = self.model.floor(place);
        let query =
            EpochQuery { group: target.group, current_epoch: leader.epoch, epoch: LeaderEpoch(epoch) };
        let asked = Asked::EpochEnd(place, query, floor);
        self.ask(target, vec![target.group], 3, asked, 1_000, Request::EpochEnd(vec![query]));
    }

    /// Where an epoch ended.
    pub(super) fn epoch_told(
        &mut self,
        place: Place,
        query: EpochQuery,
        floor: Bounds,
        answer: EpochAnswer,
        stale: &[(GroupId, u64)],
    ) -> Result<(), String> {
        match answer.error {
            ErrorCode::None => {}
            ErrorCode::FencedLeaderEpoch | ErrorCode::UnknownLeaderEpoch => {
                self.count("epoch fenced");
                return Ok(());
            }
            code => return self.may_fail(place, code),
        }
        self.count("epoch told");
        let floor = if stale.is_empty() { floor } else { Bounds::default() };
        let checked = self.model.epoch_end(place, query, floor, answer);
        checked.map_err(|why| format!("{place:?}: {query:?} was answered with {answer:?}: {why}"))
    }
}

impl Model {
    /// The end of an epoch is where the first record of a later one lies, now and ever.
    fn epoch_end(
        &mut self,
        place: Place,
        query: EpochQuery,
        floor: Bounds,
        answer: EpochAnswer,
    ) -> Result<(), String> {
        let (asked, end) = (query.epoch.0, answer.end_offset.0);
        let deleted = |offset: i64| !self.is_kept(place, offset);
        let Some(topic) = self.topics.get(&place.0) else { return Ok(()) };
        let Some(partition) = topic.partitions.get(&place.1) else { return Ok(()) };
        let known = || {
            let records = partition.log.values().filter(|seen| !deleted(seen.offset));
            records.filter_map(|seen| Some((seen.offset, seen.epoch?)))
        };
        if answer.epoch == LeaderEpoch::UNKNOWN {
            let newer = known().find(|(offset, epoch)| *epoch >= asked && *offset < floor.high_watermark);
            return newer.map_or(Ok(()), |newer| Err(format!("{newer:?} lies there")));
        }
        if let Some(beyond) = known()
            .find(|(offset, epoch)| *epoch <= asked && *offset >= end && *offset < floor.high_watermark)
        {
            return Err(format!("{beyond:?} is beyond it"));
        }
        // Of its own epoch a leader may have more than will ever be committed.
        if query.epoch >= query.current_epoch {
            return Ok(());
        }
        if let Some(within) = known().find(|(offset, epoch)| *epoch > asked && *offset < end) {
            return Err(format!("{within:?} is within it"));
        }
        if end == 0 || deleted(end - 1) {
            return Ok(());
        }
        let told = (answer.epoch.0, end);
        let before = *self.epoch_ends.entry((place, asked)).or_insert(told);
        if before == told { Ok(()) } else { Err(format!("{before:?} was told before")) }
    }
}
