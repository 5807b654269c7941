//! What a consumer does with records, whichever library they come from: the run begins with the
//! first one; each is measured by its age and checked; and the end of a topic is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Result, bail};

use crate::payload::{Header, read_header};
use crate::run::Run;
use crate::schedule::Window;
use crate::stats::{Part, Recorder};
use crate::validation::Checker;

/// A topic of which all that was there has been read, and which gives nothing more for this long, is at its end.
const IDLE_END_NS: u64 = 1_000_000_000;
/// As much silence ends a topic of which less was read than its offsets promised: they count what compaction took, and a
/// broker that is slow or moves its partitions gives nothing for a while.
const UNREAD_END_NS: u64 = 10_000_000_000;
/// The same for the member of a group, which does not know how much it is to read.
const MEMBER_END_NS: u64 = 3_000_000_000;
/// How long the first record may take.
const FIRST_RECORD_TIMEOUT_NS: u64 = 30_000_000_000;

/// How many records were there at the start, less those that the threads have reported; below zero when more have come.
#[derive(Debug)]
pub struct Unread(AtomicI64);

impl Unread {
    /// That many are to be read.
    pub fn new(count: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(count)))
    }

    /// So many more were read. What is left, as far as others have reported theirs.
    fn report(&self, count: i64) -> i64 {
        self.0.fetch_sub(count, Ordering::AcqRel) - count
    }
}

/// The records of one thread.
pub struct Intake {
    run: Arc<Run>,
    /// None for the member of a group.
    unread: Option<Arc<Unread>>,
    /// Reported when the thread is idle, so that threads do not share a counter for each record.
    unreported_count: i64,
    checker: Option<Checker>,
    measuring: Option<(Window, Recorder)>,
    last_ns: u64,
}

impl Intake {
    /// An intake that has seen nothing, of a topic that all threads together are to read so far. Checks records if `validate`
    /// says so.
    pub fn new(run: &Arc<Run>, validate: bool, unread: Option<Arc<Unread>>) -> Self {
        Self {
            run: Arc::clone(run),
            unread,
            unreported_count: 0,
            checker: validate.then(|| Checker::new(None)),
            measuring: None,
            last_ns: run.clock.now_ns(),
        }
    }

    /// A record was received at `now_ns`. False if the run is over: the record does not count.
    pub fn record(&mut self, now_ns: u64, partition: i32, timestamp_ms: i64, value: &[u8]) -> bool {
        let (window, recorder) = measuring(&self.run, &mut self.measuring, &mut self.last_ns);
        // If the window began just now it began with this record, which belongs to it.
        let now_ns = now_ns.max(self.last_ns);
        recorder.advance(now_ns);
        if !self.run.admit(*window, now_ns) {
            return false;
        }
        self.last_ns = now_ns;
        self.unreported_count += 1;
        let header = match &mut self.checker {
            Some(checker) => checker.record(partition, value),
            None => read_header(value).ok(),
        };
        let age_ns = age_ns(&self.run, header, timestamp_ms, now_ns);
        recorder.complete_with_latency(now_ns, now_ns, age_ns, value.len());
        true
    }

    /// Nothing has come up to now. False if the run is over.
    pub fn idle(&mut self, now_ns: u64) -> Result<bool> {
        let idle_end_ns = self.report();
        if !self.run.has_begun() {
            if now_ns > FIRST_RECORD_TIMEOUT_NS {
                let seconds = FIRST_RECORD_TIMEOUT_NS / 1_000_000_000;
                bail!("no record came within {seconds} s: is the topic empty?");
            }
            self.last_ns = now_ns;
            return Ok(true);
        }
        let (window, recorder) = measuring(&self.run, &mut self.measuring, &mut self.last_ns);
        recorder.advance(now_ns);
        if now_ns >= window.end_ns {
            return Ok(false);
        }
        if now_ns.saturating_sub(self.last_ns) > idle_end_ns {
            // Others may still have records; the run ends when all have stopped.
            self.run.end_at_last_record();
            return Ok(false);
        }
        Ok(true)
    }

    /// Reports what was read. How much silence is the end of the topic now.
    fn report(&mut self) -> u64 {
        let count = std::mem::take(&mut self.unreported_count);
        match self.unread.as_ref().map(|unread| unread.report(count)) {
            None => MEMBER_END_NS,
            Some(1..) => UNREAD_END_NS,
            Some(_) => IDLE_END_NS,
        }
    }

