//! The records of `__consumer_offsets`, byte for byte as Kafka 4.3.1 writes them.
//!
//! ```text
//! key    i16 type: 0 or 1 offset commit, 2 group metadata
//!        offset commit:   string group, string topic, i32 partition
//!        group metadata:  string group
//! value  i16 version, or no value at all: a tombstone
//!        offset commit:   version 4 (written), 0 to 4 (read); version 1 is written when an expiry is asked for
//!        group metadata:  version 3 (written), 0 to 4 (read)
//! ```
//! Sources: the schemas `OffsetCommitKey/Value.json` and `GroupMetadataKey/Value.json` of Kafka's
//! group-coordinator. `kafka-dump-log --offsets-decoder` reads what is written here. Decoding never panics and
//! never allocates beyond the bytes given.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use super::Name;
use super::wire::{Reader, put_bytes, put_compact_string, put_nullable_string, put_string, put_uvarint};

const LEGACY_OFFSET_COMMIT_KEY: i16 = 0;
const OFFSET_COMMIT_KEY: i16 = 1;
const GROUP_METADATA_KEY: i16 = 2;
const GROUP_METADATA_VALUE_VERSION: i16 = 3;
/// Fewest bytes that a member can take in any version of the group metadata value: three strings, two blobs, a
/// number.
const MEMBER_BYTES_MIN: usize = 9;

/// Why a record of the partition could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// It ends before its contents do.
    #[error("the record ends early: {wanted} bytes wanted, {left} left")]
    Truncated {
        /// Bytes that the next field takes.
        wanted: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// A length is negative, over-long or beyond the record.
    #[error("the record has an impossible length")]
    BadLength,
    /// A string is not UTF-8.
    #[error("a string of the record is not UTF-8")]
    BadText,
    /// A field is null that may not be.
    #[error("a field of the record is null that may not be")]
    UnexpectedNull,
    /// The key's type is not one that this version knows.
    #[error("record type {0} is not known: it was written by a newer version")]
    UnknownKey(i16),
    /// The value's version is not one that this version knows.
    #[error("version {version} of record type {key} is not known: it was written by a newer version")]
    UnknownValueVersion {
        /// The key's type.
        key: i16,
        /// The version of the value.
        version: i16,
    },
}

/// A record to append to the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// The record's timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKey {
    /// The offset of a group in a partition.
    Offset {
        /// The group.
        group: Name,
        /// The topic.
        topic: Name,
        /// The partition.
        partition: i32,
    },
    /// The metadata of a group.
    Group {
        /// The group.
        group: Name,
    },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The offset that the group goes on from.
    pub offset: i64,
    /// Leader epoch of the last record consumed; −1 when the client gave none.
    pub leader_epoch: i32,
    /// What the client wants kept with it.
    pub metadata: Name,
    /// When it was committed, Unix milliseconds.
    pub commit_timestamp_ms: i64,
    /// When it expires, if the client said so (OffsetCommit 2 to 4).
    pub expire_timestamp_ms: Option<i64>,
    /// The topic's id; nil when the request carried none.
    pub topic_id: Uuid,
}

/// The persisted part of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// Protocol type, `consumer` for consumers; empty for none.
    pub protocol_type: Name,
    /// The generation.
    pub generation: i32,
    /// The chosen protocol.
    pub protocol: Option<Name>,
    /// Member id of the leader.
    pub leader: Option<Name>,
    /// When the group came into its state, Unix milliseconds; −1 when not known.
    pub state_timestamp_ms: i64,
    /// The members.
    pub members: Vec<MemberValue>,
}

/// The persisted part of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Member id.
    pub member_id: Name,
    /// Instance id of a static member.
    pub group_instance_id: Option<Name>,
    /// The client's id.
    pub client_id: Name,
    /// The client's address.
    pub client_host: Name,
    /// Rebalance timeout; −1 in records of version 0.
    pub rebalance_timeout_ms: i32,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Its metadata for the chosen protocol.
    pub subscription: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}

impl RecordKey {
    /// The group that it belongs to.
    #[must_use]
    pub fn group(&self) -> &Name {
        match self {
            Self::Offset { group, .. } | Self::Group { group } => group,
        }
    }

    /// Reads a record's key.
    ///
    /// # Errors
    /// When it is damaged or of a type that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        match reader.i16()? {
            LEGACY_OFFSET_COMMIT_KEY | OFFSET_COMMIT_KEY => Ok(Self::Offset {
                group: reader.string(false)?,
                topic: reader.string(false)?,
                partition: reader.i32()?,
            }),
            GROUP_METADATA_KEY => Ok(Self::Group { group: reader.string(false)? }),
            other => Err(RecordError::UnknownKey(other)),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        match self {
            Self::Offset { group, topic, partition } => {
                buffer.put_i16(OFFSET_COMMIT_KEY);
                put_string(&mut buffer, group);
                put_string(&mut buffer, topic);
                buffer.put_i32(*partition);
            }
            Self::Group { group } => {
                buffer.put_i16(GROUP_METADATA_KEY);
                put_string(&mut buffer, group);
            }
        }
        buffer.freeze()
    }
}

