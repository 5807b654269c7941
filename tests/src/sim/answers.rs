//! Answers, checked against what is known.

use chronik_core::coordinator::GroupResponse;
use chronik_core::shard::message::{FetchOutcome, OffsetAnswer, ProduceOutcome, Reply};
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, KafkaOffset};

use super::clients::{Asked, InRequest, Pending};
use super::model::Bounds;
use super::records::{Place, read};
use super::setup::Planted;
use super::watch::STALE_US_MAX;
use super::world::World;

impl World {
    /// Checks an answer and learns from it.
    ///
    /// `stale` are the groups of which a newer leader than the node that answered was known elsewhere when it answered:
    /// for a moment it may know less than that one has told.
    pub(super) fn check_answer(
        &mut self,
        node: usize,
        asked_us: u64,
        asked: Asked,
        reply: Reply,
        stale: &[(GroupId, u64)],
    ) -> Result<(), String> {
        match (asked, reply) {
            (Asked::ProduceToLeader(items), Reply::Produce(outcomes)) => {
                items.iter().zip(&outcomes).try_for_each(|(item, outcome)| match outcome.error {
                    ErrorCode::None if outcome.base_offset.0 < 0 => {
                        Err(format!("acknowledged without an offset: {item:?}"))
                    }
                    ErrorCode::None => Ok(()),
                    code => self.may_fail(item.sent.place, code),
                })
            }
            (Asked::Produce(items), Reply::Produce(outcomes)) => {
                if items.len() != outcomes.len() {
                    return Err(format!("{} outcomes for {} batches", outcomes.len(), items.len()));
                }
                items.iter().zip(&outcomes).try_for_each(|(item, outcome)| self.produced(item, outcome))
            }
            (Asked::Fetch(items), Reply::Fetch(outcomes)) => {
                let single = items.len() == 1;
                for ((place, offset, floor), outcome) in items.into_iter().zip(outcomes) {
                    let floor = self.floor_for(place, floor, stale);
                    self.fetched(place, offset, floor, outcome, single)?;
                }
                Ok(())
            }
            (Asked::FetchNearby(place, offset), Reply::Fetch(mut outcomes)) => {
                let outcome = outcomes.pop().ok_or("a fetch without an outcome")?;
                self.fetched_nearby(place, offset, outcome)
            }
            (Asked::EpochEnd(place, query, floor), Reply::EpochEnds(answers)) => {
                self.epoch_told(place, query, floor, answers[0], stale)
            }
            (Asked::Offsets(place, timestamp, floor), Reply::Offsets(answers)) => {
                let floor = self.floor_for(place, floor, stale);
                self.offset_told(place, timestamp, floor, answers[0])
            }
            (Asked::DeleteRecords(place, target, floor), Reply::Deleted(outcomes)) => match outcomes[0] {
                Ok(KafkaOffset(low)) if low < target => {
                    Err(format!("{place:?}: deleted up to {target}, told {low}"))
                }
                Ok(KafkaOffset(low)) => {
                    let high_watermark = floor.high_watermark.max(low);
                    self.model.bounds(place, floor, Bounds { high_watermark, log_start: low, ..floor })
                }
                Err(ErrorCode::OffsetOutOfRange) => Err(format!("{place:?}: {target} is out of range")),
                Err(code) => self.may_fail(place, code),
            },
            (Asked::Admin(ask), Reply::Admin(reply)) => self.administrated(node, asked_us, &ask, &reply),
            (Asked::ProducerId(number), Reply::ProducerId(given)) => {
                self.clients.producers[number].asking = false;
                let Ok(id) = given else { return Ok(()) };
                if !self.model.producer_ids.insert(id) {
                    return Err(format!("producer id {id} was given out twice"));
                }
                self.clients.producers[number].id = Some(id);
                Ok(())
            }
            (Asked::Commit(group, place, offset), Reply::Group(response)) => {
                self.committed(group, place, offset, &response)
            }
            (Asked::Committed(group, place, floor), Reply::Group(response)) => {
                let floor = floor.filter(|_| stale.is_empty());
                self.committed_told(&group, place, floor, &response)
            }
            (Asked::Member(ask), Reply::Group(response)) => self.member_told(ask, &response),
            (asked, reply) => self.finish_answer(asked, reply),
        }
    }

    fn floor_for(&mut self, place: Place, floor: Bounds, stale: &[(GroupId, u64)]) -> Bounds {
        let group = self.model.partition(place).map(|partition| partition.group);
        let is_stale = group.is_some_and(|group| stale.iter().any(|(other, _)| *other == group));
        if is_stale { Bounds::default() } else { floor }
    }

