//! Ctrl-C and SIGTERM. Before anything is measured they end this program at once, as ever. From then on the first one is asked for
//! here: what runs comes to its end, and what was measured is written. Once that was noticed the next one ends it at once; not before,
//! because `timeout` sends each signal twice. A thread notices it also where nobody asks, between two runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How late a signal is noticed where nobody asks.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// The exit code of an interrupted program, as shells have it.
pub const EXIT_INTERRUPTED: u8 = 130;

struct Interrupt {
    asked: Arc<AtomicBool>,
    /// The next signal ends this program.
    kills: Arc<AtomicBool>,
}

static INTERRUPT: OnceLock<Interrupt> = OnceLock::new();

/// From now on the first signal is kept for [`asked`].
pub fn expect() -> Result<()> {
    if INTERRUPT.get().is_some() {
        return Ok(());
    }
    let interrupt =
        Interrupt { asked: Arc::new(AtomicBool::new(false)), kills: Arc::new(AtomicBool::new(false)) };
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&interrupt.kills))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupt.asked)))
            .context("cannot watch for signals")?;
    }
    // If another thread was faster, both hear of every signal.
    let _ = INTERRUPT.set(interrupt);
    let notice = || {
        while !asked() {
            thread::sleep(NOTICED_WITHIN);
        }
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(notice).context("cannot start a thread")?;
    Ok(())
}

/// Whether a signal has asked for the end. Who asks has noticed it: the next one ends this program.
pub fn asked() -> bool {
    INTERRUPT.get().is_some_and(|interrupt| {
        let asked = interrupt.asked.load(Ordering::Acquire);
        // Never lowered: who looked just before the signal must not undo what another has noticed.
        interrupt.kills.fetch_or(asked, Ordering::Release);
        asked
    })
}
