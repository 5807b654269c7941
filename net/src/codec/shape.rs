//! The guard before the general codec: walks a cold request by its shape and refuses it unless every length fits.
//!
//! `kafka_protocol` allocates room for as many array elements as a frame announces, so that eight bytes could abort the
//! process. The walk allocates nothing; each array must fit with the least size of its elements, and [`Reader`]'s limits
//! on elements and tagged fields bound what the decoded structs can take. The shapes are in `shapes`.

use super::api::ApiKey;
use super::shapes;
use super::wire::{Reader, WireError};

/// Stands for "all later versions".
pub(super) const LATEST: i16 = i16::MAX;

/// One field of a message, with the versions that have it.
#[derive(Debug)]
pub(super) struct Field {
    /// Kafka's name of the field.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    from: i16,
    to: i16,
    nullable_from: i16,
    nullable_to: i16,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Kind {
    /// A number, boolean or uuid of so many bytes.
    Fixed(usize),
    /// A string.
    String,
    /// A byte field.
    Bytes,
    /// Other fields in a row, then tagged fields in a flexible version.
    Struct(&'static [Field]),
    /// Any number of one kind.
    Array(&'static Kind),
}

impl Field {
    /// A field of versions `from` to `to` that is never null.
    pub(super) const fn new(name: &'static str, from: i16, to: i16, kind: Kind) -> Self {
        Self { name, kind, from, to, nullable_from: 1, nullable_to: 0 }
    }

    /// The same field, null allowed in versions `from` to `to`.
    pub(super) const fn nullable(mut self, from: i16, to: i16) -> Self {
        self.nullable_from = from;
        self.nullable_to = to;
        self
    }

    /// Whether `version` has this field.
    pub(super) fn is_in(&self, version: i16) -> bool {
        (self.from..=self.to).contains(&version)
    }

    /// Whether it may be null in `version`.
    pub(super) fn is_nullable_in(&self, version: i16) -> bool {
        (self.nullable_from..=self.nullable_to).contains(&version)
    }
}

/// The shape of a cold request's body; none for the hand-written ones.
pub(super) fn request_shape(api: ApiKey) -> Option<&'static [Field]> {
    let shape = match api {
        ApiKey::Produce | ApiKey::Fetch | ApiKey::Metadata | ApiKey::ApiVersions => return None,
        ApiKey::ListOffsets => shapes::LIST_OFFSETS,
        ApiKey::OffsetCommit => shapes::OFFSET_COMMIT,
        ApiKey::OffsetFetch => shapes::OFFSET_FETCH,
        ApiKey::FindCoordinator => shapes::FIND_COORDINATOR,
        ApiKey::JoinGroup => shapes::JOIN_GROUP,
        ApiKey::Heartbeat => shapes::HEARTBEAT,
        ApiKey::LeaveGroup => shapes::LEAVE_GROUP,
        ApiKey::SyncGroup => shapes::SYNC_GROUP,
        ApiKey::DescribeGroups => shapes::DESCRIBE_GROUPS,
        ApiKey::ListGroups => shapes::LIST_GROUPS,
        ApiKey::CreateTopics => shapes::CREATE_TOPICS,
        ApiKey::DeleteTopics => shapes::DELETE_TOPICS,
        ApiKey::DeleteRecords => shapes::DELETE_RECORDS,
        ApiKey::InitProducerId => shapes::INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => shapes::OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => shapes::DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => shapes::ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => shapes::DESCRIBE_LOG_DIRS,
        ApiKey::CreatePartitions => shapes::CREATE_PARTITIONS,
        ApiKey::DeleteGroups => shapes::DELETE_GROUPS,
        ApiKey::IncrementalAlterConfigs => shapes::INCREMENTAL_ALTER_CONFIGS,
        ApiKey::OffsetDelete => shapes::OFFSET_DELETE,
        ApiKey::DescribeCluster => shapes::DESCRIBE_CLUSTER,
        ApiKey::DescribeTopicPartitions => shapes::DESCRIBE_TOPIC_PARTITIONS,
        ApiKey::ElectLeaders => shapes::ELECT_LEADERS,
        ApiKey::AlterPartitionReassignments => shapes::ALTER_PARTITION_REASSIGNMENTS,
        ApiKey::ListPartitionReassignments => shapes::LIST_PARTITION_REASSIGNMENTS,
        ApiKey::DescribeQuorum => shapes::DESCRIBE_QUORUM,
        ApiKey::UnregisterBroker => shapes::UNREGISTER_BROKER,
        ApiKey::AddRaftVoter => shapes::ADD_RAFT_VOTER,
        ApiKey::RemoveRaftVoter => shapes::REMOVE_RAFT_VOTER,
    };
    Some(shape)
}

/// Where a walk stopped and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {cause}")]
pub struct ShapeError {
    /// Kafka's name of the innermost field that could not be read.
    pub field: &'static str,
    /// Why.
    #[source]
    pub cause: WireError,
}

/// Walks the body of a cold request; answers how many bytes it takes. An entry point for fuzzing, too.
///
/// Bytes after the body are left alone: Kafka's parser never looks at them either.
pub fn check_request(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, ShapeError> {
    let Some(fields) = request_shape(api) else { return Ok(body.len()) };
    let flexible = api.flexible(version);
    let mut reader = Reader::new(body, flexible);
    Walk { version, flexible }.structure(api.name(), fields, &mut reader)?;
    Ok(body.len() - reader.left())
}

struct Walk {
    version: i16,
    flexible: bool,
}

impl Walk {
    fn structure(
        &self,
        name: &'static str,
        fields: &'static [Field],
        reader: &mut Reader<'_>,
    ) -> Result<(), ShapeError> {
        for field in fields.iter().filter(|field| field.is_in(self.version)) {
            let nullable = field.is_nullable_in(self.version);
            self.value(field.name, &field.kind, nullable, reader)?;
        }
        reader.end_struct().map_err(|cause| ShapeError { field: name, cause })
    }

    fn value(
        &self,
        name: &'static str,
        kind: &'static Kind,
        nullable: bool,
        reader: &mut Reader<'_>,
    ) -> Result<(), ShapeError> {
        let at = |cause| ShapeError { field: name, cause };
        let length = match kind {
            Kind::Fixed(bytes) => return reader.take(*bytes).map(|_| ()).map_err(at),
            Kind::Struct(fields) => {
                // A nullable struct is preceded by a signed byte, below zero for null.
                if nullable && reader.i8().map_err(at)? < 0 {
                    return Ok(());
                }
                return self.structure(name, fields, reader);
            }
            Kind::String => reader.string_length(),
            Kind::Bytes => reader.bytes_length(),
            Kind::Array(element) => reader.nullable_array_length(self.bytes_min(element)),
        };
        let Some(length) = length.map_err(at)? else {
            return if nullable { Ok(()) } else { Err(at(WireError::UnexpectedNull)) };
        };
        let Kind::Array(element) = kind else {
            return reader.take(length).map(|_| ()).map_err(at);
        };
        for _ in 0..length {
            self.value(name, element, false, reader)?;
        }
        Ok(())
    }

    /// The least bytes that a value of this kind takes.
    fn bytes_min(&self, kind: &Kind) -> usize {
        match kind {
            Kind::Fixed(bytes) => *bytes,
            Kind::String => {
                if self.flexible {
                    1
                } else {
                    2
                }
            }
            Kind::Bytes | Kind::Array(_) => {
                if self.flexible {
                    1
                } else {
                    4
                }
            }
            Kind::Struct(fields) => {
                let own: usize = fields
                    .iter()
                    .filter(|field| field.is_in(self.version))
                    .map(|field| match &field.kind {
                        Kind::Struct(_) if field.is_nullable_in(self.version) => 1,
                        kind => self.bytes_min(kind),
                    })
                    .sum();
                own + usize::from(self.flexible)
            }
        }
    }
}
