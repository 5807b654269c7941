//! Disks, files and kernels that are not as they should be. A broker that cannot serve says so in one clear line and leaves with
//! a failure; one that runs out of space refuses produce and goes on; nothing acknowledged is lost.

use chronik_net::codec::ErrorCode;
use chronik_tests::broker::{Broker, Options};
use chronik_tests::loopdisk::LoopDisk;
use chronik_tests::process::Process;
use chronik_tests::records::{batch, read_all};
use chronik_tests::{lock, report};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const REFUSAL_TIMEOUT: Duration = Duration::from_secs(20);

fn produce(broker: &Broker, topic: &str, values: std::ops::Range<usize>) {
    let mut connection = broker.connect();
    connection.ensure_topic(topic);
    for n in values {
        let answer = connection.produce(topic, 0, batch(&[format!("value {n}")])).expect("an answer");
        assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, i64::try_from(n).expect("small")));
    }
}

fn values(broker: &Broker, topic: &str) -> Vec<String> {
    let read = read_all(&mut broker.connect(), topic, 0).expect("the partition can be read");
    read.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("value {n}")).collect()
}

/// The broker refuses to start, with a failure and in few words that name `hint`.
fn refuses(broker: &mut Broker, hints: &[&str]) {
    let said_before = broker.log().len();
    broker.spawn();
    let (status, log) = broker.wait_for_refusal(REFUSAL_TIMEOUT);
    let said = &log[said_before..];
    assert!(!status.success(), "a refusal is a failure:\n{said}");
    let line = said.lines().find(|line| line.starts_with("chronik-server: ")).unwrap_or_default();
    assert!(hints.iter().any(|hint| line.contains(hint)), "one line that names {hints:?}:\n{said}");
    report(line);
}

#[test]
fn a_read_only_data_directory_is_refused() {
    let Some(disk) = LoopDisk::mount(32) else { return };
    disk.set_read_only(true);
    let mut broker = Broker::prepare("read-only", Options::default().data_dir(&disk.path().join("data")));
    refuses(&mut broker, &["read-only", "Read-only", "not writable", "cannot be written"]);
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let directory = chronik_tests::paths::scratch("file-for-data");
    let path = directory.path().join("data");
    std::fs::write(&path, "not a directory").expect("a file can be written");
    let mut broker = Broker::prepare("file-for-data", Options::default().data_dir(&path));
    refuses(&mut broker, &["data"]);
}

/// Too little space for the write-ahead log at the start.
#[test]
fn a_disk_too_small_is_refused() {
    let Some(disk) = LoopDisk::mount(40) else { return };
    let mut broker = Broker::prepare("small-disk", Options::default().data_dir(&disk.path().join("data")));
    refuses(&mut broker, &["space", "No space", "full"]);
}

/// Rule 5: with the disk full produce is refused with a retriable error, reads and deletes go on, and it recovers alone when space
/// returns. Nothing acknowledged is lost, over a restart too.
#[test]
fn a_full_disk_refuses_produce_and_recovers_alone() {
    let _heavy = lock::heavy();
    let Some(disk) = LoopDisk::mount(1024) else { return };
    let mut broker =
        Broker::start_with("full-disk", Options::default().shards(1).data_dir(&disk.path().join("data")));
    produce(&broker, "full", 0..10);
    let filler = disk.fill(512);
    let mut connection = broker.connect();
    let mut count = 10;
    let deadline = Instant::now() + Duration::from_secs(180);
    let refusal = loop {
        // 64 KiB a batch: the write-ahead log goes on for a while in the segments that it has.
        let value = format!("value {count}{}", " ".repeat(64 << 10));
        let answer = connection.produce("full", 0, batch(&[value])).expect("an answer");
        if answer.error != ErrorCode::None {
            break answer.error;
        }
        count += 1;
        assert!(Instant::now() < deadline, "{count} batches were taken by a full disk");
    };
    assert!(refusal.retriable(), "{refusal:?} makes a client try again");
    let trimmed =
        |values: Vec<String>| -> Vec<String> { values.iter().map(|v| v.trim_end().to_string()).collect() };
    assert_eq!(trimmed(values(&broker, "full")), expected(count), "reads go on");
    std::fs::remove_file(filler).expect("the filler can be deleted");
    let deadline = Instant::now() + Duration::from_secs(30);
    while connection.produce("full", 0, batch(&[format!("value {count}")])).expect("an answer").error
        != ErrorCode::None
    {
        assert!(Instant::now() < deadline, "produce recovers alone");
        std::thread::sleep(Duration::from_millis(100));
    }
    count += 1;
    assert_eq!(trimmed(values(&broker, "full")), expected(count), "all of it");
    broker.kill();
    broker.restart();
    assert_eq!(trimmed(values(&broker, "full")), expected(count), "all of it after a kill");
}

