//! The commands of the metadata log: each is one JSON record of a Kafka batch, and one batch is applied whole.
//!
//! Made by the controller on the leader's shard 0, applied by `MetadataState` on every node. Rules of evolution: a field
//! may be added with a default that means what its absence meant; anything else raises [`FORMAT_VERSION`], and a record of
//! a newer version is refused (SAFETY.md, rule 25), because skipping it would make this node's state differ from the others'.
//! A record is written in the oldest version that has its command, so that nodes of both versions work together until the
//! first new command.
//!
//! ```text
//! {"version":1,"command":{"type":"delete_topic","id":"6f3c…"}}
//! ```

use std::collections::BTreeMap;

use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex, Term};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// The newest version of a record that this build reads.
pub const FORMAT_VERSION: u32 = 2;

/// A record of the metadata log that cannot be applied.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Written by a newer chronik.
    #[error(
        "the metadata log holds a record of version {0}, this chronik reads up to {FORMAT_VERSION}: upgrade this node"
    )]
    Newer(u32),
    /// Not a command.
    #[error("the metadata log holds a record that is no command: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Where clients of one listener reach a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name or address, as advertised.
    pub host: String,
    /// Port, as advertised.
    pub port: u16,
}

/// One replica of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The broker that holds it.
    pub node: NodeId,
    /// What Raft knows this incarnation of it by.
    pub peer: PeerId,
}

/// One member of the metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataReplica {
    /// The node.
    pub node: NodeId,
    /// What Raft knows this incarnation of it by.
    pub peer: PeerId,
    /// Its data directory: another one is another incarnation (SAFETY.md, rule 8).
    #[serde(with = "uuid_text")]
    pub directory: Uuid,
}

/// One partition to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPlacement {
    /// Its Raft group.
    pub group: GroupId,
    /// Its replicas; the first is the one preferred as leader, once the cluster is at rest.
    pub replicas: Vec<Replica>,
    /// Who campaigns first; the first replica when left out (field report 003: the metadata leader, if it holds one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_leader: Option<NodeId>,
}

/// What configs belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigScope {
    /// One topic.
    Topic(#[serde(with = "uuid_text")] Uuid),
    /// One broker.
    Broker(NodeId),
    /// All brokers.
    Cluster,
}

/// A forwarded admin request: who sent it, and its number there, so that its retry is recognised (SAFETY.md, rule 21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    /// The node that forwarded it.
    pub node: NodeId,
    /// That node's incarnation: drawn anew at each start.
    pub incarnation: u64,
    /// Counted up by that incarnation.
    pub sequence: u64,
}

/// One change of the metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    /// Names the cluster, once and for all. The first command of every log.
    MintClusterId {
        /// 22 characters of URL-safe base64, as Kafka's.
        cluster_id: String,
    },
    /// A broker has come up, or changed its addresses. A new one becomes a member of the metadata group; one with another
    /// directory than before is a new peer in every group that it is in (SAFETY.md, rule 8).
    RegisterBroker {
        /// The broker.
        node: NodeId,
        /// Its data directory (rule 8).
        #[serde(with = "uuid_text")]
        directory: Uuid,
        /// Drawn anew at each start.
        #[serde(with = "uuid_text")]
        incarnation: Uuid,
        /// Its rack.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rack: Option<String>,
        /// Its Kafka listeners by name.
        listeners: BTreeMap<String, Endpoint>,
        /// Where its peers reach it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raft: Option<Endpoint>,
    },
    /// A broker has left for good, and with it the metadata group.
    UnregisterBroker {
        /// The broker.
        node: NodeId,
    },
    /// Makes a topic and its partitions, which are numbered from 0 in this order.
    CreateTopic {
        /// Never used before.
        #[serde(with = "uuid_text")]
        id: Uuid,
        /// Its name.
        name: String,
        /// Its own configs.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        configs: BTreeMap<String, String>,
        /// Its partitions.
        partitions: Vec<PartitionPlacement>,
    },
    /// Deletes a topic and its partitions.
    DeleteTopic {
        /// The topic.
        #[serde(with = "uuid_text")]
        id: Uuid,
    },
    /// Adds partitions at the end of a topic.
    AddPartitions {
        /// The topic.
        #[serde(with = "uuid_text")]
        id: Uuid,
        /// Number of the first one added: how many there are now.
        first: i32,
        /// The partitions.
        partitions: Vec<PartitionPlacement>,
    },
    /// Sets and removes configs.
    ChangeConfigs {
        /// Of whom.
        scope: ConfigScope,
        /// `None` removes.
        changes: BTreeMap<String, Option<String>>,
    },
    /// Gives a block of producer ids to a node.
    AllocateProducerIds {
        /// To whom.
        node: NodeId,
        /// The first id.
        first: i64,
        /// How many.
        count: i64,
    },
    /// Notes who leads a partition and which replicas are in sync: a hint for the time before the first event (rule 14).
    RecordLeader {
        /// The topic.
        #[serde(with = "uuid_text")]
        id: Uuid,
        /// The partition.
        partition: i32,
        /// The term it leads in.
        term: Term,
        /// The leader.
        leader: NodeId,
        /// The replicas in sync.
        in_sync: Vec<NodeId>,
    },
    /// Replaces the replicas of a partition: the target that its leader drives towards (rule 9).
    PlaceReplicas {
        /// The topic.
        #[serde(with = "uuid_text")]
        id: Uuid,
        /// The partition.
        partition: i32,
        /// The replicas, each with a peer id never used before or that it has already.
        replicas: Vec<Replica>,
    },
    /// The partition's leader has brought Raft to the target of [`Command::PlaceReplicas`]: what was to go is gone.
    CompletePlacement {
        /// The topic.
        #[serde(with = "uuid_text")]
        id: Uuid,
        /// The partition.
        partition: i32,
        /// What it has reached, in any order: must be the target still.
        replicas: Vec<Replica>,
        /// The entry of the partition's log with which these became the members; 0 where the leader did not say.
        #[serde(default)]
        index: RaftIndex,
    },
    /// Sets the members of the metadata group, as [`Command::PlaceReplicas`] does for a partition. The first one of all is
    /// complete at once: it names who has formed the cluster.
    PlaceMetadataReplicas {
        /// The members, each with a peer id never used before or that it has already.
        replicas: Vec<MetadataReplica>,
    },
    /// The metadata leader has brought Raft to these members.
    CompleteMetadataPlacement {
        /// What it has reached, in any order: must be the target still.
        replicas: Vec<MetadataReplica>,
    },
    /// A broker is being drained, so that internal topics do not grow onto it; or is so no more. Since version 2.
    MarkDraining {
        /// The broker.
        node: NodeId,
        /// Whether it is.
        draining: bool,
    },
    /// Sets the level of a feature of the cluster.
    SetFeature {
        /// The feature.
        name: String,
        /// Its level; 0 removes it.
        level: i16,
    },
    /// The commands of this batch answer this request.
    CompleteRequest {
        /// The request.
        request: RequestId,
    },
}

