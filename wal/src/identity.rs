//! `meta.properties`: whose data directory this is. Durable before the first vote (SAFETY.md, rule 8); read and written
//! at start-up only, over the blocking [`Disk`].
//!
//! Text in the manner of Kafka's file of the same name, one `key=value` a line, closed by a checksum of the lines above:
//!
//! ```text
//! version=1
//! cluster.id=            (empty until the first committed metadata entry has minted it)
//! node.id=1
//! directory.id=0f1e2d3c4b5a69788796a5b4c3d2e1f0
//! shards=2
//! wal.switch=0           (1 while `wal.new` is being put in the place of `wal`, see `reshard`)
//! checksum=89abcdef
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, create_dirs_durably, read_file, replace_file, sync_parent};
use crate::frame::WalIdentity;
use crate::types::{GroupId, NodeId, ShardId};

/// The format of the data directory. A newer one is refused (rule 25).
pub const DIRECTORY_VERSION: u32 = 1;
/// More shards than any machine has cores.
pub const SHARDS_MAX: u16 = 1024;
/// The longest file that is read: the format takes some 200 bytes.
const FILE_MAX: usize = 4096;
/// A cluster id is Kafka's 22 characters; a foreign one may be longer.
const CLUSTER_ID_MAX: usize = 64;

/// Whose data directory it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; none before this node has joined or formed one.
    pub cluster_id: Option<String>,
    /// The node's Kafka broker id.
    pub node: NodeId,
    /// Random, made with the directory.
    pub directory: [u8; 16],
    /// How many shards the groups are spread over (rule 20).
    pub shards: u16,
    /// The WALs of `wal.new`, for `shards` shards, are whole and about to replace those of `wal`.
    pub wal_switch: bool,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{} is damaged: {why}; restore it from a copy, or remove the data directory if its replicas are elsewhere", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a newer program.
    #[error("{} has version {version}, this program knows up to {DIRECTORY_VERSION}; start a newer one", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The directory of another node.
    #[error("{} belongs to node {found}, this is node {expected}; check node_id and data_dir", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        expected: NodeId,
    },
    /// The directory of another cluster.
    #[error("{} belongs to cluster {found}, this one is {expected}; a node cannot change clusters with its data", path.display())]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Which one was expected.
        expected: String,
    },
}

/// The file of a data directory.
#[must_use]
pub fn identity_path(data_directory: &Path) -> PathBuf {
    data_directory.join("meta.properties")
}

