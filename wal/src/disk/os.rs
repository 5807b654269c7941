//! [`Disk`] over the operating system's file system. Stateless; any thread may use it.
//!
//! Writing past the page cache is O_DIRECT for the whole blocks of a piece, from a buffer that is used again and again, and an
//! ordinary write for what lies before and behind them: each block is written by one of the two ways only, and mappings see
//! both (the kernel throws out what it has of a block that is written directly). Where a file system knows no O_DIRECT it is
//! `RWF_DONTCACHE` (Linux 6.14), whose pages are given back as soon as they are on disk, and elsewhere an ordinary write.
//! Measured by `examples/write_cost.rs` (2-core virtual machine, Linux 6.18, ext4, pieces of 1 MiB, CPU seconds a GB of the
//! writing process):
//!
//! | | memory in use before | memory that the host has to find |
//! |---|---|---|
//! | through the cache | 0.20–0.24 | 0.49–2.3 |
//! | `RWF_DONTCACHE` | 0.19–0.21 | 0.21–0.58 |
//! | copy to an aligned buffer, O_DIRECT | 0.16 | 0.17–0.30 |
//!
//! Two runs for the first column, on a quiet machine; four for the second, two of them at a load above 20.
//! The second column is what a growing page cache costs in a virtual machine that gives free memory back to its host
//! (free page reporting): a fault there for each page. On bare metal the first column holds, and little is gained.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::aligned::BLOCK_BYTES;
use super::direct;
use super::{DirEntry, Disk, DiskFile, Mapping, OpenMode};

/// The most slices that one `pwritev` takes (`IOV_MAX` on Linux).
const SLICES_PER_WRITE_MAX: usize = 1024;
/// `RWF_DONTCACHE`, which rustix does not name yet.
const PAST_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// How much one `madvise` populates, so that an error or a shutdown is noticed soon.
const POPULATE_STEP: usize = 1 << 20;

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true).create(true).truncate(false);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let writable = !matches!(mode, OpenMode::Read);
        Ok(Arc::new(OsFile { file: options.open(path)?, writable, direct: OnceLock::new() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: entry.file_type()?.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// An open file of the operating system.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    writable: bool,
    /// The same file, opened again for O_DIRECT when it is first needed; none where that does not work.
    direct: OnceLock<Option<File>>,
}

impl OsFile {
    fn direct(&self) -> Option<&File> {
        let open = || {
            let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
            fs::OpenOptions::new().read(true).write(self.writable).custom_flags(flags).open(again).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }

    fn write_slices(&self, slices: &[&[u8]], mut position: u64, mut flags: ReadWriteFlags) -> io::Result<()> {
        for chunk in slices.chunks(SLICES_PER_WRITE_MAX) {
            let mut owned: Vec<io::IoSlice<'_>> = chunk.iter().map(|slice| io::IoSlice::new(slice)).collect();
            let mut rest = &mut owned[..];
            io::IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let written = match rustix::io::pwritev2(&self.file, rest, position, flags) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(Errno::INTR) => continue,
                    // The kernel or the file system does not know the hint.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) if !flags.is_empty() => {
                        flags = ReadWriteFlags::empty();
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                position += written as u64;
                io::IoSlice::advance_slices(&mut rest, written);
            }
        }
        Ok(())
    }
}

/// The first `count` bytes of the slices, and the rest.
fn split_at<'a>(slices: &[&'a [u8]], count: usize) -> (Vec<&'a [u8]>, Vec<&'a [u8]>) {
    let (mut before, mut after) = (Vec::with_capacity(slices.len()), Vec::new());
    let mut left = count;
    for slice in slices {
        let (first, second) = slice.split_at(left.min(slice.len()));
        left -= first.len();
        if !first.is_empty() {
            before.push(first);
        }
        if !second.is_empty() {
            after.push(second);
        }
    }
    (before, after)
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn read_past_cache_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let blocks = position.is_multiple_of(BLOCK_BYTES as u64) && buf.len().is_multiple_of(BLOCK_BYTES);
        if blocks
            && let Some(file) = self.direct()
            && let Some(count) = direct::read(file, buf, position)?
        {
            return Ok(count);
        }
        self.read_at(buf, position)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(buf, position)
    }

    fn write_vectored_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.write_slices(slices, position, ReadWriteFlags::empty())
    }

    fn write_past_cache_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let (head, blocks) = direct::whole_blocks(position, total);
        if blocks >= direct::BYTES_MIN
            && let Some(file) = self.direct()
        {
            let (before, rest) = split_at(slices, head);
            let (body, behind) = split_at(&rest, blocks);
            let body_at = position + head as u64;
            self.write_slices(&before, position, ReadWriteFlags::empty())?;
            if !direct::write(file, &body, body_at)? {
                self.write_slices(&body, body_at, ReadWriteFlags::empty())?;
            }
            return self.write_slices(&behind, body_at + blocks as u64, ReadWriteFlags::empty());
        }
        // What lies on the last page of an append is followed by the next one soon: were the page given back, that would
        // have to read it from the disk first.
        let on_last_page = (position + total as u64) as usize % rustix::param::page_size();
        let body = total.saturating_sub(on_last_page);
        let (body_slices, rest) = split_at(slices, body);
        self.write_slices(&body_slices, position, PAST_CACHE)?;
        self.write_slices(&rest, position + body as u64, ReadWriteFlags::empty())
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        rustix::fs::fallocate(&self.file, FallocateFlags::empty(), position, len)?;
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>> {
        Ok(Arc::new(OsMapping { map: MmapOptions::new().len(len).map_raw_read_only(&self.file)? }))
    }
}

