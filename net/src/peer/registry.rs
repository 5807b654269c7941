//! What all links of a node share: who we are, who belongs to us, who is connected, what has been logged.
//!
//! One a node, behind a mutex that is taken at handshakes, a few times a second at most, never for a frame. [`Claims`] is
//! pure; [`Registry`] is the lock around it.
//!
//! Invariant: of the connections of one link (node, source shard, direction) at most one delivers frames: a newer one is
//! admitted only when the one before has ended, so that frames stay in order across a reconnect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use uuid::Uuid;

use super::handshake::{ClusterId, Greeting, Members, Refusal, RefusalCode, VERSION_MAX, VERSION_MIN, judge};

/// Refusals remembered as logged: beyond, they are forgotten and may be logged again. Bounds what strangers can make us keep.
const SAID_MAX: usize = 256;

/// A second node with an id in use is mentioned when it has been there for so long: right after a restart it is the one before, whose
/// connections have not ended yet.
const DUPLICATE_AFTER_MS: u64 = 5_000;

/// A connection that was heard from for so long has held: what was logged of the node before may be logged again.
const HELD_MS: u64 = 1_000;

/// Which side dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// We did.
    Out,
    /// They did.
    In,
}

/// The right of a connection to stand for its link, while it lives.
#[derive(Clone, Debug)]
pub struct Claim {
    key: (i32, Direction, u16),
    id: u64,
    directory: Uuid,
    incarnation: u64,
    /// It named no cluster when it greeted: it may still have to register.
    was_fresh: bool,
    admitted_ms: u64,
    heard_ms: Arc<AtomicU64>,
    superseded: Arc<AtomicBool>,
}

impl Claim {
    /// The other side has been heard.
    pub fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether the connection has to end: the node has a newer one, or is no longer a member.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }
}

/// The connections of a node. Pure but for the flags that it shares with them.
#[derive(Debug, Default)]
pub struct Claims {
    live: BTreeMap<(i32, Direction, u16), Claim>,
    last_id: u64,
}

/// What becomes of a new connection.
#[derive(Debug)]
pub enum Admission {
    /// It stands for its link now.
    Admitted(Claim),
    /// The connection before it has been told to end: ask again.
    Wait,
    /// Another node claims the same id.
    Refused(Refusal),
}

impl Claims {
    /// Asks for a place for a connection with `theirs`, whose link is that of shard `shard`.
    pub fn admit(
        &mut self,
        direction: Direction,
        shard: u16,
        theirs: &Greeting,
        now_ms: u64,
        timeout_ms: u64,
    ) -> Admission {
        let rival = self.live.values().find(|claim| {
            let alive = now_ms.saturating_sub(claim.heard_ms.load(Ordering::Relaxed)) < timeout_ms;
            let same_node = claim.key.0 == theirs.node;
            let same_directory = claim.directory == theirs.directory;
            alive && (same_node || same_directory) && claim.incarnation != theirs.incarnation
        });
        if let Some(rival) = rival {
            let text = format!(
                "node {} with data directory {} is connected already as node {} with {}: give each node its own id and \
                 directory (right after a restart this passes by itself)",
                theirs.node, theirs.directory, rival.key.0, rival.directory
            );
            return Admission::Refused(Refusal::new(RefusalCode::DuplicateNode, text));
        }
        let key = (theirs.node, direction, shard);
        if let Some(before) = self.live.get(&key) {
            before.superseded.store(true, Ordering::Relaxed);
            return Admission::Wait;
        }
        self.last_id += 1;
        let claim = Claim {
            key,
            id: self.last_id,
            directory: theirs.directory,
            incarnation: theirs.incarnation,
            was_fresh: theirs.cluster.is_none(),
            admitted_ms: now_ms,
            heard_ms: Arc::new(AtomicU64::new(now_ms)),
            superseded: Arc::default(),
        };
        self.live.insert(key, claim.clone());
        Admission::Admitted(claim)
    }

    /// A connection has ended.
    pub fn release(&mut self, claim: &Claim) {
        if self.live.get(&claim.key).is_some_and(|live| live.id == claim.id) {
            self.live.remove(&claim.key);
        }
    }

