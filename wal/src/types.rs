//! The numbers of the log, each with a type of its own, so that the compiler refuses to mix them up.
//!
//! Shared by every crate above; holds no logic but what keeps the numbers honest.
//! There is no `as` between these types: a conversion is a named method where it has a meaning.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A Kafka broker id (`node.id`), zero or more.
    NodeId(i32)
}
number! {
    /// One executor of this node, counted from zero. Shard 0 also runs the metadata group.
    ShardId(u16)
}
number! {
    /// A Raft group. Allocated by the metadata group and never used again; 0 is the metadata group itself.
    GroupId(u64)
}
number! {
    /// One incarnation of a replica within a group: the id that Raft votes with (SAFETY.md, rule 8).
    PeerId(u64)
}
number! {
    /// Position of an entry in a group's Raft log. Starts at 1; 0 means "before the first".
    RaftIndex(u64)
}
number! {
    /// Raft term. Also the Kafka leader epoch of the batches appended in it.
    Term(u64)
}
number! {
    /// Offset of a record as Kafka clients see it.
    KafkaOffset(i64)
}
number! {
    /// Kafka's leader epoch; −1 where it is not known.
    LeaderEpoch(i32)
}
number! {
    /// Sequence number of a WAL segment. Seeds the checksums of its frames; never used twice on a shard.
    WalSeq(u64)
}
number! {
    /// One write of a shard's WAL: everything that one fdatasync makes durable. Counted from 1 for each shard.
    TurnNumber(u64)
}

impl GroupId {
    /// The group of the metadata log, on shard 0.
    pub const METADATA: GroupId = GroupId(0);
}

impl RaftIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl KafkaOffset {
    /// The offset `count` records further on.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl Term {
    /// The Kafka leader epoch of this term.
    ///
    /// # Panics
    /// When the term does not fit in 31 bits: two thousand million elections of one partition.
    #[must_use]
    pub fn leader_epoch(self) -> LeaderEpoch {
        LeaderEpoch(i32::try_from(self.0).expect("a term fits a Kafka leader epoch"))
    }
}

impl LeaderEpoch {
    /// What Kafka writes where no epoch is known.
    pub const UNKNOWN: LeaderEpoch = LeaderEpoch(-1);

    /// The Raft term of this epoch; none for −1.
    #[must_use]
    pub fn term(self) -> Option<Term> {
        u64::try_from(self.0).ok().map(Term)
    }
}
