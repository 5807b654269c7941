//! The end of a run: faults have stopped, everything is answered, every partition takes a record, and every record that
//! was ever acknowledged is read, before and after a last power cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_core::metadata::snapshot::PartitionView;
use chronik_core::shard::message::{Acks, FetchSlice, Isolation, ProduceItem, ProduceSlice, Reply, Request};
use chronik_net::codec::ErrorCode;
use chronik_raft::leadership::Leadership;
use chronik_wal::partition::{FileDone, FilesError};
use chronik_wal::types::GroupId;

use super::asks::{fetch_item, offset_query};
use super::clients::{Asked, InRequest};
use super::faults::WALL_OFF_MS_MAX;
use super::model::Bounds;
use super::node::Host;
use super::records::{Place, Seen, read};
use super::setup::{WALL_START_MS, node_number};
use super::world::{Phase, World};

/// Without faults everything is settled within this virtual time.
const SETTLE_US_MAX: u64 = 120_000_000;

/// Without faults every partition takes records within this virtual time.
const LIVE_US_MAX: u64 = 10_000_000;

/// Bytes of a replica's files that are compared at a time.
const COMPARE_BYTES: usize = 1 << 20;

/// After this time without a question no group has anything to say.
const CALM_US: u64 = 3_000_000;

/// So long none may say anything.
const QUIET_US: u64 = 3_000_000;

/// How far the reading at the end has come.
#[derive(Debug, Default)]
pub struct Reading {
    since_us: u64,
    /// What is still to be done; the first one is under way.
    tasks: VecDeque<Asked>,
    under_way: bool,
    planned: bool,
    sent_by_raft: u64,
    /// Since when no log has grown, and the sum of their ends.
    still: (u64, u64),
    /// What was read of each partition.
    read: BTreeMap<Place, (Bounds, Vec<Seen>)>,
}

/// Asks of the last phase that a disk lately full may still refuse: a second or two of virtual time.
const PROBES_REFUSED_MAX: u64 = 100_000;

impl World {
    /// One step of the end.
    pub(super) fn finish_step(&mut self) -> Result<(), String> {
        if self.clients.reading.since_us == 0 {
            self.clients.reading.since_us = self.now_us();
        }
        if self.now_us() > self.clients.reading.since_us + SETTLE_US_MAX {
            let waiting: Vec<_> = self.pending.values().take(3).collect();
            self.tells_all = true;
            let unsettled = self.unsettled();
            return Err(format!("not settled: {unsettled:?}, {} under way: {waiting:?}", self.pending.len()));
        }
        match self.phase {
            Phase::Settle => self.settle(),
            Phase::Probe | Phase::Read(_) => self.next_task(),
            Phase::Quiet => self.keep_quiet(),
            Phase::Work | Phase::Done => Ok(()),
        }
    }