#[test]
fn the_directory_of_another_node_is_refused() {
    let mut broker = Broker::start("other-node");
    produce(&broker, "kept", 0..3);
    broker.stop_cleanly();
    let options = Options::default().data_dir(&broker.data_dir()).argument("--node-id").argument("7");
    let mut other = Broker::prepare("other-node-7", options);
    refuses(&mut other, &["node"]);
    broker.restart();
    assert_eq!(values(&broker, "kept"), expected(3), "its owner starts");
}

/// A damaged tail of the write-ahead log is a torn write: what was acknowledged before is there.
#[test]
fn a_torn_tail_of_the_log_is_cut() {
    let mut broker = Broker::start_with("torn-tail", Options::default().shards(1));
    produce(&broker, "torn", 0..50);
    broker.kill();
    let segment = written_segment(&broker.data_dir());
    let end = end_of_writing(&segment);
    let file = OpenOptions::new().write(true).open(&segment).expect("the segment can be opened");
    // Half a turn that was being written when the power failed.
    file.write_all_at(&[0xa5; 700], end).expect("the segment can be written");
    drop(file);
    broker.restart();
    assert_eq!(values(&broker, "torn"), expected(50), "all that was acknowledged");
    produce(&broker, "torn", 50..60);
    assert_eq!(values(&broker, "torn"), expected(60), "and on it goes");
}

