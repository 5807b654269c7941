//! The HTTP server: one thread that accepts, one short-lived thread a connection, one request a connection.
//!
//! Written here and not taken from a crate because of its bounds (tiny_http has none of them): a bounded count of threads,
//! a head of at most [`HEAD_BYTES_MAX`], and a deadline for the whole of reading and the whole of writing, so that neither
//! a slow nor a hostile client keeps anything for long, or anybody else from an answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chronik_net::acceptor::BoundListener;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{SocketFlags, accept_with};

use super::request::{Get, HEAD_BYTES_MAX, Response, head_end, parse};

/// Connections served at once: some scrapers, probes and people.
const CONNECTIONS_MAX: usize = 32;

/// Connections beyond these that are told 503 at once.
const REFUSALS_MAX: usize = 8;

/// A request that has not arrived after this long is answered 408.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// A response that is not taken after this long is given up.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// After a response: how long, and how much, is read of what the client still sends, so that its kernel does not throw the
/// response away (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 64 << 10;

/// Pause when the process has no descriptor left.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What answers requests.
pub(super) type Handler = Arc<dyn Fn(&Get) -> Response + Send + Sync>;

/// The running server. Dropping it closes the port; connections that are being answered end by themselves.
#[derive(Debug)]
pub(super) struct Server {
    stop: Arc<Stop>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    bell: OwnedFd,
}

impl Server {
    /// Starts to accept.
    ///
    /// # Errors
    /// When the thread or its eventfd cannot be had.
    pub(super) fn start(listener: BoundListener, handler: Handler) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), bell });
        let accepting = stop.clone();
        let run = move || accept_all(&listener, &accepting, &handler);
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::Release);
        // The counter of an eventfd is never near its limit here.
        let _ = rustix::io::write(&self.stop.bell, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The place of one connection under the bound; given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place, and whether it is one of those whose connections are only told that there are too many.
    fn take(open: &Arc<AtomicUsize>) -> Option<(Self, bool)> {
        // One thread alone takes places, so the count cannot grow in between.
        let taken = open.load(Ordering::Acquire);
        (taken < CONNECTIONS_MAX + REFUSALS_MAX).then(|| {
            open.fetch_add(1, Ordering::AcqRel);
            (Self(open.clone()), taken >= CONNECTIONS_MAX)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept_all(listener: &BoundListener, stop: &Stop, handler: &Handler) {
    let open = Arc::new(AtomicUsize::new(0));
    while !stop.asked.load(Ordering::Acquire) {
        let mut polled = [
            PollFd::new(&stop.bell, PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        if poll(&mut polled, None).is_err() || polled[1].revents().is_empty() {
            continue;
        }
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => begin(TcpStream::from(socket), &open, handler),
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM) => {
                thread::sleep(BACK_OFF);
            }
            // The client gave up while it waited in the backlog.
            Err(_) => {}
        }
    }
}

fn begin(stream: TcpStream, open: &Arc<AtomicUsize>, handler: &Handler) {
    // Beyond all bounds a connection is closed without a word.
    let Some((place, refused)) = Place::take(open) else { return };
    let handler = handler.clone();
    let serve = move || {
        match refused {
            true => respond(&stream, &Response::error(503, "too many connections; try again")),
            false => serve(&stream, &handler),
        }
        drop(place);
    };
    // Without a thread the connection is closed, which is all that can be said without one.
    if let Err(error) = thread::Builder::new().name("admin-connection".to_owned()).spawn(serve) {
        tracing::warn!(%error, "no thread for an admin connection");
    }
}

/// Answers one connection. Whatever goes wrong on it ends it and nothing else.
fn serve(stream: &TcpStream, handler: &Handler) {
    let begun = Instant::now();
    let response = match read_head(stream) {
        Ok(Some(head)) => match parse(&head) {
            Ok(get) => {
                let response = handler(&get);
                let (path, status) = (get.path(), response.status);
                tracing::debug!(path, status, millis = begun.elapsed().as_millis() as u64, "admin request");
                response
            }
            Err(refusal) => refusal,
        },
        Ok(None) => Response::error(431, "the head of the request is too long"),
        Err(error) if is_timeout(&error) => Response::error(408, "the request did not arrive in time"),
        Err(_) => return,
    };
    respond(stream, &response);
}

fn respond(stream: &TcpStream, response: &Response) {
    if write_all(stream, &response.encode()).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        linger(stream);
    }
}

/// The head of the request; none when it is too long.
fn read_head(mut stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + READ_DEADLINE;
    let mut head = Vec::with_capacity(1024);
    let mut buffer = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head_end(&head) {
            head.truncate(end);
            return Ok(Some(head));
        }
        // What cannot become a request is not waited for.
        if !head[0].is_ascii_uppercase() {
            return Ok(Some(head));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
    }
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_DEADLINE;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn linger(mut stream: &TcpStream) {
    let deadline = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    let mut taken = 0;
    while taken < LINGER_BYTES_MAX {
        let Ok(left) = left(deadline) else { return };
        if stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => taken += count,
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
