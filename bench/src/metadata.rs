//! Metadata mode over librdkafka: threads ask for the topic's metadata again and again (or along
//! the schedule), each waiting for its answer. librdkafka's call blocks, so a task is a thread,
//! and there are at most 64.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rdkafka::producer::{BaseProducer, Producer};

use crate::cli::Options;
use crate::client::Deliveries;
use crate::produce::{Outcome, connected_producer};
use crate::run::{Event, Run, spawn};
use crate::schedule::{Pacing, Window};
use crate::stats::Part;

/// Threads at most; more would measure the machine's scheduler.
pub const THREADS_MAX: u32 = 64;
/// The longest a thread sleeps before it looks whether the run was stopped.
const SLEEP_NS_MAX: u64 = 20_000_000;

/// Starts the tasks' threads; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>) -> Result<Vec<JoinHandle<Outcome>>> {
    let clients: Vec<Arc<BaseProducer<Deliveries>>> = (0..options.clients)
        .map(|_| connected_producer(options, Deliveries::new(|_, _| {})))
        .collect::<Result<_>>()?;
    let window = run.begin();
    let thread_count = options.concurrency.min(THREADS_MAX);
    let begin = |index: u32| {
        let client = Arc::clone(&clients[index as usize % clients.len()]);
        let pacing = Pacing::new(options, window, index, thread_count);
        let (options, run) = (options.clone(), Arc::clone(run));
        let work = move || {
            let errors = ask(&options, &run, &client, pacing, window);
            run.tell(Event::Done(Ok(())));
            Outcome { errors, ..Outcome::default() }
        };
        spawn(format!("metadata-{index}"), work)
    };
    (0..thread_count).map(begin).collect()
}

/// Asks until the window is over. The distinct errors.
fn ask(
    options: &Options,
    run: &Run,
    client: &BaseProducer<Deliveries>,
    mut pacing: Pacing,
    window: Window,
) -> BTreeSet<String> {
    let timeout = Duration::from_millis(options.request_timeout_ms.into());
    let mut recorder = run.recorder(Part::Main, window);
    let mut errors = BTreeSet::new();
    loop {
        let now_ns = run.clock.now_ns();
        recorder.advance(now_ns);
        if pacing.is_over(now_ns) || run.stopped() || run.count_reached() {
            break;
        }
        let Some(intended_ns) = pacing.take_due(now_ns) else {
            let sleep_ns = pacing.next_ns().map_or(0, |next_ns| next_ns.saturating_sub(now_ns));
            thread::sleep(Duration::from_nanos(sleep_ns.min(SLEEP_NS_MAX)));
            continue;
        };
        if !run.admit(window, intended_ns) {
            break;
        }
        let answer = client.client().fetch_metadata(Some(&options.topic), timeout);
        let now_ns = run.clock.now_ns();
        let listed_error = match &answer {
            Ok(metadata) => {
                metadata.topics().first().and_then(|topic| topic.error()).map(|e| format!("{e:?}"))
            }
            Err(error) => Some(error.to_string()),
        };
        match listed_error {
            None => recorder.complete(now_ns, intended_ns, 0),
            Some(error) => {
                recorder.fail(now_ns);
                errors.insert(error);
            }
        }
    }
    recorder.finish();
    errors
}