    /// A leader that another one has taken over from stops answering soon (SAFETY.md, rules 12 and 22).
    pub(super) fn check_stale(
        &mut self,
        pending: &Pending,
        reply: &Reply,
        stale: &[(GroupId, u64)],
    ) -> Result<(), String> {
        for (group, since_us) in stale {
            self.count("answers of older leaders");
            let Some(place) = pending.groups.iter().position(|other| other == group) else { continue };
            let answers = match reply {
                Reply::Fetch(_) if matches!(pending.asked, Asked::FetchNearby(..)) => false,
                Reply::Fetch(outcomes) => outcomes[place].error == ErrorCode::None,
                Reply::EpochEnds(answers) => answers[place].error == ErrorCode::None,
                Reply::Offsets(answers) => answers[place].error == ErrorCode::None,
                Reply::Group(response) => match &**response {
                    GroupResponse::OffsetFetch(response) => response.groups[0].error_code == 0,
                    _ => false,
                },
                _ => false,
            };
            // A leader at rest cannot tell that it was suspended: until its links have noticed it lets read what it has, which is
            // committed. Whatever else is asked waits for its quorum.
            let knows_us = match reply {
                Reply::Fetch(_) => self.nodes[pending.node].resumed_us.max(*since_us),
                _ => *since_us,
            };
            // What was asked before is answered as of then.
            if answers && knows_us + STALE_US_MAX < pending.asked_us {
                self.tells_all = true;
                return Err(format!(
                    "node {} answers for group {group} as its leader, another leads since {} ms: {:?}, {}",
                    pending.node,
                    since_us / 1_000,
                    pending.asked,
                    self.replicas_of(*group)
                ));
            }
        }
        Ok(())
    }

    fn produced(&mut self, item: &InRequest, outcome: &ProduceOutcome) -> Result<(), String> {
        self.trace(outcome.base_offset.0 as u64 ^ (u64::from(outcome.error != ErrorCode::None) << 60));
        self.batch_not_decided(item);
        let place = item.sent.place;
        match outcome.error {
            ErrorCode::None => {}
            ErrorCode::OutOfOrderSequenceNumber if item.again.is_none() && self.earlier_is_missing(item) => {
                self.count("out of order");
                return Ok(());
            }
            ErrorCode::OutOfOrderSequenceNumber if self.gives_up(item) => {
                self.count("producer gave up");
                return Ok(());
            }
            code => {
                if let Some(lane) = self.lane(item) {
                    lane.timed_out |=
                        matches!(code, ErrorCode::RequestTimedOut | ErrorCode::KafkaStorageError);
                }
                return self.may_fail(place, code).map_err(|why| format!("{why}: {item:?}"));
            }
        }
        let base = outcome.base_offset.0;
        if item.again.is_some_and(|again| again != base) {
            let known = self.model.floor(place);
            return Err(format!("told offset {base} the second time, {known:?}: {item:?}"));
        }
        self.model.acknowledged(&item.sent, base)?;
        if let Some(producer) = item.producer {
            self.model.in_order(producer, &item.sent, base)?;
        }
        self.count("acknowledged");
        let Some(lane) = self.lane(item) else { return Ok(()) };
        let before = lane.unacknowledged.len();
        lane.unacknowledged.retain(|waiting| waiting.sent.first != item.sent.first);
        let newer = lane.last.as_ref().is_none_or(|(last, _)| last.first < item.sent.first);
        if lane.unacknowledged.len() < before && newer {
            lane.last = Some((item.sent.clone(), base));
        }
        Ok(())
    }

    /// Of a producer that is new to a partition any first sequence is taken, as in Kafka. So when its first request times
    /// out, or is refused by a full or stopping shard, before it is appended and the next one is appended, the first can never be: the producer has to start over.
    fn gives_up(&mut self, item: &InRequest) -> bool {
        let Some(lane) = self.lane(item) else { return false };
        lane.dead |= lane.timed_out;
        lane.timed_out
    }

    fn earlier_is_missing(&mut self, item: &InRequest) -> bool {
        let first = item.sent.first;
        self.lane(item).is_some_and(|lane| lane.unacknowledged.iter().any(|other| other.sent.first < first))
    }

    /// An error that a client has to live with: it asks again.
    pub(super) fn may_fail(&mut self, place: Place, code: ErrorCode) -> Result<(), String> {
        let topic = self.model.topics.get(&place.0);
        let deleting = topic.is_some_and(|topic| topic.delete_asked);
        match code {
            ErrorCode::RequestTimedOut => {
                self.count("timed out");
                Ok(())
            }
            ErrorCode::NotLeaderOrFollower => {
                self.count("not leader");
                Ok(())
            }
            ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend if self.plan.nodes > 1 => {
                self.count("not enough replicas");
                Ok(())
            }
            // Whoever was asked may not have heard of the partition yet.
            ErrorCode::UnknownTopicOrPartition if self.plan.nodes > 1 && !deleting => {
                self.count("not known yet");
                Ok(())
            }
            // A disk that is full refuses produce at once, and for a while after there is space again.
            ErrorCode::KafkaStorageError if self.report.counts.contains_key("full disk") => {
                self.count("no space");
                Ok(())
            }
            // A replica that has lost part of its log, until it is renewed.
            ErrorCode::KafkaStorageError if self.report.counts.contains_key("bit rot") => {
                self.count("damaged");
                Ok(())
            }
            ErrorCode::UnknownTopicOrPartition if deleting => {
                let lanes = self.clients.producers.iter_mut();
                for lane in lanes.filter_map(|producer| producer.lanes.get_mut(&place)) {
                    lane.dead = true;
                }
                Ok(())
            }
            code => Err(format!("{place:?}: {code:?}")),
        }
    }

