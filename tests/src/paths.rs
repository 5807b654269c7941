//! Where the tests find and put things. Nothing here changes after it was made.

use std::path::{Path, PathBuf};

/// Root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ is in the repository").to_path_buf()
}

/// Where toolchains and libraries of the clients are kept between runs; ignored by git.
#[must_use]
pub fn clients() -> PathBuf {
    let directory =
        std::env::var_os("CHRONIK_CLIENTS_DIR").map_or_else(|| repository().join(".clients"), PathBuf::from);
    make(directory)
}

/// Source of the client programs in `language`.
#[must_use]
pub fn client_source(language: &str) -> PathBuf {
    repository().join("tests/clients").join(language)
}

/// The directory of the profile that this test or program was built in, `target/debug` for one.
#[must_use]
pub fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("the test knows its own path");
    let directory = own.parent().expect("a binary is in a directory");
    // Cargo puts the binaries of tests one deeper than those of programs.
    let of_tests = directory.file_name().is_some_and(|name| name == "deps");
    if of_tests { directory.parent().expect("deps is in a profile's directory") } else { directory }
        .to_path_buf()
}

/// A fresh directory for one test, removed when dropped. It is under the target directory: `/tmp` may be a tmpfs, which has
/// no direct IO.
#[must_use]
pub fn scratch(name: &str) -> tempfile::TempDir {
    let parent =
        make(profile_directory().parent().expect("a profile is in the target directory").join("scratch"));
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(parent)
        .expect("a scratch directory can be made")
}

fn make(directory: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&directory)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", directory.display()));
    directory
}
