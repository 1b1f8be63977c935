//! Where this process's control groups are, from the two files of `/proc` that say so. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Controllers;

/// This process's own groups.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Own {
    /// That of version 2, if a file system of that version is mounted where it can be seen.
    pub(super) unified: Option<PathBuf>,
    /// Whether its path is `/`: the root, or that of a namespace.
    pub(super) is_top: bool,
    /// Those of version 1 whose controllers we know.
    pub(super) legacy: Vec<(Controllers, PathBuf)>,
}

impl Own {
    /// From `/proc/self/cgroup` and `/proc/self/mountinfo`. Source: cgroups(7), proc(5).
    pub(super) fn find(groups: &[u8], mounts: &[u8]) -> Self {
        let mounts: Vec<_> = mounts.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
        let mut own = Self::default();
        for line in groups.split(|byte| *byte == b'\n') {
            let mut parts = line.splitn(3, |byte| *byte == b':');
            let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if number == b"0" && controllers.is_empty() {
                own.unified = mounts.iter().filter(|mount| mount.unified).find_map(|mount| mount.place(path));
                own.is_top = path == b"/";
            } else {
                let known = Controllers::of_legacy(controllers);
                let hierarchy = |mount: &&Mount| !mount.unified && mount.controllers == known;
                if !known.is_empty()
                    && let Some(path) = mounts.iter().filter(hierarchy).find_map(|mount| mount.place(path))
                {
                    own.legacy.push((known, path));
                }
            }
        }
        own
    }
}

struct Mount {
    root: Vec<u8>,
    point: Vec<u8>,
    unified: bool,
    controllers: Controllers,
}

impl Mount {
    /// A line like `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let (root, point) = (words.nth(3)?, words.next()?);
        let mut behind = words.skip_while(|word| *word != b"-").skip(1);
        let (kind, options) = (behind.next()?, behind.nth(1)?);
        let unified = kind == b"cgroup2";
        if !unified && kind != b"cgroup" {
            return None;
        }
        let controllers = if unified { Controllers::default() } else { Controllers::of_legacy(options) };
        Some(Self { root: unescaped(root), point: unescaped(point), unified, controllers })
    }

    /// The directory of a group, if this mount shows it.
    fn place(&self, group: &[u8]) -> Option<PathBuf> {
        let root = if self.root == b"/" { &b""[..] } else { &self.root };
        let below = group.strip_prefix(root)?;
        let hidden = below.split(|byte| *byte == b'/').any(|part| part == b"..");
        if hidden || !(below.is_empty() || below.starts_with(b"/")) {
            return None; // above the namespace's root, or beside the mount's
        }
        let mut path = self.point.clone();
        path.extend_from_slice(below.strip_suffix(b"/").unwrap_or(below));
        Some(OsString::from_vec(path).into())
    }
}

/// Blanks, tabs, line ends and backslashes are three octal digits behind a backslash.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn groups_of_both_versions_are_found_where_they_are_mounted() {
        let own = Own::find(
            b"9:name=systemd:/\n4:memory:/a/b:c\n2:cpu,cpuacct:/\n1:freezer:/x\n0::/system.slice/e.service\n",
            HYBRID,
        );
        let cpu = Controllers::CPU | Controllers::CPUACCT;
        assert_eq!(own.unified, Some("/sys/fs/cgroup/uni fied/system.slice/e.service".into()));
        assert!(!own.is_top);
        assert_eq!(
            own.legacy,
            [
                (Controllers::MEMORY, "/sys/fs/cgroup/memory/a/b:c".into()),
                (cpu, "/sys/fs/cgroup/cpu,cpuacct".into())
            ]
        );
    }

    #[test]
    fn a_mount_that_shows_a_part_of_the_tree_is_taken_for_groups_in_it_only() {
        let mounts = b"41 31 0:38 /docker/abc /cg rw - cgroup2 cgroup2 rw\n";
        let unified = |groups: &[u8]| Own::find(groups, mounts).unified;
        assert_eq!(unified(b"0::/docker/abc\n"), Some("/cg".into()));
        assert_eq!(unified(b"0::/docker/abc/x\n"), Some("/cg/x".into()));
        assert_eq!(unified(b"0::/docker/abcd\n"), None);
        assert_eq!(unified(b"0::/docker/abc/../other\n"), None);
        assert_eq!(unified(b"0::/\n"), None);
        assert_eq!(unified(b"garbage\n\n0:\n"), None);
    }
}
