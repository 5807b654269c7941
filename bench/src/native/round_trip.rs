//! Round-trip mode over our own client. Each client is one thread, which sends as in produce mode and reads all partitions: a task
//! is free again when its message was received. It waits for both at once: the reader's sockets wake the sender.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::NANOS_PER_MILLISECOND;
use super::fetch::Fetcher;
use super::produce::{Completion, Producer, connect};
use crate::cli::Options;
use crate::client::high_watermarks;
use crate::payload::{Header, read_header};
use crate::produce::Outcome;
use crate::round_trip::not_back_within;
use crate::run::{Event, Run, spawn};
use crate::source::{Polled, Received};
use crate::validation::Checker;

/// Starts the clients; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Outcome>>> {
    let starts = high_watermarks(options, partitions)?;
    let lanes = vec![Some(0); partitions as usize];
    let clients: Vec<_> = (0..options.clients)
        .map(|client| {
            let connected = connect(options, run, partitions)?;
            let fetcher = Fetcher::connect(options, run.clock, lanes.clone(), &starts)?;
            connected.0.wake_for(fetcher.cluster())?;
            Ok((client, connected, fetcher))
        })
        .collect::<Result<_>>()?;
    let window = run.begin();
    let begin = |(client, connected, mut fetcher)| {
        let (options, run) = (options.clone(), Arc::clone(run));
        let work = move || {
            let timeout = Duration::from_millis(options.message_timeout_ms.into());
            let mut checker = options.validate.then(|| Checker::of_client(run.id, client));
            let with = (window, Completion::Receipt);
            let mut producer = Producer::new(options, &run, client, connected, with);
            let take = |producer: &mut Producer, record: Received<'_>| {
                let header = match &mut checker {
                    Some(checker) => checker.record(record.partition, record.value),
                    None => read_header(record.value).ok(),
                };
                if let Some(Header { run: of, client: from, sequence, intended_wall_ns, .. }) = header
                    && (of, from) == (run.id, client)
                {
                    producer.received(sequence, run.clock.intended_ns(intended_wall_ns), record.now_ns);
                }
            };
            let result = send_and_receive(&run, &mut producer, &mut fetcher, timeout, take);
            let outcome = producer.finish();
            run.tell(Event::Done(result));
            Outcome { checker, acknowledged: None, ..outcome }
        };
        spawn(format!("round-trip-{client}"), work)
    };
    clients.into_iter().map(begin).collect()
}

/// The event loop: until the window is over and every message has come back or failed.
fn send_and_receive(
    run: &Run,
    producer: &mut Producer,
    fetcher: &mut Fetcher,
    timeout: Duration,
    mut take: impl FnMut(&mut Producer, Received<'_>),
) -> Result<()> {
    let timeout_ns = timeout.as_millis() as u64 * NANOS_PER_MILLISECOND;
    let mut drain_deadline_ns = None;
    loop {
        producer.turn()?;
        let received = fetcher.poll(0, &mut |record| {
            take(producer, record);
            true
        })?;
        if producer.is_done() {
            return Ok(());
        }
        if producer.has_ended() {
            let now_ns = run.clock.now_ns();
            if now_ns > *drain_deadline_ns.get_or_insert(now_ns + timeout_ns) {
                return Err(not_back_within(timeout));
            }
        }
        // Tasks that have just become free have something to send.
        if received == Polled::Nothing {
            producer.wait()?;
        }
    }
}
