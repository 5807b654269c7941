//! Which file system a path lies on, from the text of `/proc/<pid>/mountinfo`. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type of the file system that holds `path`, such as `ext4`. The path must be absolute, as
/// the process sees it whose mounts these are.
pub fn file_system_of(mountinfo: &str, path: &Path) -> Option<String> {
    // Of two mounts at the same place the later one hides the earlier: max_by_key takes the last.
    let holder = mountinfo
        .lines()
        .filter_map(parse)
        .filter(|(mount_point, _)| path.starts_with(mount_point))
        .max_by_key(|(mount_point, _)| mount_point.components().count());
    holder.map(|(_, kind)| kind.to_owned())
}

/// Mount point and type of one line: `36 35 98:0 /root /mount/point options tags… - type source …`.
fn parse(line: &str) -> Option<(PathBuf, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount_point = mount.split(' ').nth(4)?;
    Some((PathBuf::from(unescaped(mount_point)), file_system.split(' ').next()?))
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescaped(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = r"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 0:25 / /data rw,noatime shared:7 master:1 - xfs /dev/vdb rw
29 28 0:26 / /data/with\040space rw - btrfs /dev/vdc rw
30 27 0:27 / /tmp rw - ext4 /dev/vdd rw
31 27 0:28 / /tmp rw - tmpfs tmpfs rw
";

    fn of(path: &str) -> Option<String> {
        file_system_of(MOUNTS, Path::new(path))
    }

    #[test]
    fn the_longest_mount_point_holds_the_path() {
        assert_eq!(of("/home/x").as_deref(), Some("ext4"));
        assert_eq!(of("/data/kafka/0.log").as_deref(), Some("xfs"));
        assert_eq!(of("/data").as_deref(), Some("xfs"));
        assert_eq!(of("/database/0.log").as_deref(), Some("ext4"), "a name is not a path's part");
    }

    #[test]
    fn mount_points_with_spaces_are_found() {
        assert_eq!(of("/data/with space/f").as_deref(), Some("btrfs"));
    }

    #[test]
    fn the_later_of_two_mounts_counts() {
        assert_eq!(of("/tmp/f").as_deref(), Some("tmpfs"));
    }

    #[test]
    fn what_is_not_mountinfo_gives_nothing() {
        assert_eq!(file_system_of("nonsense\n\n - \n1 2 3 - x", Path::new("/")), None);
        assert_eq!(file_system_of("", Path::new("/")), None);
    }
}
