//! Clients that join, sync, heartbeat, leave, commit and crash at random, over a log that stalls, fails and
//! moves to another coordinator at random. One seed gives one run.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::group::{Group, State};
use super::super::timers::TimerKey;
use super::*;

const GROUP: &str = "g";
const CLIENT_COUNT: usize = 5;
const STEP_COUNT: usize = 500;
/// Longer than any timeout of the run: session 10 s, rebalance 60 s, first join 5 min.
const QUIET_MS: u64 = 1_000_000;

/// Where a client stands.
#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Out,
    Joining(CallId),
    Joined(JoinGroupResponse),
    Syncing(CallId, i32),
    Stable(i32),
}

#[derive(Default)]
struct Client {
    instance_id: Option<String>,
    member_id: String,
    stage: Stage,
}

struct Simulation {
    bench: Bench,
    random: SmallRng,
    clients: Vec<Client>,
    /// Commits by offset, which grows with each: their calls, and whether they were acknowledged.
    commits: BTreeMap<i64, CallId>,
    next_offset: i64,
    acknowledged_offset: i64,
    /// What leaders have assigned: generation and member.
    assigned: BTreeSet<(i32, String)>,
    /// Leaders that members were told of, by life of the group and generation. A static member's id may change
    /// within one.
    leaders: BTreeMap<(u64, i32), BTreeSet<String>>,
    /// The group's lives so far: one ends with its coordinator, or with the group itself, whose generations then
    /// begin again.
    life: u64,
    moves: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let client = |index: usize| Client {
            instance_id: (index < 2).then(|| format!("instance{index}")),
            ..Client::default()
        };
        let mut bench = Bench::new();
        bench.is_stalled = true;
        Self {
            bench,
            random: SmallRng::seed_from_u64(seed),
            clients: (0..CLIENT_COUNT).map(client).collect(),
            commits: BTreeMap::new(),
            next_offset: 0,
            acknowledged_offset: -1,
            assigned: BTreeSet::new(),
            leaders: BTreeMap::new(),
            life: 0,
            moves: 0,
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..55 => {
                let index = self.random.random_range(0..CLIENT_COUNT);
                self.act(index);
            }
            55..80 => {
                self.bench.commit_one();
            }
            80..82 if !self.bench.in_flight.is_empty() => {
                // What is refused before it is appended never is; nothing behind it is in the log yet.
                self.bench.fail_one(AppendError::NotEnoughReplicas);
            }
            82..97 => {
                let by_ms = self.random.random_range(0..3_000);
                self.bench.advance(by_ms);
            }
            97 => self.move_coordinator(),
            _ => {
                let index = self.random.random_range(0..CLIENT_COUNT);
                self.crash(index);
            }
        }
        self.collect();
        if !self.bench.coordinator.groups.contains_key(GROUP) {
            self.life += 1;
        }
        check(&self.bench.coordinator);
        let fetched = self.bench.fetched(GROUP);
        assert!(fetched >= self.acknowledged_offset, "acknowledged {} is lost", self.acknowledged_offset);
        // Reading the whole log again is what takes time here.
        if self.random.random_bool(0.1) {
            self.check_replay();
        }
    }

    /// The coordinator goes; a prefix of what is in flight is in the log, unknown to whoever waited.
    fn move_coordinator(&mut self) {
        let kept = self.random.random_range(0..=self.bench.in_flight.len());
        for (_, records) in self.bench.in_flight.drain(..kept) {
            self.bench.log.extend(records);
        }
        self.bench.fail_over();
        self.life += 1;
        self.moves += 1;
    }

    /// The client forgets all; a static one comes back as the same instance.
    fn crash(&mut self, index: usize) {
        let instance_id = self.clients[index].instance_id.clone();
        self.clients[index] = Client { instance_id, ..Client::default() };
    }

    fn act(&mut self, index: usize) {
        let member_id = self.clients[index].member_id.clone();
        match self.clients[index].stage.clone() {
            Stage::Out => {
                let mut body = join_body(GROUP, &member_id);
                body.group_instance_id = self.clients[index].instance_id.as_deref().map(text);
                let version = if self.random.random_bool(0.2) { 3 } else { 9 };
                let version = if body.group_instance_id.is_some() { 9 } else { version };
                let call = self.bench.send(version, RequestKind::JoinGroup(body));
                self.clients[index].stage = Stage::Joining(call);
            }
            Stage::Joined(answer) => {
                let members = &answer.members;
                let assigned: Vec<_> = members.iter().map(|m| m.member_id.to_string()).collect();
                let bytes: Vec<_> =
                    assigned.iter().map(|id| format!("{} {id}", answer.generation_id)).collect();
                let assignments: Vec<_> =
                    assigned.iter().zip(&bytes).map(|(id, bytes)| (id.as_str(), bytes.as_bytes())).collect();
                self.assigned.extend(assigned.iter().map(|id| (answer.generation_id, id.clone())));
                let request = sync_request(GROUP, &member_id, answer.generation_id, &assignments);
                let call = self.bench.send(5, request);
                self.clients[index].stage = Stage::Syncing(call, answer.generation_id);
            }
            Stage::Stable(generation) => self.act_as_member(index, &member_id, generation),
            Stage::Joining(_) | Stage::Syncing(..) => {}
        }
    }

    fn act_as_member(&mut self, index: usize, member_id: &str, generation: i32) {
        match self.random.random_range(0..10) {
            0 => {
                self.bench.send(5, leave_request(GROUP, &[(member_id, None)]));
                self.crash(index);
            }
            1..5 => {
                self.next_offset += 1;
                let request = member_commit(GROUP, member_id, generation, self.next_offset);
                let call = self.bench.send(9, request);
                self.commits.insert(self.next_offset, call);
            }
            _ => match self.bench.heartbeat(GROUP, member_id, generation) {
                0 => {}
                27 | 22 => self.clients[index].stage = Stage::Out,
                25 | 82 => self.crash(index),
                other => panic!("heartbeat answered {other}"),
            },
        }
    }

    /// Takes the answers that have come.
    fn collect(&mut self) {
        for index in 0..CLIENT_COUNT {
            match self.clients[index].stage {
                Stage::Joining(call) => {
                    if let Some(response) = self.bench.answer(call) {
                        self.take_join(index, joined(Some(response)));
                    }
                }
                Stage::Syncing(call, generation) => {
                    if let Some(response) = self.bench.answer(call) {
                        self.take_sync(index, generation, &synced(Some(response)));
                    }
                }
                _ => {}
            }
        }
        let answered: Vec<(i64, CallId)> = self
            .commits
            .iter()
            .filter(|(_, call)| self.bench.replies.contains_key(call))
            .map(|(offset, call)| (*offset, *call))
            .collect();
        for (offset, call) in answered {
            self.commits.remove(&offset);
            if commit_code(self.bench.answer(call)) == 0 {
                self.acknowledged_offset = self.acknowledged_offset.max(offset);
            }
        }
    }

    fn take_join(&mut self, index: usize, answer: JoinGroupResponse) {
        match answer.error_code {
            0 => {
                self.clients[index].member_id = answer.member_id.to_string();
                let told = self.leaders.entry((self.life, answer.generation_id)).or_default();
                told.insert(answer.leader.to_string());
                // A static leader may come back under another id; nobody else takes over within a generation.
                let identity =
                    |id: &String| id.strip_prefix("instance").map_or(id.clone(), |id| id[..1].into());
                let identities: BTreeSet<String> = told.iter().map(identity).collect();
                assert_eq!(identities.len(), 1, "two leaders in a generation: {told:?}");
                let stage = if answer.skip_assignment {
                    Stage::Stable(answer.generation_id)
                } else {
                    Stage::Joined(answer)
                };
                self.clients[index].stage = stage;
            }
            79 => {
                self.clients[index].member_id = answer.member_id.to_string();
                self.clients[index].stage = Stage::Out;
            }
            14 | 15 | 16 | 27 => self.clients[index].stage = Stage::Out,
            25 | 82 => self.crash(index),
            other => panic!("JoinGroup answered {other}"),
        }
    }

    fn take_sync(&mut self, index: usize, generation: i32, answer: &SyncGroupResponse) {
        match answer.error_code {
            0 => {
                let assignment = std::str::from_utf8(&answer.assignment).unwrap();
                let (given, member_id) = assignment.split_once(' ').expect("every member is given something");
                let given: i32 = given.parse().unwrap();
                let is_static = self.clients[index].instance_id.is_some();
                assert_eq!(given, generation, "an assignment of another generation");
                assert!(
                    is_static || member_id == self.clients[index].member_id,
                    "another member's assignment"
                );
                assert!(self.assigned.contains(&(given, member_id.to_owned())), "nobody assigned that");
                self.clients[index].stage = Stage::Stable(generation);
            }
            15 | 16 | 22 | 27 => self.clients[index].stage = Stage::Out,
            25 | 82 => self.crash(index),
            other => panic!("SyncGroup answered {other}"),
        }
    }

    /// The committed state is what the log says.
    fn check_replay(&mut self) {
        let mut replayed = coordinator(&self.bench.config, 0);
        load(&mut replayed, &self.bench.log);
        let expected: Vec<_> = replayed.committed_offsets().collect();
        assert!(self.bench.coordinator.committed_offsets().eq(expected), "the state is not the log's");
        assert!(self.bench.fetched(GROUP) <= self.next_offset);
    }

    /// Everything is committed and time passes: everybody has been answered, and all groups have emptied.
    fn finish(&mut self) {
        self.bench.commit_all();
        self.bench.is_stalled = false;
        self.bench.advance(QUIET_MS);
        self.collect();
        assert!(self.bench.versions.is_empty(), "never answered: {:?}", self.bench.versions);
        if let Some(group) = self.bench.coordinator.groups.get(GROUP) {
            assert_eq!((group.state, group.members.len(), group.pending_members.len()), (State::Empty, 0, 0));
        }
        self.check_replay();
        assert!(self.bench.fetched(GROUP) >= self.acknowledged_offset);
        // A restart gives the same groups and offsets.
        let before: Vec<Record> = self.bench.coordinator.live_records().collect();
        self.bench.fail_over();
        let after: Vec<Record> = self.bench.coordinator.live_records().collect();
        let bytes =
            |records: Vec<Record>| -> Vec<_> { records.into_iter().map(|r| (r.key, r.value)).collect() };
        assert_eq!(bytes(before), bytes(after));
    }
}

