//! Incremental fetch sessions (KIP-227): a client names its partitions once, then only what changed.
//!
//! One cache a shard, for the connections that are there; pure. A session goes along when its connection moves to another
//! shard ([`SessionCache::take`], [`SessionCache::put`]). A client that comes back by a new connection on another shard is told
//! FETCH_SESSION_ID_NOT_FOUND and starts a new session, which every client does without a word.
//!
//! Invariants: the number of sessions and of partitions in them is bounded; an epoch is answered once; the id tells the shard
//! where the session began (`id % shard_count`), so that no two shards give out the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{KafkaOffset, LeaderEpoch};
use uuid::Uuid;

/// A session unused for this long may be evicted for a new one, as in Kafka.
const EVICTABLE_AFTER_MS: u64 = 120_000;

/// Partitions that all the sessions of a shard may hold together: bounds their memory at some 100 bytes each.
const PARTITIONS_MAX: usize = 500_000;

/// How a client names a topic: by name up to Fetch v12, by id from v13.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    /// By name.
    Name(Bytes),
    /// By id.
    Id(Uuid),
}

/// A partition in a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Its topic.
    pub topic: TopicKey,
    /// Its number.
    pub partition: i32,
}

/// What the client wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where to read from.
    pub offset: KafkaOffset,
    /// At most this many bytes.
    pub max_bytes: u32,
    /// The epoch that the client believes in; −1 for none.
    pub current_epoch: LeaderEpoch,
    /// The epoch of the client's last record; −1 for none.
    pub last_fetched_epoch: LeaderEpoch,
}

/// What the client was told last of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The high watermark.
    pub high_watermark: KafkaOffset,
    /// The log start offset.
    pub log_start_offset: KafkaOffset,
    /// The last error was not NONE.
    pub error: bool,
}

impl Told {
    const NOTHING: Told =
        Told { high_watermark: KafkaOffset(-1), log_start_offset: KafkaOffset(-1), error: false };
}

#[derive(Debug)]
struct Slot {
    key: PartitionKey,
    wanted: Wanted,
    told: Told,
}

/// One client's session.
#[derive(Debug)]
struct Session {
    epoch: i32,
    by_id: bool,
    used_ms: u64,
    /// In the order in which they are served: who got records goes to the end.
    slots: BTreeMap<u64, Slot>,
    places: BTreeMap<PartitionKey, u64>,
    next_place: u64,
}

impl Session {
    fn new(by_id: bool, now_ms: u64) -> Self {
        Self {
            epoch: 1,
            by_id,
            used_ms: now_ms,
            slots: BTreeMap::new(),
            places: BTreeMap::new(),
            next_place: 0,
        }
    }

    fn put(&mut self, key: PartitionKey, wanted: Wanted) {
        if let Some(slot) = self.places.get(&key).and_then(|place| self.slots.get_mut(place)) {
            slot.wanted = wanted;
            return;
        }
        self.places.insert(key.clone(), self.next_place);
        self.slots.insert(self.next_place, Slot { key, wanted, told: Told::NOTHING });
        self.next_place += 1;
    }

    fn remove(&mut self, key: &PartitionKey) {
        if let Some(place) = self.places.remove(key) {
            self.slots.remove(&place);
        }
    }

    fn move_to_end(&mut self, key: &PartitionKey) {
        let Some(place) = self.places.get_mut(key) else { return };
        if let Some(slot) = self.slots.remove(place) {
            *place = self.next_place;
            self.slots.insert(self.next_place, slot);
            self.next_place += 1;
        }
    }
}

/// What a fetch request says of sessions.
#[derive(Debug)]
pub struct SessionRequest {
    /// Its session id; 0 for none.
    pub id: i32,
    /// Its session epoch: 0 opens a session, −1 closes it.
    pub epoch: i32,
    /// Whether it names topics by id.
    pub by_id: bool,
    /// The partitions it names, in order.
    pub partitions: Vec<(PartitionKey, Wanted)>,
    /// The partitions that it drops from the session.
    pub forgotten: Vec<PartitionKey>,
}

