//! Checks before the start: each says in one line what is missing and how to mend it.
//!
//! Runs once, on the main thread, before any shard exists: glommio itself ends the process when io_uring is not
//! to be had, without a word that helps. Every check is a function of its own, so that each can be tested alone.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The oldest kernel whose io_uring does all that is needed here.
pub const KERNEL_MIN: (u32, u32) = (5, 15);
/// glommio refuses to start below this.
pub const MEMLOCK_MIN_BYTES: u64 = 512 << 10;
/// Descriptors below which a broker with a thousand clients and partitions runs dry.
pub const OPEN_FILES_MIN: u64 = 1_024;
/// Alignment and size of the O_DIRECT probe: what the WAL writes.
const PROBE_BYTES: usize = 4_096;

/// Why this machine cannot run the server, and the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PreflightError {
    #[error("kernel {found} is too old: io_uring as used here needs Linux {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1)]
    Kernel { found: String },
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}): run `sysctl kernel.io_uring_disabled=0`"
    )]
    UringDisabled { value: String },
    #[error(
        "io_uring is forbidden to this process ({source}): allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile (docker: --security-opt seccomp=unconfined)"
    )]
    UringForbidden { source: io::Error },
    #[error(
        "this kernel has no io_uring ({source}): use one built with CONFIG_IO_URING, or allow io_uring_setup in the seccomp profile"
    )]
    UringMissing { source: io::Error },
    #[error(
        "an io_uring cannot be set up ({source}): raise the memlock limit with `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit file"
    )]
    UringSetup { source: io::Error },
    #[error(
        "the memlock limit is {limit_bytes} bytes, {MEMLOCK_MIN_BYTES} are needed: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit file"
    )]
    Memlock { limit_bytes: u64 },
    #[error(
        "the limit of open files is {limit}, at least {OPEN_FILES_MIN} are needed: `ulimit -n 65536`, or LimitNOFILE=65536 in the unit file"
    )]
    OpenFiles { limit: u64 },
    #[error("cannot make the data directory {}: {source}", path.display())]
    DataDirectory { path: PathBuf, source: io::Error },
    #[error("the data directory {} cannot be written: {source}", path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("the data directory {} is on {file_system}, which does not take O_DIRECT writes ({source}): put it on ext4 or xfs", path.display())]
    NoDirectIo { path: PathBuf, file_system: String, source: io::Error },
}

/// All checks of the machine, in the order in which one would mend them. Raises the soft limit of open files.
///
/// # Errors
/// The first thing that is missing.
pub fn check_machine() -> Result<(), PreflightError> {
    check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    check_io_uring()?;
    check_memlock()?;
    raise_open_files().map(|_| ())
}

/// Checks a kernel release such as `6.1.0-18-amd64`.
///
/// # Errors
/// When it is older than [`KERNEL_MIN`]; one that cannot be read is let pass, since the ring itself is probed next.
pub fn check_kernel(release: &str) -> Result<(), PreflightError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Ok(());
    };
    if (major, minor) < KERNEL_MIN {
        return Err(PreflightError::Kernel { found: release.to_owned() });
    }
    Ok(())
}

/// Probes whether this process may set up an io_uring.
///
/// # Errors
/// With the reason and its remedy: the sysctl, a seccomp filter, a kernel without it, or too little locked memory.
pub fn check_io_uring() -> Result<(), PreflightError> {
    // `struct io_uring_params` is 120 bytes; all zero asks for a plain ring.
    let mut parameters = [0u8; 120];
    // SAFETY: the kernel reads and writes 120 bytes at the pointer, which is valid for them.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, parameters.as_mut_ptr()) };
    if result >= 0 {
        let descriptor = i32::try_from(result).unwrap_or(-1);
        // SAFETY: the descriptor was just returned to us and nobody else knows it.
        unsafe { libc::close(descriptor) };
        return Ok(());
    }
    let source = io::Error::last_os_error();
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let value = sysctl.trim();
    Err(match source.raw_os_error() {
        Some(libc::EPERM) if !value.is_empty() && value != "0" => {
            PreflightError::UringDisabled { value: value.to_owned() }
        }
        Some(libc::EPERM | libc::EACCES) => PreflightError::UringForbidden { source },
        Some(libc::ENOSYS) => PreflightError::UringMissing { source },
        _ => PreflightError::UringSetup { source },
    })
}

/// Checks the limit of locked memory that glommio insists on; raises the soft limit to the hard one first.
///
/// # Errors
/// When even the hard limit is too low.
pub fn check_memlock() -> Result<(), PreflightError> {
    let limit = raise_soft_limit(Resource::Memlock);
    match limit {
        Some(limit_bytes) if limit_bytes < MEMLOCK_MIN_BYTES => Err(PreflightError::Memlock { limit_bytes }),
        _ => Ok(()),
    }
}

/// Raises the soft limit of open files to the hard one and returns it (`u64::MAX`: none).
///
/// # Errors
/// When even that is below [`OPEN_FILES_MIN`].
pub fn raise_open_files() -> Result<u64, PreflightError> {
    match raise_soft_limit(Resource::Nofile) {
        Some(limit) if limit < OPEN_FILES_MIN => Err(PreflightError::OpenFiles { limit }),
        Some(limit) => Ok(limit),
        None => Ok(u64::MAX),
    }
}

/// Raises a soft limit to its hard one; what then holds.
fn raise_soft_limit(resource: Resource) -> Option<u64> {
    let before = getrlimit(resource);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    match setrlimit(resource, wanted) {
        Ok(()) => wanted.current,
        Err(_) => before.current,
    }
}

/// Makes the data directory if need be and checks that it takes what the log will write: O_DIRECT, aligned, synced.
///
/// # Errors
/// When it cannot be made or written, or its file system refuses O_DIRECT (tmpfs before Linux 6.6, some overlays, NFS).
pub fn check_data_directory(path: &Path) -> Result<(), PreflightError> {
    fs::create_dir_all(path)
        .map_err(|source| PreflightError::DataDirectory { path: path.to_owned(), source })?;
    let probe = path.join(format!(".probe-{}", std::process::id()));
    let result = probe_plain(&probe)
        .map_err(|source| PreflightError::NotWritable { path: path.to_owned(), source })
        .and_then(|()| {
            probe_direct(&probe).map_err(|source| PreflightError::NoDirectIo {
                path: path.to_owned(),
                file_system: file_system_name(path),
                source,
            })
        });
    // The probe may never have been made; what counts is that it is gone.
    let _ = fs::remove_file(&probe);
    result
}

fn probe_plain(probe: &Path) -> io::Result<()> {
    fs::write(probe, [0u8; PROBE_BYTES])
}

#[repr(align(4096))]
struct AlignedBlock([u8; PROBE_BYTES]);

fn probe_direct(probe: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(probe)?;
    let block = Box::new(AlignedBlock([0x5a; PROBE_BYTES]));
    file.write_all_at(&block.0, 0)?;
    file.sync_data()
}

/// A name for the file system of `path`, for messages.
fn file_system_name(path: &Path) -> String {
    let Ok(status) = rustix::fs::statfs(path) else {
        return "an unknown file system".to_owned();
    };
    match status.f_type {
        0xEF53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794C_7630 => "overlayfs".to_owned(),
        0x6969 => "NFS".to_owned(),
        0x9123_683E => "btrfs".to_owned(),
        0x6573_5546 => "FUSE".to_owned(),
        other => format!("a file system of type {other:#x}"),
    }
}

#[cfg(test)]
mod tests;
