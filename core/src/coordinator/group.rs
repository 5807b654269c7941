//! The state of one classic group.
//!
//! ```text
//!            first join                all joined, or time is up
//!   Empty ───────────────▶ PreparingRebalance ───────────────▶ CompletingRebalance ──leader's assignment──▶ Stable
//!     ▲                      │    ▲    ▲                              │                   is committed        │
//!     └──── nobody is left ──┘    │    └──── a member joins or goes ──┘                                       │
//!                                 └───────────────────────────── a member joins or goes ──────────────────────┘
//!   Dead: a tombstone is on its way to the log; whoever asks is told to come again.
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;

use super::Name;
use super::member::Member;
use super::records::GroupValue;
use super::wire::Reader;

/// Protocol type of consumers; only their metadata is understood here.
pub(super) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// State of a group. The names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// The first join phase of an empty group (`group.initial.rebalance.delay.ms`).
#[derive(Clone, Copy, Debug)]
pub(super) struct InitialDelay {
    /// The stretch that runs now.
    pub(super) delay_ms: u64,
    /// What is left of the rebalance timeout.
    pub(super) remaining_ms: u64,
    /// Somebody has joined during this stretch, so that another one may follow.
    pub(super) new_member_added: bool,
}

/// A classic group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: Name,
    pub(super) state: State,
    pub(super) previous_state: State,
    /// When it came into its state, Unix milliseconds; unknown in old records.
    pub(super) state_timestamp_ms: Option<i64>,
    pub(super) protocol_type: Option<Name>,
    pub(super) protocol: Option<Name>,
    pub(super) generation: i32,
    pub(super) leader: Option<Name>,
    pub(super) members: BTreeMap<Name, Member>,
    /// Instance id → member id.
    static_members: BTreeMap<Name, Name>,
    /// Member ids handed out with MEMBER_ID_REQUIRED that have not come back.
    pub(super) pending_members: BTreeSet<Name>,
    /// Members of this generation that have not synced.
    pub(super) pending_sync: BTreeSet<Name>,
    /// What consumers subscribe to, if that could be read.
    subscribed_topics: Option<BTreeSet<Name>>,
    /// While a group that was empty waits for members to come: how its join phase may be extended.
    pub(super) initial_delay: Option<InitialDelay>,
    /// A record of this group has been committed: it exists for everyone.
    pub(super) is_committed: bool,
}

impl Group {
    pub(super) fn new(id: Name, wall_ms: i64) -> Self {
        Self {
            id,
            state: State::Empty,
            previous_state: State::Dead,
            state_timestamp_ms: Some(wall_ms),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_members: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed_topics: None,
            initial_delay: None,
            is_committed: false,
        }
    }

