//! What it costs to put bytes into a partition file, way by way: CPU seconds and wall seconds a GB.
//!
//! `cargo run --release -p chronik-wal --example write_cost -- DIR [MIB] [PIECE_KIB]` writes MIB to a file in DIR, in
//! pieces, syncing every 64 MiB, once for each way, and then reads it through a mapping. "own" is the CPU of this
//! process, "machine" that of the whole machine meanwhile (write-back and interrupts run in kernel threads), which
//! says something on a quiet machine only. The figures are in `partition`'s module documentation.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::alloc::{Layout, alloc_zeroed};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::FallocateFlags;

type Outcome<T> = Result<T, Box<dyn Error>>;

const SYNC_EVERY: u64 = 64 << 20;
const SLICE: usize = 16 << 10;
const RWF_DONTCACHE: i32 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// fallocate of each piece, then pwritev through the page cache.
    Buffered,
    /// The same over pages that are in the cache already.
    BufferedAgain,
    /// fallocate of each piece, then pwritev with RWF_DONTCACHE.
    DontCache,
    /// The same, but what is after the last page boundary of the piece goes through the cache.
    DontCacheSplit,
    /// fallocate of each piece, a copy into an aligned buffer, one O_DIRECT write.
    Direct,
    /// The same with one fallocate every 16 MiB.
    DirectAhead,
    /// Over blocks that were written before.
    DirectAgain,
}

fn aligned(len: usize) -> &'static mut [u8] {
    let layout = Layout::from_size_align(len, 4096).expect("a layout");
    // SAFETY: a fresh zeroed allocation of this length, never freed.
    unsafe { std::slice::from_raw_parts_mut(alloc_zeroed(layout), len) }
}

/// Own CPU, machine's busy time, both in seconds.
fn cpu() -> Outcome<(f64, f64)> {
    // SAFETY: an all-zero rusage is a valid value to be written over.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live rusage.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let busy = ticks.iter().take(8).sum::<f64>() - ticks[3] - ticks[4];
    Ok((seconds(usage.ru_utime) + seconds(usage.ru_stime), busy / 100.0))
}

struct Run {
    begun: Instant,
    cpu: (f64, f64),
}

impl Run {
    fn begin() -> Outcome<Self> {
        Ok(Self { begun: Instant::now(), cpu: cpu()? })
    }

    fn end(&self, what: &str, bytes: u64) -> Outcome<()> {
        let wall = self.begun.elapsed().as_secs_f64();
        let (own, machine) = cpu()?;
        let giga = bytes as f64 / 1e9;
        println!(
            "{what:31} own {:6.3} s/GB   machine {:6.3} s/GB   wall {:6.3} s/GB",
            (own - self.cpu.0) / giga,
            (machine - self.cpu.1) / giga,
            wall / giga
        );
        Ok(())
    }
}

fn write(path: &Path, way: Way, total: u64, piece: usize, source: &[u8], buffer: &mut [u8]) -> Outcome<()> {
    let again = matches!(way, Way::BufferedAgain | Way::DirectAgain);
    let direct = !matches!(way, Way::Buffered | Way::BufferedAgain | Way::DontCache | Way::DontCacheSplit);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(!again);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path)?;
    // Batches end anywhere; only O_DIRECT wants whole blocks.
    let piece = if direct { piece } else { piece - 1000 };
    let total = total / piece as u64 * piece as u64;
    let run = Run::begin()?;
    let (mut at, mut synced, mut reserved) = (0u64, 0u64, 0u64);
    while at < total {
        let from = (at % (source.len() - piece) as u64) as usize;
        let bytes = &source[from..from + piece];
        match way {
            Way::Buffered | Way::DontCache | Way::DontCacheSplit | Way::Direct => {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), at, piece as u64)?;
            }
            Way::DirectAhead if at + piece as u64 > reserved => {
                rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, at, 16 << 20)?;
                reserved = at + (16 << 20);
            }
            _ => {}
        }
        if direct {
            for (to, from) in buffer.chunks_mut(SLICE).zip(bytes.chunks(SLICE)) {
                to.copy_from_slice(from);
            }
            write_all(&file, &[IoSlice::new(&buffer[..piece])], at, 0)?;
        } else {
            let past_page = if way == Way::DontCacheSplit { (at as usize + piece) % 4096 } else { 0 };
            let (body, rest) = bytes.split_at(piece - past_page);
            let slices: Vec<IoSlice<'_>> = body.chunks(SLICE).map(IoSlice::new).collect();
            let around = matches!(way, Way::DontCache | Way::DontCacheSplit);
            write_all(&file, &slices, at, if around { RWF_DONTCACHE } else { 0 })?;
            if !rest.is_empty() {
                write_all(&file, &[IoSlice::new(rest)], at + body.len() as u64, 0)?;
            }
        }
        at += piece as u64;
        if at - synced >= SYNC_EVERY {
            file.sync_data()?;
            synced = at;
        }
    }
    file.sync_data()?;
    run.end(&format!("{way:?}"), total)
}

