//! The write of a WAL turn on the shard itself: one O_DIRECT write and one fdatasync through glommio's ring.
//!
//! One of the few modules that know glommio. A [`TurnWriter`] belongs to the shard's WAL task and lives on its executor.
//! That task must never be cancelled: a dropped write may still reach the disk later.
//!
//! Two other ways were tried (`examples/turn_cost.rs`; Linux 6.18, ext4, a disk with a volatile cache and without FUA, so that
//! the kernel writes and flushes either way; turns of 4 KiB, CPU of the whole machine):
//!
//! | | quiet machine | every core taken by others |
//! |---|---|---|
//! | write, then fdatasync, by the ring | 105–140 µs of CPU, 160–190 µs a turn | 200–480 µs a turn |
//! | one write with O_DSYNC, by the ring | 60–75 µs of CPU, 110–145 µs a turn | **3.6–4.2 ms** a turn |
//! | write and fdatasync by a thread that blocks | 80–100 µs of CPU, 145–165 µs a turn | 150–230 µs a turn |
//!
//! O_DSYNC's flush waits for a kernel worker to be scheduled, a whole time slice where others want the core: no latency to
//! rely on. With a thread of its own the broker as a whole gained nothing: 3.8–4.05 against 3.3–3.6 µs of CPU a message at full load,
//! 56 against 59 µs at 20,000 messages a second.
//!
//! An error is fatal (DESIGN.md, decision 7): what a failed write or fdatasync left behind is unknown and cannot be
//! made known by trying again, so the caller logs it and aborts the process. Disk full cannot happen here, because the
//! blocks were written when the segment was prepared.

use std::io;
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use crate::frame::BLOCK;
use crate::shard_wal::{TurnWrite, WalError};
use crate::types::TurnNumber;

/// Buffers of up to so many blocks are kept for reuse, one of each size: 64 KiB, the bulk of all turns.
const POOLED_BLOCKS_MAX: usize = 16;

/// Writes the turns of one shard.
#[derive(Default)]
pub struct TurnWriter {
    /// The slot that is being written. A turn of another one closes it: that happens once a segment.
    open: Option<(u32, DmaFile)>,
    /// By number of blocks, less one.
    pool: [Option<Rc<DmaBuffer>>; POOLED_BLOCKS_MAX],
}

impl TurnWriter {
    /// A writer with no file open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the whole turn and makes it durable; its number is for `ShardWal::turn_done`.
    ///
    /// # Errors
    /// Of the disk: the caller must abort the process.
    pub async fn write_turn(&mut self, turn: TurnWrite) -> Result<TurnNumber, WalError> {
        let path = turn.path.clone();
        self.open_slot(&turn).await.map_err(WalError::io("opening", &path))?;
        let Some((_, file)) = &self.open else { unreachable!("just opened") };
        let buffer = encode(file, &mut self.pool, &turn);
        // ORDER: the sync starts after the write has ended; the ring alone promises no order.
        write_all(file, &buffer, turn.position).await.map_err(WalError::io("write", &path))?;
        file.fdatasync().await.map_err(|error| WalError::io("sync", &path)(error.into()))?;
        give_back(&mut self.pool, buffer);
        Ok(turn.turn)
    }

    async fn open_slot(&mut self, turn: &TurnWrite) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(slot, _)| *slot == turn.slot) {
            return Ok(());
        }
        if let Some((_, file)) = self.open.take() {
            file.close().await?;
        }
        let file = OpenOptions::new().read(true).write(true).dma_open(&turn.path).await?;
        if !(BLOCK as u64).is_multiple_of(file.alignment()) {
            let why = format!("the file system wants O_DIRECT writes aligned to {} bytes", file.alignment());
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        self.open = Some((turn.slot, file));
        Ok(())
    }

    /// Closes the file that is open.
    ///
    /// # Errors
    /// Of the disk. What was written is durable all the same.
    pub async fn close(mut self) -> io::Result<()> {
        match self.open.take() {
            Some((_, file)) => Ok(file.close().await?),
            None => Ok(()),
        }
    }
}

fn pool_place(len: usize) -> Option<usize> {
    let blocks = len / BLOCK;
    (1..=POOLED_BLOCKS_MAX).contains(&blocks).then(|| blocks - 1)
}

/// The turn in an aligned buffer: the one copy of record bytes.
fn encode(
    file: &DmaFile,
    pool: &mut [Option<Rc<DmaBuffer>>; POOLED_BLOCKS_MAX],
    turn: &TurnWrite,
) -> Rc<DmaBuffer> {
    let pooled = pool_place(turn.padded_len).and_then(|place| pool[place].take());
    let mut buffer = pooled.unwrap_or_else(|| Rc::new(file.alloc_dma_buffer(turn.padded_len)));
    match Rc::get_mut(&mut buffer) {
        Some(unshared) => turn.encode_into(unshared.as_bytes_mut()),
        // The ring still holds it, as it may for a moment after a completion.
        None => {
            let mut fresh = file.alloc_dma_buffer(turn.padded_len);
            turn.encode_into(fresh.as_bytes_mut());
            buffer = Rc::new(fresh);
        }
    }
    assert_eq!(buffer.len(), turn.padded_len, "what is written is the turn, no more and no less");
    buffer
}