    /// Groups at rest say nothing (SAFETY.md, rule 16).
    fn keep_quiet(&mut self) -> Result<(), String> {
        // Nobody writes; retention may still move a log start.
        let shards = self.nodes.iter().flat_map(|node| &node.hosts).map(|host| &host.shard);
        let ends = shards.flat_map(|shard| {
            shard.partitions().keys().filter_map(|group| shard.driver().last_index(*group)).map(|end| end.0)
        });
        let ends = ends.sum();
        if self.clients.reading.still.1 != ends {
            self.clients.reading.still = (self.now_us(), ends);
        }
        let quiet_us = self.now_us() - self.clients.reading.still.0;
        let sent = self.network.sent_by_raft;
        if quiet_us < CALM_US {
            self.clients.reading.sent_by_raft = sent;
        } else if quiet_us > CALM_US + QUIET_US {
            self.phase = Phase::Done;
        } else if sent > self.clients.reading.sent_by_raft {
            let awake = self.nodes.iter().flat_map(|node| &node.hosts).flat_map(|host| {
                let awake = |group: &&GroupId| !host.shard.driver().is_resting(**group);
                host.shard.partitions().keys().filter(awake)
            });
            let awake: BTreeSet<GroupId> = awake.copied().collect();
            self.tells_all = true;
            let told: Vec<String> = awake.into_iter().take(2).map(|group| self.replicas_of(group)).collect();
            return Err(format!("Raft sends though nothing happens: {told:?}"));
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        let mut waiting = !self.pending.is_empty() || self.unsettled().is_some();
        for (place, target) in self.places() {
            for number in 0..self.clients.producers.len() {
                let lane = self.clients.producers[number].lanes.get(&place);
                if lane.is_some_and(|lane| lane.wants_resend()) {
                    self.resend(number, place, target);
                    waiting = true;
                }
            }
        }
        if waiting {
            return Ok(());
        }
        self.model.settled();
        if let Some(snapshot) = self.newest_snapshot() {
            self.check_metadata(&snapshot)?;
        }
        for producer in &self.clients.producers {
            for (place, lane) in &producer.lanes {
                let gone = self.model.topics.get(&place.0).is_some_and(|topic| topic.deleted);
                if !lane.dead && !gone && !lane.unacknowledged.is_empty() {
                    return Err(format!("{place:?}: never acknowledged: {:?}", lane.unacknowledged));
                }
            }
        }
        self.enter(Phase::Probe);
        Ok(())
    }

    fn is_late(&self) -> bool {
        self.now_us() > self.clients.reading.since_us + LIVE_US_MAX
    }

    /// What is not yet as it must become: every node runs and names the leader that Raft has.
    fn unsettled(&self) -> Option<String> {
        if let Some(node) = self.nodes.iter().find(|node| !node.is_up()) {
            return Some(format!("node {} is down", node.number));
        }
        for node in &self.nodes {
            let Some(snapshot) = &node.snapshot else { return Some("no metadata".into()) };
            let topics = snapshot.topics.values();
            let mut partitions =
                topics.flat_map(|topic| topic.partitions.iter().map(move |view| (topic, view)));
            let wrong = partitions.find(|(_, view)| !self.is_led_as_told(view));
            if let Some((topic, view)) = wrong {
                let leads = self.watch.leader(view.group);
                return Some(format!(
                    "node {} says of {}: {:?}, {leads:?} leads: {}",
                    node.number,
                    topic.name,
                    view.leader,
                    self.replicas_of(view.group)
                ));
            }
            let lags = |host: &Host| self.watch.lags(node.number, &host.shard);
            if let Some((group, why)) = node.hosts.iter().find_map(lags) {
                return Some(format!("{why}: {}", self.replicas_of(group)));
            }
        }
        self.not_whole()
    }

    /// Every replica of a group, for whoever looks for the cause of something.
    pub(super) fn replicas_of(&self, group: GroupId) -> String {
        let mut text = String::new();
        if !self.tells_all {
            return text;
        }
        for node in &self.nodes {
            for host in node.hosts.iter().filter(|host| host.shard.driver().contains(group)) {
                let driver = host.shard.driver();
                let (last, commit) = (driver.last_index(group), driver.commit(group));
                let (applied, configuration) = (driver.applied(group), driver.configuration(group));
                let members = host.shard.partitions().get(&group).map(|partition| &partition.members);
                text += &format!(
                    "node {}: {:?}, resting {}, last {last:?}, commit {commit:?}, applied {applied:?}, {configuration:?}, {members:?}, \
                     progress {:?}; ",
                    node.number,
                    driver.leadership(group),
                    driver.is_resting(group),
                    driver.progress(group)
                );
            }
        }
        text
    }

    fn is_led_as_told(&self, view: &PartitionView) -> bool {
        let (Some(told), Some(leads)) = (view.leader, self.watch.leader(view.group)) else { return false };
        let same = node_number(told.node) == leads.node && told.epoch == leads.term.leader_epoch();
        let serves = self.nodes[leads.node].hosts.iter().any(|host| {
            host.shard.driver().leadership(view.group) == Some(Leadership::Leader { term: leads.term })
        });
        same && serves
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.clients.reading = Reading { since_us: self.now_us(), ..Reading::default() };
    }

    /// Starts the next task of the phase, or the next phase.
    fn next_task(&mut self) -> Result<(), String> {
        if self.clients.reading.under_way || self.unsettled().is_some() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.clients.reading.planned, true) {
            return self.plan_tasks();
        }
        let Some(task) = self.clients.reading.tasks.front().cloned() else { return self.phase_done() };
        self.clients.reading.under_way = true;
        self.start_task(task)
    }

