//! Each check alone. What changes a whole process (seccomp, limits) runs in a child: this test binary called again.

use std::process::Command;

use super::*;

const CHILD: &str = "CHRONIK_TEST_PREFLIGHT_CHILD";

fn in_child(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("rt::preflight::tests::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{:?}", output.stderr);
    false
}

/// Makes the kernel answer `io_uring_setup` of this process with `errno`, as a container's seccomp profile does.
fn forbid_io_uring(errno: i32) {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let allow = 0x7fff_0000;
    let refuse = 0x0005_0000 | errno as u32;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut filter = [
        statement(LOAD_WORD, 0),
        libc::sock_filter { code: JUMP_EQUAL, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        statement(RETURN, refuse),
        statement(RETURN, allow),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to `filter`, which outlives the calls; both concern this child only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn this_machine_passes() {
    check_machine().unwrap();
}

#[test]
fn old_kernels_are_named() {
    for good in ["5.15.0", "5.15.0-91-generic", "6.1.0-18-amd64", "6.18.44-fc-v669", "10.0", "strange"] {
        check_kernel(good).unwrap();
    }
    for bad in ["5.14.21", "4.19.0-26", "3.10.0-1160.el7.x86_64"] {
        let message = check_kernel(bad).unwrap_err().to_string();
        assert!(message.contains(bad) && message.contains("5.15"), "{message}");
    }
}

#[test]
fn seccomp_that_forbids_io_uring_is_named() {
    if in_child("seccomp_that_forbids_io_uring_is_named") {
        forbid_io_uring(libc::EPERM);
        let error = check_machine().unwrap_err();
        assert!(matches!(error, PreflightError::UringForbidden { .. }), "{error}");
        assert!(error.to_string().contains("seccomp"));
    }
}

#[test]
fn a_kernel_without_io_uring_is_named() {
    if in_child("a_kernel_without_io_uring_is_named") {
        forbid_io_uring(libc::ENOSYS);
        let error = check_io_uring().unwrap_err();
        assert!(matches!(error, PreflightError::UringMissing { .. }), "{error}");
    }
}

#[test]
fn low_limits_are_named() {
    if in_child("low_limits_are_named") {
        let low = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(Resource::Nofile, low(100)).unwrap();
        assert!(matches!(raise_open_files(), Err(PreflightError::OpenFiles { limit: 100 })));
        setrlimit(Resource::Memlock, low(65_536)).unwrap();
        // As root the kernel ignores this limit, glommio does not: the check goes by the limit.
        assert!(matches!(check_memlock(), Err(PreflightError::Memlock { limit_bytes: 65_536 })));
    }
}

#[test]
fn the_soft_limit_of_files_is_raised() {
    if in_child("the_soft_limit_of_files_is_raised") {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
        assert_eq!(raise_open_files().unwrap(), hard.unwrap_or(u64::MAX));
    }
}

#[test]
fn a_data_directory_is_made_and_left_clean() {
    let root = std::env::temp_dir().join(format!("chronik-preflight-{}", std::process::id()));
    let path = root.join("a/b");
    check_data_directory(&path).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_data_directory_that_is_a_file_is_named() {
    let path = std::env::temp_dir().join(format!("chronik-preflight-file-{}", std::process::id()));
    fs::write(&path, b"x").unwrap();
    let message = check_data_directory(&path).unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_system_that_cannot_be_written_is_named() {
    let message = check_data_directory(Path::new("/proc/chronik")).unwrap_err().to_string();
    assert!(message.contains("/proc/chronik") && !message.contains('\n'), "{message}");
    let error = check_data_directory(Path::new("/sys")).unwrap_err();
    assert!(matches!(error, PreflightError::NotWritable { .. }), "{error}");
}