fn give_back(pool: &mut [Option<Rc<DmaBuffer>>; POOLED_BLOCKS_MAX], buffer: Rc<DmaBuffer>) {
    if let Some(place) = pool_place(buffer.len()) {
        pool[place] = Some(buffer);
    }
}

async fn write_all(file: &DmaFile, buffer: &Rc<DmaBuffer>, position: u64) -> io::Result<()> {
    let mut done = file.write_rc_at(Rc::clone(buffer), position).await?;
    while done < buffer.len() {
        // A short write ends on a block or the next one could not be aligned.
        if done == 0 || !done.is_multiple_of(BLOCK) {
            let why = format!("{done} of {} bytes were written", buffer.len());
            return Err(io::Error::new(io::ErrorKind::WriteZero, why));
        }
        let mut rest = file.alloc_dma_buffer(buffer.len() - done);
        rest.as_bytes_mut().copy_from_slice(&buffer.as_bytes()[done..]);
        let count = file.write_at(rest, position + done as u64).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;
    use crate::disk::OsDisk;
    use crate::entry::{EntryKind, LogEntry, LogSink};
    use crate::recovery::{EntryReader, recover};
    use crate::shard_wal::rig::IDENTITY;
    use crate::shard_wal::{ShardWal, WalConfig};
    use crate::test_batch::batch;
    use crate::types::{GroupId, KafkaOffset, RaftIndex, Term};

    const GROUP: GroupId = GroupId(4);

    fn entry(index: u64, bytes: usize) -> LogEntry {
        let offset = i64::try_from(index).unwrap();
        LogEntry {
            index: RaftIndex(index),
            term: Term(1),
            kind: EntryKind::Batch,
            base_offset: KafkaOffset(offset),
            data: batch(offset, 1, &vec![u8::try_from(index % 251).unwrap(); bytes]),
        }
    }

    /// Beside this program, which lies on a real disk, as O_DIRECT needs; the system's temporary directory may not.
    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
    }

    async fn write_all_turns(wal: &mut ShardWal, writer: &mut TurnWriter) {
        while wal.has_pending() {
            if let Some(job) = wal.next_job(0) {
                wal.job_done(job.run(&OsDisk), 0).unwrap();
            }
            while let Some(turn) = wal.start_turn() {
                let done = writer.write_turn(turn).await.unwrap();
                wal.turn_done(done);
            }
        }
    }

    /// The real thing: io_uring, O_DIRECT, two segments, the largest batch; then read back by recovery.
    #[test]
    fn turns_written_by_the_ring_are_recovered() {
        let root = scratch();
        let config = WalConfig { segment_bytes: 40 << 20, ..WalConfig::new(root.path(), IDENTITY) };
        let sizes = [10, 5000, 100_000, 32 << 20, 300, 20];
        let written = config.clone();
        LocalExecutorBuilder::new(Placement::Unbound)
            .spawn(move || async move {
                let mut recovered = recover(&OsDisk, &written).unwrap();
                let mut wal = ShardWal::open(&OsDisk, written, &mut recovered).unwrap();
                let mut writer = TurnWriter::new();
                for (index, &bytes) in (1..).zip(&sizes) {
                    wal.put_entry(GROUP, RaftIndex(0), &entry(index, bytes));
                    write_all_turns(&mut wal, &mut writer).await;
                }
                wal.close();
                write_all_turns(&mut wal, &mut writer).await;
                writer.close().await.unwrap();
            })
            .unwrap()
            .join()
            .unwrap();
        let recovered = recover(&OsDisk, &config).unwrap();
        assert!(recovered.damage.is_empty());
        let locations = &recovered.groups[&GROUP].entries;
        assert_eq!(locations.len(), sizes.len());
        let mut reader = EntryReader::new(&OsDisk, &config);
        for (location, (index, &bytes)) in locations.iter().zip((1..).zip(&sizes)) {
            assert_eq!(reader.read(GROUP, location).unwrap(), entry(index, bytes));
        }
    }

    #[test]
    fn a_slot_that_is_missing_is_an_error() {
        let root = scratch();
        let config = WalConfig::new(root.path(), IDENTITY);
        LocalExecutorBuilder::new(Placement::Unbound)
            .spawn(move || async move {
                let mut recovered = recover(&OsDisk, &config).unwrap();
                let mut wal = ShardWal::open(&OsDisk, config, &mut recovered).unwrap();
                wal.put_entry(GROUP, RaftIndex(0), &entry(1, 10));
                let mut turn = wal.start_turn().unwrap();
                turn.path = Path::new("/nowhere/0000.wal").to_path_buf();
                assert!(matches!(TurnWriter::new().write_turn(turn).await, Err(WalError::Io { .. })));
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
