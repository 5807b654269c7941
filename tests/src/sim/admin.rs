//! Changes of metadata: topics are made, grown, configured and deleted, and the metadata are checked at each start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_core::metadata::admin::{AdminReply, AdminRequest};
use chronik_core::metadata::names::CONSUMER_OFFSETS;
use chronik_core::metadata::snapshot::{Snapshot, TopicView};
use chronik_core::shard::message::Request;
use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use chronik_net::codec::messages::alter_partition_reassignments_response::AlterPartitionReassignmentsResponse;
use chronik_net::codec::messages::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use chronik_net::codec::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use chronik_net::codec::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use chronik_net::codec::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use chronik_wal::types::GroupId;
use rand::Rng;
use rand::seq::SliceRandom;
use uuid::Uuid;

use super::clients::Asked;
use super::model::TopicModel;
use super::world::World;

/// How long clients wait for a change of metadata.
pub(super) const TIMEOUT_MS: u32 = 8_000;

/// A new topic is answered for after a second at the latest, whether its partitions have leaders or not. (Nodes count whole
/// milliseconds.)
const LEADERS_WAIT_US: u64 = 990_000;

/// The names that topics are made with. `kept` is never deleted.
const NAMES: [&str; 5] = ["kept", "comes-and-goes", "b", "c", "retained"];

/// So many other names may take the place of one of which it is not known what has become.
const SUCCESSORS_MAX: u32 = 4;

/// What was asked for.
#[derive(Clone, Debug)]
pub enum AdminAsk {
    /// A topic of this name.
    Create(String),
    /// The end of this topic.
    Delete(String, Uuid),
    /// So many partitions.
    Grow(String, i32),
    /// A new `segment.ms`.
    Configure(String, Uuid, u64),
    /// The topic of committed offsets.
    Internal,
    /// The replicas of a partition to other nodes, or where they were; whatever comes of it, they end where they are to be.
    Move,
}

impl AdminAsk {
    fn name(&self) -> &str {
        match self {
            Self::Create(name) | Self::Delete(name, _) | Self::Grow(name, _) | Self::Configure(name, ..) => {
                name
            }
            Self::Internal => CONSUMER_OFFSETS,
            Self::Move => "",
        }
    }
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Absent,
    Present(Uuid),
}

/// The names and what is known of them.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeMap<String, Name>,
    /// Something is under way, or its outcome is not known.
    busy: BTreeMap<String, Option<AdminAsk>>,
    /// How often another name has taken the place of one of [`NAMES`].
    successors: BTreeMap<&'static str, u32>,
}

impl Names {
    /// The name that now stands for one of [`NAMES`].
    fn current(&self, slot: &'static str) -> String {
        match self.successors.get(slot) {
            Some(number) => format!("{slot}-{number}"),
            None => slot.to_owned(),
        }
    }

    /// What has become of a name will show at the end only: another one takes its place.
    fn succeed(&mut self, name: &str) {
        let slot = NAMES.into_iter().find(|slot| *slot != "kept" && self.current(slot) == name);
        if let Some(number) = slot.map(|slot| self.successors.entry(slot).or_insert(0))
            && *number < SUCCESSORS_MAX
        {
            *number += 1;
        }
    }

    /// Every name that anybody ever asked for.
    fn all(&self) -> BTreeSet<String> {
        self.known.keys().chain(self.busy.keys()).cloned().collect()
    }
}

impl World {
    /// A change of metadata, if the name has none under way.
    pub(super) fn administrate(&mut self) {
        let snapshot = self.some_snapshot();
        if snapshot.is_some_and(|snapshot| snapshot.topic(CONSUMER_OFFSETS).is_none()) {
            let request = AdminRequest::AutoCreate(vec![CONSUMER_OFFSETS.to_owned()]);
            return self.ask_admin(CONSUMER_OFFSETS, AdminAsk::Internal, request);
        }
        if self.plan.moves && self.rng.random_bool(0.3) {
            return self.move_replicas();
        }
        let slot = NAMES[self.rng.random_range(0..NAMES.len())];
        let name = self.clients.admin.current(slot);
        let known = self.clients.admin.known.get(&name).copied().unwrap_or(Name::Absent);
        let Name::Present(id) = known else { return self.create(slot, &name) };
        match self.rng.random_range(0..10) {
            0..5 if slot != "kept" && slot != "retained" => self.delete(&name, id),
            5 => self.grow(&name, id),
            6..8 => self.configure(&name, id),
            _ => {}
        }
    }