    /// Ends the connections whose node is no longer to be talked to.
    fn enforce(&self, before: &Members, members: &Members) {
        for claim in self.live.values() {
            let node = claim.key.0;
            let allowed = match members.nodes.get(&node) {
                None => members.admits_strangers || (claim.was_fresh && !before.nodes.contains_key(&node)),
                Some(registered) => {
                    claim.was_fresh || registered.is_none_or(|registered| registered == claim.directory)
                }
            };
            if !allowed || members.removed.contains(&claim.directory) {
                claim.superseded.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What a node knows of itself when it starts.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its node id.
    pub node: i32,
    /// Its data directory.
    pub directory: Uuid,
    /// A number drawn anew at each start of the process.
    pub incarnation: u64,
    /// Its number of shards.
    pub shard_count: u16,
    /// Its cluster; none while it is fresh.
    pub cluster: Option<ClusterId>,
    /// Where other nodes reach it, `host:port`.
    pub address: Option<Arc<str>>,
}

#[derive(Debug)]
struct State {
    ours: Greeting,
    members: Members,
    claims: Claims,
    said: BTreeMap<(i32, Direction, RefusalCode), Said>,
}

/// When a refusal was first met, and whether it has been logged.
#[derive(Clone, Copy, Debug)]
struct Said {
    first_ms: u64,
    logged: bool,
}

/// The registry of a node, shared by its shards.
#[derive(Debug)]
pub struct Registry {
    state: Mutex<State>,
}

impl Registry {
    /// The registry of a node that starts.
    #[must_use]
    pub fn new(identity: &Identity, members: Members) -> Arc<Self> {
        let ours = Greeting {
            versions: (VERSION_MIN, VERSION_MAX),
            node: identity.node,
            directory: identity.directory,
            incarnation: identity.incarnation,
            shard_count: identity.shard_count,
            cluster: identity.cluster,
            source_shard: 0,
            dialled_node: identity.node,
            address: identity.address.clone(),
        };
        let state = State { ours, members, claims: Claims::default(), said: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// The cluster is known now: later handshakes say so.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.lock().ours.cluster = Some(cluster);
    }

    /// The members have changed. Connections with nodes that are none any more, or that have another directory, end.
    pub fn set_members(&self, members: Members) {
        let mut state = self.lock();
        state.claims.enforce(&state.members, &members);
        state.members = members;
    }

    /// What this node says of itself, on the listening side.
    #[must_use]
    pub fn greeting(&self) -> Greeting {
        self.lock().ours.clone()
    }

    pub(super) fn judge(&self, dialled: Option<i32>, theirs: &Greeting) -> Result<u16, Refusal> {
        let state = self.lock();
        judge(&state.ours, &state.members, dialled, theirs)
    }

    pub(super) fn admit(
        &self,
        direction: Direction,
        shard: u16,
        theirs: &Greeting,
        now_ms: u64,
        timeout_ms: u64,
    ) -> Admission {
        self.lock().claims.admit(direction, shard, theirs, now_ms, timeout_ms)
    }

    pub(super) fn release(&self, claim: &Claim) {
        let mut state = self.lock();
        state.claims.release(claim);
        // A connection that was refused right after its greeting was none, and the refusal is not to be said again.
        let held_ms = claim.heard_ms.load(Ordering::Relaxed).saturating_sub(claim.admitted_ms);
        if held_ms >= HELD_MS {
            let (node, direction, _) = claim.key;
            state.said.retain(|key, _| (key.0, key.1) != (node, direction));
        }
    }

    /// Whether this refusal has not been logged since a link with the node last held: each is said once, not once a try
    /// and shard.
    pub(super) fn is_news(&self, node: i32, direction: Direction, code: RefusalCode, now_ms: u64) -> bool {
        let mut state = self.lock();
        if state.said.len() >= SAID_MAX {
            state.said.clear();
        }
        let said =
            state.said.entry((node, direction, code)).or_insert(Said { first_ms: now_ms, logged: false });
        let wait_ms = if code == RefusalCode::DuplicateNode { DUPLICATE_AFTER_MS } else { 0 };
        let is_news = !said.logged && now_ms.saturating_sub(said.first_ms) >= wait_ms;
        said.logged |= is_news;
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(node: i32, directory: u128, incarnation: u64) -> Greeting {
        Greeting {
            versions: (1, 1),
            node,
            directory: Uuid::from_u128(directory),
            incarnation,
            shard_count: 4,
            cluster: ClusterId::new("c"),
            source_shard: 0,
            dialled_node: 1,
            address: None,
        }
    }

    /// The registry of node 1, which lets everybody in.
    fn open_registry() -> Arc<Registry> {
        let identity = Identity {
            node: 1,
            directory: Uuid::from_u128(1),
            incarnation: 1,
            shard_count: 1,
            cluster: None,
            address: None,
        };
        Registry::new(&identity, Members { admits_strangers: true, ..Members::default() })
    }

    fn admit(claims: &mut Claims, shard: u16, theirs: &Greeting, now_ms: u64) -> Admission {
        claims.admit(Direction::In, shard, theirs, now_ms, 500)
    }

    #[test]
    fn a_newer_connection_waits_until_the_older_has_ended() {
        let mut claims = Claims::default();
        let node = greeting(2, 20, 7);
        let Admission::Admitted(first) = admit(&mut claims, 0, &node, 0) else { panic!() };
        assert!(matches!(admit(&mut claims, 1, &node, 0), Admission::Admitted(_)), "another shard's link");
        assert!(!first.is_superseded());
        assert!(matches!(admit(&mut claims, 0, &node, 10), Admission::Wait));
        assert!(first.is_superseded());
        claims.release(&first);
        let Admission::Admitted(second) = admit(&mut claims, 0, &node, 11) else { panic!() };
        claims.release(&first);
        assert!(
            matches!(admit(&mut claims, 0, &node, 12), Admission::Wait),
            "a late release freed another's place"
        );
        assert!(second.is_superseded());
    }

    #[test]
    fn a_second_node_with_the_same_id_or_directory_is_refused_while_the_first_lives() {
        let mut claims = Claims::default();
        let Admission::Admitted(first) = admit(&mut claims, 0, &greeting(2, 20, 7), 0) else { panic!() };
        for rival in [greeting(2, 21, 8), greeting(2, 20, 8), greeting(3, 20, 8)] {
            let Admission::Refused(refusal) = admit(&mut claims, 1, &rival, 499) else { panic!("{rival:?}") };
            assert_eq!(refusal.code, RefusalCode::DuplicateNode);
        }
        assert!(matches!(admit(&mut claims, 0, &greeting(3, 30, 9), 499), Admission::Admitted(_)));
        first.heard(499);
        assert!(matches!(admit(&mut claims, 0, &greeting(2, 20, 8), 998), Admission::Refused(_)));
        assert!(
            matches!(admit(&mut claims, 0, &greeting(2, 20, 8), 999), Admission::Wait),
            "it is silent: replaced"
        );
    }

    #[test]
    fn whoever_is_no_member_any_more_is_cut_off() {
        let registry = open_registry();
        let claims: Vec<Claim> = [greeting(2, 20, 1), greeting(3, 30, 1), greeting(4, 40, 1)]
            .iter()
            .map(|theirs| match registry.admit(Direction::In, 0, theirs, 0, 500) {
                Admission::Admitted(claim) => claim,
                other => panic!("{other:?}"),
            })
            .collect();
        let nodes = BTreeMap::from([(2, None), (3, Some(Uuid::from_u128(31)))]);
        registry.set_members(Members { nodes: nodes.clone(), ..Members::default() });
        let ended = || claims.iter().map(Claim::is_superseded).collect::<Vec<bool>>();
        assert_eq!(ended(), [false, true, true]);
        let removed = [Uuid::from_u128(20)].into();
        registry.set_members(Members { nodes, removed, ..Members::default() });
        assert_eq!(ended(), [true, true, true], "though the list names it");
    }

    #[test]
    fn a_refusal_is_news_once_until_the_node_has_been_connected() {
        let registry = open_registry();
        let is_news = |code| registry.is_news(2, Direction::Out, code, 0);
        assert!(is_news(RefusalCode::Cluster));
        assert!(!is_news(RefusalCode::Cluster));
        assert!(is_news(RefusalCode::Version));
        for (now_ms, is_news) in [(0, false), (4_999, false), (5_000, true), (5_001, false)] {
            let duplicate = registry.is_news(2, Direction::In, RefusalCode::DuplicateNode, now_ms);
            assert_eq!(duplicate, is_news, "at {now_ms} ms");
        }
        for (heard_ms, is_news_again) in [(HELD_MS - 1, false), (HELD_MS, true)] {
            let admission = registry.admit(Direction::Out, 0, &greeting(2, 20, 1), 0, 500);
            let Admission::Admitted(claim) = admission else { panic!() };
            claim.heard(heard_ms);
            registry.release(&claim);
            assert_eq!(is_news(RefusalCode::Cluster), is_news_again);
        }
        for node in 0..10_000 {
            registry.is_news(node, Direction::In, RefusalCode::Stranger, 0);
        }
        assert!(registry.lock().said.len() <= SAID_MAX);
    }
}
