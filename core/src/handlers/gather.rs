//! Waiting for several answers: the first of them, or all.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

/// The first future of several to complete.
#[derive(Debug)]
pub struct First<T> {
    /// Its place among them.
    pub place: usize,
    /// What it gave.
    pub value: T,
}

/// Waits for the first of `futures`; the others stay as they are.
pub async fn first<'a, F, T>(futures: impl Iterator<Item = &'a mut F>) -> First<T>
where
    F: Future<Output = T> + Unpin + 'a,
{
    let mut futures: Vec<&mut F> = futures.collect();
    std::future::poll_fn(move |context| {
        for (place, future) in futures.iter_mut().enumerate() {
            if let Poll::Ready(value) = Pin::new(&mut **future).poll(context) {
                return Poll::Ready(First { place, value });
            }
        }
        Poll::Pending
    })
    .await
}
