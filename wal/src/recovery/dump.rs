//! `chronik-server log dump FILE` of a WAL segment: its turns and frames in lines, for people.

use std::io::Write;
use std::path::Path;

use super::scan::{Found, ScannedFrame, SegmentScan};
use crate::disk::{Disk, OpenMode};
use crate::frame::{
    BLOCK, FIRST_TURN, FrameKind, HeaderFault, SegmentHeader, decode_checkpoint, decode_state,
};
use crate::types::TurnNumber;

/// Why a dump ended early.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be read, or the output not written.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// It begins like a segment and is none.
    #[error(
        "{0}: its header is not sound ({1:?}); start the node: what it lost is restored from the other replicas"
    )]
    Header(String, HeaderFault),
}

/// Whether the file begins as a WAL segment does. One that cannot be read does not.
#[must_use]
pub fn is_segment(disk: &dyn Disk, path: &Path) -> bool {
    let mut block = [0; BLOCK];
    let read = disk.open(path, OpenMode::Read).and_then(|file| file.read_exact_at(&mut block, 0));
    read.is_ok() && SegmentHeader::is_claimed(&block)
}

/// Writes a line for the segment, each turn and each frame: entries with group, index, term and offset, group states with term,
/// vote, commit and log start. Memory stays bounded by one turn. It ends where no later turn follows; frames of an unsound turn
/// are told with it.
///
/// # Errors
/// [`DumpError`].
pub fn dump_segment(disk: &dyn Disk, path: &Path, out: &mut dyn Write) -> Result<(), DumpError> {
    let failed = |error| DumpError::Io(path.display().to_string(), error);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    let mut block = vec![0; BLOCK];
    file.read_exact_at(&mut block, 0).map_err(failed)?;
    let (owner, info) = SegmentHeader::read_any(&block)
        .map_err(|fault| DumpError::Header(path.display().to_string(), fault))?;
    writeln!(
        out,
        "segment {} of node {} shard {}, oldest live {}, {} bytes",
        info.sequence, owner.node, owner.shard, info.oldest_live, info.len
    )
    .map_err(failed)?;
    let limit = file.len().map_err(failed)?.min(info.len);
    let mut scan = SegmentScan::new(&*file, &owner, info.sequence, limit);
    let (mut position, mut last) = (FIRST_TURN, TurnNumber(0));
    loop {
        let turn = match scan.look(position, last) {
            Found::Whole(turn) => turn,
            Found::BadFrames(turn, groups) => {
                writeln!(out, "turn {} at {position}: frames of {groups:?} are damaged", turn.turn)
                    .map_err(failed)?;
                turn
            }
            Found::Nothing => return writeln!(out, "no further turn at {position}").map_err(failed),
            Found::Unreadable(error) => return Err(failed(error)),
        };
        writeln!(out, "turn {} at {position}, {} durable, {} frames", turn.turn, turn.durable, turn.frames)
            .map_err(failed)?;
        for frame in scan.frames(position, turn) {
            writeln!(out, "  {}", line(&frame)).map_err(failed)?;
        }
        position += turn.padded_len();
        last = turn.turn;
    }
}

/// One frame in words.
fn line(frame: &ScannedFrame<'_>) -> String {
    let info = &frame.info;
    let kind = format!("{:?}", info.kind).to_lowercase();
    match info.kind {
        FrameKind::Entry | FrameKind::Rewritten => format!(
            "{kind} group {} index {} term {} {:?} offset {} commit {} bytes {}",
            info.group, info.index, info.term, info.entry_kind, info.base_offset, info.commit, info.len
        ),
        FrameKind::State => match decode_state(frame.payload) {
            Ok(state) => format!(
                "{kind} group {} peer {} term {} vote {} commit {} log start {:?} configuration {} bytes of index {} \
                 snapshot {} bytes",
                info.group,
                state.peer,
                state.hard.term,
                state.hard.vote,
                state.hard.commit,
                state.log_start,
                state.configuration.len(),
                state.configuration_index,
                state.snapshot_data.len()
            ),
            Err(error) => format!("{kind} group {}: {error}", info.group),
        },
        FrameKind::Checkpoint => match decode_checkpoint(frame.payload) {
            Ok(points) => format!("{kind} {} groups", points.len()),
            Err(error) => format!("{kind}: {error}"),
        },
        FrameKind::Removed | FrameKind::End | FrameKind::Close | FrameKind::Opened => {
            format!("{kind} group {} bytes {}", info.group, info.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_wal::rig::{Rig, small_config};
    use crate::shard_wal::slot_path;

    fn dump(disk: &dyn Disk, path: &Path) -> Result<String, DumpError> {
        let mut out = Vec::new();
        dump_segment(disk, path, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_segment_is_told_turn_by_turn() {
        let mut rig = Rig::fresh(1);
        rig.script(5).unwrap();
        let path = slot_path(&small_config().directory, 0);
        assert!(is_segment(&rig.disk, &path));
        let text = dump(&rig.disk, &path).unwrap();
        assert!(text.starts_with("segment 1 of node "), "{text}");
        for told in
            ["\nturn 1 at 4096, 0 durable, ", "\n  state group ", "\n  entry group ", "\nno further turn at "]
        {
            assert!(text.contains(told), "{told}: {text}");
        }
        let turns = text.lines().filter(|line| line.starts_with("turn ")).count();
        let frames = text.lines().filter(|line| line.starts_with("  ")).count();
        assert!(turns > 2 && frames >= turns, "{turns} turns, {frames} frames");
    }

    #[test]
    fn what_is_damaged_is_told_and_what_is_none_is_no_segment() {
        let mut rig = Rig::fresh(1);
        rig.script(5).unwrap();
        let path = slot_path(&small_config().directory, 0);
        let file = rig.disk.open(&path, OpenMode::ReadWrite).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let planted = |at: usize| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let disk = crate::disk::SimDisk::new(0);
            disk.plant(&path, damaged);
            disk
        };
        // In the payload of the second turn's first frame: it is told to be damaged, and the dump goes on.
        let text = dump(&planted(2 * BLOCK + crate::frame::TURN_HEADER + crate::frame::FRAME_HEADER), &path)
            .unwrap();
        assert!(text.contains("are damaged") && text.contains("\nturn 3 at "), "{text}");
        assert!(matches!(dump(&planted(20), &path), Err(DumpError::Header(_, HeaderFault::Damaged))));
        assert!(!is_segment(&planted(0), &path));
        assert!(!is_segment(&crate::disk::SimDisk::new(0), &path), "there is none");
    }
}
