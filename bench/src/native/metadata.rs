//! Metadata mode over our own client, and connections mode: each task has a connection, to the
//! brokers of the command line in turn, and asks on it again as soon as it is answered (or along
//! the schedule). Each of `--clients` is a thread with an event loop that serves its share of the
//! tasks. All connections are made before anything is measured; how long that took is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chronik_net::codec::{ApiKey, ErrorCode, MetadataRequest, MetadataResponse};
use hdrhistogram::Histogram;

use super::channel::{Channel, Finished};
use super::cluster::{answer_timeout_ns, bootstrap_addresses, decode_metadata, metadata_request};
use super::poller::Poller;
use super::{METADATA_VERSION, SLEEP_NS_MAX};
use crate::cli::Options;
use crate::client::print_log;
use crate::produce::{Outcome, tasks_of};
use crate::run::{Event, Run, spawn};
use crate::schedule::{Pacing, Window};
use crate::stats::{Part, Recorder, histogram};

/// How long the first connections may take without one more of them being made.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections under way at once: more would only fill the broker's queue of them.
const CONNECTING_MAX: usize = 128;

/// How the connections came about.
pub struct Connecting {
    /// From the first to the last.
    pub elapsed_ns: u64,
    /// Each from the call to its being made.
    pub latency_us: Histogram<u64>,
}

/// The tasks of one thread: one on each channel, which keeps a request's intended time.
struct Tasks {
    run: Arc<Run>,
    poller: Poller,
    channels: Vec<Channel<u64>>,
    free: Turns,
    topic: String,
    request: MetadataRequest,
    errors: BTreeSet<String>,
}

/// Channels without a request outstanding, in the order in which they ask: each asks as often as any other.
/// Some may have lost their connection.
struct Turns(VecDeque<usize>);

impl Turns {
    /// Brings the first that can ask to the front; those before it go to the end.
    fn next(&mut self, is_up: impl Fn(usize) -> bool) -> Option<usize> {
        let at = self.0.iter().position(|index| is_up(*index))?;
        self.0.rotate_left(at);
        self.0.front().copied()
    }

    /// The one at the front asks.
    fn take(&mut self) {
        self.0.pop_front();
    }

    /// One that has asked may ask again when all others have.
    fn give_back(&mut self, index: usize) {
        self.0.push_back(index);
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

/// Connections that are being made, by channel.
struct Beginning<'a> {
    began_ns: BTreeMap<usize, u64>,
    made: &'a mut Connecting,
    last_made_ns: u64,
}

/// Starts the threads; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>) -> Result<(Vec<JoinHandle<Outcome>>, Connecting)> {
    let began_ns = run.clock.now_ns();
    let mut connecting = Connecting { elapsed_ns: 0, latency_us: histogram() };
    let all: Vec<_> = (0..options.clients)
        .map(|client| Ok((client, Tasks::connect(options, run, client, &mut connecting)?)))
        .collect::<Result<_>>()?;
    connecting.elapsed_ns = run.clock.now_ns() - began_ns;
    let window = run.begin();
    let begin = |(client, mut tasks): (u32, Tasks)| {
        let mut pacing = Pacing::new(options, window, client, options.clients);
        let run = Arc::clone(run);
        let work = move || {
            let mut recorder = run.recorder(Part::Main, window);
            let result = tasks.ask(&mut pacing, window, &mut recorder);
            recorder.finish();
            run.tell(Event::Done(result));
            Outcome { errors: tasks.errors, ..Outcome::default() }
        };
        spawn(format!("metadata-{client}"), work)
    };
    Ok((all.into_iter().map(begin).collect::<Result<_>>()?, connecting))
}

