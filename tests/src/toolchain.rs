//! The clients that nobody here wrote: found, installed into `.clients/` in pinned versions, and kept between runs.
//!
//! A toolchain is set up by the first test that wants it, under a file lock. A stamp with the text of its lock file tells
//! whether it is up to date. What the machine lacks (`java`, `go`, …) fails the test with one line that names it, unless the
//! toolchain is listed in `CHRONIK_SKIP_CLIENTS`.

use crate::{lock, paths};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The Maven plugin that fetches the jars; pinned like everything else.
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// A set of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// kafka-python, confluent-kafka and aiokafka in a virtual environment.
    Python,
    /// Kafka's own clients and console tools.
    Java,
    /// franz-go and sarama.
    Go,
    /// kafkajs.
    Node,
    /// kcat, a package of the operating system.
    Kcat,
    /// Chromium, likewise: the browser that shows what `chronik-bench --report` wrote.
    Chromium,
}

impl Toolchain {
    /// Its name in `CHRONIK_SKIP_CLIENTS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Toolchain::Python => "python",
            Toolchain::Java => "java",
            Toolchain::Go => "go",
            Toolchain::Node => "node",
            Toolchain::Kcat => "kcat",
            Toolchain::Chromium => "chromium",
        }
    }

    /// Whether tests may use it: false when the caller asked to skip it. Panics with one line when it cannot be set up.
    #[must_use]
    pub fn ready(self) -> bool {
        static DONE: [OnceLock<()>; 6] = [const { OnceLock::new() }; 6];
        let skipped = std::env::var("CHRONIK_SKIP_CLIENTS").unwrap_or_default();
        if skipped.split(',').any(|name| name.trim() == self.name()) {
            eprintln!("skipped: {} is listed in CHRONIK_SKIP_CLIENTS", self.name());
            return false;
        }
        DONE[self as usize].get_or_init(|| self.set_up());
        true
    }

    fn set_up(self) {
        let _guard = lock::acquire(&format!("setup-{}", self.name()));
        match self {
            Toolchain::Python => set_up_python(),
            Toolchain::Java => set_up_java(),
            Toolchain::Go => set_up_go(),
            Toolchain::Node => set_up_node(),
            Toolchain::Kcat => self.set_up_packages("kcat", "-V", &["kcat"]),
            Toolchain::Chromium => {
                // Without any font a browser cannot lay a page out; the package only recommends some.
                self.set_up_packages("chromium", "--version", &["chromium", "fonts-dejavu-core"]);
            }
        }
    }

    /// Installs packages of the operating system unless their program is there: then it answers to `probe`.
    fn set_up_packages(self, program: &str, probe: &str, packages: &[&str]) {
        if Command::new(program).arg(probe).output().is_ok() {
            return;
        }
        let names = packages.join(" ");
        let remedy = format!("install {names} with apt-get");
        // SAFETY: geteuid only reads a number of this process.
        if unsafe { libc::geteuid() } != 0 {
            self.missing(&format!("{program} is not installed, and only root can install it"), &remedy);
        }
        eprintln!("installing {names} with apt-get");
        let mut update = Command::new("apt-get");
        self.run(update.arg("update").env("DEBIAN_FRONTEND", "noninteractive"), &remedy);
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        self.run(install.env("DEBIAN_FRONTEND", "noninteractive"), &remedy);
    }

    fn missing(self, what: &str, remedy: &str) -> ! {
        panic!(
            "toolchain {}: {what}; {remedy}, or list it in CHRONIK_SKIP_CLIENTS to go without its tests",
            self.name()
        );
    }

    /// Runs one step of the set-up.
    fn run(self, command: &mut Command, remedy: &str) {
        let program = command.get_program().to_string_lossy().into_owned();
        match command.output() {
            Err(error) => self.missing(&format!("`{program}` cannot be started ({error})"), remedy),
            Ok(output) if !output.status.success() => {
                let said = [output.stdout, output.stderr].concat();
                eprintln!("{}", String::from_utf8_lossy(&said));
                self.missing(&format!("`{program}` failed with {}", output.status), remedy);
            }
            Ok(_) => {}
        }
    }
}

/// The interpreter of the virtual environment.
#[must_use]
pub fn python() -> PathBuf {
    paths::clients().join("python/bin/python")
}

