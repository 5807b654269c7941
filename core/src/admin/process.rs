//! What the operating system says of this process and of the disk under the data directory.

use std::fs;
use std::path::Path;

use chronik_net::rt::clock;

/// Figures of the process; each is none where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Memory in RAM, in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Processor time of all threads, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Open file descriptors.
    pub(super) open_files: Option<u64>,
    /// How many it may have.
    pub(super) open_files_max: Option<u64>,
    /// Threads.
    pub(super) threads: Option<u64>,
}

impl Process {
    /// As of now.
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            resident_bytes: field(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024),
            cpu_seconds: Some(clock::process_cpu_ns() as f64 / 1e9),
            // The directory that is being read is one of them.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count().saturating_sub(1) as u64),
            open_files_max: limit.current,
            threads: field(&status, "Threads:"),
        }
    }
}

/// The number behind a name in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Total and free bytes of the file system that holds `path`; free is what this user may still take.
pub(super) fn disk(path: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some((found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_of_this_process() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 1 << 20);
        assert!(process.cpu_seconds.unwrap() > 0.0);
        assert!(process.open_files.unwrap() >= 3 && process.threads.unwrap() >= 1);
        let (total, free) = disk(Path::new("/")).unwrap();
        assert!(total > 0 && free <= total);
        assert_eq!(disk(Path::new("/no such directory")), None);
    }

    #[test]
    fn a_field_of_the_status_is_found_by_its_whole_name() {
        assert_eq!(field("VmRSSx:\t1 kB\nVmRSS:\t  52 kB\n", "VmRSS:"), Some(52));
        assert_eq!(field("VmRSS:\tmany kB\n", "VmRSS:"), None);
    }
}
