//! Random lives of a partition against a plain list of entries.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Batch { count: i64, value_bytes: usize, clock_step: i64 },
    Election,
    Other(usize),
    LogStart(i64),
    Flush,
    Sync,
    Drop,
    Reopen,
    Read(i64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (1..6_i64, 0..200_usize, -300..500_i64)
            .prop_map(|(count, value_bytes, clock_step)| Action::Batch { count, value_bytes, clock_step }),
        1 => Just(Action::Election),
        1 => (0..40_usize).prop_map(Action::Other),
        1 => (0..200_i64).prop_map(Action::LogStart),
        3 => Just(Action::Flush),
        2 => Just(Action::Sync),
        1 => Just(Action::Drop),
        1 => Just(Action::Reopen),
        3 => (0..200_i64).prop_map(Action::Read),
    ]
}

struct Model {
    rig: Rig,
    maker: Maker,
    /// All entries ever made; those above `written` are "in the tail".
    entries: Vec<LogEntry>,
    log_start: i64,
    durable_start: LogStart,
}

impl Model {
    fn step(&mut self, action: &Action) {
        match action {
            Action::Batch { count, value_bytes, clock_step } => {
                self.maker.clock_ms += clock_step;
                let entry = self.maker.batch(*count, *value_bytes);
                self.entries.push(entry);
            }
            Action::Election => self.entries.push(self.maker.election()),
            Action::Other(bytes) => {
                let entry = self.maker.other(EntryKind::ConfChangeV2, &vec![7; *bytes]);
                self.entries.push(entry);
            }
            Action::LogStart(offset) => {
                let offset = (*offset).min(self.maker.offset).max(self.log_start);
                self.log_start = offset;
                let entry = self.maker.log_start(offset);
                self.entries.push(entry);
            }
            Action::Flush => self.flush(),
            Action::Sync => {
                self.rig.sync();
            }
            Action::Drop => self.drop(),
            Action::Reopen => {
                let point = self.rig.log.synced();
                let opened = self.rig.try_reopen(Some(point), self.durable_start).unwrap();
                self.rig.log = opened.log;
                // What was dropped before it was synced is gone just the same.
                let last = point.index.max(self.durable_start.index);
                assert_eq!(self.rig.log.written().index, last);
                self.check();
            }
            Action::Read(offset) => self.read(*offset),
        }
    }

    fn flush(&mut self) {
        let written = self.rig.log.written().index.0 as usize;
        self.rig.append(&self.entries[written..]);
    }

    fn drop(&mut self) {
        let log_start = KafkaOffset(self.log_start);
        if let Some(point) = self.rig.log.drop_point(log_start) {
            self.durable_start = point;
            let job = self.rig.drop_below(log_start, 0, 0).unwrap();
            self.rig.run(job).unwrap();
            assert_eq!(self.rig.log.start(), point);
        }
    }

    fn in_files(&self) -> &[LogEntry] {
        let (first, last) = (self.rig.log.start().index.0, self.rig.log.written().index.0);
        &self.entries[first as usize..last as usize]
    }

    fn read(&self, offset: i64) {
        let offset = offset.max(self.rig.log.start().base_offset.0);
        let wanted = self.in_files().iter().filter(|entry| entry.next_offset().0 > offset).cloned();
        assert_eq!(self.rig.read_all(offset), batch_bytes(&wanted.collect::<Vec<_>>()));
    }

    fn check(&self) {
        let first = self.rig.log.start().index.next();
        assert_eq!(self.rig.entries(first.0), self.in_files());
        self.read(0);
        for entry in self.in_files() {
            assert_eq!(self.rig.log.term_of(entry.index), Some(entry.term));
        }
        let timestamps = self.in_files().iter().filter(|entry| entry.kind == EntryKind::Batch);
        let highest = timestamps.map(|entry| crate::batch::peek(&entry.data).unwrap().max_timestamp).max();
        assert_eq!(self.rig.log.max_timestamp(), highest.unwrap_or(-1));
        assert_eq!(self.rig.log.bytes(), batch_bytes(self.in_files()).len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_life_equals_the_model(
        actions in prop::collection::vec(action(), 1..80),
        segment_bytes in 200..2500_u64,
    ) {
        let rig = Rig::small_segments(segment_bytes);
        let mut model = Model {
            rig,
            maker: Maker::new(),
            entries: Vec::new(),
            log_start: 0,
            durable_start: LogStart::default(),
        };
        for action in &actions {
            model.step(action);
        }
        model.flush();
        model.check();
        model.rig.sync();
        model.step(&Action::Reopen);
    }
}
