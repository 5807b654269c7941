//! A small ext4 file system in a file, mounted by root for one test: a disk that can be full or read-only without harm.

use crate::paths;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Less than this cannot be allocated.
const FILE_SYSTEM_BLOCK_KIB: u64 = 4;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    directory: TempDir,
}

impl LoopDisk {
    /// Makes and mounts a file system of `mebibytes`; none, with a line that says so, without the rights to.
    #[must_use]
    pub fn mount(mebibytes: u64) -> Option<Self> {
        // SAFETY: geteuid only reads a number of this process.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: only root can mount a small file system to fill");
            return None;
        }
        let directory = paths::scratch("loopdisk");
        let image = directory.path().join("image");
        std::fs::create_dir(directory.path().join("mount")).expect("the mount point can be made");
        let file = std::fs::File::create(&image).expect("the image can be made");
        file.set_len(mebibytes << 20).expect("the image can be sized");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let disk = Self { directory };
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        Some(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// Makes it read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", mode]).arg(self.path()));
    }

    /// Fills it up, but for `keep_kib`, with a file of that name; deleting the file gives the space back.
    ///
    /// A broker may take space in the meantime: what is free is asked for again before each piece, and pieces that no longer fit shrink.
    #[must_use]
    pub fn fill(&self, keep_kib: u64) -> PathBuf {
        let path = self.path().join("filler");
        let filler = std::fs::File::create(&path).expect("the filler can be made");
        let (mut length, mut most_kib) = (0, u64::MAX);
        loop {
            let piece_kib = free_kib(&self.path()).saturating_sub(keep_kib).min(most_kib);
            if piece_kib < FILE_SYSTEM_BLOCK_KIB {
                return path;
            }
            match allocate(&filler, length, piece_kib << 10) {
                Ok(()) => length += piece_kib << 10,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => most_kib = piece_kib / 2,
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A lazy unmount also works while a broker that is just being killed has files open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Gives the file `bytes` of the disk from `offset` on; what was allocated before a failure stays the file's.
fn allocate(file: &std::fs::File, offset: u64, bytes: u64) -> std::io::Result<()> {
    let off_t = |value: u64| libc::off_t::try_from(value).expect("an offset within a small disk");
    // SAFETY: the descriptor is open for the length of the call, which touches no memory of this process.
    let answer = unsafe { libc::fallocate(file.as_raw_fd(), 0, off_t(offset), off_t(bytes)) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn free_kib(path: &Path) -> u64 {
    let output = Command::new("df").args(["--output=avail", "-k"]).arg(path).output().expect("df starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or_else(|| panic!("odd answer of df: {text}"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