impl Tasks {
    /// Connects all tasks of a client.
    fn connect(options: &Options, run: &Arc<Run>, client: u32, connecting: &mut Connecting) -> Result<Self> {
        let addresses = bootstrap_addresses(options);
        if addresses.is_empty() {
            bail!("--bootstrap-servers names no broker");
        }
        let count = tasks_of(options, client) as usize;
        let channel = |index: usize| {
            let address = &addresses[(client as usize + index) % addresses.len()];
            Channel::new(index as u64, address, answer_timeout_ns(options))
        };
        let mut tasks = Self {
            run: Arc::clone(run),
            poller: Poller::new().context("cannot create an epoll")?,
            channels: (0..count).map(channel).collect::<std::io::Result<_>>()?,
            free: Turns((0..count).collect()),
            topic: options.topic.clone(),
            request: metadata_request(&options.topic),
            errors: BTreeSet::new(),
        };
        let mut beginning =
            Beginning { began_ns: BTreeMap::new(), made: connecting, last_made_ns: run.clock.now_ns() };
        while !tasks.channels.iter().all(Channel::is_up) {
            let now_ns = run.clock.now_ns();
            if now_ns > beginning.last_made_ns + START_TIMEOUT.as_nanos() as u64 {
                let reason = tasks.errors.first().map_or("no answer", String::as_str);
                bail!("cannot connect all {count} task(s): {reason}");
            }
            tasks.connect_some(&mut beginning, now_ns);
            for index in tasks.wait(SLEEP_NS_MAX)? {
                tasks.connected(index, &mut beginning);
            }
        }
        tasks.errors.clear();
        Ok(tasks)
    }

    /// Begins as many connections as may be under way at once.
    fn connect_some(&mut self, beginning: &mut Beginning<'_>, now_ns: u64) {
        for index in 0..self.channels.len() {
            if beginning.began_ns.len() >= CONNECTING_MAX {
                return;
            }
            if !self.channels[index].can_connect(now_ns) {
                continue;
            }
            match self.channels[index].connect(&self.poller, now_ns) {
                Ok(()) => drop(beginning.began_ns.insert(index, now_ns)),
                Err(error) => drop(self.lose(index, &error, now_ns)),
            }
        }
    }

    /// A connection that was begun is made, or is not.
    fn connected(&mut self, index: usize, beginning: &mut Beginning<'_>) {
        let result = self.channels[index].advance();
        let now_ns = self.run.clock.now_ns();
        if let Err(error) = result {
            beginning.began_ns.remove(&index);
            self.lose(index, &error, now_ns);
        } else if self.channels[index].is_up()
            && let Some(began_ns) = beginning.began_ns.remove(&index)
        {
            beginning.made.latency_us.saturating_record((now_ns - began_ns) / 1_000);
            beginning.last_made_ns = now_ns;
        }
    }

    /// The event loop: until the window is over and every request has its end.
    fn ask(&mut self, pacing: &mut Pacing, window: Window, recorder: &mut Recorder) -> Result<()> {
        let mut sleep_ns = 0;
        loop {
            for index in self.wait(sleep_ns)? {
                self.receive(index, recorder);
            }
            let now_ns = self.run.clock.now_ns();
            recorder.advance(now_ns);
            self.give_up_overdue(now_ns, recorder);
            let ended = pacing.is_over(now_ns) || self.run.stopped() || self.run.count_reached();
            if ended && self.free.count() == self.channels.len() {
                return Ok(());
            }
            self.reconnect(now_ns);
            self.send(pacing, window, recorder);
            let next_ns = pacing.next_ns().filter(|_| self.free.count() > 0 && !ended);
            sleep_ns =
                next_ns.map_or(SLEEP_NS_MAX, |next_ns| next_ns.saturating_sub(self.run.clock.now_ns()));
        }
    }

    /// Gives free tasks that are connected their next requests.
    fn send(&mut self, pacing: &mut Pacing, window: Window, recorder: &mut Recorder) {
        let now_ns = self.run.clock.now_ns();
        while let Some(index) = self.free.next(|index| self.channels[index].is_up()) {
            let Some(intended_ns) = pacing.take_due(now_ns) else { return };
            if !self.run.admit(window, intended_ns) {
                return;
            }
            self.free.take();
            let (request, api) = (&self.request, (ApiKey::Metadata, METADATA_VERSION));
            let sent = self.channels[index].send(
                api,
                |header| request.encode(header),
                |_| intended_ns,
                true,
                now_ns,
            );
            if let Err(error) = sent {
                self.fail(index, &error, now_ns, recorder);
            }
        }
    }

