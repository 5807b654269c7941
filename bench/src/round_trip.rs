//! Round-trip mode. A task's message counts when a consumer has received it; only then does the
//! task send its next one (without a rate), or is its permit free again (with a rate).
//!
//! For each client two threads: one polls the producer, only to learn of failures, and one
//! receives all partitions, records and sends. A client receives the other clients' messages too
//! and leaves them alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use rdkafka::{ClientContext, Offset};

use crate::cli::Options;
use crate::client::{Log, assign, consumer, watermarks};
use crate::outbox::{Outbox, Permits, Sent};
use crate::payload::{Header, read_header};
use crate::produce::{connected_producer, spawn_pacer, tasks_of};
use crate::run::{Event, Run, spawn};
use crate::schedule::{Schedule, Window};
use crate::stats::{Part, Recorder};
use crate::validation::Checker;

const POLL: Duration = Duration::from_millis(20);

/// Counts the failed deliveries that the receiving thread has not seen yet.
struct Failures(Arc<AtomicU32>);

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Log.error(error, reason);
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, _intended_ns: usize) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }
}

enum Sending {
    Closed { outbox: Outbox<Failures>, idle: u32 },
    Open { permits: Arc<Permits>, pacer: Option<JoinHandle<u64>> },
}

struct Client {
    run: Arc<Run>,
    id: u32,
    window: Window,
    recorder: Recorder,
    sending: Sending,
    outstanding_max: u32,
    checker: Option<Checker>,
    failures: Arc<AtomicU32>,
}

/// Starts the clients; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Option<Checker>>>> {
    let mut clients = Vec::new();
    for id in 0..options.clients {
        let failures = Arc::new(AtomicU32::new(0));
        let producer = connected_producer(options, Failures(Arc::clone(&failures)))?;
        let consumer = consumer(options)?;
        let ends = watermarks(&consumer, &options.topic, partitions)?;
        let starts: Vec<_> =
            (0..partitions).zip(&ends).map(|(p, (_, next))| (p, Offset::Offset(*next))).collect();
        assign(&consumer, &options.topic, &starts)?;
        clients.push((id, failures, producer, consumer));
    }
    let window = run.begin();
    clients
        .into_iter()
        .map(|(id, failures, producer, consumer)| {
            let (options, run) = (options.clone(), Arc::clone(run));
            let work = move || {
                let client = Client::new(&options, &run, id, window, failures, &producer);
                let stop_polling = poll_in_background(&producer);
                let (result, checker) = client.receive(&options, &consumer);
                stop_polling.store(true, Ordering::Release);
                run.tell(Event::Done(result));
                checker
            };
            spawn(format!("round-trip-{id}"), work)
        })
        .collect()
}

fn poll_in_background(producer: &Arc<BaseProducer<Failures>>) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, producer) = (Arc::clone(&stop), Arc::clone(producer));
    thread::spawn(move || {
        while !stopped.load(Ordering::Acquire) {
            producer.poll(POLL);
        }
    });
    stop
}

impl Client {
    fn new(
        options: &Options,
        run: &Arc<Run>,
        id: u32,
        window: Window,
        failures: Arc<AtomicU32>,
        producer: &Arc<BaseProducer<Failures>>,
    ) -> Self {
        let outbox = Outbox::new(Arc::clone(producer), Arc::clone(run), options, id);
        let tasks = tasks_of(options, id);
        let sending = match Schedule::of(options, window, id, options.clients) {
            None => Sending::Closed { outbox, idle: tasks },
            Some(schedule) => {
                let permits = Permits::new(tasks);
                let pacer = Some(spawn_pacer(outbox, schedule, window, &permits));
                Sending::Open { permits, pacer }
            }
        };
        Self {
            run: Arc::clone(run),
            id,
            window,
            recorder: run.recorder(Part::Main, window),
            sending,
            outstanding_max: tasks,
            checker: options.validate.then(|| Checker::of_client(run.id, id)),
            failures,
        }
    }

    fn receive(mut self, options: &Options, consumer: &BaseConsumer<Log>) -> (Result<()>, Option<Checker>) {
        let timeout = Duration::from_millis(options.message_timeout_ms.into());
        let mut drain_deadline = None;
        let mut result = Ok(());
        self.fill();
        loop {
            match consumer.poll(POLL) {
                Some(Ok(message)) => self.received(message.partition(), message.payload().unwrap_or(&[])),
                Some(Err(error)) => {
                    result = Err(error).context("the consumer failed");
                    self.run.stop();
                    break;
                }
                None => {}
            }
            self.note_failures();
            self.recorder.advance(self.run.clock.now_ns());
            if !self.ended() {
                continue;
            }
            let deadline = *drain_deadline.get_or_insert_with(|| Instant::now() + timeout);
            if !self.outstanding() {
                break;
            }
            if Instant::now() > deadline {
                result = Err(anyhow::anyhow!("messages that were sent did not come back within {timeout:?}"));
                break;
            }
        }
        self.recorder.finish();
        (result, self.checker)
    }

    fn received(&mut self, partition: i32, value: &[u8]) {
        let now_ns = self.run.clock.now_ns();
        let header = match &mut self.checker {
            Some(checker) => checker.record(partition, value),
            None => read_header(value).ok(),
        };
        let Some(Header { run, client, intended_wall_ns, .. }) = header else { return };
        if run != self.run.id || client != self.id {
            return;
        }
        let intended_ns = self.run.clock.since_base_of_wall_ns(intended_wall_ns).max(0) as u64;
        self.recorder.complete(now_ns, intended_ns, value.len());
        self.release();
    }

    fn note_failures(&mut self) {
        let failed = self.failures.swap(0, Ordering::AcqRel);
        for _ in 0..failed {
            self.recorder.fail(self.run.clock.now_ns());
            self.release();
        }
        self.fill();
    }

    fn release(&mut self) {
        match &mut self.sending {
            Sending::Open { permits, .. } => permits.give_back(),
            Sending::Closed { idle, .. } => {
                *idle += 1;
                self.fill();
            }
        }
    }

    fn fill(&mut self) {
        let Sending::Closed { outbox, idle } = &mut self.sending else { return };
        while *idle > 0 {
            let now_ns = self.run.clock.now_ns();
            if !self.run.admit(self.window, now_ns) {
                return;
            }
            match outbox.send(now_ns) {
                Sent::Queued => *idle -= 1,
                Sent::Full => return,
                Sent::Refused => {
                    self.recorder.fail(now_ns);
                    return;
                }
            }
        }
    }

    fn ended(&mut self) -> bool {
        let over = self.run.ended(self.window);
        let Sending::Open { pacer, .. } = &mut self.sending else { return over };
        if let Some(handle) = pacer.take_if(|handle| handle.is_finished()) {
            let refused = handle.join().unwrap_or(0);
            (0..refused).for_each(|_| self.recorder.fail(self.run.clock.now_ns()));
        }
        over && pacer.is_none()
    }

    fn outstanding(&self) -> bool {
        match &self.sending {
            Sending::Closed { idle, .. } => *idle < self.outstanding_max,
            Sending::Open { permits, .. } => !permits.all_free(),
        }
    }
}