impl Command {
    /// The oldest version of a record that has this command.
    fn version(&self) -> u32 {
        match self {
            Self::MarkDraining { .. } => 2,
            _ => 1,
        }
    }
}

/// A UUID as text in JSON.
pub(super) mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use uuid::Uuid;

    pub(in crate::metadata) fn serialize<S: Serializer>(id: &Uuid, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(id)
    }

    pub(in crate::metadata) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Uuid::parse_str(&text).map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize)]
struct RecordOut<'a> {
    version: u32,
    command: &'a Command,
}

#[derive(Deserialize)]
struct VersionIn {
    version: u32,
}

#[derive(Deserialize)]
struct RecordIn {
    command: Command,
}

/// The records of one batch, in the order in which they are applied.
///
/// # Panics
/// Never: no command holds a map whose keys are not strings, the one thing JSON could refuse.
#[must_use]
pub fn encode(commands: &[Command]) -> Vec<Vec<u8>> {
    let record = |command: &Command| serde_json::to_vec(&RecordOut { version: command.version(), command });
    commands.iter().map(|command| record(command).expect("a command is plain data")).collect()
}

/// The command of one record.
///
/// # Errors
/// When it is of a newer version, or no command.
pub fn decode(record: &[u8]) -> Result<Command, DecodeError> {
    let VersionIn { version } = serde_json::from_slice(record)?;
    if version > FORMAT_VERSION {
        return Err(DecodeError::Newer(version));
    }
    let record: RecordIn = serde_json::from_slice(record)?;
    Ok(record.command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_these_bytes() {
        let command = Command::CreateTopic {
            id: Uuid::from_u128(7),
            name: "t".to_owned(),
            configs: BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]),
            partitions: vec![PartitionPlacement {
                group: GroupId(3),
                replicas: vec![Replica { node: NodeId(1), peer: PeerId(9) }],
                first_leader: None,
            }],
        };
        let records = encode(std::slice::from_ref(&command));
        let expected = concat!(
            r#"{"version":1,"command":{"type":"create_topic","id":"00000000-0000-0000-0000-000000000007","#,
            r#""name":"t","configs":{"retention.ms":"1"},"partitions":[{"group":3,"replicas":[{"node":1,"peer":9}]}]}}"#
        );
        assert_eq!(std::str::from_utf8(&records[0]).unwrap(), expected);
        assert_eq!(decode(&records[0]).unwrap(), command);
    }

    /// A chronik that knows only version 1 refuses what it cannot apply, and takes all the rest.
    #[test]
    fn a_record_is_of_the_oldest_version_that_has_its_command() {
        let mark = Command::MarkDraining { node: NodeId(3), draining: true };
        let records = encode(&[mark.clone(), Command::UnregisterBroker { node: NodeId(3) }]);
        let expected = r#"{"version":2,"command":{"type":"mark_draining","node":3,"draining":true}}"#;
        assert_eq!(std::str::from_utf8(&records[0]).unwrap(), expected);
        assert_eq!(decode(&records[0]).unwrap(), mark);
        let expected = r#"{"version":1,"command":{"type":"unregister_broker","node":3}}"#;
        assert_eq!(std::str::from_utf8(&records[1]).unwrap(), expected);
    }

    #[test]
    fn newer_and_malformed_records_are_refused() {
        let newer = br#"{"version":3,"command":{"type":"something_new"}}"#;
        assert!(matches!(decode(newer), Err(DecodeError::Newer(3))));
        assert!(matches!(decode(b"{}"), Err(DecodeError::Malformed(_))));
        let unknown = br#"{"version":1,"command":{"type":"something_new"}}"#;
        assert!(matches!(decode(unknown), Err(DecodeError::Malformed(_))));
    }
}
