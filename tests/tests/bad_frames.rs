//! Bytes that no client sends. Each ends in an answer or in a closed connection; the broker stays up, its memory bounded, and
//! other connections go on.

use chronik_net::codec::{ApiKey, SUPPORTED};
use chronik_tests::subject::Subject;
use chronik_tests::wire::{Connection, encode};
use chronik_tests::{lock, report};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// What hostile bytes may cost in memory at most, all tests of a broker together.
const MEMORY_GROWTH_MAX: u64 = 96 << 20;
/// The longest that a connection with hostile bytes is watched.
const PATIENCE: Duration = Duration::from_secs(5);

/// A broker, a connection that must go on whatever happens, and the memory at the start.
struct Witness {
    subject: Subject,
    other: Connection,
    resident_before: u64,
}

impl Witness {
    fn start(name: &str) -> Self {
        let mut subject = Subject::start(name);
        let mut other = Connection::open(&subject.address());
        other.metadata_all().expect("the broker answers");
        let resident_before = subject.process().resident_bytes();
        Self { subject, other, resident_before }
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.subject.address())
    }

    /// The broker is up, the old connection is served, and memory has not grown beyond its bound.
    fn unharmed(&mut self) {
        assert!(self.subject.process().exited().is_none(), "the broker is up");
        self.other.metadata_all().expect("the other connection goes on");
        let growth = self.subject.process().resident_bytes().saturating_sub(self.resident_before);
        assert!(growth < MEMORY_GROWTH_MAX, "memory grew by {} MiB", growth >> 20);
    }
}

#[test]
fn garbage_closes_the_connection() {
    let mut witness = Witness::start("garbage");
    let mut random = SmallRng::seed_from_u64(3);
    let mut noise = vec![0; 4096];
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client asks for a handshake".to_vec();
    let mut inputs =
        vec![b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(), hello, vec![0xff; 64], vec![0; 4]];
    for _ in 0..200 {
        random.fill_bytes(&mut noise);
        inputs.push(noise.clone());
    }
    for input in &inputs {
        let mut connection = witness.connect();
        // The broker may close before all was sent.
        let _ = connection.send_raw(input);
        let _ = connection.stream().shutdown(Shutdown::Write);
        assert!(
            connection.closes_within(PATIENCE),
            "no answer to garbage, but an end: {:?}",
            &input[..input.len().min(16)]
        );
    }
    witness.unharmed();
}

#[test]
fn half_a_frame_harms_nobody() {
    let mut witness = Witness::start("half-frame");
    let mut halves = Vec::new();
    for n in 0..100 {
        let mut connection = witness.connect();
        connection.send_raw(&1000_i32.to_be_bytes()[..1 + n % 4]).expect("a few bytes can be sent");
        if n % 4 == 3 {
            connection.send_raw(&[0; 10]).expect("a few bytes more can be sent");
        }
        halves.push(connection);
    }
    witness.unharmed();
    drop(halves);
    witness.unharmed();
}

#[test]
fn frames_beyond_the_limit_close_the_connection() {
    let mut witness = Witness::start("over-limit");
    for length in [104_857_601, i32::MAX, -1, i32::MIN] {
        let mut connection = witness.connect();
        connection.send_raw(&length.to_be_bytes()).expect("a length can be sent");
        assert!(connection.closes_within(PATIENCE), "a frame of {length} bytes is refused at once");
    }
    witness.unharmed();
}

/// CVE-2022-34917: memory is not set aside for what has only been announced.
#[test]
fn announced_bytes_cost_nothing_until_they_come() {
    let mut witness = Witness::start("announced");
    let mut announced = Vec::new();
    for _ in 0..100 {
        let mut connection = witness.connect();
        connection.send_raw(&100_000_000_i32.to_be_bytes()).expect("a length can be sent");
        connection.send_raw(&[0, 3, 0, 1]).expect("the first bytes can be sent");
        announced.push(connection);
    }
    std::thread::sleep(Duration::from_millis(300));
    witness.unharmed();
}

