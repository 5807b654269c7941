//! What becomes of messages that were sent: acknowledged, received, sent again, failed or given up.

use chronik_net::codec::{ErrorCode, ProducePartitionResponse, ProduceResponse};

use super::{Completion, Producer};
use crate::native::batch::Stamp;
use crate::native::channel::Finished;
use crate::native::cluster::Event as ClusterEvent;
use crate::native::request::Sent;
use crate::native::{NANOS_PER_MILLISECOND, PRODUCE_VERSION};

/// How long a partition that could not take a batch is left alone.
const RETRY_NS: u64 = 100 * NANOS_PER_MILLISECOND;
/// How often messages are looked at whose time may be over.
const EXPIRY_INTERVAL_NS: u64 = 20 * NANOS_PER_MILLISECOND;

impl Producer {
    /// A message of this client that was meant for `intended_ns` was received. One that is received twice counts once.
    pub fn received(&mut self, sequence: u64, intended_ns: u64, now_ns: u64) {
        if self.to_be_received.remove(&sequence) {
            self.recorder.complete(now_ns, intended_ns, self.options.message_size);
            self.free_tasks += 1;
        }
    }

    pub(super) fn handle(&mut self, event: ClusterEvent<Vec<Sent>>) {
        let now_ns = self.run.clock.now_ns();
        match event {
            ClusterEvent::Finished(Finished { kept, answer: None }) => {
                kept.into_iter().for_each(|sent| self.acknowledge(sent, now_ns));
            }
            ClusterEvent::Finished(Finished { kept, answer: Some(mut answer) }) => {
                match ProduceResponse::decode(&mut answer, PRODUCE_VERSION) {
                    Ok(response) => self.answered(kept, &response, now_ns),
                    Err(error) => {
                        let reason = format!("unreadable answer to Produce: {error}");
                        kept.into_iter().for_each(|sent| self.retry(sent, &reason, now_ns));
                    }
                }
            }
            ClusterEvent::Lost { kept, reason } => {
                kept.into_iter().flatten().for_each(|sent| self.retry(sent, &reason, now_ns));
            }
        }
    }

    fn answered(&mut self, batches: Vec<Sent>, response: &ProduceResponse, now_ns: u64) {
        let answers: Vec<_> = response.topics.iter().flat_map(|topic| &topic.partitions).collect();
        for (at, sent) in batches.into_iter().enumerate() {
            let is_its = |answer: &&&ProducePartitionResponse| answer.index as usize == sent.partition;
            // Brokers answer in the order of the request; a search only if this one does not.
            let in_order = answers.get(at).filter(is_its);
            let Some(answer) = in_order.or_else(|| answers.iter().find(is_its)) else {
                self.retry(sent, "an answer to Produce without the partition", now_ns);
                continue;
            };
            match answer.error {
                // What was sent again is there already.
                ErrorCode::None | ErrorCode::DuplicateSequenceNumber => self.acknowledge(sent, now_ns),
                error if error.retriable() => {
                    self.cluster.refresh(now_ns);
                    self.retry(sent, &error.to_string(), now_ns);
                }
                error => {
                    let reason =
                        answer.error_message.as_deref().map_or(String::new(), |text| format!(": {text}"));
                    self.left_the_wire(&sent);
                    self.queues[sent.partition].stop_numbering();
                    self.fail(&sent.batch.stamps, format!("{error}{reason}"), now_ns);
                }
            }
        }
    }

    fn left_the_wire(&mut self, sent: &Sent) {
        self.queues[sent.partition].in_flight_count -= 1;
    }

    fn acknowledge(&mut self, sent: Sent, now_ns: u64) {
        self.left_the_wire(&sent);
        self.queues[sent.partition].stored(sent.batch.stamps.len() as i32);
        if self.completion == Completion::Receipt {
            return;
        }
        for stamp in &sent.batch.stamps {
            self.recorder.complete(now_ns, stamp.intended_ns, self.options.message_size);
            if let Some(acknowledged) = &mut self.acknowledged {
                acknowledged.insert(stamp.sequence);
            }
        }
        self.free_tasks += sent.batch.stamps.len() as u32;
    }

    /// Puts a batch back, unless its messages were given up.
    fn retry(&mut self, sent: Sent, reason: &str, now_ns: u64) {
        self.left_the_wire(&sent);
        self.last_trouble = Some(reason.to_owned());
        if sent.batch.stamps.is_empty() {
            return;
        }
        let queue = &mut self.queues[sent.partition];
        queue.retry_at_ns = now_ns + RETRY_NS;
        queue.put_back(sent.batch);
        if !std::mem::replace(&mut queue.is_listed, true) {
            self.listed.push(sent.partition);
        }
    }

    fn fail(&mut self, stamps: &[Stamp], reason: String, now_ns: u64) {
        let failed_count = match self.completion {
            Completion::Acknowledgement(_) => stamps.len(),
            // One that was received has had its end.
            Completion::Receipt => {
                stamps.iter().filter(|stamp| self.to_be_received.remove(&stamp.sequence)).count()
            }
        };
        if failed_count > 0 {
            (0..failed_count).for_each(|_| self.recorder.fail(now_ns));
            self.free_tasks += failed_count as u32;
            self.errors.insert(reason);
        }
    }

    /// Gives up the messages that were not acknowledged in time, on the wire or not.
    pub(super) fn expire(&mut self, now_ns: u64) {
        if now_ns < self.next_expiry_ns {
            return;
        }
        self.next_expiry_ns = now_ns + EXPIRY_INTERVAL_NS;
        let timeout_ms = self.options.message_timeout_ms;
        let Some(oldest_ns) = now_ns.checked_sub(u64::from(timeout_ms) * NANOS_PER_MILLISECOND) else {
            return;
        };
        let mut expired = Vec::new();
        for partition in &self.listed {
            expired.extend(self.queues[*partition].expire(oldest_ns));
        }
        for channel in 0..self.cluster.channel_count() {
            let on_the_wire = self.cluster.channel_mut(channel).in_flight_mut().flatten();
            for sent in on_the_wire.filter(|sent| sent.batch.first_ns < oldest_ns) {
                self.queues[sent.partition].stop_numbering();
                expired.append(&mut sent.batch.stamps);
            }
        }
        let trouble = self.last_trouble.as_deref().unwrap_or("no answer");
        self.fail(&expired, format!("not acknowledged within {timeout_ms} ms ({trouble})"), now_ns);
    }
}
