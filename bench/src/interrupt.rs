//! Ctrl-C and SIGTERM. Before anything is measured they end this program at once, as ever. From then on the first one is asked for
//! here: what runs comes to its end, and what was measured is written. Once that was noticed the next one ends it at once; not before,
//! because `timeout` sends each signal twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

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
    Ok(())
}

/// Whether a signal has asked for the end.
pub fn asked() -> bool {
    INTERRUPT.get().is_some_and(|interrupt| {
        let asked = interrupt.asked.load(Ordering::Acquire);
        interrupt.kills.store(asked, Ordering::Release);
        asked
    })
}
