//! A start with another number of shards (SAFETY.md, rule 20): all WALs are replayed and written anew, spread over the
//! new shards, before anything is served. Blocks; at start-up only, under the lock of the data directory.
//!
//! Crash-safe by this order; whatever it dies at, the next start sees the old WALs whole or the new ones whole:
//!
//! ```text
//! 1. write wal.new/<shard>/… whole and synced        meta.properties still says the old count: thrown away
//! 2. meta.properties: new count, wal.switch=1        from here on the new WALs count
//! 3. wal → wal.old, wal.new → wal, remove wal.old    finish_switch, at this start or the next one
//! 4. meta.properties: wal.switch=0
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::disk::{Disk, create_dirs_durably};
use crate::entry::{FlushPoint, GroupState, LogSink};
use crate::identity::{Identity, IdentityError, shard_of};
use crate::recovery::{EntryLocation, EntryReader, Recovered, RecoveredGroup, recover};
use crate::shard_wal::{ShardWal, WalConfig, WalError, write_turn_blocking};
use crate::types::{GroupId, ShardId};

/// Why the WALs cannot be spread anew. The old ones are untouched, or the new ones are in place.
#[derive(Debug, thiserror::Error)]
pub enum ReshardError {
    /// Of a WAL.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// Of `meta.properties`.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Of the directories.
    #[error("cannot put the new WALs in place: {0}")]
    Switch(#[from] io::Error),
    /// Something is damaged: which replicas are suspect must first be settled with the old number of shards.
    #[error(
        "the WAL of shard {0} is damaged; run `chronik-server log repair` before the number of shards is changed"
    )]
    Damaged(ShardId),
}

/// Makes the WALs of a data directory fit `shards`, and finishes what an earlier attempt began. To be called at every
/// start, after the identity was loaded and before recovery. `template` gives the sizes; its directory and identity
/// are not used.
///
/// # Errors
/// See [`ReshardError`]. Nothing is lost; the next start tries again.
pub fn reshard(
    disk: &dyn Disk,
    data_directory: &Path,
    identity: Identity,
    shards: u16,
    template: &WalConfig,
) -> Result<Identity, ReshardError> {
    let identity = finish_switch(disk, data_directory, identity)?;
    if identity.shards == shards {
        return Ok(identity);
    }
    tracing::info!(from = identity.shards, to = shards, "spreading the WALs over another number of shards");
    rewrite(disk, data_directory, identity, shards, template, None)
}

/// What is left of a damaged group: it replaces what recovery found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// Its state.
    pub state: GroupState,
    /// Up to where its files count; they must be synced up to there.
    pub flushed: Option<FlushPoint>,
    /// Its entries after that, or after the log start.
    pub entries: Vec<EntryLocation>,
}

/// Writes all WALs of a data directory anew with `mended` in the place of what the damaged groups had: what
/// `log repair` does. Atomic, as a change of the number of shards is: until the very end the old WALs count, and with them
/// the damage. A damaged group that is not in `mended` is forgotten.
///
/// # Errors
/// See [`ReshardError`].
pub fn mend(
    disk: &dyn Disk,
    data_directory: &Path,
    identity: Identity,
    template: &WalConfig,
    mended: &BTreeMap<GroupId, Mended>,
) -> Result<Identity, ReshardError> {
    let identity = finish_switch(disk, data_directory, identity)?;
    let shards = identity.shards;
    rewrite(disk, data_directory, identity, shards, template, Some(mended))
}

fn rewrite(
    disk: &dyn Disk,
    data_directory: &Path,
    identity: Identity,
    shards: u16,
    template: &WalConfig,
    mended: Option<&BTreeMap<GroupId, Mended>>,
) -> Result<Identity, ReshardError> {
    let new = data_directory.join("wal.new");
    if disk.exists(&new)? {
        disk.remove_dir_all(&new)?;
        disk.sync_dir(data_directory)?;
    }
    create_dirs_durably(disk, &new)?;
    write_all(disk, data_directory, &identity, shards, template, mended)?;
    // ORDER: every new WAL is durable, names included, before the identity says that they count.
    let identity = Identity { shards, wal_switch: true, ..identity };
    identity.store(disk, data_directory)?;
    finish_switch(disk, data_directory, identity)
}

