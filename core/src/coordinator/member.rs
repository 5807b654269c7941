//! One member of a group.

use bytes::Bytes;
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;

use super::Name;
use super::api::CallId;
use super::records::MemberValue;

/// Somebody who waits for an answer, and the version it must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) call: CallId,
    pub(super) version: i16,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: Name,
    pub(super) group_instance_id: Option<Name>,
    pub(super) client_id: Name,
    pub(super) client_host: Name,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// The protocols that it supports, best first, with its metadata for each. No name occurs twice.
    pub(super) protocols: Vec<(Name, Bytes)>,
    pub(super) assignment: Bytes,
    /// Its JoinGroup, while that is not answered.
    pub(super) awaiting_join: Option<Waiter>,
    /// Its SyncGroup, while that is not answered.
    pub(super) awaiting_sync: Option<Waiter>,
    /// It has not been part of a finished join phase yet: its own timeout counts although it waits.
    pub(super) is_new: bool,
}

impl Member {
    pub(super) fn from_record(value: &MemberValue, protocol: Option<&Name>) -> Self {
        let rebalance_timeout_ms = match value.rebalance_timeout_ms {
            -1 => value.session_timeout_ms,
            timeout_ms => timeout_ms,
        };
        let protocol = protocol.cloned().unwrap_or_else(|| "".into());
        Self {
            id: value.member_id.clone(),
            group_instance_id: value.group_instance_id.clone(),
            client_id: value.client_id.clone(),
            client_host: value.client_host.clone(),
            rebalance_timeout_ms,
            session_timeout_ms: value.session_timeout_ms,
            protocols: vec![(protocol, value.subscription.clone())],
            assignment: value.assignment.clone(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        }
    }

    pub(super) fn to_record(&self, protocol: &str, assignment: Bytes) -> MemberValue {
        MemberValue {
            member_id: self.id.clone(),
            group_instance_id: self.group_instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }

    /// Its metadata for a protocol; empty when it does not know that protocol.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| &**name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| &**name == protocol)
    }

    /// Whether the session may run out without harm: it waits for us, not we for it.
    pub(super) fn is_excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    pub(super) fn joined(&self, protocol: &str) -> JoinGroupResponseMember {
        JoinGroupResponseMember::default()
            .with_member_id(wire(&self.id))
            .with_group_instance_id(self.group_instance_id.as_deref().map(wire))
            .with_metadata(self.metadata(protocol))
    }

    /// As DescribeGroups shows it. Metadata is shown for a chosen protocol only.
    pub(super) fn described(&self, protocol: Option<&str>) -> DescribedGroupMember {
        DescribedGroupMember::default()
            .with_member_id(wire(&self.id))
            .with_group_instance_id(self.group_instance_id.as_deref().map(wire))
            .with_client_id(wire(&self.client_id))
            .with_client_host(wire(&self.client_host))
            .with_member_assignment(self.assignment.clone())
            .with_member_metadata(protocol.map(|protocol| self.metadata(protocol)).unwrap_or_default())
    }
}

/// The protocols of a JoinGroup, copied out of the frame. Of two with one name the first counts.
pub(super) fn protocols_of(protocols: &[JoinGroupRequestProtocol]) -> Vec<(Name, Bytes)> {
    let mut known: Vec<(Name, Bytes)> = Vec::with_capacity(protocols.len());
    for protocol in protocols {
        if !known.iter().any(|(name, _)| **name == *protocol.name) {
            known.push((protocol.name.as_str().into(), Bytes::copy_from_slice(&protocol.metadata)));
        }
    }
    known
}

/// A name as the wire structures want it.
pub(super) fn wire(name: &str) -> StrBytes {
    StrBytes::from_string(name.to_owned())
}
