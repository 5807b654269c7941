//! What a coordinator tells the admin endpoint of its groups.

use std::ops::Bound;

use super::Name;
use super::service::GroupCoordinator;

/// One consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Its id.
    pub id: Name,
    /// Its state, by Kafka's name.
    pub state: &'static str,
    /// `consumer`, or what its members said; none before the first member.
    pub protocol_type: Option<Name>,
    /// Members that have joined.
    pub member_count: usize,
    /// Its committed offsets, as many as were asked for.
    pub offsets: Vec<CommittedOffset>,
    /// How many more it has.
    pub offsets_left_out: usize,
}

/// Where a group stands in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: Name,
    /// The partition's number.
    pub partition: i32,
    /// The next offset that the group will read.
    pub offset: i64,
}

impl GroupCoordinator {
    /// Up to `limit` groups after `after` in the order of their ids, with up to `offsets_max` committed offsets over all.
    #[must_use]
    pub fn reports(&self, after: Option<&str>, limit: usize, offsets_max: usize) -> Vec<GroupReport> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let groups = self.groups.range::<str, _>((after, Bound::Unbounded)).take(limit);
        let mut room = offsets_max;
        let report = |(id, group): (&Name, &super::group::Group)| {
            let mut report = GroupReport {
                id: id.clone(),
                state: group.state.name(),
                protocol_type: group.protocol_type.clone(),
                member_count: group.members.len(),
                offsets: Vec::new(),
                offsets_left_out: 0,
            };
            for (topic, partitions) in self.store.offsets_of(id).into_iter().flatten() {
                if room == 0 {
                    report.offsets_left_out += partitions.len();
                    continue;
                }
                for (partition, slot) in partitions {
                    let Some(committed) = slot.committed() else { continue };
                    if room == 0 {
                        report.offsets_left_out += 1;
                        continue;
                    }
                    room -= 1;
                    let topic = topic.clone();
                    report.offsets.push(CommittedOffset {
                        topic,
                        partition: *partition,
                        offset: committed.offset,
                    });
                }
            }
            report
        };
        groups.map(report).collect()
    }
}
