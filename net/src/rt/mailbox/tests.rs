//! Order, bounds and the Dekker argument under stress. Round trips by the million: `tests/mailbox_soak.rs`.

use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::{or, poll_once};

use super::*;
use crate::rt::executor::{ShardsConfig, run_shards};

fn on_a_shard<F: Future<Output = ()> + 'static>(body: fn() -> F) {
    run_shards(&ShardsConfig::new(1), vec![()], move |_, ()| body()).unwrap().join();
}

#[test]
fn full_gives_the_message_back_and_order_is_kept() {
    let (sender, unbound) = mailbox(2).unwrap();
    assert_eq!(sender.try_send(1), Ok(()));
    assert_eq!(sender.try_send(2), Ok(()));
    assert_eq!(sender.try_send(3), Err(Full(3)));
    assert_eq!((unbound.try_recv(), unbound.try_recv(), unbound.try_recv()), (Some(1), Some(2), None));
    assert!(!sender.is_closed());
    drop(unbound);
    assert!(sender.is_closed());
}

#[test]
fn outbox_keeps_order_across_overflow() {
    let (sender, unbound) = mailbox(2).unwrap();
    let mut outbox = Outbox::new(sender);
    for number in 0..5 {
        outbox.send(number);
    }
    assert_eq!(outbox.overflow(), 3);
    assert!(!outbox.flush());
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(std::iter::from_fn(|| unbound.try_recv()));
        outbox.flush();
    }
    assert_eq!(got, [0, 1, 2, 3, 4]);
    assert!(outbox.flush());
}

#[test]
fn a_wait_that_is_dropped_loses_nothing() {
    on_a_shard(|| async {
        let (sender, unbound) = mailbox(2).unwrap();
        let mut receiver = unbound.bind().unwrap();
        for number in 0..100u32 {
            let _ = poll_once(receiver.wait()).await;
            // A ring left over from the message before may end this wait early, as documented.
            or(receiver.wait(), async {
                glommio::timer::Timer::new(Duration::from_micros(100)).await;
            })
            .await;
            assert_eq!(receiver.try_recv(), None);
            sender.try_send(number).unwrap();
            assert_eq!(receiver.recv().await, number);
        }
    });
}

/// The window between the receiver's check and its sleep is hit on purpose: four threads send single messages and the
/// receiver sleeps after each. A lost wake-up shows as a hang, which the deadline turns into a failure.
#[test]
fn stress_many_senders_never_lose_a_wake_up() {
    const SENDERS: u64 = 4;
    const MESSAGES: u64 = 20_000;
    let (sender, unbound) = mailbox::<(u64, u64)>(16).unwrap();
    let seeds = vec![unbound];
    let shards = run_shards(&ShardsConfig::new(1), seeds, |_, unbound| async move {
        let mut receiver = unbound.bind().unwrap();
        let mut next = [0u64; SENDERS as usize];
        for _ in 0..SENDERS * MESSAGES {
            let (from, number) = receiver.recv().await;
            assert_eq!(next[from as usize], number, "messages of sender {from} out of order");
            next[from as usize] += 1;
        }
        assert_eq!(receiver.try_recv(), None);
    })
    .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let senders: Vec<_> = (0..SENDERS)
        .map(|from| {
            let sender = sender.clone();
            thread::spawn(move || {
                for number in 0..MESSAGES {
                    let mut message = (from, number);
                    while let Err(Full(back)) = sender.try_send(message) {
                        assert!(Instant::now() < deadline, "the receiver hangs with a full mailbox");
                        message = back;
                        thread::yield_now();
                    }
                    // Different pauses let the receiver sleep at every point of the exchange.
                    for _ in 0..(number * 7 + from * 13) % 97 {
                        std::hint::spin_loop();
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    while !sender.is_empty() {
        assert!(Instant::now() < deadline, "messages are left and the receiver sleeps");
        thread::sleep(Duration::from_millis(1));
    }
    shards.join();
}
