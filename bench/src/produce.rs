//! Produce mode. Each client is one librdkafka producer and one thread that receives its
//! deliveries. Without a rate the thread answers each delivery with that task's next message;
//! with a rate a pacer thread sends along the schedule.
//!
//! The thread's state lives in a thread-local that the delivery callback finds: librdkafka calls
//! it on the thread that polls, so there is no lock and nothing is shared.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer};

use crate::cli::Options;
use crate::client::{Deliveries, metadata, producer_config};
use crate::outbox::{Outbox, Permits, Sent, pace};
use crate::payload::read_header;
use crate::run::{Event, Run, spawn};
use crate::schedule::{Schedule, Window};
use crate::stats::{Part, Recorder};
use crate::validation::{Checker, SequenceSet};

/// How long one poll for deliveries lasts; callbacks run at once, this only bounds how late the
/// end of the run is noticed.
const POLL: Duration = Duration::from_millis(20);

/// What one client learned from its deliveries, or from its messages that came back.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Sequences that were acknowledged, with `--validate`.
    pub acknowledged: Option<SequenceSet>,
    /// What came back, with `--validate`.
    pub checker: Option<Checker>,
    /// Error texts, each once.
    pub errors: BTreeSet<String>,
}

thread_local! {
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
}

/// How a client's next message comes about.
enum Sending {
    /// At once when a task is free.
    Closed { outbox: Outbox, idle: u32, outstanding: u32 },
    /// By the pacer.
    Open(Arc<Permits>),
}

struct Client {
    run: Arc<Run>,
    window: Window,
    recorder: Recorder,
    sending: Sending,
    acknowledged: Option<SequenceSet>,
    errors: BTreeSet<String>,
}

impl Client {
    fn delivered(&mut self, result: &DeliveryResult<'_>, intended_ns: u64) {
        let now_ns = self.run.clock.now_ns();
        match result {
            Ok(message) => {
                self.recorder.complete(now_ns, intended_ns, message.payload().map_or(0, <[u8]>::len));
                self.note_acknowledged(message.payload());
            }
            Err((error, _)) => {
                self.recorder.fail(now_ns);
                self.errors.insert(error.to_string());
            }
        }
        match &mut self.sending {
            Sending::Open(permits) => permits.give_back(),
            Sending::Closed { idle, outstanding, .. } => {
                *outstanding -= 1;
                *idle += 1;
                self.fill();
            }
        }
    }

    fn note_acknowledged(&mut self, value: Option<&[u8]>) {
        if let Some(acknowledged) = &mut self.acknowledged
            && let Ok(header) = read_header(value.unwrap_or(&[]))
        {
            acknowledged.insert(header.sequence);
        }
    }

    /// Gives each idle task its next message.
    fn fill(&mut self) {
        let Sending::Closed { outbox, idle, outstanding } = &mut self.sending else { return };
        while *idle > 0 {
            let now_ns = self.run.clock.now_ns();
            if !self.run.admit(self.window, now_ns) {
                return;
            }
            match outbox.send(now_ns) {
                Sent::Queued => {
                    *idle -= 1;
                    *outstanding += 1;
                }
                Sent::Full => return,
                Sent::Refused => {
                    self.recorder.fail(now_ns);
                    return;
                }
            }
        }
    }

    fn outstanding_count(&self) -> u32 {
        match &self.sending {
            Sending::Closed { outstanding, .. } => *outstanding,
            Sending::Open(permits) => permits.taken_count(),
        }
    }

    /// What is outstanding `timeout` after the last message was sent has failed, though librdkafka has not said so.
    fn give_up(&mut self, timeout: Duration) {
        let (count, now_ns) = (self.outstanding_count(), self.run.clock.now_ns());
        (0..count).for_each(|_| self.recorder.fail(now_ns));
        self.errors.insert(format!("messages were neither delivered nor refused within {timeout:?}"));
    }

    /// No message will be sent any more.
    fn ended(&self) -> bool {
        self.run.ended(self.window)
    }
}

/// Hands a delivery to the client of this thread.
fn delivered(result: &DeliveryResult<'_>, intended_ns: u64) {
    CLIENT.with_borrow_mut(|client| {
        if let Some(client) = client {
            client.delivered(result, intended_ns);
        }
    });
}

/// A producer that has its metadata, so that connecting is not part of what is measured.
pub fn connected_producer(options: &Options, context: Deliveries) -> Result<Arc<BaseProducer<Deliveries>>> {
    let producer: BaseProducer<Deliveries> =
        producer_config(options).create_with_context(context).context("cannot create a producer")?;
    metadata(producer.client(), options, Some(&options.topic))?;
    Ok(Arc::new(producer))
}

/// Tasks of client `client` when `options.concurrency` are shared out.
pub fn tasks_of(options: &Options, client: u32) -> u32 {
    options.concurrency / options.clients + u32::from(client < options.concurrency % options.clients)
}

