//! Produce mode over our own client. Each thread is one client: an event loop that takes answers,
//! gives free tasks their next messages (or those whose intended time has come), and sends what
//! is due, one request for each leader.
//!
//! Up to five requests are on the wire on each connection. A batch that is sent again may
//! therefore come behind a younger one, or be stored twice, as with any producer that is not
//! idempotent. With `--validate`, which promises order, at most one batch of a partition is on
//! the wire, and with acks=all the producer is idempotent.

mod fate;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use chronik_net::codec::ApiKey;

use super::batch::Batch;
use super::cluster::Cluster;
use super::partitioner::{Sticky, partition_of_key};
use super::producer_id::{ProducerId, ask_producer_id};
use super::queue::Queue;
use super::request::{ACKS_ALL, Sent, acks, produce_request};
use super::{NANOS_PER_MILLISECOND, PRODUCE_VERSION, SLEEP_NS_MAX};
use crate::cli::Options;
use crate::message::Messages;
use crate::produce::{Outcome, tasks_of};
use crate::run::{Event, Run, spawn};
use crate::schedule::{Pacing, Window};
use crate::stats::{Part, Recorder};
use crate::validation::SequenceSet;

/// Requests on the wire on one connection, as the Java client has it.
const IN_FLIGHT_MAX: usize = 5;
/// Bytes of batches in one request; Kafka takes 100 MiB unless told otherwise.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Where a message's way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// With its acknowledgement, which counts in this part.
    Acknowledgement(Part),
    /// When it is received: who reads says so. It counts in the main part.
    Receipt,
}

/// Batches of different partitions that make the next request to one leader.
#[derive(Default)]
struct Outgoing {
    batches: Vec<(usize, Batch)>,
    byte_count: usize,
}

/// One client.
pub struct Producer {
    completion: Completion,
    /// Messages that are on their way to who reads them.
    to_be_received: BTreeSet<u64>,
    options: Options,
    run: Arc<Run>,
    window: Window,
    recorder: Recorder,
    cluster: Cluster<Vec<Sent>>,
    messages: Messages,
    pacing: Pacing,
    free_tasks: u32,
    tasks: u32,
    sticky: Sticky,
    queues: Vec<Queue>,
    /// Partitions with something to send.
    listed: Vec<usize>,
    /// What goes to each channel this time.
    outgoing: Vec<Outgoing>,
    next_expiry_ns: u64,
    acknowledged: Option<SequenceSet>,
    errors: BTreeSet<String>,
    last_trouble: Option<String>,
}

/// A client's connections, and its producer id if it is idempotent.
pub type Connected = (Cluster<Vec<Sent>>, Option<ProducerId>);

/// Starts the producers of a part of the run; each reports to the run when it is done.
pub fn start(
    options: &Options,
    run: &Arc<Run>,
    partitions: i32,
    part: Part,
) -> Result<Vec<JoinHandle<Outcome>>> {
    let clients: Vec<_> = (0..options.clients)
        .map(|client| Ok((client, connect(options, run, partitions)?)))
        .collect::<Result<_>>()?;
    run.producers_start(options.clients);
    let window = run.begin();
    let begin = |(client, connected)| {
        let (options, run) = (options.clone(), Arc::clone(run));
        let work = move || {
            let completion = Completion::Acknowledgement(part);
            let mut producer = Producer::new(options, &run, client, connected, (window, completion));
            let result = producer.produce();
            let outcome = producer.finish();
            run.producer_ended();
            run.tell(Event::Done(result));
            outcome
        };
        spawn(format!("produce-{client}"), work)
    };
    clients.into_iter().map(begin).collect()
}

/// Connects a client to the leaders of all partitions.
pub fn connect(options: &Options, run: &Run, partitions: i32) -> Result<Connected> {
    let mut cluster = Cluster::connect(options, vec![Some(0); partitions as usize], &run.clock)?;
    let is_idempotent = options.validate && acks(options) == ACKS_ALL;
    let producer_id = is_idempotent.then(|| ask_producer_id(&mut cluster, run)).transpose()?;
    Ok((cluster, producer_id))
}

