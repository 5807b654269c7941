//! O_DIRECT: writes of whole blocks, from a buffer that each thread keeps, and reads of whole blocks. Neither takes pages of
//! the page cache. In a virtual machine that gives free memory back to its host, finding those costs several times the copy.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::aligned::{AlignedBuffer, BLOCK_BYTES};

/// How much is copied and written at a time: a huge page of most machines.
const BUFFER_BYTES: usize = 2 << 20;
/// Below this the wait for the disk costs more than the pages.
pub const BYTES_MIN: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Option<AlignedBuffer>> = const { RefCell::new(None) };
}

/// How many of `total` bytes at `position` lie before the first whole block, and how many in whole blocks.
pub fn whole_blocks(position: u64, total: usize) -> (usize, usize) {
    let within = (position % BLOCK_BYTES as u64) as usize;
    let head = (BLOCK_BYTES - within) % BLOCK_BYTES;
    if head >= total {
        return (total, 0);
    }
    (head, (total - head) / BLOCK_BYTES * BLOCK_BYTES)
}

/// Writes slices that are whole blocks together, at the beginning of a block, to a file that was opened for O_DIRECT. Gives false
/// when the file system does not take that, or there is no memory for it; any part may be written then.
///
/// # Errors
/// Those of the write.
pub fn write(file: &File, slices: &[&[u8]], position: u64) -> io::Result<bool> {
    BUFFER.with_borrow_mut(|buffer| {
        let buffer = match buffer {
            Some(buffer) => buffer,
            None => match AlignedBuffer::new(BUFFER_BYTES) {
                Ok(made) => buffer.insert(made),
                // The ordinary way needs no buffer.
                Err(_) => return Ok(false),
            },
        };
        let buffer = buffer.as_mut_bytes();
        let (mut filled, mut at) = (0, position);
        for mut slice in slices.iter().copied() {
            while !slice.is_empty() {
                let count = slice.len().min(buffer.len() - filled);
                let (now, later) = slice.split_at(count);
                buffer[filled..filled + count].copy_from_slice(now);
                (filled, slice) = (filled + count, later);
                if filled == buffer.len() {
                    if !write_blocks(file, buffer, at)? {
                        return Ok(false);
                    }
                    (filled, at) = (0, at + buffer.len() as u64);
                }
            }
        }
        write_blocks(file, &buffer[..filled], at)
    })
}

fn write_blocks(file: &File, mut blocks: &[u8], mut at: u64) -> io::Result<bool> {
    while !blocks.is_empty() {
        match file.write_at(blocks, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            // The rest is no longer whole blocks: the ordinary way knows no such trouble.
            Ok(count) if count % BLOCK_BYTES != 0 => return Ok(false),
            Ok(count) => (blocks, at) = (&blocks[count..], at + count as u64),
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads whole blocks into a buffer from a file that was opened for O_DIRECT; fewer bytes only at the end of the file. Gives none
/// when the file system does not take that.
///
/// # Errors
/// Those of the read.
pub fn read(file: &File, buffer: &mut [u8], position: u64) -> io::Result<Option<usize>> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], position + done as u64) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                if count % BLOCK_BYTES != 0 {
                    // The end of the file; what follows could not be asked for at a block.
                    break;
                }
            }
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_lie_between_the_first_boundary_and_the_last() {
        assert_eq!(whole_blocks(0, 4096), (0, 4096));
        assert_eq!(whole_blocks(0, 4095), (0, 0));
        assert_eq!(whole_blocks(1, 4095), (4095, 0));
        assert_eq!(whole_blocks(1, 8191), (4095, 4096));
        assert_eq!(whole_blocks(4095, 10_000), (1, 8192));
        assert_eq!(whole_blocks(8_000, 50), (50, 0));
        assert_eq!(whole_blocks(8_192, 0), (0, 0));
    }
}