/// Class path of Kafka's jars. The Java toolchain is set up if it is not there.
#[must_use]
pub fn java_libraries() -> String {
    assert!(Toolchain::Java.ready(), "this test needs the Java toolchain");
    format!("{}/*", paths::clients().join("java/lib").display())
}

/// Class path of our Java programs and Kafka's jars.
#[must_use]
pub fn java_classes() -> String {
    format!("{}:{}", paths::clients().join("java/classes").display(), java_libraries())
}

/// The program with franz-go and sarama.
#[must_use]
pub fn go_program() -> PathBuf {
    paths::clients().join("go/clients")
}

/// Where npm's packages are.
#[must_use]
pub fn node_modules() -> PathBuf {
    paths::clients().join("node/node_modules")
}

/// Whether the directory of a toolchain was made from exactly these sources.
fn up_to_date(directory: &Path, sources: &[u8]) -> bool {
    std::fs::read(directory.join("stamp")).is_ok_and(|stamp| stamp == sources)
}

fn stamp(directory: &Path, sources: &[u8]) {
    std::fs::write(directory.join("stamp"), sources).expect("the stamp can be written");
}

/// All files of `directory` with one of these endings, sorted.
fn sources(directory: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    files.retain(|path| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)));
    files.sort();
    files
}

fn contents(files: &[PathBuf]) -> Vec<u8> {
    let read =
        |path: &PathBuf| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    files.iter().flat_map(read).collect()
}

fn set_up_python() {
    let requirements = paths::client_source("python").join("requirements.txt");
    let directory = paths::clients().join("python");
    let wanted = contents(std::slice::from_ref(&requirements));
    if up_to_date(&directory, &wanted) {
        return;
    }
    let tool = Toolchain::Python;
    let remedy = "install python3 with venv and pip (Debian: python3-venv)";
    tool.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory), remedy);
    let mut pip = Command::new(python());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"])
        .arg(&requirements);
    tool.run(&mut pip, "let pip reach a package index");
    stamp(&directory, &wanted);
}

fn set_up_java() {
    let source = paths::client_source("java");
    let directory = paths::clients().join("java");
    let tool = Toolchain::Java;
    let remedy = "install a JDK 17 or newer and Maven (Debian: default-jdk-headless maven)";
    let pom = source.join("pom.xml");
    let wanted = contents(std::slice::from_ref(&pom));
    if !up_to_date(&directory, &wanted) {
        // The old jars go first: two versions on one class path would be a lottery.
        let _ = std::fs::remove_dir_all(&directory);
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg(COPY_DEPENDENCIES).arg("-DincludeScope=runtime");
        maven.arg(format!("-DoutputDirectory={}", directory.join("lib").display()));
        tool.run(&mut maven, remedy);
        stamp(&directory, &wanted);
    }
    let programs = sources(&source, &[".java"]);
    let classes = directory.join("classes");
    let wanted = contents(&programs);
    if up_to_date(&classes, &wanted) {
        return;
    }
    let _ = std::fs::remove_dir_all(&classes);
    let mut compiler = Command::new("javac");
    compiler
        .arg("-cp")
        .arg(format!("{}/*", directory.join("lib").display()))
        .arg("-d")
        .arg(&classes)
        .args(&programs);
    tool.run(&mut compiler, remedy);
    stamp(&classes, &wanted);
}

fn set_up_go() {
    let source = paths::client_source("go");
    let directory = paths::clients().join("go");
    let wanted = contents(&sources(&source, &[".go", "go.mod", "go.sum"]));
    if up_to_date(&directory, &wanted) {
        return;
    }
    let mut build = Command::new("go");
    build
        .current_dir(&source)
        .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
        .arg(go_program())
        .arg(".");
    Toolchain::Go.run(&mut build, "install Go 1.26 or newer, with a module proxy in reach");
    stamp(&directory, &wanted);
}

fn set_up_node() {
    let files = sources(&paths::client_source("node"), &[".json"]);
    let directory = paths::clients().join("node");
    let wanted = contents(&files);
    if up_to_date(&directory, &wanted) {
        return;
    }
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    for file in &files {
        let name = file.file_name().expect("a file has a name");
        std::fs::copy(file, directory.join(name)).expect("the package files can be copied");
    }
    let mut npm = Command::new("npm");
    npm.current_dir(&directory).args(["ci", "--no-audit", "--no-fund", "--silent"]);
    Toolchain::Node.run(&mut npm, "install Node 18 or newer with npm (Debian: nodejs npm)");
    stamp(&directory, &wanted);
}
