//! Metadata 0 to 13: brokers, topics, leaders. Answered from the snapshot on any shard of any node, at any time.
//!
//! The response is kept as pointers into the snapshot; the codec walks [`MetadataAnswer::topics`] and, for each,
//! [`TopicRow::partitions`], so that the listing of 3,000 topics copies no names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_wal::types::NodeId;
use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::{CLUSTER_OPERATIONS, NONE, OPERATIONS_NOT_ASKED, PartitionRow, TOPIC_OPERATIONS};
use crate::metadata::controller::REQUEST_PARTITIONS_MAX;
use crate::metadata::names::{check_topic_name, is_internal};
use crate::metadata::snapshot::{Leader, Snapshot, TopicView};

/// Which topics a request asks for, after the versions' ways of saying "all" have been told apart
/// (v0: an empty list; v1 and up: null; see [`TopicSelection::new`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicSelection<'a> {
    /// Every topic.
    All,
    /// These.
    These(Vec<TopicKey<'a>>),
}

/// A topic that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicKey<'a> {
    /// By name (null only from v10 on).
    pub name: Option<&'a str>,
    /// By id: nil unless v10 and up.
    pub id: Uuid,
}

impl TopicKey<'_> {
    /// The topic, by its id if the request gives one.
    fn find<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<TopicView>> {
        match self.name {
            _ if !self.id.is_nil() => snapshot.topic_by_id(&self.id),
            Some(name) => snapshot.topic(name),
            None => None,
        }
    }
}

impl<'a> TopicSelection<'a> {
    /// What the list of a request of this version means; `None` stands for null.
    #[must_use]
    pub fn new(version: i16, topics: Option<Vec<TopicKey<'a>>>) -> Self {
        match topics {
            None => TopicSelection::All,
            Some(topics) if topics.is_empty() && version == 0 => TopicSelection::All,
            Some(topics) => TopicSelection::These(topics),
        }
    }
}

/// A Metadata request.
#[derive(Clone, Debug)]
pub struct MetadataQuery<'a> {
    /// Its version.
    pub version: i16,
    /// Name of the listener that it came in on.
    pub listener: &'a str,
    /// Which topics.
    pub topics: TopicSelection<'a>,
    /// v4 and up; true below.
    pub allow_auto_topic_creation: bool,
    /// v8 to v10: add what the client may do with the cluster.
    pub include_cluster_authorized_operations: bool,
    /// v8 and up: add what the client may do with each topic.
    pub include_topic_authorized_operations: bool,
}

/// A broker of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerRow<'a> {
    /// Its id.
    pub node_id: i32,
    /// Advertised host of the listener that the request came in on.
    pub host: &'a str,
    /// Advertised port.
    pub port: i32,
    /// Its rack.
    pub rack: Option<&'a str>,
}

/// A topic of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicRow {
    /// Kafka's error; 0 for none.
    pub error_code: i16,
    /// Its name; none for an id that nobody knows.
    pub name: Option<Arc<str>>,
    /// Its id; nil for a name that nobody knows.
    pub id: Uuid,
    /// Whether the broker keeps state in it.
    pub is_internal: bool,
    /// As bits, or [`OPERATIONS_NOT_ASKED`].
    pub authorized_operations: i32,
    view: Option<Arc<TopicView>>,
}

impl TopicRow {
    /// How many partitions the row lists.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.view.as_ref().map_or(0, |view| view.partitions.len())
    }

    /// The partitions, by number.
    pub fn partitions<'a>(&'a self, answer: &'a MetadataAnswer) -> impl Iterator<Item = PartitionRow> + 'a {
        let views = self.view.iter().flat_map(|view| (0i32..).zip(&view.partitions));
        views.map(|(number, view)| {
            PartitionRow::new(&answer.snapshot, &answer.listener, answer.version, number, view, &answer.lost)
        })
    }
}

/// The answer to a Metadata request.
#[derive(Clone, Debug)]
pub struct MetadataAnswer {
    /// What it was made from.
    pub snapshot: Arc<Snapshot>,
    /// The topics.
    pub topics: Vec<TopicRow>,
    /// As bits, or [`OPERATIONS_NOT_ASKED`].
    pub cluster_authorized_operations: i32,
    /// Top-level error of v13; 0 for none.
    pub error_code: i16,
    /// Names that do not exist and that this request may create. While they are in `topics` as UNKNOWN_TOPIC_OR_PARTITION, the
    /// caller has the controller make them and asks again, or lets the client do so.
    pub to_create: Vec<String>,
    /// Nodes that have just gone: where they lead by what is known, the partition has no leader.
    pub lost: BTreeSet<NodeId>,
    listener: String,
    version: i16,
}

