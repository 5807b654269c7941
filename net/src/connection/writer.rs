//! The writing side of a connection: sends answers in order, many in one call, and decides when all is said.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::{or, poll_fn};
use futures_lite::io::AsyncWrite;

use super::CloseReason;
use super::pipeline::Answer;
use super::set::Counters;
use super::shared::{Ending, Shared};
use crate::rt::writev::send_some;

/// How long answers of a client that has closed its side are still waited for: it may only have ended its input.
const CLIENT_GONE_GRACE: Duration = Duration::from_millis(500);

/// Sends answers until the connection is to end and nothing is left to send, or the socket fails.
pub(super) async fn run(shared: &Shared, counters: &Counters) {
    loop {
        if shared.ending() == Some(Ending::Now) {
            return;
        }
        gather(shared);
        if shared.out.borrow().is_empty() {
            let done = shared.ending().is_some() && shared.pipeline.borrow().is_empty();
            if done {
                return;
            }
            wait(shared).await;
            continue;
        }
        if let Err(error) = send(shared, counters).await {
            shared.end(Ending::Now, CloseReason::Socket(error.kind()));
            return;
        }
        shared.progress.notify();
    }
}

/// Moves the answers that may leave to the queue of bytes.
fn gather(shared: &Shared) {
    let mut pipeline = shared.pipeline.borrow_mut();
    let mut out = shared.out.borrow_mut();
    while let Some(answer) = pipeline.take_next() {
        match answer {
            Answer::Frame(frame) => frame.for_each(|slice| out.push(slice)),
            Answer::Close(reason) => {
                drop((pipeline, out));
                shared.forget_requests();
                shared.end(Ending::Flush, reason);
                return;
            }
        }
    }
}

async fn wait(shared: &Shared) {
    if matches!(shared.ending(), Some(Ending::Flush)) && matches!(shared.reason(), CloseReason::Client) {
        let grace = async {
            glommio::timer::Timer::new(CLIENT_GONE_GRACE).await;
            shared.end(Ending::Now, CloseReason::Client);
        };
        or(shared.answered.wait(), grace).await;
    } else {
        shared.answered.wait().await;
    }
}

/// Sends what the socket takes; waits for it when it takes nothing.
async fn send(shared: &Shared, counters: &Counters) -> std::io::Result<()> {
    let sent = shared.with_socket(|socket| send_some(socket, &mut shared.out.borrow_mut()))?;
    counters.count_sent(sent);
    if sent > 0 {
        shared.last_activity_ms.set(crate::rt::clock::monotonic_ms());
    }
    if shared.out.borrow().is_empty() {
        return Ok(());
    }
    // glommio knows no other way to wait for room than to write itself.
    let sent = poll_fn(|context| {
        // Polled until it waits, for its waker; what it tells is read from `ending`.
        while pin!(shared.ending_asked_of_writer.wait()).poll(context).is_ready() {}
        if shared.ending() == Some(Ending::Now) {
            return Poll::Ready(Ok(0));
        }
        let mut stream = shared.stream.borrow_mut();
        Pin::new(&mut *stream).poll_write(context, shared.out.borrow().first())
    })
    .await?;
    shared.out.borrow_mut().advance(sent);
    counters.count_sent(sent);
    Ok(())
}

/// Ends the connection in an orderly way: what was sent arrives even when the client had sent more than was read.
pub(super) fn finish(shared: &Shared) {
    // Closing with unread input makes the kernel send a reset, which can overtake the last answers: read it away.
    shared.with_socket(|socket| {
        // The peer may be gone; then there is nothing to be orderly about.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
        let mut sink = [0u8; 16 << 10];
        for _ in 0..FINISH_READS_MAX {
            match rustix::net::recv(socket, &mut sink[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 => {}
                _ => break,
            }
        }
    });
}

/// Reads of unread input at the end: 1 MiB, more than a socket usually holds, and no client can make it longer.
const FINISH_READS_MAX: usize = 64;
