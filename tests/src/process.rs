//! Children of a test. They are killed when dropped, and by the kernel if the test dies first.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Ports are taken from below the range that Linux gives to outgoing connections, so that no client takes one in between.
const PORTS: (u16, u16) = (15_000, 29_999);
/// First and last port for those who share a machine with others: `CHRONIK_TEST_PORTS=23000-24999`.
const PORTS_VARIABLE: &str = "CHRONIK_TEST_PORTS";
/// How often a child is asked whether it has left.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that nobody listens on and that no other test of this process was given.
#[must_use]
pub fn free_port() -> u16 {
    let (first, last) = port_range();
    let count = last - first + 1;
    // Processes begin at different places; threads of one process take turns.
    let start =
        u16::try_from(u64::from(std::process::id()) * 97 % u64::from(count)).expect("below the count");
    for _ in 0..count {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed) % count;
        let port = first + (start + step) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 from {first} to {last}");
}

fn port_range() -> (u16, u16) {
    let Ok(text) = std::env::var(PORTS_VARIABLE) else { return PORTS };
    let range =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match range {
        Some((first, last)) if first < last && last < 30_000 => (first, last),
        _ => panic!("{PORTS_VARIABLE}={text}: must be FIRST-LAST, below 30000"),
    }
}

/// Waits until `probe` is true, which must be within `timeout`.
pub fn eventually(what: &str, timeout: Duration, probe: impl FnMut() -> bool) {
    assert!(soon(timeout, probe), "not within {timeout:?}: {what}");
}

/// Waits until `probe` is true; false if it is not within `timeout`.
pub fn soon(timeout: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    while !probe() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> io::Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let errors: File = output.try_clone()?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        Self::spawn(name, command)
    }

    /// Starts `command` as it is.
    pub fn spawn(name: &str, command: &mut Command) -> io::Result<Self> {
        die_with_parent(command);
        Ok(Self { child: command.spawn()?, name: name.to_string() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends `signal` to this very process.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("process ids are positive");
        // SAFETY: kill takes plain numbers. The child has not been waited for, so that the id is still its own.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "cannot signal {}: {}", self.name, io::Error::last_os_error());
    }

    /// Its exit status, if it has left.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it leaves by itself; none at the timeout.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            self.signal(libc::SIGKILL);
            self.child.wait().expect("a killed child can be waited for");
        }
    }

    /// Resident memory in bytes, as the kernel counts it.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        status_kib(self.id(), "VmRSS:") * 1024
    }

    /// The highest resident memory so far, in bytes.
    #[must_use]
    pub fn peak_resident_bytes(&self) -> u64 {
        status_kib(self.id(), "VmHWM:") * 1024
    }
}

/// A figure of `/proc/PID/status`, which the kernel gives in KiB.
#[must_use]
pub fn status_kib(process_id: u32, field: &str) -> u64 {
    let path = format!("/proc/{process_id}/status");
    let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("no {path}: {error}"));
    let line =
        status.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("no {field} in {path}"));
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_else(|| panic!("odd line {line}"))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks the kernel to kill the child when the thread that starts it ends.
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is safe there and takes plain numbers.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