    pub(super) fn fetched(
        &mut self,
        place: Place,
        offset: i64,
        floor: Bounds,
        mut outcome: FetchOutcome,
        single: bool,
    ) -> Result<(), String> {
        if self.plan.planted == Some(Planted::WatermarkAhead) && outcome.high_watermark.0 > 3 {
            outcome.high_watermark.0 += 1;
        }
        let (high_watermark, log_start) = (outcome.high_watermark.0, outcome.log_start_offset.0);
        let told = Bounds { high_watermark, log_start, ..Bounds::default() };
        match outcome.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                let told = Bounds { high_watermark: floor.high_watermark.max(told.log_start), ..told };
                self.model.bounds(place, floor, told)?;
                let within = told.log_start <= offset && offset <= floor.shown.max(floor.high_watermark);
                return if within { Err(format!("{place:?}: {offset} is not out of range")) } else { Ok(()) };
            }
            code => return self.may_fail(place, code),
        }
        self.trace(outcome.high_watermark.0 as u64);
        self.model.bounds(place, floor, told)?;
        if offset < told.log_start {
            return Err(format!("{place:?}: {offset} was read, the log starts at {}", told.log_start));
        }
        let seen = read(&outcome.records, place).map_err(|why| format!("{place:?} from {offset}: {why}"))?;
        let Some((first, last)) = seen.first().zip(seen.last()) else {
            // With a second partition the space may have gone to that one.
            let empty = offset < told.high_watermark && single;
            return if empty { Err(format!("{place:?}: nothing at {offset} of {told:?}")) } else { Ok(()) };
        };
        if first.offset > offset || last.offset < offset || last.offset >= told.high_watermark {
            return Err(format!("{place:?}: asked from {offset}, got {} to {}", first.offset, last.offset));
        }
        for seen in seen {
            self.model.record_at(place, seen)?;
        }
        Ok(())
    }

    fn offset_told(
        &mut self,
        place: Place,
        timestamp: i64,
        floor: Bounds,
        answer: OffsetAnswer,
    ) -> Result<(), String> {
        if answer.error != ErrorCode::None {
            return self.may_fail(place, answer.error);
        }
        let offset = answer.offset.0;
        let told = match timestamp {
            -1 => Bounds { high_watermark: offset, ..floor },
            -2 => Bounds { high_watermark: floor.high_watermark.max(offset), log_start: offset, ..floor },
            _ => return Ok(()),
        };
        self.model.bounds(place, floor, told)
    }

    fn committed(
        &mut self,
        group: String,
        place: Place,
        offset: i64,
        response: &GroupResponse,
    ) -> Result<(), String> {
        let GroupResponse::OffsetCommit(response) = response else {
            return Err(format!("an answer to a commit: {response:?}"));
        };
        let code = response.topics[0].partitions[0].error_code;
        self.clients.committing.remove(&(group.clone(), place));
        let is_members = group == self.clients.member.group();
        if code == 0 {
            self.count("committed");
            let known = self.model.commits.entry((group, place)).or_default();
            known.0 = known.0.max(Some(offset));
        } else if is_members {
            return self.member_commit_refused(code);
        }
        Ok(())
    }

    fn committed_told(
        &mut self,
        group: &str,
        place: Place,
        floor: Option<i64>,
        response: &GroupResponse,
    ) -> Result<(), String> {
        let GroupResponse::OffsetFetch(response) = response else {
            return Err(format!("an answer to an offset fetch: {response:?}"));
        };
        let told = &response.groups[0];
        if told.error_code != 0 || told.topics[0].partitions[0].error_code != 0 {
            // Loading, or a commit on its way: asked again later.
            self.count("offset not told");
            self.read_offset_again(group, place);
            return Ok(());
        }
        let offset = told.topics[0].partitions[0].committed_offset;
        let known = self.model.commits.entry((group.to_owned(), place)).or_default();
        let asked = offset == -1 || known.1.contains(&offset);
        if !asked || offset < floor.unwrap_or(-1) {
            return Err(format!("{group} of {place:?} is told {offset}, {floor:?} was committed"));
        }
        Ok(())
    }
}
