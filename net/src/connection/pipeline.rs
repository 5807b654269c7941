//! The requests of one connection between arrival and answer: who may start, who is answered next.
//!
//! Pure; owned by one connection. Each request takes a place on arrival, in order; its answer fills the place, in any order;
//! answers leave from the front only, so responses leave in the order of the requests.
//! Invariant: a request that is not pipelined is alone between its start and its answer.

use std::collections::VecDeque;

use super::{CloseReason, ResponseFrame};

/// How a place was filled.
#[derive(Debug)]
pub(super) enum Answer {
    /// Bytes to send; none for a request that gets no response.
    Frame(ResponseFrame),
    /// The connection ends with these bytes, if any: nothing after this place is sent.
    Last(ResponseFrame, CloseReason),
}

#[derive(Debug)]
enum Place {
    Waiting { request_bytes: usize },
    Filled(Answer),
}

#[derive(Debug, Default)]
pub(super) struct Pipeline {
    places: VecDeque<Place>,
    /// Sequence number of the first place.
    first: u64,
    waiting: usize,
    /// The request under way that tolerates no other.
    exclusive: Option<u64>,
    request_bytes: usize,
    /// Bytes of answers that have not been taken.
    answer_bytes: usize,
}

impl Answer {
    fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame) | Self::Last(frame, _) => frame.len_bytes(),
        }
    }
}

impl Pipeline {
    /// Whether a request may start now: a pipelined one beside other pipelined ones, any other alone.
    pub(super) fn may_start(&self, pipelined: bool) -> bool {
        if pipelined { self.exclusive.is_none() } else { self.waiting == 0 }
    }

    /// Requests without an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of the requests without an answer.
    pub(super) fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    /// Bytes of the answers that wait here, behind one that is missing or to be taken.
    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Whether every request has been answered and every answer taken.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Requests that have a place, answered or not.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Gives a request its place.
    pub(super) fn open(&mut self, request_bytes: usize, pipelined: bool) -> u64 {
        assert!(self.may_start(pipelined), "a request started beside one that must be alone");
        let number = self.first + self.places.len() as u64;
        self.places.push_back(Place::Waiting { request_bytes });
        self.waiting += 1;
        self.request_bytes += request_bytes;
        if !pipelined {
            self.exclusive = Some(number);
        }
        number
    }

    /// Fills a place; the bytes of its request, or none when it was filled before.
    pub(super) fn fill(&mut self, number: u64, answer: Answer) -> Option<usize> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let place = self.places.get_mut(index)?;
        let Place::Waiting { request_bytes } = *place else {
            return None;
        };
        self.answer_bytes += answer.bytes();
        *place = Place::Filled(answer);
        self.waiting -= 1;
        self.request_bytes -= request_bytes;
        if self.exclusive == Some(number) {
            self.exclusive = None;
        }
        Some(request_bytes)
    }

    /// Forgets every request: nothing after an [`Answer::Last`] is answered. Gives the bytes of those under way.
    /// Numbers go on, so that a late answer finds no place.
    pub(super) fn forget_all(&mut self) -> usize {
        self.first += self.places.len() as u64;
        self.places.clear();
        self.waiting = 0;
        self.answer_bytes = 0;
        self.exclusive = None;
        std::mem::take(&mut self.request_bytes)
    }

    /// The next answer that may leave.
    pub(super) fn take_next(&mut self) -> Option<Answer> {
        if !matches!(self.places.front(), Some(Place::Filled(_))) {
            return None;
        }
        self.first += 1;
        match self.places.pop_front() {
            Some(Place::Filled(answer)) => {
                self.answer_bytes -= answer.bytes();
                Some(answer)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn frame(number: u64) -> Answer {
        Answer::Frame(Bytes::copy_from_slice(&number.to_be_bytes()).into())
    }

    fn drain(pipeline: &mut Pipeline) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(Answer::Frame(frame)) = pipeline.take_next() {
            frame.for_each(|slice| numbers.push(u64::from_be_bytes(slice[..].try_into().unwrap())));
        }
        numbers
    }

    #[test]
    fn answers_leave_in_order_of_requests() {
        let mut pipeline = Pipeline::default();
        for number in 0..4 {
            assert_eq!(pipeline.open(10, true), number);
        }
        assert_eq!(pipeline.fill(2, frame(2)), Some(10));
        assert_eq!(pipeline.fill(1, frame(1)), Some(10));
        assert!(drain(&mut pipeline).is_empty());
        assert_eq!((pipeline.waiting(), pipeline.request_bytes(), pipeline.len()), (2, 20, 4));
        pipeline.fill(0, frame(0));
        assert_eq!(drain(&mut pipeline), [0, 1, 2]);
        assert_eq!(pipeline.fill(1, frame(9)), None, "a place cannot be filled twice");
        pipeline.fill(3, frame(3));
        assert_eq!(drain(&mut pipeline), [3]);
        assert!(pipeline.is_empty());
    }

    #[test]
    fn a_request_that_is_not_pipelined_is_alone() {
        let mut pipeline = Pipeline::default();
        let produce = pipeline.open(1, true);
        assert!(pipeline.may_start(true) && !pipeline.may_start(false));
        pipeline.fill(produce, frame(produce));
        // Answered is enough; it need not have left.
        assert!(pipeline.may_start(false));
        let fetch = pipeline.open(1, false);
        assert!(!pipeline.may_start(true) && !pipeline.may_start(false));
        pipeline.fill(fetch, frame(fetch));
        assert!(pipeline.may_start(true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_order_of_completion_gives_the_order_of_requests(
            order in Just((0..50u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut pipeline = Pipeline::default();
            for _ in &order {
                pipeline.open(1, true);
            }
            let mut left = Vec::new();
            for number in order {
                pipeline.fill(number, frame(number));
                left.extend(drain(&mut pipeline));
            }
            prop_assert_eq!(left, (0..50).collect::<Vec<_>>());
            prop_assert_eq!(pipeline.request_bytes(), 0);
        }
    }
}
