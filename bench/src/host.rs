//! The machine that this tool runs on. Read once, at the end of a run.

use std::env;
use std::fs;

use serde::Serialize;

use crate::mounts::file_system_of;

/// The machine this tool ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Model of the first processor.
    pub cpu: String,
    /// Processors.
    pub cpu_count: usize,
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Kernel.
    pub kernel: String,
    /// Type of the file system of this tool's working directory, such as `ext4`.
    pub file_system: Option<String>,
    /// Load averages over 1, 5 and 15 minutes at the end.
    pub load: String,
    /// librdkafka's version.
    pub librdkafka: String,
}

impl Host {
    /// Reads it. What cannot be read is empty.
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let directory = env::current_dir().ok();
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or_default(),
            cpu_count: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: directory.and_then(|path| file_system_of(&read("/proc/self/mountinfo"), &path)),
            load: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            librdkafka: rdkafka::util::get_rdkafka_version().1,
        }
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map(|(_, name)| name.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_total() {
        let meminfo = "MemFree:  1 kB\nMemTotal:       24684084 kB\nMemAvailable: 2 kB\n";
        assert_eq!(memory_bytes(meminfo), Some(24_684_084 * 1024));
        assert_eq!(memory_bytes("MemTotal: many kB\n"), None);
        assert_eq!(memory_bytes("MemTotal: 5 pages\n"), None);
    }

    #[test]
    fn the_first_processor_names_the_model() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A: 1 GHz\n\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("A: 1 GHz"));
        assert_eq!(cpu_model("processor: 0\n"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let host = Host::read();
        assert!(host.cpu_count > 0 && host.memory_bytes > Some(0) && !host.kernel.is_empty());
        assert!(host.file_system.is_some());
    }
}
