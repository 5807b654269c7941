//! The edge of a shard: the one task that turns it, and the tasks that carry out what it wants.
//!
//! glommio appears here and in `chronik_net::rt`, nowhere else above the WAL's device. One pump a shard:
//! it drains the mailbox and the connections' questions into the [`Shard`], turns it, and hands its outputs on: answers to
//! the asking shards, one WAL turn to the WAL task, jobs to the helper threads.
//!
//! Invariants: the pump awaits only when there is nothing to do; it never awaits a send; the WAL task is never
//! cancelled, and an error of the WAL ends the process (SAFETY.md, rules 1 and 5; DESIGN.md, decision 7).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chronik_net::rt::clock;
use chronik_net::rt::event::{Event as Wake, LocalQueue};
use chronik_net::rt::executor::breathe;
use chronik_net::rt::helper::HelperPool;
use chronik_net::rt::mailbox::Receiver;
use chronik_net::rt::safety;
use chronik_wal::disk::Disk;
use chronik_wal::disk::uring::TurnWriter;
use chronik_wal::shard_wal::TurnWrite;
use chronik_wal::types::NodeId;

use super::message::Message;
use super::pace::Pace;
use super::report::Inquiry;
use super::router::{Inbound, Router};
use super::{Event, Job, JobDone, JobId, Now, Outputs, Shard};
use crate::metadata::snapshot::Snapshot;
use crate::metrics::ShardMetrics;
use crate::node::peers::Peers;

/// Messages taken in before a turn. More wait for the next one, so that a turn stays short.
const MESSAGES_PER_TURN: usize = 1024;

/// Messages taken in between two looks at the clock.
const MESSAGES_AT_A_TIME: usize = 64;

/// Where messages take longer than this to take in, the rest waits for the next turn.
const INTAKE_MS: u64 = 5;

/// Jobs that wait in the queue of the helper threads; the pump keeps the rest.
const HELPER_QUEUE: usize = 256;

/// A shard without work looks at its timers at the latest after this long.
const IDLE_WAIT_MS: u64 = 1000;

/// The load of a shard is reckoned over so long, or longer while it has nothing to do.
const LOAD_MS: u64 = 500;

/// A shard that has stopped looks this often whether the connections of the others are closed.
const STOPPED_WAIT_MS: u64 = 5;

/// What comes into a shard's mailbox, from other shards and from plain threads.
#[derive(Debug)]
pub enum Mail {
    /// From a shard of this node.
    Message(Message),
    /// From a helper thread.
    Done(JobId, JobDone),
    /// From the admin endpoint: how things stand.
    Inspect(Inquiry),
    /// A node has dialled this one: it can be dialled now, at this address if it said so.
    Heard(NodeId, Option<Arc<str>>),
    /// Stop: no new connections, answer what is in flight, then write everything out.
    Stop,
}

/// What the shards of a node still have to do before the node may end.
#[derive(Clone, Debug)]
pub struct Remaining {
    /// Shards whose connections are still open.
    pub serving: Arc<AtomicUsize>,
    /// Shards that have not stopped.
    pub running: Arc<AtomicUsize>,
}

/// What a pump owns beside its shard.
pub struct Pump {
    /// The shard itself.
    pub shard: Shard,
    /// The way to and from the other shards and this one's connections.
    pub router: Rc<Router>,
    /// The links with other nodes.
    pub peers: Rc<Peers>,
    /// Where shard 0 publishes metadata.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Threads for blocking work; results come back through the mailbox.
    pub helpers: HelperPool<Mail>,
    /// The disk that jobs work on.
    pub disk: Arc<dyn Disk>,
    /// What keeps the pump running after its own shard has stopped.
    pub remaining: Remaining,
    own_stop_told: bool,
    pace: Pace,
    /// When the load was last reckoned (monotonic ms), and the CPU time until then.
    load_from: (u64, u64),
    turns: Rc<LocalQueue<TurnWrite>>,
    waiting_jobs: VecDeque<(JobId, Job)>,
    unanswered: Option<safety::Outstanding>,
    /// When the pump is woken next, whatever happens, and the task that does it.
    alarm: Option<(u64, glommio::Task<()>)>,
}

/// The present, of both clocks.
#[must_use]
pub fn now() -> Now {
    Now { mono_ms: clock::boottime_ms(), wall_ms: clock::wall_ms() }
}