/// A flipped bit below what is known to be durable is corruption: never served, never cut off in silence. With one replica the
/// partition goes offline, or the node says what to do and does not start.
#[test]
fn a_flipped_bit_in_the_log_is_never_served() {
    let mut broker = Broker::start_with("flipped-wal", Options::default().shards(1));
    produce(&broker, "flipped", 0..200);
    broker.kill();
    let segment = written_segment(&broker.data_dir());
    flip_bit_at(&segment, find(&segment, b"value 100"));
    broker.spawn();
    let deadline = Instant::now() + REFUSAL_TIMEOUT;
    loop {
        if broker.process().exited().is_some() {
            let (status, log) = broker.wait_for_refusal(REFUSAL_TIMEOUT);
            assert!(
                !status.success() && (log.contains("corrupt") || log.contains("damaged")),
                "it says why:\n{log}"
            );
            report(log.lines().last().unwrap_or_default());
            return;
        }
        if let Ok(mut connection) = chronik_tests::wire::Connection::try_open(&broker.address()) {
            let read = read_all(&mut connection, "flipped", 0);
            // Either all of it, because the files hold what the WAL lost, or an error; never less in silence.
            match read {
                Ok(records) => assert_eq!(records.len(), 200, "no record may be missing in silence"),
                Err(error) => report(&format!("fetch: {error:#}")),
            }
            return;
        }
        assert!(Instant::now() < deadline, "neither a start nor a refusal:\n{}", broker.log_tail());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same in a partition's own file, after a clean stop.
#[test]
fn a_flipped_bit_in_a_partition_file_is_never_served() {
    let mut broker = Broker::start_with("flipped-file", Options::default().shards(1));
    produce(&broker, "flipped", 0..200);
    broker.wait_for_file("flipped", 0, b"value 199");
    broker.stop_cleanly();
    let segment = broker.first_segment("flipped", 0);
    flip_bit_at(&segment, find(&segment, b"value 100"));
    broker.spawn();
    let deadline = Instant::now() + REFUSAL_TIMEOUT;
    loop {
        if broker.process().exited().is_some() {
            let (status, log) = broker.wait_for_refusal(REFUSAL_TIMEOUT);
            assert!(
                !status.success() && (log.contains("corrupt") || log.contains("damaged")),
                "it says why:\n{log}"
            );
            return;
        }
        if let Ok(mut connection) = chronik_tests::wire::Connection::try_open(&broker.address()) {
            match read_all(&mut connection, "flipped", 0) {
                Ok(records) => {
                    let read: Vec<String> = records
                        .iter()
                        .map(|record| String::from_utf8_lossy(&record.value).into_owned())
                        .collect();
                    assert_eq!(read, expected(200), "the WAL has it still");
                }
                // Kafka serves the batch as it is and the client finds the CRC wrong; both are an error to the reader.
                Err(error) => report(&format!("fetch: {error:#}")),
            }
            return;
        }
        assert!(Instant::now() < deadline, "neither a start nor a refusal:\n{}", broker.log_tail());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Containers and hardened machines forbid io_uring: one line says so and how to mend it.
#[test]
fn io_uring_forbidden_is_told_in_one_line() {
    let broker = Broker::prepare("no-io-uring", Options::default());
    let mut command = broker.command();
    // SAFETY: between fork and exec only prctl is called, with a filter that lives until then.
    unsafe {
        command.pre_exec(forbid_io_uring);
    }
    let log = broker.log_path();
    let mut process = Process::start("no-io-uring", &mut command, &log).expect("the server starts");
    let status = process.wait(REFUSAL_TIMEOUT).unwrap_or_else(|| panic!("no refusal:\n{}", broker.log()));
    let said = broker.log();
    assert!(!status.success(), "a refusal is a failure:\n{said}");
    let line = said.lines().find(|line| line.starts_with("chronik-server: ")).unwrap_or_default();
    assert!(line.contains("io_uring"), "one line that names io_uring:\n{said}");
    assert!(!said.contains("panicked at"), "no panic:\n{said}");
    report(line);
}

/// A seccomp filter that answers EPERM to io_uring_setup, as container runtimes do.
fn forbid_io_uring() -> io::Result<()> {
    const LOAD_SYSCALL: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS; the number is the first field
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).map_err(io::Error::other)?;
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).map_err(io::Error::other)?;
    let mut filter = [
        instruction(LOAD_SYSCALL, 0, 0, 0),
        instruction(JUMP_IF_EQUAL, 0, 1, setup),
        instruction(RETURN, 0, 0, refuse),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: prctl with plain numbers, and with a pointer to a program that lives on this stack frame.
    let result = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The WAL segment that holds the records of the test.
fn written_segment(data: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(data.join("wal/0"))
        .expect("the WAL of shard 0")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    segments.sort();
    let holds =
        |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| contains(&bytes, b"value 1").is_some());
    segments.into_iter().find(holds).expect("a segment holds the records")
}

fn contains(bytes: &[u8], wanted: &[u8]) -> Option<u64> {
    bytes.windows(wanted.len()).position(|window| window == wanted).and_then(|at| u64::try_from(at).ok())
}

fn find(path: &Path, wanted: &[u8]) -> u64 {
    let bytes = std::fs::read(path).expect("the file can be read");
    contains(&bytes, wanted).unwrap_or_else(|| panic!("{} holds the value", path.display()))
}

/// The block after the last one that is not all zeros.
fn end_of_writing(path: &Path) -> u64 {
    let bytes = std::fs::read(path).expect("the segment can be read");
    let last =
        bytes.chunks(4096).rposition(|block| block.iter().any(|byte| *byte != 0)).expect("a written block");
    u64::try_from((last + 1) * 4096).expect("a small file")
}

fn flip_bit_at(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the byte can be read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("the byte can be written");
}
