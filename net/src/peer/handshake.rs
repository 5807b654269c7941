//! Who is on the other side, and whether to talk to it. Pure: greetings to bytes and back, and the decision.
//!
//! ```text
//! dialling side                    listening side
//!   hello  ─────────────────────▶  judge; refusal, or:
//!   judge; refusal, or:   ◀──────  welcome (its own greeting)
//!   frames ═════════════════════▶  (keepalives both ways, a refusal at any time)
//! ```
//!
//! Greetings travel in frames of the link's own kinds, whose layout never changes; a later version may only append
//! to them. Layout of a greeting, little-endian: versions min u16, max u16; shard count u16; source shard u16; node i32; dialled node i32;
//! incarnation u64; directory [16]; cluster [32], zero-padded, all zero for none; address length u16 (0 for none), address.
//! A refusal: code u16, then UTF-8 text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::size_of;
use std::sync::Arc;

use bytes::BytesMut;
use uuid::Uuid;
use zerocopy::byteorder::little_endian::{I32, U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::{CONTROL_BODY_BYTES_MAX, Frame};
use crate::rt::executor::SHARDS_MAX;

/// Oldest protocol between nodes that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Newest protocol between nodes that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// Longest cluster id; Kafka's have 22 characters.
pub const CLUSTER_ID_BYTES_MAX: usize = 32;
/// Longest `host:port`: a host name has 253 characters at most.
pub const ADDRESS_BYTES_MAX: usize = 264;
/// Longest text of a refusal.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 400;

pub(super) const KIND_HELLO: u8 = 240;
pub(super) const KIND_WELCOME: u8 = 241;
pub(super) const KIND_REFUSAL: u8 = 242;
pub(super) const KIND_KEEPALIVE: u8 = 243;
/// Asks whether the other side is there; it comes back as it went. The group field holds the asker's number.
pub(super) const KIND_PROBE: u8 = 244;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct GreetingBytes {
    version_min: U16,
    version_max: U16,
    shard_count: U16,
    source_shard: U16,
    node: I32,
    dialled_node: I32,
    incarnation: U64,
    directory: [u8; 16],
    cluster: [u8; CLUSTER_ID_BYTES_MAX],
}

const _: () = assert!(size_of::<GreetingBytes>() == 72);
const _: () = assert!(2 + REFUSAL_TEXT_BYTES_MAX + 4 <= CONTROL_BODY_BYTES_MAX);
const _: () = assert!(size_of::<GreetingBytes>() + 2 + ADDRESS_BYTES_MAX + 4 <= CONTROL_BODY_BYTES_MAX);

/// The id of a cluster: 1 to 32 printable ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterId([u8; CLUSTER_ID_BYTES_MAX]);

impl ClusterId {
    /// The id from its text; none when it is empty, too long or not printable ASCII.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable || text.len() > CLUSTER_ID_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; CLUSTER_ID_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(CLUSTER_ID_BYTES_MAX);
        std::str::from_utf8(&self.0[..end]).unwrap_or("")
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Oldest and newest protocol that it speaks.
    pub versions: (u16, u16),
    /// Its node id.
    pub node: i32,
    /// Its data directory (SAFETY.md, rule 8).
    pub directory: Uuid,
    /// Drawn anew by each start of the process: tells a node from another that claims its id, and from oneself.
    pub incarnation: u64,
    /// Its number of shards.
    pub shard_count: u16,
    /// Its cluster; none while it is fresh.
    pub cluster: Option<ClusterId>,
    /// In a hello, the shard whose link this is; else 0.
    pub source_shard: u16,
    /// In a hello, the node id that it believes to have dialled; else its own.
    pub dialled_node: i32,
    /// Where it is reached, `host:port`: how nodes that have never heard of it dial back.
    pub address: Option<Arc<str>>,
}

/// Which nodes belong to the cluster, as far as is known. Replaced as group 0 moves on.
///
/// A fresh node, one that names no cluster, is always talked to, under any directory: that is how it comes to register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Whether nodes of a cluster that are not listed are talked to as well: while this one is not part of it.
    pub admits_strangers: bool,
    /// The nodes, each with its registered directory where that is known.
    pub nodes: BTreeMap<i32, Option<Uuid>>,
    /// Directories of nodes that were removed: not talked to, whatever they and the list say.
    pub removed: BTreeSet<Uuid>,
}