    fn plan_tasks(&mut self) -> Result<(), String> {
        let places: Vec<Place> = self.places().into_iter().map(|(place, ..)| place).collect();
        let mut tasks = VecDeque::new();
        for place in places {
            match self.phase {
                Phase::Probe => tasks.push_back(Asked::Probe(self.new_batch(place, None))),
                _ => tasks.push_back(Asked::Ends(place)),
            }
        }
        let commits: Vec<(String, Place)> = self.model.commits.keys().cloned().collect();
        if self.phase != Phase::Probe {
            self.repeat_newest();
            tasks.extend(commits.into_iter().map(|(group, place)| Asked::Committed(group, place, None)));
        }
        self.clients.reading.tasks = tasks;
        Ok(())
    }

    /// What each producer was told last it must be told again, as long as the batch is in the log: what was deleted may be
    /// forgotten at a restart, as in Kafka.
    fn repeat_newest(&mut self) {
        for (place, target) in self.places() {
            for number in 0..self.clients.producers.len() {
                let lane = self.clients.producers[number].lanes.get(&place);
                if let Some((sent, base)) = lane.filter(|lane| !lane.dead).and_then(|lane| lane.last.clone())
                {
                    let item = InRequest { sent, producer: Some(number), again: Some(base) };
                    self.produce(number as u64, target, vec![(target.group, item)]);
                }
            }
        }
    }

    fn start_task(&mut self, task: Asked) -> Result<(), String> {
        let place = match &task {
            Asked::Probe(sent) => sent.place,
            Asked::Ends(place) | Asked::Read(place, _) | Asked::Time(place, _) => *place,
            Asked::Committed(group, place, _) => {
                self.clients.reading.tasks.pop_front();
                self.clients.reading.under_way = false;
                return self.read_offset(group.clone(), *place);
            }
            task => return Err(format!("{task:?} is no task")),
        };
        let Some((_, target)) = self.places().into_iter().find(|(other, _)| *other == place) else {
            return Err(format!("{place:?} is not there any more"));
        };
        let (timeout_ms, request) = match &task {
            Asked::Probe(sent) => {
                let items = vec![ProduceItem { group: target.group, records: sent.encode() }];
                (30_000, Request::Produce(ProduceSlice { acks: Acks::All, timeout_ms: 30_000, items }))
            }
            Asked::Ends(_) => {
                let queries = vec![offset_query(target.group, -2), offset_query(target.group, -1)];
                (1_000, Request::ListOffsets(queries))
            }
            Asked::Time(_, timestamp) => {
                (1_000, Request::ListOffsets(vec![offset_query(target.group, *timestamp)]))
            }
            Asked::Read(_, offset) => (1_000, Request::Fetch(whole(fetch_item(target.group, *offset)))),
            task => return Err(format!("{task:?} is no task")),
        };
        self.ask(target, vec![target.group], 1, task, timeout_ms, request);
        Ok(())
    }

    fn read_offset(&mut self, group: String, place: Place) -> Result<(), String> {
        let Some(snapshot) = self.some_snapshot() else { return Ok(()) };
        match self.coordinator(&group, &snapshot) {
            Some(target) => self.read_committed(group, place, target),
            None => self.read_offset_again(&group, place),
        }
        Ok(())
    }

    /// At the end every committed offset is told sooner or later.
    pub(super) fn read_offset_again(&mut self, group: &str, place: Place) {
        if let Phase::Read(_) = self.phase {
            self.clients.reading.tasks.push_back(Asked::Committed(group.to_owned(), place, None));
        }
    }

    /// A task was not answered because the node went away.
    pub(super) fn reading_failed(&mut self) {
        self.clients.reading.under_way = false;
    }

