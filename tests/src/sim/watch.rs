//! What nobody in the cluster sees whole: every replica of every group, looked at after every turn of its shard.
//!
//! One leader a term; what is committed at an index is the same everywhere and for ever; a leader has everything that was
//! ever committed; high watermark and log start of a replica never move back while its process lives.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use chronik_core::shard::Shard;
use chronik_raft::leadership::Leadership;
use chronik_wal::entry::LogEntry;
use chronik_wal::types::{GroupId, PeerId, RaftIndex, Term};

/// Another leader of a newer term may be unknown to an older one for so long: two election timeouts and what the links
/// take to notice silence, with room for slow turns.
pub const STALE_US_MAX: u64 = 1_500_000;

/// A replica as it was seen last.
#[derive(Clone, Copy, Debug, Default)]
struct Replica {
    peer: PeerId,
    applied: u64,
    high_watermark: i64,
    log_start: i64,
    leads: Option<Term>,
}

/// The newest leader of a group that was seen to serve.
#[derive(Clone, Copy, Debug)]
pub struct Leading {
    /// Its term.
    pub term: Term,
    /// Its node.
    pub node: usize,
    /// Since when.
    pub since_us: u64,
}

/// The history of a group: term and hash of each committed entry, where it was seen.
#[derive(Debug, Default)]
struct History {
    entries: BTreeMap<u64, (Term, Option<u64>)>,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Watch {
    terms: BTreeMap<(GroupId, Term), usize>,
    histories: BTreeMap<GroupId, History>,
    replicas: BTreeMap<(usize, GroupId), Replica>,
    leading: BTreeMap<GroupId, Leading>,
    /// The disk that each replica lives on, by node and disk.
    disks: BTreeMap<(GroupId, PeerId), (usize, u64)>,
    /// Up to where each replica's own disk had the committed log when its process was seen last.
    durable: BTreeMap<(GroupId, PeerId), RaftIndex>,
    /// The highest high watermark of any replica of a group: so much is committed.
    offsets: BTreeMap<GroupId, i64>,
    /// Changes of leaders.
    pub elections: u64,
}

impl Watch {
    /// The newest leader of a group that was seen to serve.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<Leading> {
        self.leading.get(&group).copied()
    }

    /// Since when another node leads in a newer term than anything that this node may say of the group; none while it may
    /// be the newest.
    #[must_use]
    pub fn superseded_since(&self, node: usize, group: GroupId) -> Option<u64> {
        self.leading.get(&group).filter(|leading| leading.node != node).map(|leading| leading.since_us)
    }

    /// The last index that is committed for certain.
    #[must_use]
    pub fn committed(&self, group: GroupId) -> u64 {
        self.histories
            .get(&group)
            .and_then(|history| history.entries.keys().next_back().copied())
            .unwrap_or(0)
    }

    /// The offset up to which a group is committed, as far as any replica knows.
    #[must_use]
    pub fn committed_offset(&self, group: GroupId) -> i64 {
        self.offsets.get(&group).copied().unwrap_or(0)
    }

    /// A process is gone.
    pub fn node_died(&mut self, node: usize) {
        self.replicas.retain(|(other, _), _| *other != node);
    }

    /// Looks at the replicas of a shard.
    ///
    /// # Errors
    /// What must not be.
    pub fn look(&mut self, node: usize, disk: u64, shard: &Shard, now_us: u64) -> Result<(), String> {
        for (group, partition) in shard.partitions() {
            let (group, driver) = (*group, shard.driver());
            let Some(leadership) = driver.leadership(group) else { continue };
            let applied = driver.applied(group).unwrap_or_default().0;
            let now = Replica {
                peer: driver.state(group).map(|state| state.peer).unwrap_or_default(),
                applied,
                high_watermark: partition.high_watermark.0,
                log_start: partition.log_start.0,
                leads: match leadership {
                    Leadership::Leader { term } => Some(term),
                    _ => None,
                },
            };
            if let Leadership::Leader { term } | Leadership::Elected { term } = leadership {
                let known = *self.terms.entry((group, term)).or_insert(node);
                if known != node {
                    return Err(format!(
                        "group {group}: nodes {known} and {node} both lead in term {}",
                        term.0
                    ));
                }
            }
            let offset = self.offsets.entry(group).or_insert(0);
            *offset = now.high_watermark.max(*offset);
            // One that went and came again is another, which begins with nothing.
            let before = self.replicas.insert((node, group), now).filter(|before| before.peer == now.peer);
            self.remembers(node, disk, shard, group, before.is_none())?;
            let from = before.map_or(0, |before| before.applied);
            if let Some(before) = before
                && (now.high_watermark < before.high_watermark || now.log_start < before.log_start)
            {
                return Err(format!("group {group} on node {node}: {before:?} has become {now:?}"));
            }
            self.look_at_committed(node, shard, group, from, applied)?;
            if now.leads.is_some() && before.is_none_or(|before| before.leads != now.leads) {
                self.elected(node, shard, group, now_us, leadership.term())?;
            }
        }
        Ok(())
    }

