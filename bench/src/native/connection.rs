//! One nonblocking socket: frames out by vectored writes, frames in by large reads.
//!
//! Small frames are cut out of a fixed buffer that one read fills with as many as there are;
//! a frame that does not fit gets a buffer of its own, which is read into directly.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;

use bytes::BytesMut;
use chronik_net::codec::ResponseFrame;
use chronik_net::rt::writev::{OutQueue, send_some};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::poller::Poller;

/// Bytes that one read takes at most when no large frame is under way.
const CHUNK_BYTES: usize = 64 << 10;
/// A Fetch answer has at most 50 MiB, or one batch that is larger; no sound answer has more.
const ANSWER_BYTES_MAX: usize = 128 << 20;
const LENGTH_BYTES: usize = 4;

/// A connection, perhaps still being made.
pub struct Connection {
    stream: TcpStream,
    established: bool,
    outbound: OutQueue,
    queued_bytes: u64,
    inbound: Inbound,
    /// The socket gave less than was asked for: nothing is left until the poller says so.
    drained: bool,
}

impl Connection {
    /// Begins to connect; `poller` tells when it is made, with `token`.
    pub fn open(address: SocketAddr, poller: &Poller, token: u64) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        poller.watch(&socket, token)?;
        Ok(Self {
            stream: TcpStream::from(socket),
            established: false,
            outbound: OutQueue::new(),
            queued_bytes: 0,
            inbound: Inbound::new(),
            drained: true,
        })
    }

    /// Whether it has been made.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// The poller named it: what could not be done before may be possible now.
    pub fn on_ready(&mut self) -> io::Result<()> {
        if !self.established {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.peer_addr() {
                Ok(_) => self.established = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.drained = false;
        self.flush()
    }

    /// Sends a frame as far as the socket takes it; the rest goes when the poller names it.
    pub fn send(&mut self, frame: ResponseFrame) -> io::Result<()> {
        self.queued_bytes += frame.length() as u64;
        frame.into_slices().into_iter().for_each(|slice| self.outbound.push(slice));
        self.flush()
    }

    /// Bytes given to [`Connection::send`] so far.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Of these, bytes that the kernel has taken.
    pub fn written_bytes(&self) -> u64 {
        self.queued_bytes - self.outbound.len_bytes() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.established {
            send_some(self.stream.as_fd(), &mut self.outbound)?;
        }
        Ok(())
    }

    /// The next frame without its length; none until more has come.
    pub fn next_frame(&mut self) -> io::Result<Option<BytesMut>> {
        loop {
            if let Some(frame) = self.inbound.frame()? {
                return Ok(Some(frame));
            }
            if self.drained {
                return Ok(None);
            }
            let room = self.inbound.room();
            let asked = room.len();
            match (&self.stream).read(room) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection"));
                }
                Ok(count) => {
                    self.inbound.filled(count);
                    self.drained = count < asked;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.drained = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Bytes that have come and are no whole frame yet. Pure.
struct Inbound {
    chunk: Box<[u8]>,
    /// What of the chunk holds bytes not given out.
    start: usize,
    end: usize,
    /// A frame too large for the chunk, and how much of it has come.
    large: Option<(BytesMut, usize)>,
}

impl Inbound {
    fn new() -> Self {
        Self { chunk: vec![0; CHUNK_BYTES].into_boxed_slice(), start: 0, end: 0, large: None }
    }

    /// Where the next bytes go; never empty.
    fn room(&mut self) -> &mut [u8] {
        match &mut self.large {
            Some((frame, have)) => &mut frame[*have..],
            None => {
                self.chunk.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                &mut self.chunk[self.end..]
            }
        }
    }

    /// `count` bytes were put into the room.
    fn filled(&mut self, count: usize) {
        match &mut self.large {
            Some((_, have)) => *have += count,
            None => self.end += count,
        }
    }

    /// Cuts off the next frame if it is whole.
    fn frame(&mut self) -> io::Result<Option<BytesMut>> {
        if let Some((frame, have)) = &self.large {
            let whole = *have == frame.len();
            return Ok(if whole { self.large.take().map(|(frame, _)| frame) } else { None });
        }
        let have = &self.chunk[self.start..self.end];
        let Some((prefix, body)) = have.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let announced = i32::from_be_bytes(*prefix);
        let length = match usize::try_from(announced) {
            Ok(length) if length <= ANSWER_BYTES_MAX => length,
            _ => {
                let text = format!("an answer of {announced} bytes, where {ANSWER_BYTES_MAX} are the most");
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
        };
        if let Some(frame) = body.get(..length) {
            let frame = BytesMut::from(frame);
            self.start += LENGTH_BYTES + length;
            return Ok(Some(frame));
        }
        if LENGTH_BYTES + length > CHUNK_BYTES {
            let mut frame = BytesMut::zeroed(length);
            frame[..body.len()].copy_from_slice(body);
            self.large = Some((frame, body.len()));
            (self.start, self.end) = (0, 0);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.extend((0..length).map(|at| (at % 251) as u8));
        bytes
    }

    /// Feeds the bytes in pieces of `piece` at most and collects the frames.
    fn frames(bytes: &[u8], piece: usize) -> Vec<BytesMut> {
        let (mut inbound, mut found, mut rest) = (Inbound::new(), Vec::new(), bytes);
        loop {
            while let Some(frame) = inbound.frame().unwrap() {
                found.push(frame);
            }
            if rest.is_empty() {
                return found;
            }
            let room = inbound.room();
            let count = room.len().min(piece).min(rest.len());
            assert!(count > 0, "there must always be room");
            room[..count].copy_from_slice(&rest[..count]);
            inbound.filled(count);
            rest = &rest[count..];
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_came_in() {
        let lengths =
            [0, 1, 60, CHUNK_BYTES - 5, CHUNK_BYTES - 4, CHUNK_BYTES - 3, 3, 200_000, CHUNK_BYTES, 7];
        let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame_of(*length)).collect();
        for piece in [1, 3, 1000, CHUNK_BYTES, usize::MAX] {
            let found = frames(&bytes, piece);
            assert_eq!(found.len(), lengths.len(), "pieces of {piece}");
            for (frame, length) in found.iter().zip(lengths) {
                assert_eq!(frame[..], frame_of(length)[4..], "pieces of {piece}");
            }
        }
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        for announced in [-1, i32::MIN, i32::MAX, ANSWER_BYTES_MAX as i32 + 1] {
            let mut inbound = Inbound::new();
            inbound.room()[..4].copy_from_slice(&announced.to_be_bytes());
            inbound.filled(4);
            assert_eq!(inbound.frame().unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