    /// Hands the measurements over; what the checker saw.
    pub fn finish(self) -> Option<Checker> {
        if let Some((_, recorder)) = self.measuring {
            recorder.finish();
        }
        self.checker
    }
}

/// The age of a record that has come: since its intended time if this tool sent it, else since its
/// timestamp.
pub fn age_ns(run: &Run, header: Option<Header>, timestamp_ms: i64, now_ns: u64) -> u64 {
    let sent_wall_ns = match header {
        Some(header) => header.intended_wall_ns,
        None => timestamp_ms.max(0) as u64 * 1_000_000,
    };
    run.clock.wall_ns(now_ns).saturating_sub(sent_wall_ns)
}

/// The window and the recorder, which begin now if they have not.
fn measuring<'a>(
    run: &Run,
    measuring: &'a mut Option<(Window, Recorder)>,
    last_ns: &mut u64,
) -> &'a mut (Window, Recorder) {
    measuring.get_or_insert_with(|| {
        let window = run.begin();
        *last_ns = run.clock.now_ns();
        (window, run.recorder(Part::Main, window))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use clap::Parser;

    use super::*;
    use crate::cli::Options;
    use crate::run::Event;

    fn run(line: &str) -> (Arc<Run>, mpsc::Receiver<Event>) {
        let (sender, events) = mpsc::channel();
        (Run::new(&Options::parse_from(line.split(' ')), sender), events)
    }

    #[test]
    fn the_first_record_begins_the_run_and_silence_ends_it() {
        let (run, events) = run("chronik-bench -w 0s -d 60s");
        let mut intake = Intake::new(&run, true, None);
        let early_ns = run.clock.now_ns();
        assert!(intake.idle(early_ns).unwrap() && !run.has_begun());
        assert!(intake.idle(FIRST_RECORD_TIMEOUT_NS + 1).is_err());
        let mut intake = Intake::new(&run, true, None);
        let now_ns = run.clock.now_ns();
        assert!(intake.record(now_ns, 0, 5, b"foreign"));
        assert!(run.has_begun());
        assert!(intake.idle(now_ns + MEMBER_END_NS).unwrap());
        assert!(!intake.idle(now_ns + 2 * MEMBER_END_NS).unwrap());
        assert_eq!(intake.finish().unwrap().against_gaps().damaged, 1);
        let samples = events.try_iter().filter(|event| matches!(event, Event::Sample(_))).count();
        assert_eq!(samples, 1);
    }

    #[test]
    fn a_thread_waits_longer_while_others_have_not_read_what_is_there() {
        let (run, _events) = run("chronik-bench -w 0s -d 60s");
        let unread = Unread::new(3);
        let intake = || Intake::new(&run, false, Some(Arc::clone(&unread)));
        let (mut one, mut two, mut three) = (intake(), intake(), intake());
        let now_ns = run.clock.now_ns();
        assert!(one.record(now_ns, 0, 0, b"") && two.record(now_ns, 1, 0, b""));
        // It may have seen its first moment only now.
        let began_ns = run.clock.now_ns();
        assert!(one.idle(began_ns + 2 * IDLE_END_NS).unwrap(), "two are unread as far as it knows");
        assert!(two.record(now_ns, 1, 0, b"") && two.idle(began_ns).unwrap(), "all has been read");
        assert!(!one.idle(began_ns + 2 * IDLE_END_NS).unwrap());
        unread.report(-1);
        assert!(three.idle(began_ns).unwrap());
        assert!(three.idle(began_ns + UNREAD_END_NS).unwrap());
        assert!(
            !three.idle(run.clock.now_ns() + 2 * UNREAD_END_NS).unwrap(),
            "what does not come was compacted"
        );
    }

    #[test]
    fn records_beyond_the_count_are_not_taken() {
        let (run, _events) = run("chronik-bench -w 0s -d 60s -n 2");
        let mut intake = Intake::new(&run, false, None);
        let now_ns = run.clock.now_ns();
        // The first of them begins the window, and all belong to it.
        let taken = (0..4).filter(|_| intake.record(now_ns, 0, 0, b"")).count();
        assert_eq!(taken, 2);
    }
}