impl OffsetAndMetadata {
    /// Reads the value of an offset commit.
    ///
    /// # Errors
    /// When it is damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if !(0..=4).contains(&version) {
            return Err(RecordError::UnknownValueVersion { key: OFFSET_COMMIT_KEY, version });
        }
        let offset = reader.i64()?;
        let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
        let metadata = reader.string(version >= 4)?;
        let commit_timestamp_ms = reader.i64()?;
        let expire = if version == 1 { reader.i64()? } else { -1 };
        let mut topic_id = Uuid::nil();
        if version >= 4 {
            reader.tagged_fields(|tag, field| {
                if tag == 0 {
                    topic_id = Uuid::from_u128(Reader::new(field).u128()?);
                }
                Ok(())
            })?;
        }
        let expire_timestamp_ms = (expire != -1).then_some(expire);
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id })
    }

    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(48 + self.metadata.len());
        if let Some(expire_timestamp_ms) = self.expire_timestamp_ms {
            // Only version 1 has the expiry; Kafka gives up the leader epoch for it, and so does this.
            buffer.put_i16(1);
            buffer.put_i64(self.offset);
            put_string(&mut buffer, &self.metadata);
            buffer.put_i64(self.commit_timestamp_ms);
            buffer.put_i64(expire_timestamp_ms);
            return buffer.freeze();
        }
        buffer.put_i16(4);
        buffer.put_i64(self.offset);
        buffer.put_i32(self.leader_epoch);
        put_compact_string(&mut buffer, &self.metadata);
        buffer.put_i64(self.commit_timestamp_ms);
        if self.topic_id.is_nil() {
            put_uvarint(&mut buffer, 0);
        } else {
            put_uvarint(&mut buffer, 1);
            put_uvarint(&mut buffer, 0);
            put_uvarint(&mut buffer, 16);
            buffer.put_slice(self.topic_id.as_bytes());
        }
        buffer.freeze()
    }
}

impl GroupValue {
    /// Reads the value of a group's metadata.
    ///
    /// # Errors
    /// When it is damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        if !(0..=4).contains(&version) {
            return Err(RecordError::UnknownValueVersion { key: GROUP_METADATA_KEY, version });
        }
        let flexible = version >= 4;
        let protocol_type = reader.string(flexible)?;
        let generation = reader.i32()?;
        let protocol = reader.nullable_string(flexible)?;
        let leader = reader.nullable_string(flexible)?;
        let state_timestamp_ms = if version >= 2 { reader.i64()? } else { -1 };
        let count = reader.array_count(flexible, MEMBER_BYTES_MIN)?;
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            members.push(MemberValue::decode(&mut reader, version)?);
        }
        if flexible {
            reader.tagged_fields(|_, _| Ok(()))?;
        }
        Ok(Self { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
    }

    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        buffer.put_i16(GROUP_METADATA_VALUE_VERSION);
        put_string(&mut buffer, &self.protocol_type);
        buffer.put_i32(self.generation);
        put_nullable_string(&mut buffer, self.protocol.as_deref());
        put_nullable_string(&mut buffer, self.leader.as_deref());
        buffer.put_i64(self.state_timestamp_ms);
        buffer.put_i32(i32::try_from(self.members.len()).expect("a group's size is a 32-bit setting"));
        for member in &self.members {
            put_string(&mut buffer, &member.member_id);
            put_nullable_string(&mut buffer, member.group_instance_id.as_deref());
            put_string(&mut buffer, &member.client_id);
            put_string(&mut buffer, &member.client_host);
            buffer.put_i32(member.rebalance_timeout_ms);
            buffer.put_i32(member.session_timeout_ms);
            put_bytes(&mut buffer, &member.subscription);
            put_bytes(&mut buffer, &member.assignment);
        }
        buffer.freeze()
    }
}

impl MemberValue {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, RecordError> {
        let flexible = version >= 4;
        let member_id = reader.string(flexible)?;
        let group_instance_id = if version >= 3 { reader.nullable_string(flexible)? } else { None };
        let client_id = reader.string(flexible)?;
        let client_host = reader.string(flexible)?;
        let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
        let session_timeout_ms = reader.i32()?;
        let subscription = reader.bytes(flexible)?;
        let assignment = reader.bytes(flexible)?;
        if flexible {
            reader.tagged_fields(|_, _| Ok(()))?;
        }
        Ok(Self {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            subscription,
            assignment,
        })
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod records_tests;