/// Puts `wal.new` in the place of `wal` if the identity says that it counts.
///
/// # Errors
/// See [`ReshardError`]; the next call goes on.
pub fn finish_switch(
    disk: &dyn Disk,
    data_directory: &Path,
    identity: Identity,
) -> Result<Identity, ReshardError> {
    if !identity.wal_switch {
        return Ok(identity);
    }
    let [wal, new, old] = ["wal", "wal.new", "wal.old"].map(|name| data_directory.join(name));
    // ORDER: `wal` gives way only while `wal.new` is there; once that has moved, `wal` is the new one.
    if disk.exists(&new)? {
        if disk.exists(&wal)? {
            if disk.exists(&old)? {
                disk.remove_dir_all(&old)?;
            }
            disk.rename(&wal, &old)?;
        }
        disk.rename(&new, &wal)?;
        disk.sync_dir(data_directory)?;
    }
    if disk.exists(&old)? {
        disk.remove_dir_all(&old)?;
    }
    disk.sync_dir(data_directory)?;
    let identity = Identity { wal_switch: false, ..identity };
    identity.store(disk, data_directory)?;
    Ok(identity)
}

fn shard_config(template: &WalConfig, root: &Path, identity: &Identity, shard: ShardId) -> WalConfig {
    WalConfig { directory: root.join(shard.to_string()), identity: identity.wal(shard), ..template.clone() }
}

/// Writes a WAL for each new shard. The old shards are recovered one at a time, so that memory is bounded by what one
/// recovery needs.
fn write_all(
    disk: &dyn Disk,
    data_directory: &Path,
    identity: &Identity,
    shards: u16,
    template: &WalConfig,
    mended: Option<&BTreeMap<GroupId, Mended>>,
) -> Result<(), ReshardError> {
    let mut writers = Vec::new();
    for shard in 0..shards {
        let mut config = shard_config(template, &data_directory.join("wal.new"), identity, ShardId(shard));
        // Several WALs may go into one: it is over its bound then until its shard has recycled.
        config.wal_max_bytes = u64::MAX / 4;
        let wal = ShardWal::open(disk, config, &mut Recovered::nothing())?;
        writers.push((wal, Vec::new()));
    }
    for shard in 0..identity.shards {
        let config = shard_config(template, &data_directory.join("wal"), identity, ShardId(shard));
        let recovered = recover(disk, &config)?;
        if !recovered.damage.is_empty() && mended.is_none() {
            return Err(ReshardError::Damaged(ShardId(shard)));
        }
        let mut groups = recovered.groups;
        groups.retain(|&group, _| recovered.damage.reason(group).is_none());
        for (&group, mended) in mended.into_iter().flatten() {
            if shard_of(group, identity.shards) == ShardId(shard) {
                groups.insert(group, mended.as_recovered());
            }
        }
        let mut reader = EntryReader::new(disk, &config);
        for (&group, from) in &groups {
            let (wal, points) = &mut writers[usize::from(shard_of(group, shards).0)];
            copy_group(disk, wal, &mut reader, group, from)?;
            points.extend(from.flushed.map(|point| (group, point)));
        }
    }
    for (wal, points) in &mut writers {
        finish(disk, wal, points)?;
    }
    Ok(())
}

impl Mended {
    fn as_recovered(&self) -> RecoveredGroup {
        RecoveredGroup {
            state: Some(self.state.clone()),
            flushed: self.flushed,
            entries: self.entries.clone(),
            commit: self.state.hard.commit,
            ..RecoveredGroup::default()
        }
    }
}

fn copy_group(
    disk: &dyn Disk,
    wal: &mut ShardWal,
    reader: &mut EntryReader<'_>,
    group: GroupId,
    from: &RecoveredGroup,
) -> Result<(), WalError> {
    if let Some(state) = &from.state {
        let mut state = state.clone();
        state.hard.commit = state.hard.commit.max(from.commit);
        wal.put_state(group, &state);
    }
    for location in &from.entries {
        wal.put_entry(group, from.commit, &reader.read(group, location)?);
        if wal.pending_bytes() > wal.turn_bytes_max() {
            drain(disk, wal)?;
        }
    }
    Ok(())
}

fn finish(disk: &dyn Disk, wal: &mut ShardWal, points: &[(GroupId, FlushPoint)]) -> Result<(), WalError> {
    wal.put_checkpoint(points);
    wal.close();
    drain(disk, wal)
}