    /// Takes what has come for a channel.
    fn receive(&mut self, index: usize, recorder: &mut Recorder) {
        loop {
            let finished = self.channels[index].next_finished();
            let now_ns = self.run.clock.now_ns();
            match finished {
                Ok(None) => return,
                Ok(Some(Finished { kept: intended_ns, answer })) => {
                    self.free.give_back(index);
                    let answer = answer.context("no answer").and_then(|answer| Ok(decode_metadata(answer)?));
                    match answer.and_then(|response| self.check(&response)) {
                        Ok(()) => recorder.complete(now_ns, intended_ns, 0),
                        Err(error) => {
                            recorder.fail(now_ns);
                            self.errors.insert(format!("{error:#}"));
                        }
                    }
                }
                Err(error) => {
                    self.fail(index, &error, now_ns, recorder);
                    return;
                }
            }
        }
    }

    /// An answer must list the topic, without an error.
    fn check(&self, response: &MetadataResponse) -> Result<()> {
        let listing = response.topics.iter().find(|listing| listing.name.as_deref() == Some(&*self.topic));
        match listing.map(|listing| listing.error) {
            Some(ErrorCode::None) => Ok(()),
            Some(error) => bail!("the broker answers {error} for the topic {}", self.topic),
            None => bail!("the broker does not list the topic {}", self.topic),
        }
    }

    fn give_up_overdue(&mut self, now_ns: u64, recorder: &mut Recorder) {
        for index in 0..self.channels.len() {
            if self.channels[index].is_overdue(now_ns) {
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
                self.fail(index, &error, now_ns, recorder);
            }
        }
    }

    /// A connection was lost, and with it the request on it.
    fn fail(&mut self, index: usize, error: &std::io::Error, now_ns: u64, recorder: &mut Recorder) {
        for _intended_ns in self.lose(index, error, now_ns) {
            recorder.fail(now_ns);
            self.free.give_back(index);
        }
    }

    fn lose(&mut self, index: usize, error: &std::io::Error, now_ns: u64) -> Vec<u64> {
        let reason = format!("{}: {error}", self.channels[index].address());
        print_log(false, &format!("native: {reason}"));
        self.errors.insert(reason);
        self.channels[index].close(now_ns)
    }

    fn reconnect(&mut self, now_ns: u64) {
        for index in 0..self.channels.len() {
            if self.channels[index].can_connect(now_ns)
                && let Err(error) = self.channels[index].connect(&self.poller, now_ns)
            {
                self.lose(index, &error, now_ns);
            }
        }
    }

    /// Sleeps until a socket is ready; the channels that are.
    fn wait(&mut self, timeout_ns: u64) -> Result<Vec<usize>> {
        let tokens = self.poller.wait(timeout_ns.min(SLEEP_NS_MAX)).context("epoll failed")?;
        let ready: Vec<usize> = tokens.iter().map(|token| *token as usize).collect();
        ready.iter().for_each(|index| self.channels[*index].wake());
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who asks in so many turns, each answered before the next.
    fn asked(turns: &mut Turns, count: usize, is_up: impl Fn(usize) -> bool) -> Vec<usize> {
        let ask = |_| {
            let index = turns.next(&is_up)?;
            turns.take();
            turns.give_back(index);
            Some(index)
        };
        (0..count).map_while(ask).collect()
    }

    #[test]
    fn every_connection_asks_in_turn() {
        let mut turns = Turns((0..4).collect());
        assert_eq!(asked(&mut turns, 9, |_| true), [0, 1, 2, 3, 0, 1, 2, 3, 0]);
    }

    #[test]
    fn those_that_are_down_are_passed_over_and_kept() {
        let mut turns = Turns((0..5).collect());
        assert_eq!(asked(&mut turns, 5, |index| index % 2 == 1), [1, 3, 1, 3, 1]);
        assert!(asked(&mut turns, 5, |_| false).is_empty());
        let mut all = asked(&mut turns, 5, |_| true);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
