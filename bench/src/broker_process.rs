//! What a broker on this machine is: its version, and the file system its data lies on. From
//! `/proc`; what cannot be found out is left out, never guessed.
//!
//! To learn the version of a native broker its own executable is run a second time, for
//! [`VERSION_TIMEOUT`] at most, with arguments that start nothing. Apache Kafka's is in the names
//! of its jars. Done after the measurement, so that it costs nothing there.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wait_timeout::ChildExt;

use crate::mounts::file_system_of;

/// How long a broker's executable may take to print its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// A version that is longer is something else.
const VERSION_CHARS_MAX: usize = 120;
/// Standard input, output and error: a log there says nothing about the data.
const STANDARD_STREAMS: u32 = 3;

/// A broker's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerProcess {
    /// What the broker calls itself, such as `chronik-server 0.1.0` or `Apache Kafka 4.3.1`.
    pub version: Option<String>,
    /// Type of the file system of its data, such as `ext4`.
    pub file_system: Option<String>,
}

impl BrokerProcess {
    /// Reads it.
    pub fn read(pid: u32) -> Self {
        let of_process = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let command_line = arguments(&fs::read(of_process("cmdline")).unwrap_or_default());
        let open = open_files(&of_process("fd"));
        let is_java = fs::read_link(of_process("exe")).is_ok_and(|path| path.ends_with("java"));
        let version = match is_java {
            true => {
                let paths = open.iter().filter_map(|(_, path)| path.to_str());
                kafka_version(command_line.iter().flat_map(|text| text.split(':')).chain(paths))
            }
            false => version_of_executable(&of_process("exe")),
        };
        let directory =
            data_directory(&command_line).and_then(|path| absolute(&of_process("cwd"), Path::new(path)));
        // The process may live in a mount namespace of its own: its paths go with its mounts.
        let mounts = fs::read_to_string(of_process("mountinfo")).unwrap_or_default();
        let file_system =
            data_file(&open, directory.as_deref()).and_then(|path| file_system_of(&mounts, path));
        Self { version, file_system }
    }
}

fn arguments(command_line: &[u8]) -> Vec<String> {
    let parts = command_line.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn open_files(directory: &Path) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let link = |entry: fs::DirEntry| {
        Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?))
    };
    let mut files: Vec<_> = entries.flatten().filter_map(link).collect();
    files.sort();
    files
}

fn absolute(working_directory_link: &Path, path: &Path) -> Option<PathBuf> {
    // Joining an absolute path gives that path.
    Some(fs::read_link(working_directory_link).ok()?.join(path))
}

/// The value of `--data-dir`, which chronik and others take.
fn data_directory(command_line: &[String]) -> Option<&str> {
    let mut rest = command_line.iter();
    while let Some(argument) = rest.next() {
        match argument.strip_prefix("--data-dir") {
            Some("") => return rest.next().map(String::as_str),
            Some(value) if value.starts_with('=') => return Some(&value[1..]),
            _ => {}
        }
    }
    None
}

/// A file with the broker's data among its open ones: one in the data directory, else a segment
/// by its name, else any other log file.
fn data_file<'a>(open: &'a [(u32, PathBuf)], data_directory: Option<&Path>) -> Option<&'a Path> {
    let files = || open.iter().filter(|(number, _)| *number >= STANDARD_STREAMS).map(|(_, path)| &**path);
    let in_directory = |path: &&Path| data_directory.is_some_and(|directory| path.starts_with(directory));
    let with_ending = |path: &&Path| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        path.is_absolute() && matches!(ending, Some("log" | "wal"))
    };
    let segment = |path: &&Path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        with_ending(path) && stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit())
    };
    files().find(in_directory).or_else(|| files().find(segment)).or_else(|| files().find(with_ending))
}

/// Apache Kafka's version from the names of its jars: `kafka_2.13-4.3.1.jar` (with the version of
/// Scala) or `kafka-server-4.3.1.jar`.
fn kafka_version<'a>(paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let version = |path: &'a str| {
        let name = path.rsplit('/').next()?.strip_suffix(".jar")?;
        let version = match name.strip_prefix("kafka_") {
            Some(rest) => rest.split_once('-')?.1,
            None => name.strip_prefix("kafka-server-")?,
        };
        let is_version = version.starts_with(|first: char| first.is_ascii_digit());
        (is_version && !version.ends_with("-test") && !version.ends_with("-sources")).then_some(version)
    };
    paths.filter_map(version).next().map(|version| format!("Apache Kafka {version}"))
}

fn version_of_executable(executable: &Path) -> Option<String> {
    match said(executable, "--version")? {
        Said { success: true, output, .. } => version_line(&output),
        // chronik-server has a command instead of the flag. Only a program that has commands is
        // asked so: to any other the word may be the name of a file.
        Said { errors, .. } if wants_a_command(&errors) => {
            let answer = said(executable, "version")?;
            version_line(&answer.output).filter(|_| answer.success)
        }
        Said { .. } => None,
    }
}

