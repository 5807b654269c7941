//! `chronik-server log dump FILE`: a `.log` file in lines, one a batch, for people.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::error::FilesError;
use super::mapped::MappedLog;
use super::view::LogView;
use crate::disk::{Disk, OpenMode};
use crate::types::KafkaOffset;

/// Writes a line for each batch of a `.log` file: position, offsets, record count, timestamps, leader epoch, producer, codec,
/// size and whether the checksum holds. Memory stays bounded by one batch.
///
/// A wrong checksum is told in its line and the dump goes on; where the chain of batches breaks it ends with the error.
///
/// # Errors
/// [`FilesError::Damaged`] where no batch begins; what the disk or the writer says.
pub fn dump_log(disk: &dyn Disk, path: &Path, out: &mut dyn Write) -> Result<(), FilesError> {
    let failed = |error| FilesError::read(path, error);
    let told = |error| FilesError::write(path, "writing the dump", error);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    let bytes = file.len().map_err(failed)?;
    if bytes == 0 {
        return writeln!(out, "{} is empty", path.display()).map_err(told);
    }
    let len = usize::try_from(bytes).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
    let map = MappedLog::new(file.map(len).map_err(failed)?, &Arc::default());
    let mut log = LogView::new(map, path.into(), bytes);
    let mut position = 0;
    let mut next_offset = KafkaOffset(0);
    while position < bytes {
        let info = log.header(position, next_offset)?;
        let crc = match log.checked(position, &info) {
            Ok(_) => "ok",
            Err(FilesError::Damaged { .. }) => "WRONG",
            Err(error) => return Err(error),
        };
        let codec = info.compression().map_or_else(
            |_| format!("unknown({})", info.compression_code()),
            |codec| format!("{codec:?}").to_lowercase(),
        );
        writeln!(
            out,
            "position {position} offsets {}..{} count {} base timestamp {} max timestamp {} leader epoch {} producer {} \
             epoch {} sequence {}..{} transactional {} control {} codec {codec} bytes {} crc {:#010x} {crc}",
            info.base_offset,
            info.last_offset(),
            info.record_count,
            info.base_timestamp,
            info.max_timestamp,
            info.leader_epoch,
            info.producer_id,
            info.producer_epoch,
            info.base_sequence,
            info.last_sequence(),
            info.is_transactional(),
            info.is_control(),
            info.size_bytes,
            info.crc,
        )
        .map_err(told)?;
        position += info.size_bytes as u64;
        next_offset = info.next_offset();
    }
    Ok(())
}
