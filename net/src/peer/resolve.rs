//! From `host:port` to an address, off the shard.
//!
//! The system's resolver blocks for as long as it likes, so a name is looked up by a thread of its own, at each try anew because
//! containers change their addresses. A link has one lookup at a time and waits for it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use crate::rt::mailbox::mailbox;
use crate::rt::safety;

/// The first address of `address`; none when it has none now.
pub(super) async fn resolve(address: &str) -> Option<SocketAddr> {
    if let Ok(literal) = address.parse() {
        return Some(literal);
    }
    let _outstanding = safety::outstanding();
    let (sender, unbound) = mailbox(1).ok()?;
    let mut answer = unbound.bind().ok()?;
    let name = address.to_owned();
    let lookup = move || {
        let found = name.to_socket_addrs().ok().and_then(|mut found| found.next());
        // The mailbox has room for the one answer.
        let _ = sender.try_send(found);
    };
    thread::Builder::new().name("resolve".to_owned()).spawn(lookup).ok()?;
    answer.recv().await
}