    pub(super) fn from_record(id: Name, value: &GroupValue) -> Self {
        let mut group = Self::new(id, value.state_timestamp_ms);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.state_timestamp_ms = (value.state_timestamp_ms != -1).then_some(value.state_timestamp_ms);
        group.protocol_type = (!value.protocol_type.is_empty()).then(|| value.protocol_type.clone());
        group.protocol = value.protocol.clone();
        group.generation = value.generation;
        group.leader = value.leader.clone();
        group.is_committed = true;
        for member in &value.members {
            group.insert(Member::from_record(member, value.protocol.as_ref()));
        }
        group.elect_leader_if_gone();
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// The record of this group with the given assignments; a member without one gets an empty one.
    pub(super) fn to_record(&self, assignments: &BTreeMap<Name, Bytes>) -> GroupValue {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| {
            let assignment = assignments.get(&member.id).cloned().unwrap_or_default();
            member.to_record(protocol, assignment)
        });
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| "".into()),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms.unwrap_or(-1),
            members: members.collect(),
        }
    }

    /// The assignments that its members hold.
    pub(super) fn assignments(&self) -> BTreeMap<Name, Bytes> {
        self.members.values().map(|member| (member.id.clone(), member.assignment.clone())).collect()
    }

    pub(super) fn transition(&mut self, state: State, wall_ms: i64) {
        self.previous_state = self.state;
        self.state = state;
        self.state_timestamp_ms = Some(wall_ms);
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(super) fn static_member_id(&self, group_instance_id: &str) -> Option<&Name> {
        self.static_members.get(group_instance_id)
    }

    pub(super) fn insert(&mut self, member: Member) {
        if let Some(instance) = &member.group_instance_id {
            self.static_members.insert(instance.clone(), member.id.clone());
        }
        self.leader.get_or_insert_with(|| member.id.clone());
        self.pending_members.remove(&member.id);
        self.members.insert(member.id.clone(), member);
    }

    /// Removes a member or a pending member id. Whoever waits for the member is the caller's to answer.
    pub(super) fn remove(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id);
        if let Some(instance) = member.as_ref().and_then(|member| member.group_instance_id.as_ref()) {
            self.static_members.remove(instance);
        }
        self.pending_members.remove(member_id);
        self.pending_sync.remove(member_id);
        self.elect_leader_if_gone();
        member
    }

    /// Gives a static member another id. Returns the member as it was, its waiters included.
    pub(super) fn replace_static(&mut self, old_id: &str, new_id: &Name) -> Option<Member> {
        let old = self.members.remove(old_id)?;
        let mut new = old.clone();
        new.id = new_id.clone();
        new.awaiting_join = None;
        new.awaiting_sync = None;
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.clone());
        }
        self.insert(new);
        Some(old)
    }

    fn elect_leader_if_gone(&mut self) {
        let is_there = self.leader.as_ref().is_some_and(|leader| self.members.contains_key(leader));
        if !is_there {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Makes sure that the leader is one who has rejoined. False when nobody has.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = self.leader.as_ref().and_then(|leader| self.members.get(leader)) else {
            return false;
        };
        if leader.awaiting_join.is_some() {
            return true;
        }
        let joined = self.members.values().find(|member| member.awaiting_join.is_some());
        let Some(joined) = joined else { return false };
        self.leader = Some(joined.id.clone());
        true
    }

    pub(super) fn awaiting_join_count(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    pub(super) fn have_all_joined(&self) -> bool {
        self.pending_members.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// The longest rebalance timeout of its members.
    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max();
        longest.and_then(|timeout_ms| u64::try_from(timeout_ms).ok()).unwrap_or(0)
    }

    /// Whether a member with these protocols may join: its type is the group's and one protocol is everybody's.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[(Name, Bytes)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.members.values().all(|member| member.supports(name)))
    }

    /// The protocol with most votes among those that all members support. Equal votes go the leader's way.
    pub(super) fn vote(&self) -> Option<Name> {
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader))?;
        let is_candidate = |name: &str| self.members.values().all(|member| member.supports(name));
        let candidates: Vec<&Name> =
            leader.protocols.iter().map(|(name, _)| name).filter(|name| is_candidate(name)).collect();
        let mut votes = vec![0usize; candidates.len()];
        for member in self.members.values() {
            let choice =
                member.protocols.iter().find_map(|(name, _)| candidates.iter().position(|c| *c == name));
            if let Some(position) = choice {
                votes[position] += 1;
            }
        }
        let most = votes.iter().max()?;
        votes.iter().position(|count| count == most).map(|position| candidates[position].clone())
    }

    pub(super) fn start_generation(&mut self, wall_ms: i64) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.vote();
        self.subscribed_topics = self.compute_subscribed_topics();
        let state = if self.members.is_empty() { State::Empty } else { State::CompletingRebalance };
        self.transition(state, wall_ms);
        self.pending_sync.clear();
    }

    /// What the leader gets to see of the members.
    pub(super) fn joined_members(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members.values().map(|member| member.joined(protocol)).collect()
    }

    /// Checks that the caller is who it says it is.
    pub(super) fn check_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ResponseError> {
        if let Some(instance_id) = instance_id {
            match self.static_member_id(instance_id) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(current) if **current != *member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Whether consumers of this group read the topic. When their subscriptions cannot be read, any topic may be
    /// one.
    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub(super) fn knows_subscriptions(&self) -> bool {
        self.subscribed_topics.is_some()
    }

    fn compute_subscribed_topics(&self) -> Option<BTreeSet<Name>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol.as_deref()?);
            topics.extend(subscription_topics(&metadata)?);
        }
        Some(topics)
    }
}

/// The topics of a consumer's subscription. All versions begin as version 0 does: version, topics.
fn subscription_topics(metadata: &[u8]) -> Option<Vec<Name>> {
    let mut reader = Reader::new(metadata);
    let version = reader.i16().ok()?;
    if version < 0 {
        return None;
    }
    // An empty topic name still takes its two bytes of length.
    let count = reader.array_count(false, 2).ok()?;
    (0..count).map(|_| reader.string(false).ok()).collect()
}