impl Pump {
    /// A pump for `shard`. Its tasks start with [`Pump::run`].
    #[must_use]
    pub fn new(
        shard: Shard,
        router: Rc<Router>,
        peers: Rc<Peers>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        helpers: HelperPool<Mail>,
        disk: Arc<dyn Disk>,
        remaining: Remaining,
    ) -> Self {
        Self {
            shard,
            router,
            peers,
            snapshot,
            helpers,
            disk,
            remaining,
            own_stop_told: false,
            pace: Pace::default(),
            load_from: (now().mono_ms, clock::thread_cpu_ns()),
            turns: Rc::new(LocalQueue::new(1)),
            waiting_jobs: VecDeque::new(),
            unanswered: None,
            alarm: None,
        }
    }

    /// Turns the shard until it has stopped.
    pub async fn run(mut self, device: TurnWriter) {
        let metrics = self.shard.metrics.clone();
        let wal = glommio::spawn_local(write_turns(device, self.turns.clone(), self.router.clone(), metrics));
        loop {
            // One look at the clocks a turn: a system call each on some machines.
            let present = now();
            let visits_before = self.shard.driver().counters().visits;
            for taken in 1..=MESSAGES_PER_TURN {
                match self.router.next() {
                    Some(Inbound::Event(event)) => {
                        if let Event::Metadata(snapshot, _) = &event {
                            self.peers.metadata(snapshot);
                        }
                        self.shard.handle(event, present);
                    }
                    Some(Inbound::Reply { id, reply }) => self.router.answer(id, reply),
                    Some(Inbound::Inspect(inquiry)) => self.inspect(&inquiry),
                    None => break,
                }
                if taken % MESSAGES_AT_A_TIME == 0 && now().mono_ms > present.mono_ms + INTAKE_MS {
                    break;
                }
            }
            self.router.caught_up();
            self.peers.resume();
            let more = self.shard.turn(present);
            let outputs = self.shard.take_outputs();
            self.carry_out(outputs);
            self.keep_pace(present, visits_before);
            self.reckon_load(present);
            if self.is_done() {
                break;
            }
            let flushed = self.router.flush();
            if more || self.router.has_inbound() {
                // Others on this executor get their turn; what completed on the rings is looked at.
                breathe().await;
            } else {
                self.wait(flushed).await;
            }
        }
        wal.cancel().await;
    }

    /// Adapts how much a turn does to how long this one took. A turn with little to do is not measured.
    fn keep_pace(&mut self, begun: Now, visits_before: u64) {
        let visits = self.shard.driver().counters().visits - visits_before;
        let visits = usize::try_from(visits).unwrap_or(usize::MAX);
        if visits >= MESSAGES_AT_A_TIME / 2 {
            let took_ms = now().mono_ms.saturating_sub(begun.mono_ms);
            self.shard.set_visits_max(self.pace.after(visits, took_ms));
        }
    }

    /// Tells the other shards how busy this one is.
    fn reckon_load(&mut self, present: Now) {
        let (from_ms, from_ns) = self.load_from;
        let took_ms = present.mono_ms.saturating_sub(from_ms);
        if took_ms >= LOAD_MS {
            let cpu_ns = clock::thread_cpu_ns();
            let permille = (cpu_ns - from_ns) / 1_000 / took_ms;
            self.shard.metrics.load_permille.set(permille.min(1_000));
            self.load_from = (present.mono_ms, cpu_ns);
        }
    }

