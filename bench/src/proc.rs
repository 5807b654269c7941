//! A broker's use of the machine, from `/proc`.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// CPU time and memory of a process at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, in clock ticks.
    pub cpu_ticks: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Of it, memory of its own: not the pages of mapped files, which the kernel takes back at will.
    pub anonymous_bytes: u64,
    /// Greatest resident memory so far, in bytes.
    pub resident_peak_bytes: u64,
}

/// What a run cost the broker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// CPU seconds of the broker while measuring.
    pub cpu_seconds: f64,
    /// CPU seconds for 10^9 bytes of values.
    pub cpu_seconds_per_gb: f64,
    /// CPU seconds for 10^6 messages, which is microseconds for one.
    pub cpu_seconds_per_million: f64,
    /// Resident memory at the end.
    pub resident_bytes: u64,
    /// Of it, memory of the broker's own, without mapped files.
    pub anonymous_bytes: u64,
    /// Greatest resident memory of the process so far.
    pub resident_peak_bytes: u64,
}

impl Usage {
    /// Reads the usage of a process.
    pub fn read(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        parse(&stat, &status).ok_or_else(|| io::Error::other("unexpected form of /proc/<pid>/stat"))
    }

    /// What was used between this instant and a later one.
    pub fn cost_until(&self, end: &Usage, byte_count: u64, message_count: u64) -> Cost {
        let cpu_seconds = end.cpu_ticks.saturating_sub(self.cpu_ticks) as f64 / ticks_per_second();
        Cost {
            cpu_seconds,
            cpu_seconds_per_gb: cpu_seconds / (byte_count.max(1) as f64 / 1e9),
            cpu_seconds_per_million: cpu_seconds / (message_count.max(1) as f64 / 1e6),
            resident_bytes: end.resident_bytes,
            anonymous_bytes: end.anonymous_bytes,
            resident_peak_bytes: end.resident_peak_bytes,
        }
    }
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The command's name is in parentheses and may hold spaces and parentheses itself.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Usage {
        cpu_ticks: ticks(11)? + ticks(12)?,
        resident_bytes: kilobytes(status, "VmRSS:")?,
        anonymous_bytes: kilobytes(status, "RssAnon:")?,
        resident_peak_bytes: kilobytes(status, "VmHWM:")?,
    })
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf reads a constant and has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 700 300 0 0 20 0 5 0 1 2 3";
    const STATUS: &str = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nRssAnon:\t  512 kB\n";

    #[test]
    fn the_fields_are_the_right_ones() {
        let usage = parse(STAT, STATUS).unwrap();
        let expected = Usage {
            cpu_ticks: 1_000,
            resident_bytes: 1 << 20,
            anonymous_bytes: 1 << 19,
            resident_peak_bytes: 2 << 20,
        };
        assert_eq!(usage, expected);
        assert_eq!(parse("42 (x) S 1", STATUS), None);
    }

    #[test]
    fn cost_is_by_gigabyte_and_by_message() {
        let start = parse(STAT, STATUS).unwrap();
        let end = Usage { cpu_ticks: start.cpu_ticks + ticks_per_second() as u64 * 2, ..start };
        let cost = start.cost_until(&end, 500_000_000, 4_000_000);
        assert!((cost.cpu_seconds_per_gb - 4.0).abs() < 1e-9);
        assert!((cost.cpu_seconds_per_million - 0.5).abs() < 1e-9);
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(Usage::read(std::process::id()).unwrap().resident_bytes > 0);
    }
}
