//! The writing side of a connection: sends answers in order, many in one call, and decides when all is said: for the end, or for a move.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::{or, poll_fn};

use super::CloseReason;
use super::pipeline::Answer;
use super::set::Counters;
use super::shared::{Ending, Shared};
use crate::rt::socket::Socket;
use crate::rt::writev::send_some;

/// How long answers of a client that has closed its side are still waited for: it may only have ended its input.
const CLIENT_GONE_GRACE: Duration = Duration::from_millis(500);

/// Sends answers until the connection is to end or to move and nothing is left to send, or the socket fails.
pub(super) async fn run(shared: &Shared, socket: &Socket, counters: &Counters) {
    loop {
        if shared.ending() == Some(Ending::Now) {
            return;
        }
        gather(shared);
        if shared.out.borrow().is_empty() {
            let leaves = shared.ending().is_some() || shared.leaving().is_some();
            if leaves && shared.pipeline.borrow().is_empty() {
                return;
            }
            wait(shared).await;
            continue;
        }
        if let Err(error) = send(shared, socket, counters).await {
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
            Answer::Last(frame, reason) => {
                frame.for_each(|slice| out.push(slice));
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
async fn send(shared: &Shared, socket: &Socket, counters: &Counters) -> std::io::Result<()> {
    let sent = socket.with_descriptor(|descriptor| send_some(descriptor, &mut shared.out.borrow_mut()))?;
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
        socket.poll_write(context, shared.out.borrow().first())
    })
    .await?;
    shared.out.borrow_mut().advance(sent);
    counters.count_sent(sent);
    Ok(())
}