    /// Whether this shard and all others have stopped and the connections are closed. Until then frames and questions for other
    /// shards still come by this one.
    fn is_done(&mut self) -> bool {
        if !self.shard.has_stopped() || !self.waiting_jobs.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut self.own_stop_told, true) {
            self.remaining.running.fetch_sub(1, Ordering::AcqRel);
        }
        let none_left = |count: &AtomicUsize| count.load(Ordering::Acquire) == 0;
        none_left(&self.remaining.serving) && none_left(&self.remaining.running)
    }

    /// Sleeps until something comes in or the next timer is due.
    async fn wait(&mut self, flushed: bool) {
        let busy = self.shard.has_work_in_flight();
        self.unanswered =
            if busy { self.unanswered.take().or_else(|| Some(safety::outstanding())) } else { None };
        let now_ms = now().mono_ms;
        let longest_ms = if self.shard.has_stopped() { STOPPED_WAIT_MS } else { IDLE_WAIT_MS };
        let latest_ms = now_ms + if flushed { longest_ms } else { 1 };
        let at_ms = self.shard.next_deadline_ms().map_or(latest_ms, |at_ms| at_ms.min(latest_ms));
        self.ring_at(at_ms.max(now_ms + 1), now_ms);
        self.router.wake().wait().await;
    }

    /// Sees to it that the pump is woken at `at_ms`, or before: an alarm that is set for an earlier time stays, since making
    /// and dropping a timer with every turn costs several system calls.
    fn ring_at(&mut self, at_ms: u64, now_ms: u64) {
        if self.alarm.as_ref().is_some_and(|(set_ms, _)| *set_ms > now_ms && *set_ms <= at_ms) {
            return;
        }
        let router = self.router.clone();
        let task = glommio::spawn_local(async move {
            glommio::timer::Timer::new(Duration::from_millis(at_ms - now_ms)).await;
            router.wake().notify();
        });
        // Dropping the one before cancels it.
        self.alarm = Some((at_ms, task));
    }

    fn carry_out(&mut self, outputs: Outputs) {
        if let Some(why) = outputs.fatal {
            tracing::error!(why, "this node stops");
            std::process::abort();
        }
        if let Some(turn) = outputs.turn {
            // The WAL task takes a turn before it says that the last one is durable, and only then is there another.
            assert!(self.turns.push(turn).is_ok(), "one WAL turn is in flight at most");
        }
        if let Some((snapshot, changes)) = outputs.publish {
            self.snapshot.store(snapshot.clone());
            for shard in self.router.shards() {
                let event = Event::Metadata(snapshot.clone(), changes.clone());
                self.router.send(shard, Message::Event(event));
            }
        }
        for (shard, event) in outputs.messages {
            self.router.send(shard, Message::Event(event));
        }
        for (call, reply) in outputs.replies {
            if call.id == 0 {
                continue;
            }
            if call.origin == self.router.shard() {
                self.router.answer(call.id, reply);
            } else {
                self.router.send(call.origin, Message::Reply { id: call.id, reply });
            }
        }
        self.peers.send(outputs.peer);
        self.waiting_jobs.extend(outputs.jobs);
        self.submit_jobs();
    }

    /// Answers the admin endpoint. What only this thread can tell is brought up to date first.
    fn inspect(&self, inquiry: &Inquiry) {
        let metrics = &self.shard.metrics;
        metrics.busy_us.set(clock::thread_cpu_ns() / 1_000);
        let safety = safety::stats();
        metrics.safety_wakes.set(safety.rescues);
        metrics.safety_late_us.set(safety.worst_tick_late_ns / 1_000);
        let mut report = self.shard.report(&inquiry.scope);
        (report.links, report.incoming) = self.peers.report();
        // Whoever asked may have given up.
        let _ = inquiry.answer.send(report);
    }

    fn submit_jobs(&mut self) {
        while let Some((id, job)) = self.waiting_jobs.pop_front() {
            if self.helpers.waiting() >= HELPER_QUEUE {
                self.waiting_jobs.push_front((id, job));
                return;
            }
            let disk = self.disk.clone();
            let run = Box::new(move || Mail::Done(id, job.run(&*disk)));
            // This task alone submits, so there is room.
            assert!(self.helpers.try_submit(run).is_ok(), "the queue of the helper threads has room");
        }
    }
}

/// Writes the shard's WAL turns, one after the other. Never cancelled while one is in flight.
async fn write_turns(
    mut device: TurnWriter,
    turns: Rc<LocalQueue<TurnWrite>>,
    router: Rc<Router>,
    metrics: Arc<ShardMetrics>,
) {
    loop {
        let turn = turns.pop().await;
        let begun_ns = clock::monotonic_ns();
        match device.write_turn(turn).await {
            Ok(turn) => {
                metrics.wal_sync.record((clock::monotonic_ns() - begun_ns) / 1_000);
                router.receive(Inbound::Event(Event::TurnDurable(turn)));
            }
            Err(error) => {
                // What the disk holds is not known any more; a second fsync would lie.
                tracing::error!(%error, "writing the WAL failed: this node stops");
                std::process::abort();
            }
        }
    }
}

/// Takes a shard's mail in, for as long as the shard lives.
pub async fn take_mail(mut mailbox: Receiver<Mail>, router: Rc<Router>, peers: Rc<Peers>, on_stop: Rc<Wake>) {
    loop {
        while let Some(mail) = mailbox.try_recv() {
            router.room().await;
            match mail {
                Mail::Message(message) => router.receive(message.into()),
                Mail::Done(id, done) => router.receive(Inbound::Event(Event::JobDone(id, done))),
                Mail::Inspect(inquiry) => router.receive(Inbound::Inspect(inquiry)),
                Mail::Heard(node, address) => peers.heard(node, address),
                Mail::Stop => {
                    router.receive(Inbound::Event(Event::Stop));
                    on_stop.notify();
                }
            }
        }
        mailbox.wait().await;
    }
}