/// What a fetch reads, and how it is answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The id that the response carries; 0 for none.
    pub session_id: i32,
    /// Only partitions with news are in the response.
    pub incremental: bool,
    /// What to read, in order.
    pub partitions: Vec<(PartitionKey, Wanted)>,
}

/// A session on its way to another shard.
#[derive(Debug)]
pub struct SessionParcel {
    id: i32,
    session: Box<Session>,
}

/// The fetch sessions of one shard.
#[derive(Debug)]
pub struct SessionCache {
    sessions: BTreeMap<i32, Session>,
    partition_count: usize,
    session_count_max: usize,
    shard: i32,
    shard_count: i32,
    next_id: i32,
}

impl SessionCache {
    /// A cache of at most `session_count_max` sessions. `seed` makes the ids of one start differ from the last one's.
    #[must_use]
    pub fn new(session_count_max: usize, shard: u16, shard_count: u16, seed: u32) -> Self {
        let shard_count = i32::from(shard_count).max(1);
        let next_id = (seed >> 2) as i32 / shard_count;
        Self {
            sessions: BTreeMap::new(),
            partition_count: 0,
            session_count_max,
            shard: i32::from(shard),
            shard_count,
            next_id,
        }
    }

    /// Sessions in the cache, and partitions in all of them.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.sessions.len(), self.partition_count)
    }

    /// Decides what a request reads.
    ///
    /// # Errors
    /// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH or FETCH_SESSION_TOPIC_ID_ERROR; the client then
    /// starts a new session.
    pub fn plan(&mut self, request: SessionRequest, now_ms: u64) -> Result<Plan, ErrorCode> {
        if request.epoch == -1 || (request.id == 0 && request.epoch != 0) {
            self.drop_session(request.id);
            return Ok(Plan { session_id: 0, incremental: false, partitions: request.partitions });
        }
        if request.epoch == 0 {
            self.drop_session(request.id);
            return Ok(self.open(request, now_ms));
        }
        self.continue_session(request, now_ms)
    }

    /// Takes a session out, for another shard.
    pub fn take(&mut self, id: i32) -> Option<SessionParcel> {
        let session = self.sessions.remove(&id)?;
        self.partition_count -= session.slots.len();
        Some(SessionParcel { id, session: Box::new(session) })
    }

    /// Takes in a session of another shard. Where there is no room it ends, as it would if it were evicted; nor can it take
    /// the place of one that has its id, which takes a shard that has given out all ids and begun again.
    pub fn put(&mut self, parcel: SessionParcel, now_ms: u64) {
        let SessionParcel { id, session } = parcel;
        let partition_count = session.slots.len();
        if !self.sessions.contains_key(&id) && self.make_room(partition_count, now_ms) {
            self.partition_count += partition_count;
            self.sessions.insert(id, *session);
        }
    }

    fn open(&mut self, request: SessionRequest, now_ms: u64) -> Plan {
        let partition_count = request.partitions.len();
        if partition_count == 0 || !self.make_room(partition_count, now_ms) {
            return Plan { session_id: 0, incremental: false, partitions: request.partitions };
        }
        let mut session = Session::new(request.by_id, now_ms);
        for (key, wanted) in &request.partitions {
            session.put(key.clone(), *wanted);
        }
        self.partition_count += session.slots.len();
        let id = self.unused_id();
        self.sessions.insert(id, session);
        Plan { session_id: id, incremental: false, partitions: request.partitions }
    }

    fn continue_session(&mut self, request: SessionRequest, now_ms: u64) -> Result<Plan, ErrorCode> {
        let session = self.sessions.get_mut(&request.id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != request.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != request.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.slots.len();
        for (key, wanted) in request.partitions {
            session.put(key, wanted);
        }
        for key in &request.forgotten {
            session.remove(key);
        }
        session.used_ms = now_ms;
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        self.partition_count = self.partition_count + session.slots.len() - before;
        let partitions = session.slots.values().map(|slot| (slot.key.clone(), slot.wanted)).collect();
        if session.slots.is_empty() {
            self.drop_session(request.id);
            return Ok(Plan { session_id: 0, incremental: false, partitions });
        }
        Ok(Plan { session_id: request.id, incremental: true, partitions })
    }

    /// Whether a partition has news for the session; remembers what it is told now, and lets who got records wait
    /// behind the others.
    pub fn tell(&mut self, session_id: i32, key: &PartitionKey, told: Told, has_records: bool) -> bool {
        let Some(session) = self.sessions.get_mut(&session_id) else { return true };
        let Some(slot) = session.places.get(key).and_then(|place| session.slots.get_mut(place)) else {
            return true;
        };
        let news = has_records || told.error || slot.told != told;
        slot.told = told;
        if has_records {
            session.move_to_end(key);
        }
        news
    }

    fn drop_session(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partition_count -= session.slots.len();
        }
    }

    /// Room for one more session: evicts those unused for long, oldest first.
    fn make_room(&mut self, partition_count: usize, now_ms: u64) -> bool {
        loop {
            let fits = self.sessions.len() < self.session_count_max
                && self.partition_count + partition_count <= PARTITIONS_MAX;
            if fits {
                return true;
            }
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used_ms);
            let Some((id, used_ms)) = oldest.map(|(id, session)| (*id, session.used_ms)) else {
                return false;
            };
            if now_ms.saturating_sub(used_ms) < EVICTABLE_AFTER_MS {
                return false;
            }
            self.drop_session(id);
        }
    }

    fn unused_id(&mut self) -> i32 {
        loop {
            self.next_id = if self.next_id >= i32::MAX / self.shard_count - 1 { 1 } else { self.next_id + 1 };
            let id = self.next_id * self.shard_count + self.shard;
            if id > 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicKey::Name(Bytes::from_static(b"t")), partition }
    }

    fn wanted(offset: i64) -> Wanted {
        Wanted {
            offset: KafkaOffset(offset),
            max_bytes: 100,
            current_epoch: LeaderEpoch(-1),
            last_fetched_epoch: LeaderEpoch(-1),
        }
    }

    fn request(id: i32, epoch: i32, partitions: &[(i32, i64)], forgotten: &[i32]) -> SessionRequest {
        SessionRequest {
            id,
            epoch,
            by_id: false,
            partitions: partitions.iter().map(|(p, o)| (key(*p), wanted(*o))).collect(),
            forgotten: forgotten.iter().map(|p| key(*p)).collect(),
        }
    }

    fn told(high_watermark: i64) -> Told {
        Told { high_watermark: KafkaOffset(high_watermark), log_start_offset: KafkaOffset(0), error: false }
    }

    #[test]
    fn a_session_remembers_its_partitions_and_tells_only_news() {
        let mut cache = SessionCache::new(10, 1, 2, 77);
        let opened = cache.plan(request(0, 0, &[(0, 5), (1, 6)], &[]), 0).unwrap();
        assert!(opened.session_id > 0 && opened.session_id % 2 == 1 && !opened.incremental);
        let id = opened.session_id;
        assert!(cache.tell(id, &key(0), told(9), false), "never told before");
        assert!(cache.tell(id, &key(1), told(9), true));

        let next = cache.plan(request(id, 1, &[(1, 7)], &[]), 1).unwrap();
        assert!(next.incremental);
        assert_eq!(next.partitions, [(key(0), wanted(5)), (key(1), wanted(7))]);
        assert!(!cache.tell(id, &key(0), told(9), false), "nothing changed");
        assert!(cache.tell(id, &key(0), told(10), false), "the high watermark moved");

        let dropped = cache.plan(request(id, 2, &[], &[0]), 1).unwrap();
        assert_eq!(dropped.partitions, [(key(1), wanted(7))]);
        assert_eq!(cache.sizes(), (1, 1));
    }

    #[test]
    fn a_partition_that_got_records_waits_behind_the_others() {
        let mut cache = SessionCache::new(10, 0, 1, 1);
        let id = cache.plan(request(0, 0, &[(0, 0), (1, 0)], &[]), 0).unwrap().session_id;
        cache.tell(id, &key(0), told(1), true);
        let next = cache.plan(request(id, 1, &[], &[]), 0).unwrap();
        assert_eq!(next.partitions[0].0, key(1));
    }

    #[test]
    fn wrong_epochs_and_unknown_sessions_are_refused() {
        let mut cache = SessionCache::new(10, 0, 1, 1);
        let id = cache.plan(request(0, 0, &[(0, 0)], &[]), 0).unwrap().session_id;
        assert_eq!(cache.plan(request(id, 5, &[], &[]), 0), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(cache.plan(request(id + 1, 1, &[], &[]), 0), Err(ErrorCode::FetchSessionIdNotFound));
        let mut by_id = request(id, 1, &[], &[]);
        by_id.by_id = true;
        assert_eq!(cache.plan(by_id, 0), Err(ErrorCode::FetchSessionTopicIdError));
        assert_eq!(cache.plan(request(id, -1, &[(0, 0)], &[]), 0).unwrap().session_id, 0);
        assert_eq!(cache.sizes(), (0, 0), "closed by epoch -1");
    }

    #[test]
    fn a_session_that_moves_to_another_shard_goes_on_where_it_was() {
        let (mut here, mut there) = (SessionCache::new(1, 0, 2, 1), SessionCache::new(1, 1, 2, 1));
        let id = here.plan(request(0, 0, &[(0, 5), (1, 6)], &[]), 0).unwrap().session_id;
        here.tell(id, &key(0), told(9), true);
        let parcel = here.take(id).expect("it is there");
        assert!(here.take(id).is_none() && here.take(0).is_none());
        assert_eq!(here.sizes(), (0, 0));
        assert_eq!(here.plan(request(id, 1, &[], &[]), 1), Err(ErrorCode::FetchSessionIdNotFound));

        there.put(parcel, 1);
        assert_eq!(there.sizes(), (1, 2));
        let next = there.plan(request(id, 1, &[(0, 9)], &[]), 2).unwrap();
        assert!(next.incremental);
        assert_eq!(next.session_id, id);
        assert_eq!(next.partitions, [(key(1), wanted(6)), (key(0), wanted(9))]);
        assert!(!there.tell(id, &key(0), told(9), false), "it knows what it was told");
    }

    #[test]
    fn a_session_that_moves_finds_no_room_or_its_id_in_use_and_ends() {
        let (mut here, mut there) = (SessionCache::new(9, 0, 2, 1), SessionCache::new(1, 1, 2, 1));
        let id = here.plan(request(0, 0, &[(0, 5)], &[]), 0).unwrap().session_id;
        let own = there.plan(request(0, 0, &[(0, 5)], &[]), 0).unwrap().session_id;
        there.put(here.take(id).unwrap(), 1);
        assert_eq!(there.plan(request(id, 1, &[], &[]), 1), Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(there.sizes(), (1, 1));
        assert!(there.plan(request(own, 1, &[], &[]), 1).is_ok());

        let id = here.plan(request(0, 0, &[(0, 5)], &[]), 0).unwrap().session_id;
        let mut twin = SessionCache::new(9, 0, 2, 1);
        while twin.plan(request(0, 0, &[(0, 7), (1, 7)], &[]), 0).unwrap().session_id != id {}
        let before = here.sizes();
        here.put(twin.take(id).unwrap(), 1);
        assert_eq!(here.sizes(), before);
        assert_eq!(here.plan(request(id, 1, &[], &[]), 1).unwrap().partitions, [(key(0), wanted(5))]);
    }

    #[test]
    fn a_full_cache_evicts_only_stale_sessions() {
        let mut cache = SessionCache::new(1, 0, 1, 1);
        let first = cache.plan(request(0, 0, &[(0, 0)], &[]), 0).unwrap().session_id;
        let second = cache.plan(request(0, 0, &[(0, 0)], &[]), 10).unwrap();
        assert_eq!(second.session_id, 0, "no room: the client goes on without a session");
        let third = cache.plan(request(0, 0, &[(0, 0)], &[]), EVICTABLE_AFTER_MS).unwrap();
        assert!(third.session_id > 0 && third.session_id != first);
    }
}