    /// The replicas of some partition are to be on other nodes, or where they were after all.
    fn move_replicas(&mut self) {
        let Some(snapshot) = self.some_snapshot() else { return };
        let known = |topic: &&Arc<TopicView>| {
            &*topic.name == CONSUMER_OFFSETS || self.model.topics.contains_key(&topic.id)
        };
        let topics: Vec<_> = snapshot.topics.values().filter(known).collect();
        if topics.is_empty() {
            return;
        }
        let topic = topics[self.rng.random_range(0..topics.len())];
        let number = self.rng.random_range(0..topic.partitions.len());
        let mut nodes: Vec<i32> = snapshot.brokers.keys().map(|node| node.0).collect();
        nodes.shuffle(&mut self.rng);
        let thins = self.rng.random_bool(0.2) && self.may_thin();
        nodes.truncate(self.plan.replicas() - usize::from(thins));
        let wanted = (!self.rng.random_bool(0.15)).then_some(nodes);
        let Some(target) = self.some_shard_0() else { return };
        let replicas = wanted.map(|nodes| nodes.into_iter().map(Into::into).collect());
        let partition =
            ReassignablePartition::default().with_partition_index(number as i32).with_replicas(replicas);
        let row =
            ReassignableTopic::default().with_name(text(&topic.name).into()).with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(TIMEOUT_MS as i32)
            .with_allow_replication_factor_change(true)
            .with_topics(vec![row]);
        self.count("move");
        let ask = Asked::Admin(AdminAsk::Move);
        let request =
            Request::Admin { request: Box::new(AdminRequest::Reassign(request)), timeout_ms: TIMEOUT_MS };
        self.ask(target, Vec::new(), 2, ask, u64::from(TIMEOUT_MS), request);
    }

    /// A reassignment was accepted or not.
    fn replicas_moved(&mut self, reply: &AlterPartitionReassignmentsResponse) -> Result<(), String> {
        let row = reply.responses.first().and_then(|topic| topic.partitions.first());
        let code = if reply.error_code == 0 { row.map_or(0, |row| row.error_code) } else { reply.error_code };
        match code {
            0 => self.count("moved"),
            // NOT_CONTROLLER, REQUEST_TIMED_OUT.
            41 | 7 => self.count("change not decided"),
            // UNKNOWN_TOPIC_OR_PARTITION: deleted meanwhile. NO_REASSIGNMENT_IN_PROGRESS: it is complete.
            3 | 85 => self.count("move refused"),
            code => return Err(format!("a move of replicas was refused: {code}, {reply:?}")),
        }
        Ok(())
    }

    fn ask_admin(&mut self, name: &str, ask: AdminAsk, request: AdminRequest) {
        if self.clients.admin.busy.contains_key(name) {
            return;
        }
        let Some(target) = self.some_shard_0() else { return };
        self.count("admin");
        self.clients.admin.busy.insert(name.to_owned(), Some(ask.clone()));
        let request = Request::Admin { request: Box::new(request), timeout_ms: TIMEOUT_MS };
        self.ask(target, Vec::new(), 2, Asked::Admin(ask), u64::from(TIMEOUT_MS), request);
    }

