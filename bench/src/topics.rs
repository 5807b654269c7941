//! Topics mode: makes `--message-count` topics with `--concurrency` requests at a time, one topic each, then deletes them the same
//! way. A topic counts when the broker has answered that it is made; what it costs to have them (idle CPU, memory) is seen with
//! `--keep-topics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_lite::future::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

use crate::cli::{Client, Options};
use crate::client::{Log, admin, metadata};
use crate::native;
use crate::run::{Event, Run, spawn};
use crate::stats::Part;

/// Topics unless `--message-count` says otherwise.
pub const TOPICS_DEFAULT: u64 = 1_000;

/// What is done to the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// They are made.
    Create,
    /// They are deleted.
    Delete,
}

/// What a step left.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The topics that the step was done to.
    pub topics: Vec<String>,
    /// Error texts, each once.
    pub errors: Vec<String>,
}

/// Names of the topics that a run makes.
pub fn names(options: &Options, run: &Run) -> Vec<String> {
    let count = options.message_count.unwrap_or(TOPICS_DEFAULT);
    (0..count).map(|number| format!("{}-{:08x}-{number}", options.topic, run.id as u32)).collect()
}

/// Starts the step's threads; each reports to the run when it is done. The run begins here.
pub fn start(
    options: &Options,
    run: &Arc<Run>,
    step: Step,
    topics: Vec<String>,
) -> Result<Vec<JoinHandle<Outcome>>> {
    let count = (u64::from(options.concurrency)).min(topics.len() as u64).max(1) as usize;
    // Connecting is not part of what is measured.
    let admins = admins(options, run, count)?;
    let work = Arc::new(Work { topics, next: AtomicU64::new(0), failed: Mutex::default() });
    // The time of the step ends with its last topic.
    run.end_at_last_record();
    let window = run.begin();
    admins
        .into_iter()
        .enumerate()
        .map(|(index, mut admin)| {
            let (options, run, work) = (options.clone(), Arc::clone(run), Arc::clone(&work));
            let body = move || {
                let mut recorder = run.recorder(Part::Main, window);
                let mut outcome = Outcome::default();
                while let Some(topic) = work.take(&run, window.end_ns) {
                    let began_ns = run.clock.now_ns();
                    let result = admin.carry_out(&options, step, topic);
                    let now_ns = run.clock.now_ns();
                    match result {
                        Ok(()) => {
                            recorder.complete(now_ns, began_ns, 0);
                            outcome.topics.push(topic.clone());
                        }
                        Err(error) => {
                            recorder.fail(now_ns);
                            work.note(&mut outcome.errors, format!("{error:#}"));
                        }
                    }
                }
                recorder.finish();
                run.tell(Event::Done(Ok(())));
                outcome
            };
            spawn(format!("topics-{index}"), body).context("each task is a thread: use a lower --concurrency")
        })
        .collect()
}

/// The topics of a step, shared by its threads.
struct Work {
    topics: Vec<String>,
    next: AtomicU64,
    /// Error texts so far. Off the hot path: only failures come here.
    failed: Mutex<Vec<String>>,
}

impl Work {
    /// The next topic, unless there is none or the run's time is over.
    fn take(&self, run: &Run, end_ns: u64) -> Option<&String> {
        if run.stopped() || run.clock.now_ns() >= end_ns {
            return None;
        }
        self.topics.get(self.next.fetch_add(1, Ordering::Relaxed) as usize)
    }

    /// Keeps an error text that no thread has kept yet.
    fn note(&self, errors: &mut Vec<String>, text: String) {
        let mut known = self.failed.lock().expect("no thread panics with it");
        if !known.contains(&text) && known.len() < ERRORS_MAX {
            known.push(text.clone());
            errors.push(text);
        }
    }
}

/// Distinct errors that are shown.
const ERRORS_MAX: usize = 20;

/// What one task asks with.
enum Admin {
    /// Shared by the tasks of a client.
    Librdkafka(Arc<AdminClient<Log>>),
    Native(Box<native::admin::Admin>),
}

/// One for each task, connected.
fn admins(options: &Options, run: &Run, count: usize) -> Result<Vec<Admin>> {
    if options.client == Client::Native {
        let admin =
            |index| Ok(Admin::Native(Box::new(native::admin::Admin::connect(options, run.clock, index)?)));
        return (0..count).map(admin).collect();
    }
    let clients: Vec<Arc<AdminClient<Log>>> =
        (0..options.clients).map(|_| Ok(Arc::new(admin(options)?))).collect::<Result<_>>()?;
    for client in &clients {
        metadata(client.inner(), options, None)?;
    }
    Ok((0..count).map(|index| Admin::Librdkafka(Arc::clone(&clients[index % clients.len()]))).collect())
}

impl Admin {
    fn carry_out(&mut self, options: &Options, step: Step, topic: &str) -> Result<()> {
        match (self, step) {
            (Admin::Native(admin), Step::Create) => admin.create(topic),
            (Admin::Native(admin), Step::Delete) => admin.delete(topic),
            (Admin::Librdkafka(admin), step) => carry_out(admin, options, step, topic),
        }
    }
}

fn carry_out(admin: &AdminClient<Log>, options: &Options, step: Step, topic: &str) -> Result<()> {
    let timeout = Some(Duration::from_millis(options.request_timeout_ms.into()));
    let admin_options = AdminOptions::new().request_timeout(timeout).operation_timeout(timeout);
    let answer = match step {
        Step::Create => {
            let replicas = TopicReplication::Fixed(options.replication_factor as i32);
            let new = NewTopic::new(topic, options.partitions.unwrap_or(1) as i32, replicas);
            let results = block_on(admin.create_topics([&new], &admin_options))?;
            results.into_iter().next()
        }
        Step::Delete => {
            let results = block_on(admin.delete_topics(&[topic], &admin_options))?;
            results.into_iter().next()
        }
    };
    match answer.context("the broker's answer does not name the topic")? {
        Ok(_) => Ok(()),
        Err((_, code)) => Err(anyhow::anyhow!("{code}")),
    }
}
