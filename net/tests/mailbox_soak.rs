//! The wake-up guarantee: cross-shard round trips by the million between two executors.
//!
//! In the suite: nothing is lost, nothing hangs, and the worst round trip is reported. With `CHRONIK_SOAK_STRICT=1`, on an
//! idle machine, no round trip may take longer than 20 ms:
//!
//! ```text
//! CHRONIK_SOAK_STRICT=1 cargo test --release -p chronik-net --test mailbox_soak -- --nocapture
//! ```
#![allow(clippy::print_stderr)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use chronik_net::rt::clock;
use chronik_net::rt::executor::{ShardsConfig, run_shards};
use chronik_net::rt::mailbox::{Full, Outbox, Receiver, Sender, Unbound, mailbox};
use chronik_net::rt::safety;

/// No wake-up may be later than this on an idle machine.
const LATE_NS: u64 = 20_000_000;
/// Without progress for this long the run has hung.
const HANG: Duration = Duration::from_secs(20);

/// The instant at which the ping left, handed back by the other shard.
type Ping = u64;

#[derive(Clone, Copy, Debug, Default)]
struct Report {
    trips: u64,
    worst_ns: u64,
    total_ns: u64,
    late: u64,
    rescues: u64,
    /// The longest that a shard was kept from its loop: what the machine, not the mailbox, is to blame for.
    worst_tick_late_ns: u64,
}

struct Seat {
    inbox: Unbound<Ping>,
    peer: Sender<Ping>,
}

/// Only one test at a time may have the two cores.
static MACHINE: Mutex<()> = Mutex::new(());

/// Sends `trips` pings, at most `window` of them under way, and measures each.
async fn ping(
    mut inbox: Receiver<Ping>,
    peer: Sender<Ping>,
    trips: u64,
    window: u64,
    done: &AtomicU64,
) -> Report {
    let mut report = Report::default();
    let mut outbox = Outbox::new(peer);
    let mut sent = 0;
    while report.trips < trips {
        while sent < trips && sent - report.trips < window {
            outbox.send(clock::monotonic_ns());
            sent += 1;
        }
        outbox.flush();
        let first = inbox.recv().await;
        let mut next = Some(first);
        while let Some(sent_ns) = next {
            let took_ns = clock::monotonic_ns() - sent_ns;
            report.trips += 1;
            report.total_ns += took_ns;
            report.worst_ns = report.worst_ns.max(took_ns);
            report.late += u64::from(took_ns > LATE_NS);
            next = inbox.try_recv();
        }
        done.store(report.trips, Ordering::Relaxed);
    }
    report
}

async fn pong(mut inbox: Receiver<Ping>, peer: Sender<Ping>, trips: u64) {
    for _ in 0..trips {
        let mut ping = inbox.recv().await;
        while let Err(Full(back)) = peer.try_send(ping) {
            ping = back;
            chronik_net::rt::executor::breathe().await;
        }
    }
}

/// Runs one soak and watches that it moves.
fn soak(trips: u64, window: u64) -> Report {
    let (to_zero, inbox_zero) = mailbox(1_024).unwrap();
    let (to_one, inbox_one) = mailbox(1_024).unwrap();
    let seats = vec![Seat { inbox: inbox_zero, peer: to_one }, Seat { inbox: inbox_one, peer: to_zero }];
    let done = Arc::new(AtomicU64::new(0));
    let report = Arc::new(Mutex::new(Report::default()));
    let (done_in, report_in) = (done.clone(), report.clone());
    let shards = run_shards(&ShardsConfig::new(2), seats, move |context, seat| {
        let (done, report) = (done_in.clone(), report_in.clone());
        async move {
            let _outstanding = safety::outstanding();
            let inbox = seat.inbox.bind().unwrap();
            if context.shard == 0 {
                let measured = ping(inbox, seat.peer, trips, window, &done).await;
                let mut report = report.lock().unwrap();
                let other = *report;
                *report = Report {
                    rescues: other.rescues,
                    worst_tick_late_ns: other.worst_tick_late_ns,
                    ..measured
                };
            } else {
                pong(inbox, seat.peer, trips).await;
            }
            let stats = safety::stats();
            let mut report = report.lock().unwrap();
            report.rescues += stats.rescues;
            report.worst_tick_late_ns = report.worst_tick_late_ns.max(stats.worst_tick_late_ns);
        }
    })
    .unwrap();
    watch(&done, trips);
    shards.join();
    let report = *report.lock().unwrap();
    assert_eq!(report.trips, trips);
    report
}

fn watch(done: &AtomicU64, trips: u64) {
    let mut last = (0, Instant::now());
    loop {
        let now = done.load(Ordering::Relaxed);
        if now >= trips {
            return;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        assert!(last.1.elapsed() < HANG, "hung after {now} of {trips} round trips");
        thread::sleep(Duration::from_millis(20));
    }
}

fn tell(name: &str, report: Report) {
    eprintln!(
        "{name}: {} round trips, mean {:.1} us, worst {:.2} ms, {} over 20 ms, \
         {} ended by the safety timer, which itself was late by {:.2} ms at worst",
        report.trips,
        report.total_ns as f64 / report.trips as f64 / 1e3,
        report.worst_ns as f64 / 1e6,
        report.late,
        report.rescues,
        report.worst_tick_late_ns as f64 / 1e6
    );
}

#[test]
fn two_million_round_trips_none_lost() {
    let _machine = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let strict = std::env::var_os("CHRONIK_SOAK_STRICT").is_some();
    let (one_by_one, together) = if strict { (500_000, 2_000_000) } else { (60_000, 1_940_000) };
    let single = soak(one_by_one, 1);
    tell("one at a time", single);
    let parallel = soak(together, 64);
    tell("64 at a time", parallel);
    if strict {
        assert_eq!(single.late + parallel.late, 0, "round trips later than 20 ms on an idle machine");
    }
}

#[test]
fn nothing_hangs_when_every_core_is_taken() {
    let _machine = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let stop = Arc::new(AtomicBool::new(false));
    let spinners: Vec<_> = (0..thread::available_parallelism().map_or(2, usize::from))
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let strict = std::env::var_os("CHRONIK_SOAK_STRICT").is_some();
    let single = soak(if strict { 20_000 } else { 1_000 }, 1);
    tell("contended, one at a time", single);
    let parallel = soak(if strict { 1_000_000 } else { 100_000 }, 64);
    tell("contended, 64 at a time", parallel);
    stop.store(true, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().unwrap();
    }
}