/// Why a link is refused. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum RefusalCode {
    /// No protocol version that both speak.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// The dialled address is that of another node.
    WrongNode = 3,
    /// Both sides claim the same node id, or a third node claims the id of this one.
    DuplicateNode = 4,
    /// A node talks to itself.
    Itself = 5,
    /// The node has another directory than the registered one, or two nodes have the same.
    Directory = 6,
    /// A node that was a member and is none any more.
    Stranger = 7,
    /// A greeting that makes no sense.
    Malformed = 8,
    /// The node with this directory was removed from the cluster, and the metadata say so.
    Removed = 9,
    /// A code that a newer version has.
    Unknown = 0xFFFF,
}

/// A refusal, with one line for the log that says what is wrong and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The case.
    pub code: RefusalCode,
    /// The line.
    pub text: String,
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, text: String) -> Self {
        Self { code, text }
    }

    pub(super) fn to_frame(&self) -> Frame {
        let mut body = (self.code as u16).to_le_bytes().to_vec();
        let mut end = self.text.len().min(REFUSAL_TEXT_BYTES_MAX);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        body.extend_from_slice(&self.text.as_bytes()[..end]);
        Frame { parts: vec![body.into()], ..Frame::new(KIND_REFUSAL, 0, 0) }
    }

    /// The refusal in a frame. What the other side wrote is made safe for a log.
    pub(super) fn from_frame(frame: &Frame) -> Self {
        let body = frame.parts.first().map_or(&[][..], |part| part);
        let (code, text) = body.split_at(body.len().min(2));
        let number = u16::from_le_bytes(code.try_into().unwrap_or([0xFF; 2]));
        let known = [
            RefusalCode::Version,
            RefusalCode::Cluster,
            RefusalCode::WrongNode,
            RefusalCode::DuplicateNode,
            RefusalCode::Itself,
            RefusalCode::Directory,
            RefusalCode::Stranger,
            RefusalCode::Malformed,
            RefusalCode::Removed,
        ];
        let code = known.into_iter().find(|code| *code as u16 == number).unwrap_or(RefusalCode::Unknown);
        let line = String::from_utf8_lossy(&text[..text.len().min(REFUSAL_TEXT_BYTES_MAX)]);
        Self { code, text: line.chars().map(|c| if c.is_control() { '?' } else { c }).collect() }
    }
}

impl Greeting {
    pub(super) fn to_frame(&self, kind: u8) -> Frame {
        let bytes = GreetingBytes {
            version_min: self.versions.0.into(),
            version_max: self.versions.1.into(),
            shard_count: self.shard_count.into(),
            source_shard: self.source_shard.into(),
            node: self.node.into(),
            dialled_node: self.dialled_node.into(),
            incarnation: self.incarnation.into(),
            directory: *self.directory.as_bytes(),
            cluster: self.cluster.map_or([0; CLUSTER_ID_BYTES_MAX], |cluster| cluster.0),
        };
        let address = self.address.as_deref().unwrap_or_default().as_bytes();
        assert!(address.len() <= ADDRESS_BYTES_MAX, "an address is checked when the node starts");
        let mut body = BytesMut::with_capacity(size_of::<GreetingBytes>() + 2 + address.len());
        body.extend_from_slice(bytes.as_bytes());
        // At most ADDRESS_BYTES_MAX, which fits.
        body.extend_from_slice(&(address.len() as u16).to_le_bytes());
        body.extend_from_slice(address);
        Frame { parts: vec![body.freeze()], ..Frame::new(kind, 0, 0) }
    }

    /// The greeting in a frame; what a newer version appended is ignored.
    pub(super) fn from_frame(frame: &Frame) -> Result<Self, Refusal> {
        let malformed =
            |what: &str| Refusal::new(RefusalCode::Malformed, format!("malformed greeting: {what}"));
        let body = frame.parts.first().map_or(&[][..], |part| part);
        let Ok((bytes, rest)) = GreetingBytes::ref_from_prefix(body) else {
            return Err(malformed("too short"));
        };
        let cluster = if bytes.cluster == [0; CLUSTER_ID_BYTES_MAX] {
            None
        } else {
            let end = bytes.cluster.iter().position(|byte| *byte == 0).unwrap_or(CLUSTER_ID_BYTES_MAX);
            let text = std::str::from_utf8(&bytes.cluster[..end]).unwrap_or("");
            let padded = bytes.cluster[end..].iter().all(|byte| *byte == 0);
            Some(ClusterId::new(text).filter(|_| padded).ok_or_else(|| malformed("cluster id"))?)
        };
        let shard_count = bytes.shard_count.get();
        if shard_count == 0 || usize::from(shard_count) > SHARDS_MAX {
            return Err(malformed("shard count"));
        }
        if bytes.source_shard.get() >= shard_count || bytes.node.get() < 0 {
            return Err(malformed("source shard or node id"));
        }
        let address = read_address(rest).ok_or_else(|| malformed("address"))?;
        Ok(Self {
            versions: (bytes.version_min.get(), bytes.version_max.get()),
            node: bytes.node.get(),
            directory: Uuid::from_bytes(bytes.directory),
            incarnation: bytes.incarnation.get(),
            shard_count,
            cluster,
            source_shard: bytes.source_shard.get(),
            dialled_node: bytes.dialled_node.get(),
            address,
        })
    }
}

