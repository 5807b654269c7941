//! Advisory locks between test processes and threads: one builder of a toolchain, one JVM-heavy suite at a time.

use crate::paths;
use std::fs::File;

/// A lock that is held until dropped.
#[derive(Debug)]
pub struct Guard {
    // Closing the file gives the lock up.
    _file: File,
}

/// Waits for the lock `name`. Each call opens the file anew, so that threads exclude each other as processes do.
#[must_use]
pub fn acquire(name: &str) -> Guard {
    let path = paths::clients().join(format!("{name}.lock"));
    let file = File::create(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("cannot lock {}: {error}", path.display()));
    Guard { _file: file }
}

/// The lock of heavy tests: those that start a JVM, load the broker, or measure. On two cores, two of them at once would
/// run into each other's timeouts.
#[must_use]
pub fn heavy() -> Guard {
    acquire("heavy")
}
