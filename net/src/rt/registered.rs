//! How much memory each executor registers with its rings.
//!
//! The kernel pins the pages of any other buffer anew for each O_DIRECT write; those of WAL turns took a twentieth of a busy node's
//! CPU. What is registered counts against the limit of locked memory, so there is less of it where that is low.

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Room for the WAL turns of a busy shard. Longer turns bring their own memory.
const BYTES: usize = 4 << 20;
/// Where so much must not be locked: glommio's own floor.
const BYTES_MIN: usize = 64 << 10;
/// Rings of an executor, each of which counts its registered buffers.
const RINGS: u64 = 3;

/// What each of so many executors may register.
pub(super) fn memory_bytes(executors: usize) -> usize {
    let may_lock_bytes = if is_unlimited() { None } else { getrlimit(Resource::Memlock).current };
    fitting(executors, may_lock_bytes)
}

/// The same, where so many bytes may be locked (none: any number).
fn fitting(executors: usize, may_lock_bytes: Option<u64>) -> usize {
    // Half of the limit, for the rings themselves count too, and perhaps other processes of the same user.
    let wanted = 2 * RINGS * executors as u64 * BYTES as u64;
    if may_lock_bytes.is_none_or(|bytes| bytes >= wanted) { BYTES } else { BYTES_MIN }
}

/// Whether the process may lock what it likes. In a user namespace of its own (a rootless container) the capability says
/// nothing.
fn is_unlimited() -> bool {
    let is_capable = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    is_capable && map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_buffers_stay_within_the_limit_of_locked_memory() {
        assert_eq!(fitting(64, None), BYTES);
        assert_eq!(fitting(2, Some(48 << 20)), BYTES);
        assert_eq!(fitting(3, Some(48 << 20)), BYTES_MIN);
        assert_eq!(fitting(1, Some(8 << 20)), BYTES_MIN, "what most systems allow");
    }
}
