//! The main job on real input: a file of more than a million lines goes through the broker with kcat, and with
//! confluent-kafka, and comes out byte for byte.

use chronik_tests::program::{python, run};
use chronik_tests::subject::Subject;
use chronik_tests::toolchain::Toolchain;
use chronik_tests::{lock, paths};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const LINES: u32 = 1_200_000;

/// Lines like those of a web server's log, of changing length.
fn write_lines(path: &Path) {
    let mut file = BufWriter::new(File::create(path).expect("the file can be made"));
    for n in 0..LINES {
        let padding = "x".repeat(usize::try_from(n % 97).expect("a small number"));
        writeln!(
            file,
            "10.{}.{}.{} - [{n}] \"GET /item/{} HTTP/1.1\" 200 {padding}",
            n >> 16 & 255,
            n >> 8 & 255,
            n & 255,
            n * 7
        )
        .expect("the file can be written");
    }
    file.into_inner().expect("the file is flushed");
}

#[test]
fn a_million_lines_through_kcat() {
    if !Toolchain::Kcat.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let subject = Subject::start("kcat");
    let directory = paths::scratch("kcat-lines");
    let (input, output) = (directory.path().join("lines.txt"), directory.path().join("read.txt"));
    write_lines(&input);
    let listed = run("kcat -L", kcat(&subject).arg("-L"));
    assert!(listed.contains(&format!(" at {}", subject.address())), "the broker is listed:\n{listed}");
    let from = File::open(&input).expect("the file can be opened");
    run(
        "kcat -P",
        kcat(&subject).args(["-P", "-t", "lines", "-p", "0", "-z", "lz4"]).stdin(Stdio::from(from)),
    );
    // kcat writes with -o beginning -e -q exactly the lines; standard output goes to a file, not through the test.
    let to = File::create(&output).expect("the file can be made");
    let mut consumer = kcat(&subject);
    consumer.args(["-C", "-t", "lines", "-p", "0", "-o", "beginning", "-e", "-q"]);
    let status = consumer.stdout(to).status().expect("kcat starts");
    assert!(status.success(), "kcat -C left with {status}");
    same_files(&input, &output);
    let listed = run("kcat -L", kcat(&subject).args(["-L", "-t", "lines"]));
    assert!(listed.contains("topic \"lines\" with 1 partitions"), "the topic is listed:\n{listed}");
}

#[test]
fn a_million_lines_through_confluent_kafka() {
    if !Toolchain::Python.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let subject = Subject::start("million");
    let directory = paths::scratch("million");
    let input = directory.path().join("lines.txt");
    write_lines(&input);
    run("million", python("with_confluent.py").arg("million").arg(subject.address()).arg(input));
}

fn kcat(subject: &Subject) -> Command {
    let mut command = Command::new("kcat");
    command.arg("-b").arg(subject.address());
    command
}

fn same_files(one: &Path, other: &Path) {
    let (one, other) = (std::fs::read(one).expect("readable"), std::fs::read(other).expect("readable"));
    assert_eq!(one.len(), other.len(), "as many bytes out as in");
    assert!(one == other, "the same bytes out as in");
}
