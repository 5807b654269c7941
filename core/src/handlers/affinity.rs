//! Where a connection belongs: on the shard that its data requests are for.
//!
//! A socket comes to whichever shard is next in turn. A request for another shard then takes two mailboxes and two wake-ups
//! more than one for its own, so a connection that talks to one shard alone moves there (`chronik_net::connection::moving`).
//! Pure; one a connection, on the shard where it is, and moves along with it. With one shard it is never asked.
//!
//! Only Produce and Fetch count: the others are few, and most are answered wherever they come. A request for several shards
//! counts as one for none, as does one of which every partition is refused at once.

use chronik_wal::types::ShardId;

/// Requests that a decision is made over: some milliseconds of a busy client, minutes of one for which it does not matter.
const WINDOW_REQUESTS: u32 = 64;

/// Requests of a window that may be for others: of sixteen, at least fifteen are for the shard that the connection moves to.
const OTHERS_MAX: u32 = WINDOW_REQUESTS / 16;

/// A connection that has moved, or has tried to, stays for so long: a client whose habits change does not flap.
const STAY_MS: u64 = 5_000;

/// What the data requests of one connection were for.
#[derive(Debug, Default)]
pub struct Affinity {
    /// The shard that the window's first request was for.
    candidate: Option<ShardId>,
    /// Requests of the window.
    requests: u32,
    /// Those of them that were not for the candidate alone.
    others: u32,
    /// When the connection last moved or was to.
    moved_ms: Option<u64>,
}

impl Affinity {
    /// Notes a request for `owner` alone, or for none or several. The shard to move to from `own`, if any.
    ///
    /// A window that can come to nothing any more begins again with this request, so that what a client did first (the
    /// request that sent it to the right partition, say) delays the decision by a few requests only.
    pub fn note(
        &mut self,
        own: ShardId,
        owner: Option<ShardId>,
        now_ms: impl FnOnce() -> u64,
    ) -> Option<ShardId> {
        self.requests += 1;
        if owner.is_none() || owner != self.candidate {
            self.others += 1;
            if self.candidate.is_none() || self.others > OTHERS_MAX {
                self.begin(owner);
            }
        }
        if self.requests < WINDOW_REQUESTS {
            return None;
        }
        let candidate = self.candidate;
        self.begin(None);
        let shard = candidate.filter(|shard| *shard != own)?;
        let now_ms = now_ms();
        let may_move = self.moved_ms.is_none_or(|moved_ms| now_ms.saturating_sub(moved_ms) >= STAY_MS);
        if may_move {
            self.moved_ms = Some(now_ms);
        }
        may_move.then_some(shard)
    }

    /// The connection has come to another shard.
    pub fn moved(&mut self, now_ms: u64) {
        self.begin(None);
        self.moved_ms = Some(now_ms);
    }

    /// Begins a window with a request for `owner`, or an empty one.
    fn begin(&mut self, owner: Option<ShardId>) {
        self.candidate = owner;
        self.requests = u32::from(owner.is_some());
        self.others = 0;
    }
}

