//! One Raft group as its shard holds it: raft-rs' node, and what the driver must remember around it.
//!
//! Owned by the driver. Everything that changes the node's state goes through a method here that first hands it the
//! proposals taken since the last one ([`Group::flush_proposals`]), so that a proposal once accepted keeps its index and term,
//! and that last puts the election timeout back to the seeded one ([`Group::settle`]).

pub(crate) mod peers;
pub(crate) mod rest;

use std::collections::VecDeque;

use bytes::Bytes;
use chronik_wal::entry::{EntryKind, LogStart};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term, TurnNumber};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

use crate::convert;
use crate::driver::DriverConfig;
use crate::driver::memory::Counted;
use crate::error::ProposeError;
use crate::leadership::Leadership;
use crate::snapshot;
use crate::storage::GroupStorage;

/// A Ready that is not yet durable.
#[derive(Debug)]
pub(crate) struct Unpersisted {
    /// The newest Ready that this stands for.
    pub number: u64,
    /// The turn that makes it durable.
    pub turn: TurnNumber,
    /// Raft's term then.
    pub term: Term,
    /// Messages that may leave only after that.
    pub held: Vec<Message>,
}

/// A group of this shard.
pub(crate) struct Group {
    pub id: GroupId,
    pub peer: PeerId,
    pub node: RawNode<GroupStorage>,
    /// Proposals accepted and not yet given to raft-rs: one step and one append message for all of a turn.
    pending: Vec<Entry>,
    pending_bytes: usize,
    pending_end: KafkaOffset,
    /// The last committed entry handed to the shard. raft-rs' own applied index may lag (configuration changes, snapshots).
    pub applied: RaftIndex,
    /// Up to here the log was known to be committed when it was loaded: applied before the group ticks or campaigns (rule 10).
    pub start_commit: RaftIndex,
    pub unpersisted: VecDeque<Unpersisted>,
    /// The newest term that is durable here.
    pub durable_term: Term,
    /// A configuration change applied but not yet durable: (the turn it is in, its index).
    pub configuration_hold: Option<(TurnNumber, RaftIndex)>,
    /// A snapshot was installed and is not yet durable: raft-rs' applied index is below the log, so no election now.
    pub installing: Option<TurnNumber>,
    /// A log start to move to once raft-rs' applied index has reached it.
    pub compaction: Option<(LogStart, Bytes)>,
    /// Entries up to here are in the partition's files.
    pub flushed_to: RaftIndex,
    /// Leadership as last told to the shard.
    pub told: Option<Leadership>,
    pub is_dirty: bool,
    /// Peers whose nodes cannot be reached.
    pub lost: Vec<peers::Lost>,
    /// Where this replica leads: peers that have not answered since their nodes could not be reached.
    pub unheard: Vec<PeerId>,
    /// An election that this replica is to begin; also in the driver's queue.
    pub election: Option<peers::Election>,
    /// Bytes of entries from its leader since it was last visited.
    pub taken_bytes: usize,
    /// Its leader is to send no entries for now: there is no room for them.
    pub is_short: bool,
    /// As what its tail is counted in the driver's sums.
    pub counted: Counted,
    /// Whether it ticks.
    pub rest: rest::Rest,
    /// As the leader: the number of the newest offer to rest. As a resting follower: of the offer taken.
    pub rest_round: u32,
    /// As the leader of its term: when each peer was last heard of.
    pub heard: Vec<(PeerId, u64)>,
    /// As the leader that asks for its quorum's answers: who has answered.
    pub is_asking: Option<peers::Asking>,
    /// Questions asked so far.
    pub questions: u64,
    /// Followers that were waiting for a snapshot when the leader last looked.
    snapshots_waiting: Vec<u64>,
    seed: u64,
    noise_draws: u64,
    draws: u64,
    /// The draw that `election_timeout` belongs to.
    drawn: Option<u64>,
    election_timeout: usize,
    role: (u64, StateRole, u64),
    election_ticks: usize,
    size_per_message_max: usize,
    uncommitted_bytes_max: usize,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        node: RawNode<GroupStorage>,
        config: &DriverConfig,
        start_commit: RaftIndex,
        flushed_to: RaftIndex,
        durable_term: Term,
    ) -> Self {
        let applied = RaftIndex(node.raft.raft_log.applied);
        let mut group = Self {
            id,
            peer: PeerId(node.raft.id),
            role: (node.raft.term, node.raft.state, node.raft.leader_id),
            node,
            pending: Vec::new(),
            pending_bytes: 0,
            pending_end: KafkaOffset(0),
            applied,
            start_commit,
            unpersisted: VecDeque::new(),
            durable_term,
            configuration_hold: None,
            installing: None,
            compaction: None,
            flushed_to,
            told: None,
            is_dirty: false,
            lost: Vec::new(),
            unheard: Vec::new(),
            election: None,
            taken_bytes: 0,
            is_short: false,
            counted: Counted::default(),
            rest: rest::Rest::AWAKE,
            rest_round: 0,
            heard: Vec::new(),
            is_asking: None,
            questions: 0,
            snapshots_waiting: Vec::new(),
            seed: config.seed,
            noise_draws: 0,
            draws: 0,
            drawn: None,
            election_timeout: 0,
            election_ticks: config.election_ticks,
            size_per_message_max: usize::try_from(config.size_per_message_bytes_max).unwrap_or(usize::MAX),
            uncommitted_bytes_max: usize::try_from(config.uncommitted_bytes_max).unwrap_or(usize::MAX),
        };
        group.settle();
        group
    }

    pub(crate) fn storage(&self) -> &GroupStorage {
        self.node.store()
    }

    pub(crate) fn storage_mut(&mut self) -> &mut GroupStorage {
        self.node.mut_store()
    }

    pub(crate) fn leadership(&self) -> Leadership {
        let raft = &self.node.raft;
        let term = Term(raft.term);
        match raft.state {
            StateRole::Leader if raft.apply_to_current_term() => Leadership::Leader { term },
            StateRole::Leader => Leadership::Elected { term },
            _ if raft.leader_id != raft::INVALID_ID => {
                Leadership::Follower { leader: PeerId(raft.leader_id), term }
            }
            _ => Leadership::Unknown { term },
        }
    }

    pub(crate) fn last_index(&self) -> RaftIndex {
        RaftIndex(self.node.raft.raft_log.last_index() + self.pending.len() as u64)
    }

    pub(crate) fn commit(&self) -> RaftIndex {
        RaftIndex(self.node.raft.raft_log.committed)
    }

    /// Where the log begins, or will once raft-rs has applied that far.
    pub(crate) fn log_start(&self) -> LogStart {
        self.compaction.as_ref().map_or(self.storage().state.log_start, |(log_start, _)| *log_start)
    }

    /// Raft's own applied index: nothing above it may be compacted or evicted.
    pub(crate) fn raft_applied(&self) -> RaftIndex {
        RaftIndex(self.node.raft.raft_log.applied)
    }

    /// The offset after the last entry, uncommitted ones and proposals of this turn included.
    pub(crate) fn log_end_offset(&self) -> KafkaOffset {
        if !self.pending.is_empty() {
            return self.pending_end;
        }
        self.offset_after(RaftIndex(self.node.raft.raft_log.last_index()))
    }

    /// The offset after the entry at `index`, which is at or above the commit index and not a proposal of this turn.
    pub(crate) fn offset_after(&self, index: RaftIndex) -> KafkaOffset {
        let unstable = &self.node.raft.raft_log.unstable;
        let upto = index.0.saturating_sub(unstable.offset).saturating_add(1);
        if index.0 >= unstable.offset {
            let upto = usize::try_from(upto).unwrap_or(usize::MAX).min(unstable.entries.len());
            let newest = unstable.entries[..upto].iter().rev().find_map(convert::offset_after);
            if let Some(offset) = newest {
                return offset;
            }
        }
        if let Some(snapshot) = &unstable.snapshot {
            let content = snapshot::read(snapshot).expect("snapshots are checked before raft sees them");
            return content.log_start.base_offset;
        }
        let stable = index.min(RaftIndex(unstable.offset - 1));
        self.storage()
            .tail
            .next_offset_after(stable)
            .expect("entries from the commit index on are in the tail")
    }

    /// Whether this replica is the only member: such a group never ticks.
    pub(crate) fn is_only_member(&self) -> bool {
        self.is_sole_voter() && self.node.raft.prs().iter().len() == 1
    }

    /// Whether this replica alone is the quorum (of both halves, in a joint configuration).
    pub(crate) fn is_sole_voter(&self) -> bool {
        let conf = self.node.raft.prs().conf();
        let voters = conf.voters().ids();
        voters.len() == 1 && voters.contains(self.peer.0)
    }

    /// Whether all that was committed at the start has been applied, and no snapshot is under way.
    pub(crate) fn may_elect(&self) -> bool {
        self.applied >= self.start_commit && self.installing.is_none()
    }

    /// Takes a proposal. On success it has this index and term for good.
    pub(crate) fn propose(
        &mut self,
        kind: EntryKind,
        data: Bytes,
    ) -> Result<(RaftIndex, Term), ProposeError> {
        let term = self.check_proposable(data.len())?;
        let entry = convert::to_proposal(kind, data);
        let end = self.log_end_offset();
        if kind == EntryKind::Batch {
            assert!(convert::is_batch(&entry.data), "a batch is checked before it is proposed");
            assert_eq!(
                convert::batch_base_offset(&entry.data),
                end,
                "offsets are assigned from the end of the log"
            );
            assert_eq!(
                convert::batch_leader_epoch(&entry.data),
                term.leader_epoch().0,
                "the epoch is the term"
            );
        }
        self.pending_end = convert::offset_after(&entry).unwrap_or(end);
        self.pending_bytes += entry.data.len();
        self.pending.push(entry);
        Ok((self.last_index(), term))
    }

    /// The same conditions as raft-rs' own, so that what is accepted here cannot be dropped there.
    pub(crate) fn check_proposable(&self, bytes: usize) -> Result<Term, ProposeError> {
        let Leadership::Leader { term } = self.leadership() else { return Err(ProposeError::NotLeader) };
        let raft = &self.node.raft;
        if raft.lead_transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        if raft.prs().get(raft.id).is_none() {
            return Err(ProposeError::NotLeader);
        }
        let uncommitted_bytes = raft.uncommitted_size() + self.pending_bytes;
        if uncommitted_bytes > 0 && bytes > 0 && uncommitted_bytes + bytes > self.uncommitted_bytes_max {
            return Err(ProposeError::Full);
        }
        Ok(term)
    }

    /// Gives raft-rs the proposals taken so far, in steps of about one append message each.
    pub(crate) fn flush_proposals(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let expected = self.last_index();
        let mut chunk = Vec::new();
        let mut chunk_bytes = 0;
        for entry in std::mem::take(&mut self.pending) {
            if !chunk.is_empty() && chunk_bytes + entry.data.len() > self.size_per_message_max {
                self.step_proposals(std::mem::take(&mut chunk));
                chunk_bytes = 0;
            }
            chunk_bytes += entry.data.len();
            chunk.push(entry);
        }
        self.step_proposals(chunk);
        self.pending_bytes = 0;
        assert_eq!(self.last_index(), expected, "a proposal keeps the index it was given");
    }

    fn step_proposals(&mut self, entries: Vec<Entry>) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.peer.0;
        message.set_entries(entries.into());
        self.node.raft.step(message).expect("what check_proposable accepts raft does not drop");
    }

    /// Steps a message that the guard has let through.
    pub(crate) fn step(&mut self, message: Message) -> raft::Result<()> {
        self.flush_proposals();
        let result = self.node.step(message);
        self.settle();
        result
    }

    /// One tick of raft's clock. Returns whether the group was one to tick at all.
    pub(crate) fn tick(&mut self) -> bool {
        let is_leader = self.node.raft.state == StateRole::Leader;
        // A sole voter that does not lead campaigns by itself as soon as it may; raft-rs would stop the process if its
        // timer made it leader while its log is not durable yet.
        if !self.may_elect() || (self.is_sole_voter() && !is_leader) {
            return false;
        }
        self.flush_proposals();
        let elapsed = self.node.raft.election_elapsed;
        self.node.tick();
        let has_turned = self.node.raft.election_elapsed <= elapsed;
        if has_turned && is_leader {
            self.retry_snapshots();
        } else if has_turned {
            self.draws += 1;
        }
        self.settle();
        true
    }

    /// Gives up snapshots that were sent an election timeout or more ago and never answered, so that they are sent again.
    /// raft-rs itself would wait for ever for one that was lost. They are small: an answer takes no such time.
    fn retry_snapshots(&mut self) {
        let progress = self.node.raft.prs().iter();
        let mut waiting: Vec<u64> = progress
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        waiting.sort_unstable();
        for id in &waiting {
            if self.snapshots_waiting.contains(id) {
                self.node.report_snapshot(*id, SnapshotStatus::Failure);
            }
        }
        self.snapshots_waiting = waiting;
    }

    /// Starts an election if this replica may: not while it leads, is no voter, or has committed entries to apply.
    pub(crate) fn campaign(&mut self) -> bool {
        if !self.may_elect() || self.node.raft.state == StateRole::Leader || !self.node.raft.promotable() {
            return false;
        }
        // raft-rs makes a sole voter leader on the spot and insists that all of its log is durable by then; and messages
        // still to be sent as a follower would leave as a leader's, before the disk has what they acknowledge.
        if self.is_sole_voter() && !self.is_at_rest() {
            return false;
        }
        let before = self.node.raft.state;
        self.flush_proposals();
        self.node.campaign().expect("MsgHup never fails");
        self.settle();
        self.node.raft.state != before
    }

    /// Whether all is durable and raft-rs has nothing to hand out.
    pub(crate) fn is_at_rest(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.persisted == log.last_index() && self.unpersisted.is_empty() && !self.node.has_ready()
    }

    /// Tells raft-rs how far entries are applied: not beyond a configuration change or a snapshot that is not durable.
    pub(crate) fn advance_applied(&mut self) {
        self.flush_proposals();
        let log = &self.node.raft.raft_log;
        let mut target = self.applied.0.min(log.committed).min(log.persisted);
        if let Some((_, index)) = self.configuration_hold {
            target = target.min(index.0 - 1);
        }
        if target > log.applied {
            self.node.advance_apply_to(target);
        }
        self.settle();
        let releasable = self.flushed_to.min(self.raft_applied());
        if releasable > self.storage().tail.released() {
            self.storage_mut().tail.release(releasable);
        }
    }

    /// The election timeout of this draw, in ticks: a function of seed, group, replica and the number of draws alone.
    fn draw_election_timeout(&self) -> usize {
        let noise =
            mix(self.seed ^ mix(self.id.0) ^ mix(self.peer.0 << 32) ^ mix(self.draws.rotate_left(17)));
        let spread = noise % self.election_ticks as u64;
        self.election_ticks + usize::try_from(spread).expect("below the election ticks")
    }

    /// Puts the election timeout back to a value drawn from the shard's seed: raft-rs draws from the thread's generator at
    /// each reset (SAFETY.md, rule 15). A new value is drawn when the role has changed or the timer has fired.
    pub(crate) fn settle(&mut self) {
        let raft = &self.node.raft;
        let role = (raft.term, raft.state, raft.leader_id);
        if role != self.role {
            if role.1 != self.role.1 {
                self.heard.clear();
                self.unheard.clear();
                self.is_asking = None;
            }
            self.role = role;
            self.draws += 1;
        }
        if self.drawn != Some(self.draws) {
            self.drawn = Some(self.draws);
            self.election_timeout = self.draw_election_timeout();
        }
        self.node.raft.set_randomized_election_timeout(self.election_timeout);
    }
}

/// SplitMix64's finaliser: spreads neighbouring numbers over all 64 bits.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