impl MetadataAnswer {
    /// The brokers that the client can reach by its listener.
    pub fn brokers(&self) -> impl Iterator<Item = BrokerRow<'_>> {
        self.snapshot.reachable(&self.listener).map(|(node, endpoint, rack)| BrokerRow {
            node_id: node.0,
            host: &endpoint.host,
            port: i32::from(endpoint.port),
            rack,
        })
    }

    /// Whom to send admin requests to; −1 for nobody.
    #[must_use]
    pub fn controller_id(&self) -> i32 {
        self.snapshot.controller_for(&self.listener).0
    }

    /// The cluster's id; none before it has been minted.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.snapshot.cluster_id.as_deref()
    }

    /// The names that could not be created get the error that the controller gave.
    pub fn creation_failed(&mut self, failed: &[(String, ResponseError)]) {
        let errors: BTreeMap<&str, i16> =
            failed.iter().map(|(name, error)| (&**name, error.code())).collect();
        for row in self.topics.iter_mut().filter(|row| row.view.is_none()) {
            if let Some(code) = row.name.as_deref().and_then(|name| errors.get(name)) {
                row.error_code = *code;
            }
        }
    }
}

impl TopicSelection<'_> {
    /// The leaders of the partitions of the topics that are named, the first `max` of them.
    #[must_use]
    pub fn leaders(&self, snapshot: &Snapshot, max: usize) -> Vec<Leader> {
        let TopicSelection::These(keys) = self else { return Vec::new() };
        let views = keys.iter().filter_map(|key| key.find(snapshot));
        let partitions = views.flat_map(|view| view.partitions.iter());
        partitions.take(max).filter_map(|partition| partition.leader).collect()
    }
}

/// Answers a Metadata request.
#[must_use]
pub fn metadata(snapshot: &Arc<Snapshot>, query: &MetadataQuery<'_>) -> MetadataAnswer {
    let mut to_create = Vec::new();
    let mut seen = BTreeSet::new();
    let topics = match &query.topics {
        TopicSelection::All => snapshot.topics.values().map(|view| known_row(view, query)).collect(),
        TopicSelection::These(keys) => {
            // A topic named twice is answered once, as Kafka does: a small frame must not ask for a huge answer.
            let fresh = keys.iter().filter(|key| seen.insert(**key));
            fresh.map(|key| named_row(snapshot, query, key, &mut to_create)).collect()
        }
    };
    let cluster_operations = query.include_cluster_authorized_operations && (8..=10).contains(&query.version);
    MetadataAnswer {
        snapshot: Arc::clone(snapshot),
        topics,
        cluster_authorized_operations: if cluster_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        },
        error_code: NONE,
        to_create,
        lost: BTreeSet::new(),
        listener: query.listener.to_owned(),
        version: query.version,
    }
}

fn known_row(view: &Arc<TopicView>, query: &MetadataQuery<'_>) -> TopicRow {
    TopicRow {
        error_code: NONE,
        name: Some(Arc::clone(&view.name)),
        id: view.id,
        is_internal: view.is_internal(),
        authorized_operations: topic_operations(query),
        view: Some(Arc::clone(view)),
    }
}

fn topic_operations(query: &MetadataQuery<'_>) -> i32 {
    if query.include_topic_authorized_operations { TOPIC_OPERATIONS } else { OPERATIONS_NOT_ASKED }
}

fn named_row(
    snapshot: &Snapshot,
    query: &MetadataQuery<'_>,
    key: &TopicKey<'_>,
    to_create: &mut Vec<String>,
) -> TopicRow {
    let failed = |code: ResponseError| TopicRow {
        error_code: code.code(),
        // Below v12 the answer has no way to say that there is no name.
        name: key.name.or((query.version < 12).then_some("")).map(Arc::from),
        id: key.id,
        is_internal: key.name.is_some_and(is_internal),
        authorized_operations: topic_operations(query),
        view: None,
    };
    // v10 and v11 have the field but must not be used to ask by id (KAFKA-13012).
    if query.version < 12 && (!key.id.is_nil() || key.name.is_none()) {
        return failed(ResponseError::InvalidRequest);
    }
    if let Some(view) = key.find(snapshot) {
        return known_row(view, query);
    }
    if !key.id.is_nil() {
        return TopicRow { name: None, ..failed(ResponseError::UnknownTopicId) };
    }
    let Some(name) = key.name else { return failed(ResponseError::UnknownTopicId) };
    if check_topic_name(name).is_err() {
        return failed(ResponseError::InvalidTopicException);
    }
    let may_create = query.allow_auto_topic_creation && snapshot.config.auto_create_topics_enable;
    if may_create && to_create.len() < REQUEST_PARTITIONS_MAX {
        to_create.push(name.to_owned());
    }
    failed(ResponseError::UnknownTopicOrPartition)
}
