//! Runs a scenario of a client program and holds its verdict against the test.

use crate::process::Process;
use crate::toolchain;
use crate::{paths, toolchain::Toolchain};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A scenario that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A Python program: `file` under `tests/clients/python`.
#[must_use]
pub fn python(file: &str) -> Command {
    let mut command = Command::new(toolchain::python());
    command.arg("-W").arg("ignore").arg(paths::client_source("python").join(file));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The Java programs' launcher.
#[must_use]
pub fn java() -> Command {
    let mut command = java_class("Clients");
    command.stdin(Stdio::null());
    command
}

/// A class of ours or of Kafka's tools.
#[must_use]
pub fn java_class(class: &str) -> Command {
    let mut command = Command::new("java");
    // Short programs: the first compiler and the simplest collector are the quickest on few cores.
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=ERROR"]);
    command.args(["-cp", &toolchain::java_classes(), class]);
    command
}

/// The program with franz-go and sarama.
#[must_use]
pub fn go() -> Command {
    Command::new(toolchain::go_program())
}

/// The kafkajs program.
#[must_use]
pub fn node() -> Command {
    let mut command = Command::new("node");
    command.arg(paths::client_source("node").join("with_kafkajs.mjs"));
    command.env("CHRONIK_NODE_MODULES", toolchain::node_modules()).env("KAFKAJS_NO_PARTITIONER_WARNING", "1");
    command
}

/// Runs `command` to its end, which must be a success in time. Gives what it printed; fails the test with all of it otherwise.
pub fn run(name: &str, command: &mut Command) -> String {
    let started = Instant::now();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process =
        Process::spawn(name, command).unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
    let mut output = process.child().stdout.take().expect("standard output is a pipe");
    let mut errors = process.child().stderr.take().expect("standard error is a pipe");
    // Both pipes are read while it runs: a full pipe would stop it.
    let errors = std::thread::spawn(move || read_text(&mut errors));
    let output = std::thread::spawn(move || read_text(&mut output));
    let status = process.wait(TIMEOUT);
    process.kill();
    let output = output.join().expect("the reader of standard output ends");
    let errors = errors.join().expect("the reader of standard error ends");
    let seconds = started.elapsed().as_secs_f64();
    match status {
        Some(status) if status.success() => eprintln!("{name}: passed in {seconds:.1} s\n{output}"),
        Some(status) => panic!("{name} failed with {status} after {seconds:.1} s:\n{output}\n{errors}"),
        None => panic!("{name} did not end within {TIMEOUT:?}:\n{output}\n{errors}"),
    }
    output
}

fn read_text(pipe: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs one scenario of a client program against a broker of its own, unless its toolchain is to be skipped.
pub fn scenario(toolchain: Toolchain, command: impl FnOnce() -> Command, scenario: &str) {
    if !toolchain.ready() {
        return;
    }
    let _heavy = crate::lock::heavy();
    let subject = crate::subject::Subject::start(scenario);
    run(scenario, command().arg(scenario).arg(subject.address()));
}