/// Writes all that waits. The clock stands still: a full disk is an error here, there is nobody to wait for space.
fn drain(disk: &dyn Disk, wal: &mut ShardWal) -> Result<(), WalError> {
    while wal.has_pending() {
        while let Some(turn) = wal.start_turn() {
            write_turn_blocking(disk, &turn)?;
            wal.turn_done(turn.turn);
        }
        if let Some(job) = wal.next_job(0) {
            job.run(disk).map_err(WalError::io("preparation of a segment", wal.directory()))?;
            wal.job_done(Ok(()), 0)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::disk::sim::Survival;
    use crate::shard_wal::rig::{Model, Rig, found, small_config};
    use crate::types::NodeId;

    const DATA: &str = "/data";

    fn identity() -> Identity {
        let wal = crate::shard_wal::rig::IDENTITY;
        Identity::new(wal.node, wal.directory, 1)
    }

    /// A data directory of one shard with a log in it, and what the log holds.
    fn with_a_log(seed: u64) -> (SimDisk, Model) {
        let mut rig = Rig::fresh(seed);
        rig.script(25).unwrap();
        identity().store(&rig.disk, Path::new(DATA)).unwrap();
        let model = rig.model_at(rig.wal.durable_turn());
        assert!(model.len() > 2);
        (rig.disk, model)
    }

    fn start(disk: &SimDisk, shards: u16) -> Result<Identity, ReshardError> {
        let identity = Identity::load(disk, Path::new(DATA), NodeId(1))?.unwrap();
        reshard(disk, Path::new(DATA), identity, shards, &small_config())
    }

    /// All groups of all shards, each on the shard that it belongs to.
    fn all_groups(disk: &SimDisk, shards: u16) -> Model {
        let identity = Identity::load(disk, Path::new(DATA), NodeId(1)).unwrap().unwrap();
        assert_eq!((identity.shards, identity.wal_switch), (shards, false));
        let mut model = Model::new();
        for shard in (0..shards).map(ShardId) {
            let config = shard_config(&small_config(), &Path::new(DATA).join("wal"), &identity, shard);
            let recovered = recover(disk, &config).unwrap();
            assert!(recovered.damage.is_empty());
            assert!(recovered.groups.keys().all(|&group| shard_of(group, shards) == shard));
            model.extend(found(disk, &config, &recovered));
        }
        without_commit(model)
    }

    /// The commit index moves from entries into the state; what is compared is all else.
    fn without_commit(mut model: Model) -> Model {
        for state in model.values_mut().filter_map(|group| group.state.as_mut()) {
            state.hard.commit = crate::types::RaftIndex(0);
        }
        model
    }

    #[test]
    fn one_shard_to_four_to_two() {
        let (disk, model) = with_a_log(1);
        for shards in [1, 4, 2, 1] {
            start(&disk, shards).unwrap();
            assert_eq!(all_groups(&disk, shards), without_commit(model.clone()), "{shards} shards");
        }
        let names: Vec<String> =
            disk.list_dir(Path::new(DATA)).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["meta.properties", "wal"], "nothing is left behind");
    }

    /// Rule 20: killed at every write of the change, and again at every write of the start that finishes it.
    #[test]
    fn a_crash_at_any_write_of_the_change_loses_nothing() {
        let (disk, model) = with_a_log(2);
        let model = without_commit(model);
        let mut crashes = BTreeMap::new();
        for (from, to) in [(1, 4), (4, 2)] {
            let before = disk.crash(Survival::SyncedOnly);
            start(&before, from).unwrap();
            for step in 1.. {
                let first = before.crash(Survival::SyncedOnly);
                first.crash_after(step);
                let done = start(&first, to).is_ok();
                let survival = [Survival::SyncedOnly, Survival::Random, Survival::All][(step % 3) as usize];
                let second = first.crash(survival);
                second.crash_after(1 + step % 17);
                let _ = start(&second, to);
                let third = second.crash(survival);
                start(&third, to).unwrap();
                assert_eq!(all_groups(&third, to), model, "{from} to {to}, step {step}");
                if done {
                    break;
                }
                *crashes.entry((from, to)).or_insert(0) += 1;
            }
        }
        assert!(crashes.values().all(|&count| count > 30), "{crashes:?}");
    }

    #[test]
    fn a_damaged_wal_is_not_spread() {
        let (disk, _) = with_a_log(3);
        let slots = disk.list_dir(Path::new("/data/wal/0")).unwrap();
        for entry in slots {
            disk.flip_bit(&Path::new("/data/wal/0").join(entry.name), 17, 1);
        }
        assert!(matches!(start(&disk, 2), Err(ReshardError::Damaged(ShardId(0)))));
        assert_eq!(Identity::load(&disk, Path::new(DATA), NodeId(1)).unwrap().unwrap().shards, 1);
    }
}
