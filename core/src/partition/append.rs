//! What a batch goes through before it is proposed: checks, timestamps, compression, offsets.
//!
//! Pure. The order matters: everything that can refuse a batch comes before an offset is given, and the producer's
//! sequence is checked last, so that a refused batch leaves no trace.

use bytes::{Bytes, BytesMut};
use chronik_net::codec::ErrorCode;
use chronik_wal::batch::{self, BatchError, BatchInfo, ProduceLimits, TimestampType};
use chronik_wal::compress::DecompressCaps;
use chronik_wal::producer_state::ProducerCheck;
use chronik_wal::records;
use chronik_wal::types::{KafkaOffset, RaftIndex, Term};

use super::Partition;
use crate::shard::Now;
use crate::shard::message::ProduceOutcome;

/// What the checks decided.
pub enum Checked {
    /// Propose it.
    Append(Accepted),
    /// It is in the log already: the first answer again.
    Duplicate {
        /// The offset it got.
        base_offset: KafkaOffset,
        /// The broker's timestamp, or −1.
        log_append_time_ms: i64,
    },
    /// It is on its way already: wait for that very entry.
    InFlight {
        /// The entry's index.
        index: RaftIndex,
        /// Its term.
        term: Term,
        /// The offset it gets.
        base_offset: KafkaOffset,
    },
    /// Refused.
    Refused(ProduceOutcome),
    /// The producer's state does not fit it. The batch comes back: a leader that was deposed without knowing may have an old
    /// state, so it asks its quorum before it says so.
    OutOfSequence {
        /// The batch.
        records: BytesMut,
        /// What is wrong.
        error: ErrorCode,
    },
}

/// A batch that passed, with offset and epoch written into it.
pub struct Accepted {
    /// The bytes to propose.
    pub data: Bytes,
    /// Its header as proposed.
    pub info: BatchInfo,
    /// The broker's timestamp, or −1.
    pub log_append_time_ms: i64,
}

impl Partition {
    /// Checks a batch from a client and makes it ready to be proposed at `next_offset` in `term`.
    pub fn check_append(
        &mut self,
        mut records: BytesMut,
        next_offset: KafkaOffset,
        term: Term,
        now: Now,
    ) -> Checked {
        let limits = self.limits(now.wall_ms);
        let info = match batch::validate_produced(&records, &limits) {
            Ok(info) => info,
            Err(error) => return Checked::Refused(refusal(&error)),
        };
        if self.is_early(&info, now.mono_ms) {
            return Checked::Refused(ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower));
        }
        match self.check_sequence(&info) {
            Ok(None) => self.gaps.close(info.producer_id),
            Ok(Some(answer)) => return answer,
            Err(error) => return Checked::OutOfSequence { records, error },
        }
        match self.in_topics_form(&mut records, &info, &limits) {
            Ok(log_append_time_ms) => {
                batch::assign(&mut records, next_offset, term.leader_epoch());
                match batch::peek(&records) {
                    Ok(info) => {
                        Checked::Append(Accepted { data: records.freeze(), info, log_append_time_ms })
                    }
                    Err(error) => Checked::Refused(refusal(&error)),
                }
            }
            Err(error) => Checked::Refused(refusal(&error)),
        }
    }

    /// Gives the batch the codec and the timestamps that the topic wants. Returns the broker's timestamp, or −1.
    fn in_topics_form(
        &self,
        records: &mut BytesMut,
        info: &BatchInfo,
        limits: &ProduceLimits,
    ) -> Result<i64, BatchError> {
        let wanted = self.config.codec().filter(|(codec, _)| info.compression().ok() != Some(*codec));
        if let Some((codec, levels)) = wanted {
            *records = records::recompress(records, codec, &levels, &DecompressCaps::default())?;
            let limit = limits.max_message_bytes;
            if records.len() > limit {
                return Err(BatchError::TooLarge { size: records.len(), limit });
            }
        } else {
            // A few clients send a wrong max timestamp; Kafka stores the right one.
            batch::store_max_timestamp(records, info);
        }
        if self.config.timestamp_type == TimestampType::CreateTime {
            return Ok(-1);
        }
        batch::stamp_log_append_time(records, limits.wall_ms);
        Ok(limits.wall_ms)
    }

    fn limits(&self, wall_ms: i64) -> ProduceLimits {
        ProduceLimits {
            max_message_bytes: self.config.max_message_bytes as usize,
            timestamp_type: self.config.timestamp_type,
            timestamp_before_max_ms: self.config.timestamp_before_max_ms,
            timestamp_after_max_ms: self.config.timestamp_after_max_ms,
            wall_ms,
            key_required: self.config.cleanup_compact,
            ..ProduceLimits::default()
        }
    }

    /// Whether earlier batches of the producer are still to come.
    fn is_early(&mut self, info: &BatchInfo, mono_ms: u64) -> bool {
        self.gaps.are_expected(mono_ms)
            && self.producers.is_ahead(info)
            && self.gaps.may_close(info.producer_id, mono_ms)
    }

    fn check_sequence(&self, info: &BatchInfo) -> Result<Option<Checked>, ErrorCode> {
        match self.producers.check(info) {
            ProducerCheck::New => Ok(None),
            ProducerCheck::Duplicate { base_offset, timestamp } => {
                let stamped = self.config.timestamp_type == TimestampType::LogAppendTime;
                let log_append_time_ms = if stamped { timestamp } else { -1 };
                Ok(Some(Checked::Duplicate { base_offset, log_append_time_ms }))
            }
            ProducerCheck::DuplicateInFlight { index, term, base_offset } => {
                Ok(Some(Checked::InFlight { index, term, base_offset }))
            }
            ProducerCheck::OutOfOrder { .. } => Err(ErrorCode::OutOfOrderSequenceNumber),
            ProducerCheck::InvalidEpoch { .. } => Err(ErrorCode::InvalidProducerEpoch),
        }
    }
}

/// The answer to a batch that is refused.
#[must_use]
pub fn refusal(error: &BatchError) -> ProduceOutcome {
    let code = ErrorCode::from_code(error.kafka_code()).unwrap_or(ErrorCode::UnknownServerError);
    let mut outcome = ProduceOutcome::refused(code);
    outcome.message = Some(error.to_string());
    outcome.record_errors =
        error.record_errors().iter().map(|record| (record.index, record.message.clone())).collect();
    outcome
}
