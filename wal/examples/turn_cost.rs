//! What a WAL turn costs: a write and an fdatasync on the ring, one write with O_DSYNC there, and both by a thread that blocks.
//!
//! `cargo run --release -p chronik-wal --example turn_cost -- DIR [TURNS]` writes blocks that were written before, as
//! WAL turns are, one after the other. "own" is CPU of this process, io-wq threads included; "machine" that of the
//! whole machine meanwhile. The figures are in `disk::uring`'s module documentation.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::error::Error;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use chronik_wal::disk::AlignedBuffer;
use glommio::io::{BufferedFile, OpenOptions};
use glommio::{LocalExecutorBuilder, Placement};

type Outcome<T> = Result<T, Box<dyn Error>>;

const FILE_BYTES: u64 = 64 << 20;

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

/// What so many turns took.
struct Meter {
    begun: Instant,
    before: (f64, f64),
    worst: f64,
}

impl Meter {
    fn new() -> Outcome<Self> {
        Ok(Self { begun: Instant::now(), before: cpu()?, worst: 0.0 })
    }

    fn turn(&mut self, begun: Instant) {
        self.worst = self.worst.max(begun.elapsed().as_secs_f64());
    }

    fn print(self, turn_bytes: usize, what: &str, count: u64) -> Outcome<()> {
        let wall = self.begun.elapsed().as_secs_f64();
        let after = cpu()?;
        let micros = 1e6 / count as f64;
        println!(
            "{:5} KiB {what:24} own {:6.1} us   machine {:6.1} us   wall {:6.1} us a turn, worst {:.1} ms",
            turn_bytes >> 10,
            (after.0 - self.before.0) * micros,
            (after.1 - self.before.1) * micros,
            wall * micros,
            self.worst * 1e3,
        );
        Ok(())
    }
}

async fn turns(path: &Path, dsync: bool, turn_bytes: usize, count: u64) -> Outcome<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if dsync {
        options.custom_flags(libc::O_DSYNC);
    }
    let file = options.dma_open(path).await?;
    let mut buffer = Rc::new(file.alloc_dma_buffer(turn_bytes));
    let mut meter = Meter::new()?;
    for number in 0..count {
        if let Some(buffer) = Rc::get_mut(&mut buffer) {
            buffer.as_bytes_mut().fill(number as u8);
        }
        let turn = Instant::now();
        let written = file.write_rc_at(buffer.clone(), number * turn_bytes as u64 % FILE_BYTES).await?;
        if written != turn_bytes {
            return Err("a short write".into());
        }
        if !dsync {
            file.fdatasync().await?;
        }
        meter.turn(turn);
    }
    meter.print(turn_bytes, if dsync { "O_DSYNC" } else { "write, fdatasync" }, count)?;
    file.close().await?;
    Ok(())
}

/// The same by a thread that blocks, woken by a channel, which rings an eventfd that the shard reads.
async fn turns_by_thread(path: &Path, turn_bytes: usize, count: u64) -> Outcome<()> {
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    let ringer = bell.try_clone()?;
    // SAFETY: the descriptor belongs to nobody else.
    let bell = unsafe { BufferedFile::from_raw_fd(bell.into_raw_fd()) };
    let (sender, receiver) = std::sync::mpsc::sync_channel::<u64>(1);
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = AlignedBuffer::new(turn_bytes)?;
        while let Ok(number) = receiver.recv() {
            buffer.as_mut_bytes().fill(number as u8);
            file.write_all_at(buffer.as_bytes(), number * turn_bytes as u64 % FILE_BYTES)?;
            file.sync_data()?;
            rustix::io::write(&ringer, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    });
    let mut meter = Meter::new()?;
    for number in 0..count {
        let turn = Instant::now();
        sender.send(number)?;
        bell.read_at(0, 8).await?;
        meter.turn(turn);
    }
    meter.print(turn_bytes, "write, fdatasync, thread", count)?;
    drop(sender);
    writer.join().map_err(|_| "the thread panicked")??;
    bell.close().await?;
    Ok(())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: turn_cost DIR [TURNS]")?);
    let count = arguments.next().map_or(Ok(5000), |text| text.parse::<u64>())?;
    let path = directory.join("turn_cost.data");
    std::fs::write(&path, vec![0; FILE_BYTES as usize])?;
    std::fs::File::open(&path)?.sync_all()?;
    let used = path.clone();
    let executor = LocalExecutorBuilder::new(Placement::Unbound).spawn(move || async move {
        for (turn_bytes, count) in [(4 << 10, count), (64 << 10, count / 4), (1 << 20, count / 20)] {
            for dsync in [false, true, false, true] {
                if let Err(error) = turns(&used, dsync, turn_bytes, count).await {
                    println!("{error}");
                }
            }
            if let Err(error) = turns_by_thread(&used, turn_bytes, count).await {
                println!("{error}");
            }
        }
    })?;
    executor.join()?;
    std::fs::remove_file(&path)?;
    Ok(())
}