    /// A peer id names one incarnation of a replica, which forgets nothing that it had on its disk (SAFETY.md, rule 8).
    fn remembers(
        &mut self,
        node: usize,
        disk: u64,
        shard: &Shard,
        group: GroupId,
        is_new: bool,
    ) -> Result<(), String> {
        let driver = shard.driver();
        let Some(peer) = driver.state(group).map(|state| state.peer) else { return Ok(()) };
        let known = *self.disks.entry((group, peer)).or_insert((node, disk));
        if known != (node, disk) {
            return Err(format!(
                "group {group}: replica {peer} lived on disk {} of node {}, now on disk {disk} of node {node}",
                known.1, known.0
            ));
        }
        let last = driver.last_index(group).unwrap_or_default();
        let durable = driver.persisted(group).min(driver.commit(group)).unwrap_or_default();
        let before = self.durable.insert((group, peer), durable).unwrap_or_default();
        if is_new && last < before {
            return Err(format!(
                "group {group}: replica {peer} on node {node} ends at {last}, it had {before} on its disk, committed"
            ));
        }
        Ok(())
    }

    fn look_at_committed(
        &mut self,
        node: usize,
        shard: &Shard,
        group: GroupId,
        from: u64,
        applied: u64,
    ) -> Result<(), String> {
        let history = self.histories.entry(group).or_default();
        let driver = shard.driver();
        for index in from + 1..=applied {
            let entry = driver.tail(group).and_then(|tail| tail.entry(RaftIndex(index)));
            let term = entry.map(|entry| entry.term).or_else(|| driver.term(group, RaftIndex(index)));
            // Compacted before it was looked at: nothing to compare.
            let Some(term) = term else { continue };
            let hash = entry.map(hash);
            let known = history.entries.entry(index).or_insert((term, hash));
            let same_bytes = known.1.is_none() || hash.is_none() || known.1 == hash;
            if known.0 != term || !same_bytes {
                return Err(format!(
                    "group {group}: {known:?} was committed at index {index}, node {node} has {:?} there: {entry:?}",
                    (term, hash)
                ));
            }
            known.1 = known.1.or(hash);
        }
        Ok(())
    }

    fn elected(
        &mut self,
        node: usize,
        shard: &Shard,
        group: GroupId,
        now_us: u64,
        term: Term,
    ) -> Result<(), String> {
        let driver = shard.driver();
        // Whoever hears late that it was elected need not have what later terms committed since.
        let entries = self.histories.get(&group).map(|history| history.entries.iter().rev());
        let last = entries.and_then(|mut entries| entries.find(|(_, (of_term, _))| *of_term <= term));
        if let Some((index, (of_term, _))) = last {
            let index = RaftIndex(*index);
            let begins = driver.log_start(group).unwrap_or_default().index;
            let has = index <= begins || driver.term(group, index) == Some(*of_term);
            if !has {
                return Err(format!(
                    "group {group}: node {node} leads in term {} without entry {index} of term {}, which is committed",
                    term.0, of_term.0
                ));
            }
        }
        let newer = self.leading.get(&group).is_none_or(|leading| leading.term < term);
        if newer {
            self.elections += 1;
            self.leading.insert(group, Leading { term, node, since_us: now_us });
        }
        Ok(())
    }

    /// The first replica of a shard that has not applied everything that is committed.
    #[must_use]
    pub fn lags(&self, node: usize, shard: &Shard) -> Option<(GroupId, String)> {
        shard.partitions().keys().find_map(|group| {
            let applied = shard.driver().applied(*group).unwrap_or_default().0;
            let committed = self.committed(*group);
            let why = || format!("group {group}: node {node} has applied {applied} of {committed}");
            (applied < committed).then(|| (*group, why()))
        })
    }

    /// Compares what a replica's log holds, files included, with what was committed.
    ///
    /// # Errors
    /// The first entry that differs.
    pub fn compare(&self, node: usize, group: GroupId, entries: &[LogEntry]) -> Result<(), String> {
        let Some(history) = self.histories.get(&group) else { return Ok(()) };
        for entry in entries {
            let Some((term, known)) = history.entries.get(&entry.index.0) else { continue };
            if entry.term != *term || known.is_some_and(|known| known != hash(entry)) {
                return Err(format!(
                    "group {group}: the files of node {node} differ at index {}",
                    entry.index
                ));
            }
        }
        Ok(())
    }
}

fn hash(entry: &LogEntry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.term.0, entry.kind as u8, entry.base_offset.0).hash(&mut hasher);
    entry.data.hash(&mut hasher);
    hasher.finish()
}