    fn create(&mut self, slot: &str, name: &str) {
        if self.clients.admin.busy.contains_key(name) {
            return;
        }
        let mut configs = vec![("segment.ms", self.rng.random_range(100..3_000).to_string())];
        let retention = self.model.retention.entry(name.to_owned()).or_default();
        match (slot, self.rng.random_range(0..3)) {
            ("retained", _) | (_, 0) => {
                retention.bytes = retention.bytes.min(12_000);
                configs.push(("retention.bytes", "12000".to_owned()));
            }
            ("b", _) => {
                retention.ms = retention.ms.min(2_500);
                configs.push(("retention.ms", "2500".to_owned()));
            }
            _ => {}
        }
        let pairs = configs.into_iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_string(value)))
        });
        let topic = CreatableTopic::default()
            .with_name(text(name).into())
            .with_num_partitions(self.rng.random_range(1..4))
            .with_replication_factor(self.plan.replicas() as i16)
            .with_configs(pairs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        self.ask_admin(name, AdminAsk::Create(name.to_owned()), AdminRequest::CreateTopics(request));
    }

    fn delete(&mut self, name: &str, id: Uuid) {
        if self.clients.admin.busy.contains_key(name) {
            return;
        }
        if let Some(topic) = self.model.topics.get_mut(&id) {
            topic.delete_asked = true;
        }
        let topic = DeleteTopicState::default().with_name(Some(text(name).into()));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]);
        self.ask_admin(name, AdminAsk::Delete(name.to_owned(), id), AdminRequest::DeleteTopics(request, 6));
    }

    fn grow(&mut self, name: &str, id: Uuid) {
        let Some(topic) = self.model.topics.get(&id) else { return };
        let count = topic.partitions.len() as i32 + 1;
        if count > 5 || !self.may_grow() {
            return;
        }
        let topic = CreatePartitionsTopic::default()
            .with_name(text(name).into())
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]);
        self.ask_admin(name, AdminAsk::Grow(name.to_owned(), count), AdminRequest::CreatePartitions(request));
    }

    fn configure(&mut self, name: &str, id: Uuid) {
        if self.clients.admin.busy.contains_key(name) {
            return;
        }
        let value = self.rng.random_range(100..3_000);
        if let Some(topic) = self.model.topics.get_mut(&id) {
            topic.segment_ms.1.push(value);
        }
        let config = AlterableConfig::default()
            .with_name(StrBytes::from_static_str("segment.ms"))
            .with_config_operation(0)
            .with_value(Some(StrBytes::from_string(value.to_string())));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(name))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let ask = AdminAsk::Configure(name.to_owned(), id, value);
        self.ask_admin(name, ask, AdminRequest::IncrementalAlterConfigs(request));
    }

    /// The outcome of a change is not known: the name rests until the next start shows it.
    pub(super) fn admin_not_decided(&mut self, ask: &AdminAsk) {
        match ask {
            AdminAsk::Move => {}
            AdminAsk::Internal => {
                self.clients.admin.busy.remove(CONSUMER_OFFSETS);
            }
            ask if self.plan.moves => self.clients.admin.succeed(ask.name()),
            _ => {}
        }
    }

    /// A change of metadata was answered.
    pub(super) fn administrated(
        &mut self,
        node: usize,
        asked_us: u64,
        ask: &AdminAsk,
        reply: &AdminReply,
    ) -> Result<(), String> {
        let (name, code) = match (ask, reply) {
            (AdminAsk::Internal, reply) => {
                self.clients.admin.busy.remove(CONSUMER_OFFSETS);
                return match reply {
                    AdminReply::AutoCreate(failed) if !failed.is_empty() && self.plan.nodes == 1 => {
                        Err(format!("{failed:?}"))
                    }
                    _ => Ok(()),
                };
            }
            // Nothing has come of it.
            (ask, AdminReply::NotController) => {
                self.count("not controller");
                self.clients.admin.busy.remove(ask.name());
                return Ok(());
            }
            // In vain, or not in time: then it may have happened.
            (_, AdminReply::Refused(..)) => {
                self.count("change not decided");
                self.admin_not_decided(ask);
                return Ok(());
            }
            (AdminAsk::Move, AdminReply::Reassign(reply)) => return self.replicas_moved(reply),
            (AdminAsk::Create(name), AdminReply::CreateTopics(reply)) => (name, reply.topics[0].error_code),
            (AdminAsk::Delete(name, _), AdminReply::DeleteTopics(reply)) => {
                (name, reply.responses[0].error_code)
            }
            (AdminAsk::Grow(name, _), AdminReply::CreatePartitions(reply)) => {
                (name, reply.results[0].error_code)
            }
            (AdminAsk::Configure(name, ..), AdminReply::IncrementalAlterConfigs(reply)) => {
                (name, reply.responses[0].error_code)
            }
            (ask, reply) => return Err(format!("{ask:?} was answered with {reply:?}")),
        };
        match code {
            0 => {}
            // NOT_CONTROLLER, REQUEST_TIMED_OUT: it may have happened.
            41 | 7 => {
                self.count("change not decided");
                self.admin_not_decided(ask);
                return Ok(());
            }
            // INVALID_REPLICATION_FACTOR: too few brokers are up.
            38 if self.plan.nodes > 1 => {
                self.count("too few brokers");
                self.clients.admin.busy.remove(name);
                return Ok(());
            }
            code => return Err(format!("{ask:?} was refused with {code}")),
        }
        self.count("changed");
        self.clients.admin.busy.remove(name);
        // What was answered is true on the node that was asked.
        let Some(snapshot) = self.nodes[node].snapshot.clone() else { return Ok(()) };
        let view = snapshot.topic(name).cloned();
        match ask {
            AdminAsk::Create(name) => {
                let Some(view) = view else {
                    return Err(format!("{name} was made and is not on node {node}, which was asked"));
                };
                // Another node than the one that leads the metadata may hear of the leaders later. A disk that is full keeps a leader
                // from writing its first entry; the answer does not wait for ever.
                let here = self.plan.nodes == 1 && self.now_us() < asked_us + LEADERS_WAIT_US;
                if here && view.partitions.iter().any(|partition| partition.leader.is_none()) {
                    return Err(format!("{name} was answered before its partitions had leaders"));
                }
                self.topic_appeared(&view)
            }
            AdminAsk::Delete(name, id) => {
                if view.is_some_and(|view| view.id == *id) {
                    return Err(format!("{name} was deleted and is still on node {node}, which was asked"));
                }
                self.topic_went(name, *id);
                Ok(())
            }
            AdminAsk::Grow(name, count) => match view {
                Some(view) if view.partitions.len() as i32 == *count => self.topic_appeared(&view),
                view => Err(format!("{name} was to have {count} partitions: {view:?}")),
            },
            AdminAsk::Configure(_, id, value) => {
                if let Some(topic) = self.model.topics.get_mut(id) {
                    topic.segment_ms = (Some(*value), Vec::new());
                }
                Ok(())
            }
            AdminAsk::Internal | AdminAsk::Move => Ok(()),
        }
    }

    fn topic_went(&mut self, name: &str, id: Uuid) {
        self.clients.admin.known.insert(name.to_owned(), Name::Absent);
        if let Some(topic) = self.model.topics.get_mut(&id) {
            topic.deleted = true;
        }
        let lanes = self.clients.producers.iter_mut().flat_map(|producer| producer.lanes.iter_mut());
        lanes.filter(|(place, _)| place.0 == id).for_each(|(_, lane)| lane.dead = true);
    }

    fn topic_appeared(&mut self, view: &TopicView) -> Result<(), String> {
        let id = view.id;
        let name = view.name.to_string();
        let topic = self.model.topics.entry(id).or_insert_with(|| TopicModel {
            name: name.clone(),
            partitions: BTreeMap::new(),
            delete_asked: false,
            deleted: false,
            segment_ms: (None, Vec::new()),
        });
        if topic.deleted {
            return Err(format!("{name} with id {id} was deleted and is back"));
        }
        if view.partitions.len() < topic.partitions.len() {
            return Err(format!("{name} had {} partitions", topic.partitions.len()));
        }
        self.clients.admin.known.insert(name, Name::Present(id));
        for (number, partition) in view.partitions.iter().enumerate() {
            self.model.partition_seen((id, number as i32), partition.group)?;
        }
        Ok(())
    }

    /// The node has started: its metadata are those that were committed.
    pub(super) fn node_started(&mut self, node: usize) -> Result<(), String> {
        match self.nodes[node].snapshot.clone() {
            // Of several nodes each knows what it has heard.
            Some(snapshot) if self.plan.nodes == 1 => self.check_metadata(&snapshot),
            _ => Ok(()),
        }
    }

    /// The metadata of the node that leads them.
    pub(super) fn newest_snapshot(&self) -> Option<Arc<Snapshot>> {
        if self.plan.nodes == 1 {
            return self.nodes[0].snapshot.clone();
        }
        let leader = self.watch.leader(GroupId::METADATA)?;
        self.nodes[leader.node].snapshot.clone()
    }

    /// Every name is as it is known to be; where that is not known, it is learned.
    pub(super) fn check_metadata(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        for name in self.clients.admin.all() {
            let name = &*name;
            let view = snapshot.topic(name).cloned();
            let open = self.clients.admin.busy.remove(name).flatten();
            let known = self.clients.admin.known.get(name).copied().unwrap_or(Name::Absent);
            match (known, &view, &open) {
                (Name::Absent, None, _) => {}
                (Name::Absent, Some(view), Some(AdminAsk::Create(_))) => self.topic_appeared(view)?,
                (Name::Present(id), None, Some(AdminAsk::Delete(..))) => self.topic_went(name, id),
                (Name::Present(id), Some(view), _) if view.id == id => {
                    let before = self.model.topics.get(&id).map_or(0, |topic| topic.partitions.len());
                    let may_grow = matches!(open, Some(AdminAsk::Grow(..)));
                    if view.partitions.len() != before && !may_grow {
                        return Err(format!("{name} had {before} partitions, now {}", view.partitions.len()));
                    }
                    self.check_config(view)?;
                    self.topic_appeared(view)?;
                }
                (known, view, open) => {
                    return Err(format!("{name} was {known:?}, {open:?} was asked for, now it is {view:?}"));
                }
            }
        }
        Ok(())
    }

    fn check_config(&mut self, view: &TopicView) -> Result<(), String> {
        let Some(topic) = self.model.topics.get_mut(&view.id) else { return Ok(()) };
        let told = view.config.segment_ms;
        let (acknowledged, asked) = &mut topic.segment_ms;
        if acknowledged.is_some_and(|value| value != told) && !asked.contains(&told) {
            return Err(format!("{}: segment.ms was set to {acknowledged:?}, now it is {told}", topic.name));
        }
        if acknowledged.is_some() || asked.contains(&told) {
            *acknowledged = Some(told);
            asked.clear();
        }
        Ok(())
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