/// The address behind the fixed part of a greeting; what follows it is a newer version's. None when it is none.
fn read_address(rest: &[u8]) -> Option<Option<Arc<str>>> {
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let text = std::str::from_utf8(rest.get(..usize::from(u16::from_le_bytes(*length)))?).ok()?;
    if text.is_empty() {
        return Some(None);
    }
    is_address(text).then(|| Some(text.into()))
}

/// Whether this is `host:port` of a length that a greeting takes.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    printable && text.len() <= ADDRESS_BYTES_MAX && parts.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Whether to talk to whoever sent `theirs`; the protocol version to talk in. `dialled` is the node that we dialled, none on
/// the listening side. Two nodes of which one or both are fresh may talk: what a fresh node may do is not decided here (rule 18).
///
/// # Errors
/// The refusal to send and to log.
pub fn judge(
    ours: &Greeting,
    members: &Members,
    dialled: Option<i32>,
    theirs: &Greeting,
) -> Result<u16, Refusal> {
    let refuse = |code, text| Err(Refusal::new(code, text));
    let (us, them) = (ours.node, theirs.node);
    let version = ours.versions.1.min(theirs.versions.1);
    if version < ours.versions.0.max(theirs.versions.0) {
        let (a, b) = (ours.versions, theirs.versions);
        let text = format!(
            "node {us} speaks protocol versions {} to {}, node {them} {} to {}: upgrade the older one",
            a.0, a.1, b.0, b.1
        );
        return refuse(RefusalCode::Version, text);
    }
    if theirs.incarnation == ours.incarnation && them == us {
        let text = format!("node {us} has dialled itself: an address in its peer list is its own");
        return refuse(RefusalCode::Itself, text);
    }
    if them == us {
        let text = format!("two nodes claim node id {us}: give each its own node_id");
        return refuse(RefusalCode::DuplicateNode, text);
    }
    let (wanted, is) = dialled.map_or((theirs.dialled_node, us), |dialled| (dialled, them));
    if wanted != is {
        let text =
            format!("node {wanted} was dialled, node {is} answers: correct the address in the peer list");
        return refuse(RefusalCode::WrongNode, text);
    }
    if let (Some(our_cluster), Some(their_cluster)) = (ours.cluster, theirs.cluster)
        && our_cluster != their_cluster
    {
        let text = format!(
            "node {us} is of cluster {our_cluster}, node {them} of cluster {their_cluster}: \
             correct the peer list, or start one of them on its own data directory"
        );
        return refuse(RefusalCode::Cluster, text);
    }
    if theirs.directory == ours.directory {
        let text = format!(
            "nodes {us} and {them} have the same data directory id: one runs on a copy of the other's"
        );
        return refuse(RefusalCode::Directory, text);
    }
    if members.removed.contains(&theirs.directory) {
        let text = format!(
            "node {them} was removed from the cluster: stop it, or start it on an empty data directory to let it join again"
        );
        return refuse(RefusalCode::Removed, text);
    }
    match members.nodes.get(&them) {
        _ if theirs.cluster.is_none() => Ok(version),
        None if !members.admits_strangers => {
            let text = format!(
                "node {them} is no member of the cluster any more: start it on an empty data directory to let it join again"
            );
            refuse(RefusalCode::Stranger, text)
        }
        Some(Some(registered)) if *registered != theirs.directory => {
            let text = format!(
                "node {them} is registered with data directory {registered} and comes with {}: \
                 start it on its own directory, or on an empty one to let it join again",
                theirs.directory
            );
            refuse(RefusalCode::Directory, text)
        }
        _ => Ok(version),
    }
}

#[cfg(test)]
mod tests;