/// What must hold of every group at any time.
fn check(coordinator: &GroupCoordinator) {
    for group in coordinator.groups.values() {
        let is_scheduled = |key| coordinator.timers.is_scheduled(&key);
        let session =
            |member_id: &Name| TimerKey::Session { group: group.id.clone(), member_id: member_id.clone() };
        check_members(group);
        for member in group.members.values() {
            assert!(member.is_excused() || is_scheduled(session(&member.id)), "nobody watches {member:?}");
        }
        for member_id in &group.pending_members {
            assert!(is_scheduled(session(member_id)), "nobody watches the pending {member_id}");
        }
        match group.state {
            State::Empty | State::Dead => assert!(group.members.is_empty()),
            State::PreparingRebalance => assert!(is_scheduled(TimerKey::Join(group.id.clone()))),
            State::CompletingRebalance | State::Stable => {
                assert!(!group.members.is_empty());
                let is_watched = is_scheduled(TimerKey::Sync(group.id.clone()));
                assert!(group.pending_sync.is_empty() || is_watched, "nobody watches the sync phase");
            }
        }
    }
}

fn check_members(group: &Group) {
    assert!(group.pending_sync.iter().all(|member_id| group.members.contains_key(member_id)));
    assert!(group.pending_members.iter().all(|member_id| !group.members.contains_key(member_id)));
    match &group.leader {
        Some(leader) => assert!(group.members.contains_key(leader), "the leader is a member"),
        None => assert!(group.members.is_empty(), "members have a leader"),
    }
    let mut instances = BTreeSet::new();
    for member in group.members.values() {
        if let Some(instance_id) = &member.group_instance_id {
            assert!(instances.insert(instance_id), "one member for each instance");
            assert_eq!(group.static_member_id(instance_id), Some(&member.id));
        }
        if group.state == State::Stable {
            assert!(group.protocol.as_deref().is_some_and(|protocol| member.supports(protocol)));
        }
        assert!(group.state == State::CompletingRebalance || member.awaiting_sync.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn random_clients_never_break_a_group(seed in any::<u64>()) {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEP_COUNT {
            simulation.step();
        }
        simulation.finish();
    }
}

#[test]
fn the_simulation_reaches_what_it_is_for() {
    let (mut generations, mut acknowledged, mut moves) = (0, 0, 0);
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEP_COUNT {
            simulation.step();
        }
        generations += simulation.leaders.len();
        acknowledged += usize::from(simulation.acknowledged_offset > 0);
        moves += simulation.moves;
    }
    assert!(generations > 60, "{generations} generations");
    assert!(acknowledged > 10, "{acknowledged} runs with an acknowledged commit");
    assert!(moves > 40, "{moves} moves");
}