fn write_all(file: &File, slices: &[IoSlice<'_>], at: u64, flags: i32) -> Outcome<()> {
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    // SAFETY: IoSlice has the layout of iovec, and the slices live through the call.
    let written = unsafe {
        libc::pwritev2(file.as_raw_fd(), slices.as_ptr().cast(), slices.len() as i32, at.cast_signed(), flags)
    };
    match usize::try_from(written) {
        Ok(written) if written == total => Ok(()),
        Ok(written) => Err(format!("{written} of {total} bytes were written").into()),
        Err(_) => Err(std::io::Error::last_os_error().into()),
    }
}

/// Reads into a buffer that is used again, as a pooled one would be.
fn read_into(path: &Path, what: &str, total: u64, flags: (i32, i32), buffer: &mut [u8]) -> Outcome<()> {
    let file = OpenOptions::new().read(true).custom_flags(flags.0).open(path)?;
    let run = Run::begin()?;
    let mut sum = 0u64;
    let mut at = 0;
    while at < total {
        let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: the vector is to a live buffer.
        let count =
            unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, at.cast_signed(), flags.1) };
        let count = u64::try_from(count).map_err(|_| std::io::Error::last_os_error())?;
        sum = sum.wrapping_add(buffer.iter().step_by(64).map(|&byte| u64::from(byte)).sum());
        at += count;
    }
    run.end(what, total)?;
    std::hint::black_box(sum);
    Ok(())
}

/// Reads through a mapping; with `leave`, each step is unmapped after use and dropped from the cache.
fn read(path: &Path, what: &str, total: u64, leave: bool) -> Outcome<()> {
    let file = File::open(path)?;
    let run = Run::begin()?;
    // SAFETY: nothing truncates the file meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    let mut sum = 0u64;
    for step in (0..total as usize).step_by(1 << 20) {
        map.advise_range(memmap2::Advice::PopulateRead, step, 1 << 20)?;
        if leave {
            let mut resident = [0u8; 256];
            // SAFETY: the step lies within the mapping, and the vector holds a byte a page.
            unsafe {
                libc::mincore(map.as_ptr().add(step).cast_mut().cast(), 1 << 20, resident.as_mut_ptr())
            };
            std::hint::black_box(resident);
        }
        sum = sum
            .wrapping_add(map[step..step + (1 << 20)].iter().step_by(64).map(|&byte| u64::from(byte)).sum());
        if leave {
            // SAFETY: the mapping is shared and of a file: its pages come back when they are touched.
            unsafe { libc::madvise(map.as_ptr().add(step).cast_mut().cast(), 1 << 20, libc::MADV_DONTNEED) };
            // SAFETY: a call that takes no pointer.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), step as i64, 1 << 20, libc::POSIX_FADV_DONTNEED) };
        }
    }
    run.end(what, total)?;
    std::hint::black_box(sum);
    Ok(())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: write_cost DIR [MIB] [PIECE_KIB]")?;
    let total = arguments.next().map_or(Ok(2048), |text| text.parse::<u64>())? << 20;
    let piece = arguments.next().map_or(Ok(1024), |text| text.parse::<usize>())? << 10;
    let source = aligned(64 << 20);
    for (number, byte) in source.iter_mut().enumerate() {
        *byte = (number * 31 % 251) as u8;
    }
    let buffer = aligned(piece);
    let path = Path::new(&directory).join("write_cost.data");
    let ways = [
        Way::Buffered,
        Way::BufferedAgain,
        Way::DontCache,
        Way::DontCacheSplit,
        Way::Direct,
        Way::DirectAgain,
        Way::DirectAhead,
    ];
    for way in ways {
        if way != Way::BufferedAgain && way != Way::DirectAgain {
            // Freed pages go back to the host of a virtual machine in a while, and cost a fault there when used again.
            let _ = std::fs::remove_file(&path);
            std::thread::sleep(std::time::Duration::from_secs(5));
        }
        write(&path, way, total, piece, source, buffer)?;
        // Whole steps only.
        let total = std::fs::metadata(&path)?.len() >> 20 << 20;
        match way {
            Way::BufferedAgain => read(&path, "  read, in the cache", total, false)?,
            Way::DirectAgain => {
                read_into(&path, "  O_DIRECT read", total, (libc::O_DIRECT, 0), buffer)?;
                read_into(&path, "  RWF_DONTCACHE read", total, (0, RWF_DONTCACHE), buffer)?;
                read(&path, "  read, from the disk, left as found", total, true)?;
                read(&path, "  read, from the disk", total, false)?;
                read_into(&path, "  pread, in the cache", total, (0, 0), buffer)?;
                read_into(&path, "  O_DIRECT read, in the cache", total, (libc::O_DIRECT, 0), buffer)?;
                read(&path, "  read, in the cache", total, false)?;
            }
            _ => {}
        }
    }
    std::fs::remove_file(&path)?;
    Ok(())
}
