//! raft-rs logs through slog: its errors go to tracing, its warnings at debug, for they name no group, and what they tell of
//! (a leader without its quorum) comes in hundreds when a link breaks. The rest (several lines an election) is dropped.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record};

/// A logger for raft-rs that writes to tracing, target `chronik_raft::raft_rs`.
pub(crate) fn raft_logger() -> Logger {
    Logger::root(TracingDrain, slog::o!())
}

struct TracingDrain;

impl Drain for TracingDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "chronik_raft::raft_rs", "{}", record.msg());
            }
            Level::Warning => tracing::debug!(target: "chronik_raft::raft_rs", "{}", record.msg()),
            Level::Info | Level::Debug | Level::Trace => {}
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.is_at_least(Level::Warning)
    }
}
