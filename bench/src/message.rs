//! The messages of one client in their order: values, keys and sequence numbers, for whichever
//! library sends them.

use crate::cli::Options;
use crate::payload::{Keys, Payloads};
use crate::run::Run;

/// What one client has to send.
pub struct Messages {
    payloads: Payloads,
    keys: Keys,
    next_sequence: u64,
}

/// One message, its bytes still where they were made.
pub struct Message<'a> {
    /// Its number within the client, from 0.
    pub sequence: u64,
    /// Its key, if the run has keys.
    pub key: Option<&'a [u8]>,
    /// Its value, with a header where it fits.
    pub value: &'a [u8],
}

impl Messages {
    /// The messages of client `client`; everything random is made now.
    pub fn new(options: &Options, run: &Run, client: u32) -> Self {
        Self {
            payloads: Payloads::new(options.payload_pattern, options.message_size, run.id, client),
            keys: Keys::new(options.key_pattern, run.id, client),
            next_sequence: 0,
        }
    }

    /// The next message, meant for `intended_wall_ns`. It stays the next one until it is taken.
    pub fn next(&mut self, intended_wall_ns: u64) -> Message<'_> {
        let sequence = self.next_sequence;
        Message {
            sequence,
            key: self.keys.key(sequence),
            value: self.payloads.value(sequence, intended_wall_ns),
        }
    }

    /// The message given last is on its way.
    pub fn take(&mut self) {
        self.next_sequence += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use clap::Parser;

    use super::*;
    use crate::payload::read_checked;

    #[test]
    fn a_message_stays_until_it_is_taken() {
        let options = Options::parse_from(["chronik-bench", "-s", "64", "--key-pattern", "sequential"]);
        let run = Run::new(&options, mpsc::channel().0);
        let mut messages = Messages::new(&options, &run, 3);
        let mut sequence_in_value = |take: bool| {
            let message = messages.next(7);
            let header = read_checked(message.value).unwrap();
            assert_eq!((header.sequence, header.client, header.run), (message.sequence, 3, run.id));
            assert_eq!(message.key, Some(format!("{:016x}", message.sequence).as_bytes()));
            if take {
                messages.take();
            }
            header.sequence
        };
        assert_eq!([false, true, true, false].map(&mut sequence_in_value), [0, 0, 1, 2]);
    }
}