impl Producer {
    /// A client that has sent nothing yet.
    pub fn new(
        options: Options,
        run: &Arc<Run>,
        client: u32,
        (cluster, producer_id): Connected,
        (window, completion): (Window, Completion),
    ) -> Self {
        let partition_count = cluster.partition_count();
        let tasks = tasks_of(&options, client);
        let part = match completion {
            Completion::Acknowledgement(part) => part,
            Completion::Receipt => Part::Main,
        };
        Self {
            window,
            completion,
            to_be_received: BTreeSet::new(),
            recorder: run.recorder(part, window),
            messages: Messages::new(&options, run, client),
            pacing: Pacing::new(&options, window, client, options.clients),
            free_tasks: tasks,
            tasks,
            sticky: Sticky::new(client, partition_count),
            queues: (0..partition_count).map(|_| Queue::new(producer_id)).collect(),
            listed: Vec::new(),
            outgoing: Vec::new(),
            next_expiry_ns: 0,
            acknowledged: options.validate.then(SequenceSet::default),
            errors: BTreeSet::new(),
            last_trouble: None,
            run: Arc::clone(run),
            cluster,
            options,
        }
    }

    /// The event loop: until the window is over and every message has its end.
    fn produce(&mut self) -> Result<()> {
        loop {
            self.turn()?;
            if self.is_done() {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Takes what has come, and sends what is due.
    pub fn turn(&mut self) -> Result<()> {
        let now_ns = self.run.clock.now_ns();
        self.recorder.advance(now_ns);
        self.cluster.turn(now_ns)?;
        while let Some(event) = self.cluster.next_event(now_ns) {
            self.handle(event);
        }
        self.expire(now_ns);
        self.fill();
        while self.dispatch()? {}
        Ok(())
    }

    /// Sleeps until there is something to do.
    pub fn wait(&mut self) -> Result<()> {
        self.cluster.wait(self.sleep_ns())
    }

    /// No message will be sent any more, and none is on its way.
    pub fn is_done(&self) -> bool {
        self.free_tasks == self.tasks && self.has_ended()
    }

    /// Hands the measurements over.
    pub fn finish(self) -> Outcome {
        self.recorder.finish();
        Outcome { acknowledged: self.acknowledged, checker: None, errors: self.errors }
    }

    /// No message will be sent any more.
    pub fn has_ended(&self) -> bool {
        let is_over = self.pacing.is_over(self.run.clock.now_ns());
        is_over || self.run.stopped() || self.run.count_reached()
    }

    /// Gives free tasks their next messages.
    fn fill(&mut self) {
        let now_ns = self.run.clock.now_ns();
        let now_wall_ms = (self.run.clock.wall_ns(now_ns) / NANOS_PER_MILLISECOND) as i64;
        while self.free_tasks > 0 {
            let Some(intended_ns) = self.pacing.take_due(now_ns) else { break };
            if !self.run.admit(self.window, intended_ns) {
                break;
            }
            self.enqueue(intended_ns, (now_ns, now_wall_ms));
            self.free_tasks -= 1;
        }
    }

    fn enqueue(&mut self, intended_ns: u64, now: (u64, i64)) {
        let message = self.messages.next(self.run.clock.wall_ns(intended_ns));
        if self.completion == Completion::Receipt {
            self.to_be_received.insert(message.sequence);
        }
        let partition = match message.key {
            Some(key) => partition_of_key(key, self.queues.len()),
            None => self.sticky.current(),
        };
        let queue = &mut self.queues[partition];
        let filled = queue.push(&message, intended_ns, now, self.options.batch_size as usize);
        if !std::mem::replace(&mut queue.is_listed, true) {
            self.listed.push(partition);
        }
        self.messages.take();
        if filled {
            self.sticky.batch_closed(partition, |other| self.cluster.leader(other).is_some());
        }
    }

    /// Sends what is due, one request for each leader at most. True if there may be more.
    fn dispatch(&mut self) -> Result<bool> {
        let now_ns = self.run.clock.now_ns();
        let linger_ns = u64::from(self.options.linger_ms) * NANOS_PER_MILLISECOND;
        self.outgoing.resize_with(self.cluster.channel_count(), Outgoing::default);
        let mut at = 0;
        while let Some(&partition) = self.listed.get(at) {
            if let Some(channel) = self.sendable(partition, linger_ns, now_ns) {
                self.take_batch(partition, channel)?;
            }
            match self.queues[partition].is_empty() {
                true => {
                    self.queues[partition].is_listed = false;
                    self.listed.swap_remove(at);
                }
                false => at += 1,
            }
        }
        let mut sent = false;
        for channel in 0..self.outgoing.len() {
            if !self.outgoing[channel].batches.is_empty() {
                let outgoing = std::mem::take(&mut self.outgoing[channel]);
                self.send(channel, outgoing.batches, now_ns);
                sent = true;
            }
        }
        Ok(sent && !self.listed.is_empty())
    }

    /// The channel that may take the partition's next batch now.
    fn sendable(&self, partition: usize, linger_ns: u64, now_ns: u64) -> Option<usize> {
        let queue = &self.queues[partition];
        let channel = self.cluster.leader(partition)?;
        let is_due = queue.due_ns(linger_ns)? <= now_ns;
        let keeps_order = !self.options.validate || queue.in_flight_count == 0;
        let has_room = self.cluster.in_flight_count(channel) < IN_FLIGHT_MAX
            && self.outgoing[channel].byte_count < REQUEST_BYTES_MAX;
        (is_due && keeps_order && has_room).then_some(channel)
    }

    fn take_batch(&mut self, partition: usize, channel: usize) -> Result<()> {
        let was_open = self.queues[partition].next_is_open();
        let batch = self.queues[partition].take().context("cannot build a batch")?;
        if let Some(batch) = batch {
            self.outgoing[channel].byte_count += batch.bytes.len();
            self.outgoing[channel].batches.push((partition, batch));
            self.queues[partition].in_flight_count += 1;
        }
        if was_open {
            self.sticky.batch_closed(partition, |other| self.cluster.leader(other).is_some());
        }
        Ok(())
    }

    fn send(&mut self, channel: usize, batches: Vec<(usize, Batch)>, now_ns: u64) {
        let acks = acks(&self.options);
        let (request, waiting) = produce_request(&self.options, acks, batches);
        let event = self.cluster.send(
            channel,
            (ApiKey::Produce, PRODUCE_VERSION),
            |header| request.encode(header),
            |frame| waiting.into_sent(frame),
            acks != 0,
            now_ns,
        );
        if let Some(event) = event {
            self.handle(event);
        }
    }

    /// How long nothing has to be done unless a socket is ready.
    fn sleep_ns(&self) -> u64 {
        let now_ns = self.run.clock.now_ns();
        let linger_ns = u64::from(self.options.linger_ms) * NANOS_PER_MILLISECOND;
        let mut wake_ns = now_ns + SLEEP_NS_MAX;
        if let Some(next_ns) = self.pacing.next_ns()
            && self.free_tasks > 0
            && !self.has_ended()
        {
            wake_ns = wake_ns.min(next_ns);
        }
        for partition in &self.listed {
            // One that is due and still here waits for an answer or a connection.
            let due_ns = self.queues[*partition].due_ns(linger_ns).unwrap_or(u64::MAX);
            if due_ns > now_ns {
                wake_ns = wake_ns.min(due_ns);
            }
        }
        if now_ns < self.window.end_ns {
            wake_ns = wake_ns.min(self.window.end_ns);
        }
        wake_ns.saturating_sub(now_ns)
    }
}
