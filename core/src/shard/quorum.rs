//! DescribeQuorum, on shard 0 of the node that leads the metadata group. Reads only.

use chronik_net::codec::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use chronik_raft::driver::MemberProgress;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::GroupId;

use super::Shard;
use crate::handlers::cluster::{QuorumMember, QuorumView, describe_quorum};
use crate::metadata::state::MetadataReplicas;

impl Shard {
    /// What this node, as its leader, knows of the metadata group.
    pub(super) fn describe_quorum(&self, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
        describe_quorum(self.quorum_view().as_ref(), &self.snapshot, request)
    }

    fn quorum_view(&self) -> Option<QuorumView> {
        let group = GroupId::METADATA;
        let Some(Leadership::Leader { term }) = self.driver.leadership(group) else { return None };
        let replicas = self.controller.as_ref()?.state.metadata_replicas();
        let progress = self.driver.progress(group);
        Some(QuorumView {
            leader: self.node,
            term,
            commit: self.driver.commit(group)?,
            now_ms: self.now.wall_ms,
            members: progress.iter().filter_map(|member| self.quorum_member(member, replicas)).collect(),
        })
    }

    /// A member of the group; none for one that is on its way out and that nobody knows any more.
    fn quorum_member(&self, member: &MemberProgress, replicas: &MetadataReplicas) -> Option<QuorumMember> {
        let replica = replicas.replicas.iter().find(|replica| replica.peer == member.peer)?;
        Some(QuorumMember {
            node: replica.node,
            directory: replica.directory,
            is_voter: member.is_voter,
            matched: member.matched,
            // A group at rest hears nothing: the link stands for it (SAFETY.md, rule 16).
            // Whose log is gone is not there, though its node is.
            is_heard: !replicas.is_lost(replica)
                && (replica.node == self.node || self.nodes_up.contains(&replica.node)),
        })
    }
}