#[test]
fn unknown_apis_and_versions_close_the_connection() {
    let mut witness = Witness::start("versions");
    for (key, version) in [(0, 2), (999, 0), (1, 3), (1, 99), (3, 99), (-1, 0), (19, -1), (24, 0), (68, 1)] {
        // Transactions and KIP-848 are served by the reference; here they come later and are not advertised.
        if matches!(witness.subject, Subject::Kafka(_)) && matches!(key, 24 | 68) {
            continue;
        }
        let mut connection = witness.connect();
        let mut frame = i16::to_be_bytes(key).to_vec();
        frame.extend(i16::to_be_bytes(version));
        frame.extend([0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0]);
        connection.send_frame(&frame).expect("a frame can be sent");
        assert!(connection.closes_within(PATIENCE), "API {key} version {version} gets no answer");
    }
    witness.unharmed();
}

/// Java clients newer than the broker begin with a version it does not know: the answer is in version 0 and names the range.
#[test]
fn apiversions_of_an_unknown_version_is_answered_in_version_0() {
    let mut witness = Witness::start("api-versions");
    for version in [5_i16, 127] {
        let mut connection = witness.connect();
        let mut frame = vec![0, 18];
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 9, 0xff, 0xff, 0, 1, 1, 0]);
        connection.send_frame(&frame).expect("a frame can be sent");
        let answer = connection.receive().expect("ApiVersions is always answered");
        assert_eq!(answer[..], [0, 0, 0, 9, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4], "version {version}");
        connection.metadata_all().expect("the connection goes on");
    }
    witness.unharmed();
}

/// Every API in every version, its body replaced by lengths of −1, INT_MAX and the like at every place where a field may begin.
#[test]
fn hostile_lengths_in_every_api() {
    let _heavy = lock::heavy();
    let mut witness = Witness::start("lengths");
    let fills: [&[u8]; 5] = [
        &[0x7f, 0xff, 0xff, 0xff],                   // INT_MAX
        &[0xff, 0xff, 0xff, 0xff],                   // −1
        &[0x80, 0, 0, 0],                            // INT_MIN
        &[0xff, 0xff, 0xff, 0xff, 0x07],             // INT_MAX as a varint
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // a varint without an end
    ];
    let (mut answered, mut closed) = (0, 0);
    let started = Instant::now();
    for range in SUPPORTED {
        for version in range.served_min..=range.max {
            for fill in fills {
                for zeros in [0, 1, 2, 3, 4, 6, 8, 12, 16, 21, 25] {
                    match hostile(&witness, range.api, version, zeros, fill) {
                        true => answered += 1,
                        false => closed += 1,
                    }
                }
            }
        }
        witness.unharmed();
    }
    report(&format!("{answered} answered, {closed} closed, in {:?}", started.elapsed()));
    assert!(closed > answered, "most of these make no sense");
}

/// Sends a header and a body of zeros, then `fill` over and over. True when there was an answer.
fn hostile(witness: &Witness, api: ApiKey, version: i16, zeros: usize, fill: &[u8]) -> bool {
    let mut connection = witness.connect();
    let header = connection.header(api, version);
    // An empty body of the general codec: the header alone.
    let mut frame = encode(&header, &NoBody).expect("a header can be written").to_vec();
    frame.extend(std::iter::repeat_n(0, zeros));
    for _ in 0..8 {
        frame.extend(fill);
    }
    connection.send_frame(&frame).expect("a frame can be sent");
    connection.stream().shutdown(Shutdown::Write).expect("a socket can be shut");
    connection.stream().set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut answer = Vec::new();
    // A request that waits (JoinGroup, Fetch) is given up by closing the connection: the next ones show that it harmed nobody.
    let _ = connection.stream().read_to_end(&mut answer);
    !answer.is_empty()
}

/// A body of no bytes.
struct NoBody;

impl kafka_protocol::protocol::Encodable for NoBody {
    fn encode<B: kafka_protocol::protocol::buf::ByteBufMut>(&self, _: &mut B, _: i16) -> anyhow::Result<()> {
        Ok(())
    }

    fn compute_size(&self, _: i16) -> anyhow::Result<usize> {
        Ok(0)
    }
}