/// Starts the run's producers; each reports to the run when it is done. What they measure is `part` of the run.
pub fn start(options: &Options, run: &Arc<Run>, part: Part) -> Result<Vec<thread::JoinHandle<Outcome>>> {
    let producers: Vec<_> = (0..options.clients)
        .map(|client| Ok((client, connected_producer(options, Deliveries::new(delivered))?)))
        .collect::<Result<_>>()?;
    run.producers_start(options.clients);
    let window = run.begin();
    let begin = |(client, producer)| {
        let (options, run) = (options.clone(), Arc::clone(run));
        spawn(format!("produce-{client}"), move || {
            let recorder = run.recorder(part, window);
            let outcome = produce(&options, &run, client, producer, window, recorder);
            run.producer_ended();
            run.tell(Event::Done(Ok(())));
            outcome
        })
    };
    producers.into_iter().map(begin).collect()
}

fn produce(
    options: &Options,
    run: &Arc<Run>,
    client: u32,
    producer: Arc<BaseProducer<Deliveries>>,
    window: Window,
    recorder: Recorder,
) -> Outcome {
    let outbox = Outbox::new(Arc::clone(&producer), Arc::clone(run), options, client);
    let tasks = tasks_of(options, client);
    let (sending, pacer) = match Schedule::of(options, window, client, options.clients) {
        None => (Sending::Closed { outbox, idle: tasks, outstanding: 0 }, None),
        Some(schedule) => {
            let permits = Permits::new(tasks);
            let pacer = spawn_pacer(outbox, schedule, window, &permits);
            (Sending::Open(permits), Some(pacer))
        }
    };
    let state = Client {
        run: Arc::clone(run),
        window,
        recorder,
        sending,
        acknowledged: options.validate.then(SequenceSet::default),
        errors: BTreeSet::new(),
    };
    CLIENT.set(Some(state));
    receive_deliveries(options, &producer, pacer);
    let state = CLIENT.take().expect("only this function takes it");
    state.recorder.finish();
    Outcome { acknowledged: state.acknowledged, checker: None, errors: state.errors }
}

/// A thread that sends along the schedule and returns how many messages the client refused.
pub fn spawn_pacer(
    mut outbox: Outbox,
    mut schedule: Schedule,
    window: Window,
    permits: &Arc<Permits>,
) -> thread::JoinHandle<u64> {
    let permits = Arc::clone(permits);
    thread::spawn(move || pace(&mut outbox, &mut schedule, window, &permits))
}

/// Polls until nothing is outstanding any more, or the messages' own timeout has passed.
fn receive_deliveries(
    options: &Options,
    producer: &BaseProducer<Deliveries>,
    pacer: Option<thread::JoinHandle<u64>>,
) {
    let mut pacer = pacer;
    let mut drain_deadline = None;
    with_client(Client::fill);
    loop {
        producer.poll(POLL);
        let refused = match pacer.take_if(|handle| handle.is_finished()) {
            Some(handle) => handle.join().unwrap_or(0),
            None => 0,
        };
        let (ended, outstanding_count) = with_client(|client| {
            let now_ns = client.run.clock.now_ns();
            client.recorder.advance(now_ns);
            (0..refused).for_each(|_| client.recorder.fail(now_ns));
            client.fill();
            (client.ended(), client.outstanding_count())
        });
        if !ended || pacer.is_some() {
            continue;
        }
        let timeout = Duration::from_millis(options.message_timeout_ms.into());
        let deadline = *drain_deadline.get_or_insert_with(|| Instant::now() + timeout);
        if outstanding_count == 0 {
            return;
        }
        if Instant::now() > deadline {
            with_client(|client| client.give_up(timeout));
            return;
        }
    }
}

fn with_client<T>(act: impl FnOnce(&mut Client) -> T) -> T {
    CLIENT.with_borrow_mut(|client| act(client.as_mut().expect("set for the life of the thread")))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use clap::Parser;
    use rdkafka::ClientConfig;

    use super::*;

    #[test]
    fn what_is_never_delivered_has_failed() {
        let options = Options::parse_from(["chronik-bench", "-w", "0", "--message-timeout-ms", "1"]);
        let (sender, events) = mpsc::channel();
        let run = Run::new(&options, sender);
        let window = run.begin();
        let permits = Permits::new(3);
        assert!(permits.take() && permits.take());
        let client = Client {
            run: Arc::clone(&run),
            window,
            recorder: run.recorder(Part::Main, window),
            sending: Sending::Open(permits),
            acknowledged: None,
            errors: BTreeSet::new(),
        };
        CLIENT.set(Some(client));
        run.stop();
        // It has sent nothing, so nothing is ever heard of the two.
        let producer: BaseProducer<Deliveries> =
            ClientConfig::new().create_with_context(Deliveries::new(delivered)).unwrap();
        receive_deliveries(&options, &producer, None);
        let client = CLIENT.take().unwrap();
        client.recorder.finish();
        let failures = |event| match event {
            Event::Sample(sample) => sample.failure_count,
            _ => 0,
        };
        assert_eq!(events.try_iter().map(failures).sum::<u64>(), 2);
        let errors: Vec<_> = client.errors.into_iter().collect();
        assert_eq!(errors, ["messages were neither delivered nor refused within 1ms"]);
    }
}