    /// An answer to a question of the end.
    pub(super) fn finish_answer(&mut self, asked: Asked, reply: Reply) -> Result<(), String> {
        self.clients.reading.under_way = false;
        match (asked, reply) {
            (Asked::Probe(sent), Reply::Produce(outcomes)) => {
                let code = outcomes[0].error;
                if code == ErrorCode::KafkaStorageError && self.report.counts.contains_key("full disk") {
                    // There is space again, but the node looks once a second only: asked again, for so long.
                    self.count("probe refused");
                    let refused = self.report.counts.get("probe refused").copied().unwrap_or(0);
                    return match refused < PROBES_REFUSED_MAX {
                        true => Ok(()),
                        false => Err(format!("{:?} takes no record though there is space", sent.place)),
                    };
                }
                let moved = [ErrorCode::NotLeaderOrFollower, ErrorCode::NotEnoughReplicas].contains(&code);
                if moved && self.plan.nodes > 1 && !self.is_late() {
                    self.count("probe refused");
                    return Ok(());
                }
                if code != ErrorCode::None {
                    return Err(format!("{:?} takes no record: {:?}", sent.place, outcomes[0]));
                }
                self.model.acknowledged(&sent, outcomes[0].base_offset.0)?;
                self.clients.reading.tasks.pop_front();
                Ok(())
            }
            (Asked::Ends(place), Reply::Offsets(answers)) => {
                if answers.iter().any(|answer| answer.error == ErrorCode::NotLeaderOrFollower)
                    && !self.is_late()
                {
                    return Ok(());
                }
                let (log_start, high_watermark) = (answers[0].offset.0, answers[1].offset.0);
                let told = Bounds { log_start, high_watermark, ..Bounds::default() };
                let floor = self.model.floor(place);
                self.model.bounds(place, floor, told)?;
                self.clients.reading.read.insert(place, (told, Vec::new()));
                self.clients.reading.tasks.pop_front();
                if told.log_start < told.high_watermark {
                    self.clients.reading.tasks.push_front(Asked::Read(place, told.log_start));
                }
                Ok(())
            }
            (Asked::Read(place, offset), Reply::Fetch(outcomes)) => self.read_on(place, offset, outcomes),
            (Asked::Time(place, timestamp), Reply::Offsets(answers)) => {
                self.clients.reading.tasks.pop_front();
                self.check_time(place, timestamp, answers[0].offset.0)
            }
            (asked, reply) => Err(format!("{asked:?} was answered with {reply:?}")),
        }
    }

    fn read_on(
        &mut self,
        place: Place,
        offset: i64,
        mut outcomes: Vec<chronik_core::shard::message::FetchOutcome>,
    ) -> Result<(), String> {
        let outcome = outcomes.pop().ok_or("a fetch without an outcome")?;
        let log_start = outcome.log_start_offset.0;
        if outcome.error == ErrorCode::OffsetOutOfRange && log_start > offset {
            // Retention goes on while this reads.
            self.clients.reading.tasks[0] = Asked::Ends(place);
            return Ok(());
        }
        let seen = read(&outcome.records, place).map_err(|why| format!("{place:?} from {offset}: {why}"))?;
        let floor = self.model.floor(place);
        self.fetched(place, offset, floor, outcome, true)?;
        let Some((bounds, read)) = self.clients.reading.read.get_mut(&place) else { return Ok(()) };
        let next = seen.last().map_or(offset, |seen| seen.offset + 1);
        read.extend(seen.into_iter().filter(|seen| seen.offset >= offset));
        self.clients.reading.tasks.pop_front();
        if next < bounds.high_watermark {
            self.clients.reading.tasks.push_front(Asked::Read(place, next));
        } else {
            let timestamps: Vec<i64> = read.iter().step_by(7).map(|seen| seen.timestamp).collect();
            for timestamp in timestamps {
                self.clients.reading.tasks.push_front(Asked::Time(place, timestamp));
            }
        }
        Ok(())
    }

    /// The first record that is not older. Records below the log start of now may have been the answer a moment ago.
    fn check_time(&mut self, place: Place, timestamp: i64, offset: i64) -> Result<(), String> {
        let Some((_, read)) = self.clients.reading.read.get(&place) else { return Ok(()) };
        let log_start = self.model.floor(place).log_start;
        let mut fitting = read.iter().filter(|seen| seen.timestamp >= timestamp);
        if fitting.any(|seen| seen.offset == offset && seen.offset >= log_start) {
            let earlier = read.iter().find(|seen| seen.offset < offset && seen.timestamp >= timestamp);
            return match earlier {
                Some(earlier) if earlier.offset >= log_start => {
                    // The log start may have moved since; only a partition without retention is certain.
                    self.retained(place, format!("{earlier:?} is earlier than {offset} for {timestamp}"))
                }
                _ => Ok(()),
            };
        }
        self.retained(place, format!("the search for {timestamp} found {offset}"))
    }

