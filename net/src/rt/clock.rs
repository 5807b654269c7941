//! The clocks: the only place of this crate that reads them.
//!
//! Pure code never calls this; the edge reads a clock once a turn and passes the time in.
//! Any thread may call; nothing here has state but the instant the process first asked.

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes for the length of the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "clock {clock} cannot be read");
    time
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let time = read(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Monotonic time in nanoseconds since some fixed instant of this boot; stands still while the machine sleeps.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

/// Monotonic time in milliseconds: what timers are reckoned in.
#[must_use]
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Time since boot in milliseconds, sleep included: tells how long the process or the machine was paused
/// (SAFETY.md, rule 22).
#[must_use]
pub fn boottime_ms() -> u64 {
    nanoseconds(libc::CLOCK_BOOTTIME) / 1_000_000
}

/// Wall clock in milliseconds since the Unix epoch, for record timestamps and retention only.
#[must_use]
pub fn wall_ms() -> i64 {
    let time = read(libc::CLOCK_REALTIME);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// CPU time that the calling thread has used, in nanoseconds.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that all threads of the process have used, in nanoseconds.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    nanoseconds(libc::CLOCK_PROCESS_CPUTIME_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_moves_forward_and_wall_is_this_century() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
        assert!(boottime_ms() >= monotonic_ms().saturating_sub(1));
        assert!(wall_ms() > 1_577_836_800_000, "the wall clock is before 2020");
    }
}