/// A new random directory id (a version 4 UUID).
#[must_use]
pub fn new_directory_id() -> [u8; 16] {
    let mut id: [u8; 16] = rand::random();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// The shard that a group lives on when there are so many. Group 0 is always on shard 0. Fixed for ever: the WALs
/// are laid out by it.
#[must_use]
pub fn shard_of(group: GroupId, shards: u16) -> ShardId {
    let shard = group.0 % u64::from(shards.max(1));
    ShardId(u16::try_from(shard).expect("less than a u16"))
}

impl Identity {
    /// The identity of a new data directory.
    #[must_use]
    pub fn new(node: NodeId, directory: [u8; 16], shards: u16) -> Self {
        Self { cluster_id: None, node, directory, shards, wal_switch: false }
    }

    /// What the WAL of a shard is marked with.
    #[must_use]
    pub fn wal(&self, shard: ShardId) -> WalIdentity {
        WalIdentity { node: self.node, directory: self.directory, shard }
    }

    /// Reads the identity of a data directory; none when it has none yet.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or newer, or names another node.
    pub fn load(disk: &dyn Disk, data_directory: &Path, node: NodeId) -> Result<Option<Self>, IdentityError> {
        let path = identity_path(data_directory);
        let fail = |source| IdentityError::Io { what: "read", path: path.clone(), source };
        if !disk.exists(&path).map_err(fail)? {
            return Ok(None);
        }
        // ORDER: nothing is built on an identity, or in a directory beside it, that a power cut might take back.
        disk.sync_dir(data_directory).map_err(|source| IdentityError::Io {
            what: "fsync",
            path: data_directory.to_path_buf(),
            source,
        })?;
        let contents = read_file(disk, &path, FILE_MAX).map_err(fail)?;
        let identity = Self::parse(&contents).map_err(|fault| match fault {
            ParseFault::Damaged(why) => IdentityError::Damaged { path: path.clone(), why },
            ParseFault::Version(version) => IdentityError::NewerVersion { path: path.clone(), version },
        })?;
        if identity.node != node {
            return Err(IdentityError::OtherNode { path, found: identity.node, expected: node });
        }
        Ok(Some(identity))
    }

    /// Writes the identity durably, replacing the one before; makes the data directory if it is missing.
    ///
    /// # Errors
    /// Of the disk.
    pub fn store(&self, disk: &dyn Disk, data_directory: &Path) -> Result<(), IdentityError> {
        let path = identity_path(data_directory);
        let write = || {
            create_dirs_durably(disk, data_directory)?;
            // A process that was killed may have made it. Whoever may not read the directory above did not make this one.
            match sync_parent(disk, data_directory) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
            replace_file(disk, &path, self.to_text().as_bytes())
        };
        write().map_err(|source| IdentityError::Io { what: "write", path: path.clone(), source })
    }

    /// Checks the cluster id against the one that the node was told or met.
    ///
    /// # Errors
    /// When the directory belongs to another cluster.
    pub fn check_cluster(&self, data_directory: &Path, expected: &str) -> Result<(), IdentityError> {
        match &self.cluster_id {
            Some(found) if found != expected => Err(IdentityError::OtherCluster {
                path: identity_path(data_directory),
                found: found.clone(),
                expected: expected.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn to_text(&self) -> String {
        let directory = self.directory.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let mut text = format!(
            "version={DIRECTORY_VERSION}\ncluster.id={}\nnode.id={}\ndirectory.id={directory}\nshards={}\nwal.switch={}\n",
            self.cluster_id.as_deref().unwrap_or_default(),
            self.node,
            self.shards,
            u8::from(self.wal_switch),
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "checksum={checksum:08x}");
        text
    }

    fn parse(contents: &[u8]) -> Result<Self, ParseFault> {
        let damaged = |why: &str| ParseFault::Damaged(why.to_owned());
        let text = std::str::from_utf8(contents).map_err(|_| damaged("it is not text"))?;
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let field =
            |name: &str| fields.get(name).copied().ok_or_else(|| damaged(&format!("{name} is missing")));
        // First of all the version: what follows may mean something else in a newer one.
        let version: u32 = field("version")?.parse().map_err(|_| damaged("version is no number"))?;
        if version > DIRECTORY_VERSION {
            return Err(ParseFault::Version(version));
        }
        let (body, checksum) = text.split_once("checksum=").ok_or_else(|| damaged("checksum is missing"))?;
        if checksum.trim_end() != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("the checksum does not fit"));
        }
        let cluster_id = field("cluster.id")?;
        let node: i32 = field("node.id")?.parse().map_err(|_| damaged("node.id is no number"))?;
        let shards: u16 = field("shards")?.parse().map_err(|_| damaged("shards is no number"))?;
        let wal_switch = match field("wal.switch")? {
            "0" => false,
            "1" => true,
            _ => return Err(damaged("wal.switch is neither 0 nor 1")),
        };
        if node < 0 || shards == 0 || shards > SHARDS_MAX || cluster_id.len() > CLUSTER_ID_MAX {
            return Err(damaged("a value is out of range"));
        }
        Ok(Self {
            cluster_id: (!cluster_id.is_empty()).then(|| cluster_id.to_owned()),
            node: NodeId(node),
            directory: parse_hex(field("directory.id")?).ok_or_else(|| damaged("directory.id is no id"))?,
            shards,
            wal_switch,
        })
    }
}

enum ParseFault {
    Damaged(String),
    Version(u32),
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::disk::sim::Survival;

    const DATA: &str = "/srv/chronik";

    fn sample() -> Identity {
        let mut identity = Identity::new(NodeId(3), *b"0123456789abcdef", 4);
        identity.cluster_id = Some("MkU3OEVBNTcwNTJENDM2Qg".to_owned());
        identity
    }

    fn load(disk: &SimDisk) -> Result<Option<Identity>, IdentityError> {
        Identity::load(disk, Path::new(DATA), NodeId(3))
    }

    #[test]
    fn the_file_reads_as_documented() {
        let disk = SimDisk::new(1);
        sample().store(&disk, Path::new(DATA)).unwrap();
        let contents = disk.contents(&identity_path(Path::new(DATA))).unwrap();
        assert_eq!(
            String::from_utf8(contents).unwrap(),
            "version=1\ncluster.id=MkU3OEVBNTcwNTJENDM2Qg\nnode.id=3\n\
             directory.id=30313233343536373839616263646566\nshards=4\nwal.switch=0\nchecksum=a9770720\n"
        );
        assert_eq!(load(&disk).unwrap(), Some(sample()));
        assert_eq!(load(&SimDisk::new(1)).unwrap(), None);
    }

    #[test]
    fn a_crash_leaves_the_old_identity_or_the_new_one() {
        let old = sample();
        let new = Identity { shards: 2, cluster_id: None, ..sample() };
        for step in 1..10 {
            let disk = SimDisk::new(step);
            old.store(&disk, Path::new(DATA)).unwrap();
            disk.crash_after(step);
            let stored = new.store(&disk, Path::new(DATA)).is_ok();
            let found = load(&disk.crash(Survival::Random)).unwrap().unwrap();
            assert!(found == new || (found == old && !stored), "step {step}");
        }
    }

    #[test]
    fn another_node_cluster_or_version_is_refused() {
        let disk = SimDisk::new(1);
        sample().store(&disk, Path::new(DATA)).unwrap();
        let error = Identity::load(&disk, Path::new(DATA), NodeId(4)).unwrap_err().to_string();
        assert!(error.contains("belongs to node 3, this is node 4"), "{error}");
        let error = sample().check_cluster(Path::new(DATA), "other").unwrap_err();
        assert!(matches!(error, IdentityError::OtherCluster { .. }));
        assert!(sample().check_cluster(Path::new(DATA), "MkU3OEVBNTcwNTJENDM2Qg").is_ok());
        disk.plant(&identity_path(Path::new(DATA)), b"version=2\nnew.things=1\n".to_vec());
        assert!(matches!(load(&disk), Err(IdentityError::NewerVersion { version: 2, .. })));
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let text = sample().to_text();
        for position in 0..text.len() - 1 {
            let mut bad = text.clone().into_bytes();
            bad[position] ^= 1;
            assert!(Identity::parse(&bad).is_err(), "byte {position}");
        }
        assert!(Identity::parse(&text.as_bytes()[..100]).is_err());
        assert!(Identity::parse(b"").is_err());
    }

    #[test]
    fn groups_are_spread_over_the_shards() {
        assert_eq!(shard_of(GroupId::METADATA, 7), ShardId(0));
        assert_eq!(shard_of(GroupId(9), 4), ShardId(1));
        assert_eq!(shard_of(GroupId(u64::MAX), 1), ShardId(0));
        assert_ne!(new_directory_id(), new_directory_id());
    }
}