    /// Passes a finding over where retention may explain it.
    fn retained(&mut self, place: Place, why: String) -> Result<(), String> {
        let name = self.model.topics.get(&place.0).map(|topic| topic.name.clone()).unwrap_or_default();
        let retention = self.model.retention.get(&name).copied().unwrap_or_default();
        let may_move = retention.ms != i64::MAX || retention.bytes != u64::MAX;
        if may_move { Ok(()) } else { Err(format!("{place:?}: {why}")) }
    }

    fn phase_done(&mut self) -> Result<(), String> {
        if !self.pending.is_empty() {
            return Ok(());
        }
        match self.phase {
            Phase::Probe => self.enter(Phase::Read(1)),
            Phase::Read(number) => {
                self.check_everything()?;
                self.compare_replicas()?;
                if number == 2 {
                    self.enter(Phase::Quiet);
                } else {
                    self.enter(Phase::Read(number + 1));
                    self.power_cut();
                }
            }
            Phase::Work | Phase::Settle | Phase::Quiet | Phase::Done => {}
        }
        Ok(())
    }

    /// Every replica's log, from its files on, is what was committed.
    fn compare_replicas(&mut self) -> Result<(), String> {
        let mut compared = 0;
        for node in &self.nodes {
            for host in &node.hosts {
                for (group, partition) in host.shard.partitions() {
                    let mut next = partition.files.start().index.next();
                    while let Some(job) = partition.files.read_entries(next, COMPARE_BYTES) {
                        let FileDone::Entries(read) = job.run(&node.disk) else { break };
                        let read = match read {
                            // Retention is at it: the files are renamed, and the shard has not heard of it yet.
                            Err(FilesError::Gone { .. }) => break,
                            read => {
                                read.map_err(|why| format!("group {group}, node {}: {why}", node.number))?
                            }
                        };
                        let Some(last) = read.last() else { break };
                        next = last.index.next();
                        compared += read.len();
                        self.watch.compare(node.number, *group, &read)?;
                    }
                }
            }
        }
        *self.report.counts.entry("entries compared").or_insert(0) += compared as u64;
        Ok(())
    }

    /// Everything that was acknowledged and not deleted was read, and nothing is missing between.
    fn check_everything(&mut self) -> Result<(), String> {
        let off_ms = if self.plan.clock_jumps { WALL_OFF_MS_MAX } else { 0 };
        let wall_ms = WALL_START_MS + off_ms + (self.now_us() / 1_000) as i64;
        for (place, (bounds, read)) in &self.clients.reading.read {
            let offsets: Vec<i64> = read.iter().map(|seen| seen.offset).collect();
            let log_start = offsets.first().copied().unwrap_or(bounds.high_watermark);
            let dense = offsets.iter().copied().eq(log_start..bounds.high_watermark);
            if !dense || log_start > self.model.topics[&place.0].partitions[&place.1].log_start {
                return Err(format!("{place:?} has a gap within {bounds:?}"));
            }
            self.model.check_log_start(*place, wall_ms)?;
        }
        let live: Vec<Place> = self
            .model
            .topics
            .iter()
            .filter(|(_, topic)| !topic.deleted)
            .flat_map(|(id, topic)| topic.partitions.keys().map(|number| (*id, *number)))
            .collect();
        for place in live {
            if !self.clients.reading.read.contains_key(&place) {
                return Err(format!("{place:?} could not be read"));
            }
        }
        Ok(())
    }
}

fn whole(item: chronik_core::shard::message::FetchItem) -> FetchSlice {
    FetchSlice {
        min_bytes: 1,
        max_bytes: 1 << 20,
        max_wait_ms: 500,
        isolation: Isolation::ReadUncommitted,
        items: vec![item],
    }
}