struct Said {
    success: bool,
    output: String,
    errors: String,
}

/// Runs an executable with one argument and nothing to read, for a bounded time.
fn said(executable: &Path, argument: &str) -> Option<Said> {
    let mut command = Command::new(executable);
    command.arg0("chronik-server").arg(argument).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let Ok(Some(status)) = child.wait_timeout(VERSION_TIMEOUT) else {
        // It may have left in between; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
        return None;
    };
    let (mut output, mut errors) = (String::new(), String::new());
    child.stdout.take()?.take(4096).read_to_string(&mut output).ok()?;
    child.stderr.take()?.take(4096).read_to_string(&mut errors).ok()?;
    Some(Said { success: status.success(), output, errors })
}

/// Whether the complaint about `--version` is that of a program with commands.
fn wants_a_command(errors: &str) -> bool {
    errors.contains("unexpected argument '--version'") && errors.contains("COMMAND")
}

/// The first line of an output, if it looks like a version.
fn version_line(output: &str) -> Option<String> {
    let line = output.lines().map(str::trim).find(|line| !line.is_empty())?;
    let fits = line.chars().count() <= VERSION_CHARS_MAX && line.contains(|c: char| c.is_ascii_digit());
    fits.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn open(files: &[(u32, &str)]) -> Vec<(u32, PathBuf)> {
        files.iter().map(|(number, path)| (*number, PathBuf::from(path))).collect()
    }

    #[test]
    fn the_version_of_kafka_is_in_its_jars() {
        let version = |paths: &[&str]| kafka_version(paths.iter().copied());
        let old = ["/l/kafka-clients-4.3.1.jar", "/l/kafka_2.13-3.9.0.jar"];
        assert_eq!(version(&old).as_deref(), Some("Apache Kafka 3.9.0"));
        let new = ["/l/kafka-server-common-4.3.1.jar", "/l/kafka-server-4.3.1.jar"];
        assert_eq!(version(&new).as_deref(), Some("Apache Kafka 4.3.1"));
        assert_eq!(version(&["/l/kafka_2.13-4.3.1-test.jar", "/l/*", "-Xmx1g"]), None);
    }

    #[test]
    fn the_data_directory_is_that_of_the_command_line() {
        assert_eq!(data_directory(&texts("x start --data-dir /d -v")), Some("/d"));
        assert_eq!(data_directory(&texts("x --data-dir=d")), Some("d"));
        assert_eq!(data_directory(&texts("x --data-directory d")), None);
        assert_eq!(data_directory(&texts("x --data-dir")), None);
    }

    #[test]
    fn a_data_file_is_no_log_of_messages_to_people() {
        let segment = "/k/t-0/00000000000000000000.log";
        let files = open(&[(1, "/var/broker.log"), (7, "/k/server.log"), (9, segment), (11, "/d/1/x")]);
        assert_eq!(data_file(&files, None), Some(Path::new(segment)));
        assert_eq!(data_file(&files, Some(Path::new("/d"))), Some(Path::new("/d/1/x")));
        assert_eq!(data_file(&files, Some(Path::new("/e"))), Some(Path::new(segment)));
        let other = open(&[(2, "/var/broker.log"), (3, "socket:[1]"), (5, "/k/0000.wal")]);
        assert_eq!(data_file(&other, None), Some(Path::new("/k/0000.wal")));
        assert_eq!(data_file(&open(&[(1, "/var/broker.log"), (4, "anon.log")]), None), None);
    }

    #[test]
    fn only_a_program_with_commands_is_asked_for_its_version_so() {
        assert!(wants_a_command("error: unexpected argument '--version' found\n\nUsage: x [COMMAND]\n"));
        assert!(!wants_a_command("error: Unrecognized option: 'version'"));
        assert!(!wants_a_command("error: unexpected argument '--version' found\n\nUsage: x [FILE]\n"));
    }

    #[test]
    fn a_version_is_a_short_line_with_a_number() {
        assert_eq!(version_line("\nchronik-server 0.1.0\nmore\n").as_deref(), Some("chronik-server 0.1.0"));
        assert_eq!(version_line("usage: try again\n"), None);
        assert_eq!(version_line(&"1".repeat(500)), None);
        assert_eq!(version_line(""), None);
    }

    #[test]
    fn an_executable_is_run_for_its_version() {
        let version = version_of_executable(Path::new("/bin/bash")).expect("bash is there");
        assert!(version.contains("bash"), "{version}");
        assert_eq!(version_of_executable(Path::new("/nowhere/broker")), None);
    }

    #[test]
    fn an_executable_that_does_not_end_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker");
        fs::write(&path, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(version_of_executable(&path), None);
    }

    #[test]
    fn a_process_that_is_gone_has_neither() {
        assert_eq!(BrokerProcess::read(u32::MAX), BrokerProcess::default());
    }
}