/// The owner, where there is exactly one.
pub fn sole(mut owners: impl Iterator<Item = ShardId>) -> Option<ShardId> {
    let first = owners.next()?;
    owners.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: ShardId = ShardId(0);
    const THERE: Option<ShardId> = Some(ShardId(1));
    const ELSEWHERE: Option<ShardId> = Some(ShardId(2));

    /// Notes requests one after the other at one time; the moves asked for, by the number of the request from 1.
    fn moves(affinity: &mut Affinity, now_ms: u64, owners: &[Option<ShardId>]) -> Vec<(usize, u16)> {
        let noted = owners.iter().map(|owner| affinity.note(OWN, *owner, || now_ms));
        noted.enumerate().filter_map(|(index, asked)| Some((index + 1, asked?.0))).collect()
    }

    #[test]
    fn a_window_of_requests_for_another_shard_moves_the_connection_there() {
        assert_eq!(moves(&mut Affinity::default(), 0, &[THERE; 63]), []);
        assert_eq!(moves(&mut Affinity::default(), 0, &[THERE; 64]), [(64, 1)]);
    }

    #[test]
    fn requests_for_the_own_shard_for_none_and_for_several_move_nothing() {
        assert_eq!(moves(&mut Affinity::default(), 0, &[Some(OWN); 1_000]), []);
        assert_eq!(moves(&mut Affinity::default(), 0, &[None; 1_000]), []);
        let in_turn: Vec<_> = (0..1_000).map(|request| Some(ShardId(request % 3))).collect();
        assert_eq!(moves(&mut Affinity::default(), 0, &in_turn), []);
    }

    #[test]
    fn one_request_of_sixteen_may_be_for_others_and_one_more_may_not() {
        let with_others = |others: &[usize]| {
            let mut owners = [THERE; 64];
            others.iter().enumerate().for_each(|(count, index)| {
                owners[*index] = [Some(OWN), None, ELSEWHERE][count % 3];
            });
            moves(&mut Affinity::default(), 0, &owners)
        };
        assert_eq!(with_others(&[1, 20, 40, 63]), [(64, 1)]);
        assert_eq!(with_others(&[1, 20, 40, 62, 63]), []);
    }

    #[test]
    fn what_a_client_did_first_delays_the_decision_by_little() {
        for first in [ELSEWHERE, Some(OWN)] {
            let mut owners = vec![first];
            owners.extend([THERE; 100]);
            // Four more that count against the first one; the fifth begins anew.
            assert_eq!(moves(&mut Affinity::default(), 0, &owners), [(1 + 4 + 64, 1)]);
        }
        let mut owners = vec![None; 10];
        owners.extend([THERE; 64]);
        assert_eq!(moves(&mut Affinity::default(), 0, &owners), [(74, 1)]);
    }

    #[test]
    fn a_connection_that_has_moved_or_tried_to_stays_for_a_while() {
        let mut affinity = Affinity::default();
        assert_eq!(moves(&mut affinity, 1_000, &[THERE; 64]), [(64, 1)]);
        // It could not move.
        assert_eq!(moves(&mut affinity, 5_999, &[THERE; 640]), []);
        assert_eq!(moves(&mut affinity, 6_000, &[THERE; 640]), [(64, 1)]);
        affinity.moved(6_500);
        assert_eq!(moves(&mut affinity, 11_499, &[THERE; 640]), []);
        assert_eq!(moves(&mut affinity, 11_500, &[THERE; 640]), [(64, 1)]);
        affinity.moved(11_600);
        assert_eq!(moves(&mut affinity, 11_500, &[THERE; 640]), [], "a clock that went back");
    }

    #[test]
    fn only_one_owner_is_a_sole_owner() {
        let of = |owners: &[u16]| sole(owners.iter().copied().map(ShardId));
        assert_eq!((of(&[]), of(&[3]), of(&[3, 4])), (None, Some(ShardId(3)), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Whatever comes: the last 64 requests bear out every move, and moves are far apart.
        #[test]
        fn a_move_is_always_borne_out(
            owners in prop::collection::vec(prop::option::weighted(0.97, prop_oneof![20 => Just(1u16), 1 => 0u16..3]), 0..2_000),
            pause_ms in 0u64..40,
        ) {
            let mut affinity = Affinity::default();
            let owners: Vec<_> = owners.into_iter().map(|owner| owner.map(ShardId)).collect();
            let mut last_ms = None;
            for (index, owner) in owners.iter().enumerate() {
                let now_ms = index as u64 * pause_ms;
                let Some(shard) = affinity.note(OWN, *owner, || now_ms) else { continue };
                prop_assert!(shard != OWN && index + 1 >= 64);
                let window = &owners[index + 1 - 64..=index];
                prop_assert!(window.iter().filter(|owner| **owner == Some(shard)).count() >= 60);
                prop_assert!(last_ms.is_none_or(|last_ms| now_ms - last_ms >= STAY_MS));
                last_ms = Some(now_ms);
            }
        }
    }
}
