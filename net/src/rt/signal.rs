//! SIGTERM and SIGINT ask for a clean end; a second one ends the process at once.
//!
//! A plain thread named `signals` takes them and hands the first to a callback, which typically puts a message into the
//! shards' mailboxes (those may be rung from any thread).

use std::io;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// The thread that waits for signals; dropping it gives the signals back to nobody, so keep it until the end.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

/// Exit code of a process that was told a second time: as a shell reports a death by that signal.
fn exit_code(signal: i32) -> i32 {
    128 + signal
}

/// Starts to listen. `on_first` runs on the signal thread, once, with the signal's name.
///
/// # Errors
/// When the handlers cannot be registered or the thread cannot be started.
pub fn listen(on_first: impl FnOnce(&'static str) + Send + 'static) -> io::Result<SignalThread> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut on_first = Some(on_first);
        for signal in &mut signals {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            match on_first.take() {
                Some(first) => first(name),
                None => {
                    tracing::warn!(signal = name, "second signal: leaving at once");
                    std::process::exit(exit_code(signal));
                }
            }
        }
    })?;
    Ok(SignalThread { handle, thread: Some(thread) })
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    const CHILD: &str = "CHRONIK_TEST_SIGNAL_CHILD";

    fn raise() {
        // SAFETY: raising a signal for which a handler is installed.
        assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGTERM) }, 0);
    }

    /// Runs only in the child: signals concern a whole process.
    #[test]
    fn child_takes_one_signal_and_dies_of_the_second() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        let _thread = listen(move |name| sender.send(name).unwrap()).unwrap();
        raise();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok("SIGTERM"));
        raise();
        thread::sleep(Duration::from_secs(10));
        std::process::exit(1);
    }

    #[test]
    fn the_first_signal_is_told_and_the_second_ends_the_process() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["child_takes_one_signal_and_dies_of_the_second", "--nocapture"])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    }
}