/// A shared read-only mapping.
struct OsMapping {
    map: MmapRaw,
}

impl OsMapping {
    fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.map.len(), "range within the mapping");
    }
}

impl Mapping for OsMapping {
    fn len(&self) -> usize {
        self.map.len()
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        // SAFETY: the range lies within the mapping, which lives as long as `self`; the caller vouches that these
        // bytes of the file are written and that nothing changes or truncates them (see the trait).
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(range.start), range.len()) }
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.check(&range);
        let page = rustix::param::page_size();
        let mut at = range.start / page * page;
        while at < range.end {
            let end = range.end.min(at + POPULATE_STEP);
            // SAFETY: the range lies within the mapping, and MADV_POPULATE_READ changes no byte of it.
            let result = unsafe {
                rustix::mm::madvise(
                    self.map.as_mut_ptr().add(at).cast(),
                    end - at,
                    rustix::mm::Advice::LinuxPopulateRead,
                )
            };
            match result {
                Ok(()) => at = end,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn resident_bytes(&self, range: Range<usize>) -> usize {
        self.check(&range);
        let page = rustix::param::page_size();
        let start = range.start / page * page;
        let mut told = vec![0_u8; (range.end - start).div_ceil(page)];
        // SAFETY: the range lies within the mapping, and there is a byte to be written for each page of it.
        let result = unsafe {
            let at = self.map.as_mut_ptr().add(start).cast();
            libc::mincore(at, range.end - start, told.as_mut_ptr())
        };
        match result {
            0 => range.len().min(told.iter().filter(|page| **page & 1 == 1).count() * page),
            _ => range.len(),
        }
    }

    fn release(&self, range: Range<usize>) {
        self.check(&range);
        let page = rustix::param::page_size();
        let start = range.start / page * page;
        // SAFETY: the range lies within the mapping, which is shared and of a file: its bytes stay what they are, only
        // the page table lets go of them. An error changes nothing.
        let _ = unsafe {
            let at = self.map.as_mut_ptr().add(start).cast();
            rustix::mm::madvise(at, range.end - start, rustix::mm::Advice::LinuxDontNeed)
        };
    }
}
