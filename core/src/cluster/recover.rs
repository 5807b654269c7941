//! `cluster recover --unsafe`.

use super::{Failure, Outcome};
use crate::config::cli::RecoverArgs;

/// Runs it.
///
/// # Errors
/// Why nothing was done.
pub(super) fn command(_args: &RecoverArgs) -> Result<Outcome, Failure> {
    Err(Failure::Refused("not yet".to_owned()))
}
