//! Parts that the messages of several APIs have in common.

use super::wire::{FrameReader, Reader, WireError};
use super::writer::{EncodeError, Writer};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// How a request or response names a topic: by name in older versions, by id (KIP-516) in newer ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name.
    Name(StrBytes),
    /// By id.
    Id(Uuid),
}

impl TopicRef {
    /// The name, where the topic is named so.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            TopicRef::Name(name) => Some(name),
            TopicRef::Id(_) => None,
        }
    }

    /// The id, where the topic is named so.
    #[must_use]
    pub fn id(&self) -> Option<Uuid> {
        match self {
            TopicRef::Name(_) => None,
            TopicRef::Id(id) => Some(*id),
        }
    }

    /// Least bytes that a topic reference takes on the wire.
    pub(super) fn bytes_min(by_id: bool) -> usize {
        if by_id { 16 } else { 1 }
    }

    pub(super) fn decode(frame: &mut FrameReader, by_id: bool) -> Result<Self, WireError> {
        match by_id {
            true => Ok(TopicRef::Id(frame.read(|reader| reader.uuid())?)),
            false => Ok(TopicRef::Name(frame.string()?)),
        }
    }

    /// Writes the kind that the version has; the other kind is an error of the caller.
    pub(super) fn encode(&self, writer: &mut Writer, by_id: bool) {
        match self {
            TopicRef::Id(id) if by_id => writer.uuid(*id),
            TopicRef::Name(name) if !by_id => writer.string(name),
            TopicRef::Id(_) | TopicRef::Name(_) => writer.refuse(EncodeError::WrongTopicReference),
        }
    }
}

/// The leader a client should turn to instead (KIP-951).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    /// Node id of the leader, −1 when it is not known.
    pub leader_id: i32,
    /// Its epoch, −1 when it is not known.
    pub leader_epoch: i32,
}

impl CurrentLeader {
    pub(super) fn encode(self, writer: &mut Writer) {
        writer.i32(self.leader_id);
        writer.i32(self.leader_epoch);
        writer.end_struct();
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let leader = Self { leader_id: reader.i32()?, leader_epoch: reader.i32()? };
        reader.end_struct()?;
        Ok(leader)
    }
}

/// Where a node named in a [`CurrentLeader`] is reached (KIP-951).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// Id of the node.
    pub node_id: i32,
    /// Its advertised host, on the listener that the client came in on.
    pub host: StrBytes,
    /// Its advertised port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<StrBytes>,
}

impl NodeEndpoint {
    /// Bytes of an endpoint with empty strings.
    const BYTES_MIN: usize = 4 + 1 + 4 + 1 + 1;

    pub(super) fn encode_all(endpoints: &[NodeEndpoint], writer: &mut Writer) {
        writer.length(endpoints.len());
        for endpoint in endpoints {
            writer.i32(endpoint.node_id);
            writer.string(&endpoint.host);
            writer.i32(endpoint.port);
            writer.nullable_string(endpoint.rack.as_deref());
            writer.end_struct();
        }
    }

    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        let count = reader.array_length(Self::BYTES_MIN)?;
        let mut endpoints = Vec::with_capacity(count);
        for _ in 0..count {
            endpoints.push(Self {
                node_id: reader.i32()?,
                host: owned(reader.string()?),
                port: reader.i32()?,
                rack: reader.nullable_string()?.map(owned),
            });
            reader.end_struct()?;
        }
        Ok(endpoints)
    }
}

fn owned(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
