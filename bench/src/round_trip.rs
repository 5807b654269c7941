//! Round-trip mode. A task's message counts when a consumer has received it; only then does the
//! task send its next one (without a rate), or is its permit free again (with a rate).
//!
//! For each client two threads: one polls the producer, only to learn of failures, and one
//! receives all partitions, records and sends. A client receives the other clients' messages too
//! and leaves them alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rdkafka::producer::{BaseProducer, DeliveryResult};

use crate::cli::Options;
use crate::client::{Deliveries, high_watermarks};
use crate::outbox::{Outbox, Permits, Sent};
use crate::payload::{Header, read_header};
use crate::produce::{Outcome, connected_producer, spawn_pacer, tasks_of};
use crate::run::{Event, Run, spawn};
use crate::schedule::{Schedule, Window};
use crate::source::{Received, Source};
use crate::stats::{Part, Recorder};
use crate::validation::Checker;

const POLL: Duration = Duration::from_millis(20);

enum Sending {
    Closed { outbox: Outbox, idle: u32 },
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
    /// Why deliveries failed, one text for each.
    failures: Receiver<String>,
    errors: BTreeSet<String>,
}

/// Starts the clients; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Outcome>>> {
    let starts = high_watermarks(options, partitions)?;
    let mut clients = Vec::new();
    for id in 0..options.clients {
        let (failed, failures) = mpsc::channel();
        let note_failure = move |result: &DeliveryResult<'_>, _intended_ns| {
            if let Err((error, _)) = result {
                // Nobody asks any more once the client has ended.
                let _ = failed.send(error.to_string());
            }
        };
        let producer = connected_producer(options, Deliveries::new(note_failure))?;
        clients.push((id, failures, producer, Source::of_all(options, run.clock, &starts)?));
    }
    let window = run.begin();
    let begin = |(id, failures, producer, mut source)| {
        let (options, run) = (options.clone(), Arc::clone(run));
        let work = move || {
            let client = Client::new(&options, &run, (id, window), failures, &producer);
            let stop_polling = poll_in_background(&producer);
            let (result, outcome) = client.receive(&options, &mut source);
            stop_polling.store(true, Ordering::Release);
            run.tell(Event::Done(result));
            outcome
        };
        spawn(format!("round-trip-{id}"), work)
    };
    clients.into_iter().map(begin).collect()
}

/// What a client says whose messages do not come back.
pub fn not_back_within(timeout: Duration) -> anyhow::Error {
    anyhow!("messages that were sent did not come back within {timeout:?}")
}

fn poll_in_background(producer: &Arc<BaseProducer<Deliveries>>) -> Arc<AtomicBool> {
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
        (id, window): (u32, Window),
        failures: Receiver<String>,
        producer: &Arc<BaseProducer<Deliveries>>,
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
            errors: BTreeSet::new(),
        }
    }

    fn receive(mut self, options: &Options, source: &mut Source) -> (Result<()>, Outcome) {
        let timeout = Duration::from_millis(options.message_timeout_ms.into());
        let mut drain_deadline = None;
        self.fill();
        let result = loop {
            let polled = source.poll(|record| {
                self.received(&record);
                true
            });
            if let Err(error) = polled {
                break Err(error);
            }
            self.note_failures();
            self.recorder.advance(self.run.clock.now_ns());
            if !self.ended() {
                continue;
            }
            let deadline = *drain_deadline.get_or_insert_with(|| Instant::now() + timeout);
            if !self.outstanding() {
                break Ok(());
            }
            if Instant::now() > deadline {
                break Err(not_back_within(timeout));
            }
        };
        if result.is_err() {
            // The pacer of this client must not go on.
            self.run.stop();
        }
        self.recorder.finish();
        (result, Outcome { acknowledged: None, checker: self.checker, errors: self.errors })
    }

    fn received(&mut self, record: &Received<'_>) {
        let header = match &mut self.checker {
            Some(checker) => checker.record(record.partition, record.value),
            None => read_header(record.value).ok(),
        };
        let Some(Header { run, client, intended_wall_ns, .. }) = header else { return };
        if run != self.run.id || client != self.id {
            return;
        }
        let intended_ns = self.run.clock.intended_ns(intended_wall_ns);
        self.recorder.complete(record.now_ns, intended_ns, record.value.len());
        self.release();
    }

    fn note_failures(&mut self) {
        while let Ok(error) = self.failures.try_recv() {
            self.recorder.fail(self.run.clock.now_ns());
            self.errors.insert(error);
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
            Sending::Open { permits, .. } => permits.taken_count() > 0,
        }
    }
}
