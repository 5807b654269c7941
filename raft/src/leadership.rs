//! Who leads a group, as its own replica knows. One answer with four cases, never a pair of booleans.

use chronik_wal::types::{PeerId, Term};

/// What a replica may say and do about the leadership of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leadership {
    /// This replica leads, and has applied an entry of its own term: its state is complete, it may serve.
    Leader {
        /// Its term, the leader epoch of what it appends.
        term: Term,
    },
    /// This replica won the election but has not yet applied an entry of its own term: it answers nobody yet.
    Elected {
        /// The term that it won.
        term: Term,
    },
    /// Another replica leads.
    Follower {
        /// Which one.
        leader: PeerId,
        /// In which term.
        term: Term,
    },
    /// No leader is known in this term: an election is due or under way.
    Unknown {
        /// The newest term seen.
        term: Term,
    },
}

impl Leadership {
    /// The term that this answer belongs to; an answer of a higher term supersedes one of a lower.
    #[must_use]
    pub fn term(self) -> Term {
        match self {
            Self::Leader { term }
            | Self::Elected { term }
            | Self::Follower { term, .. }
            | Self::Unknown { term } => term,
        }
    }
}
