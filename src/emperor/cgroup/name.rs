//! Names of groups. A vassal's name is any bytes but NUL; a group's is a directory among the kernel's own files.

use std::fmt::Write;

/// Longer names are cut, and told apart by a hash. The kernel takes 255 bytes; what stands behind fits, too.
const LONGEST: usize = 200;

/// What the files of a group begin with: a directory of the same name could not be made, now or with a later kernel.
const CONTROLLERS: [&str; 18] = [
    "cgroup",
    "memory",
    "pids",
    "cpu",
    "cpuacct",
    "cpuset",
    "io",
    "blkio",
    "hugetlb",
    "rdma",
    "misc",
    "dmem",
    "devices",
    "freezer",
    "net_cls",
    "net_prio",
    "perf_event",
    "irq",
];
/// Files of version 1 without a dot.
const FILES: [&str; 3] = ["tasks", "notify_on_release", "release_agent"];

/// The name of a vassal's group. No two vassals have the same, but for a collision of hashes of two long names.
pub(super) fn of_vassal(name: &[u8]) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+@,=".contains(&byte);
    let first_dot = name.iter().position(|byte| *byte == b'.').unwrap_or(name.len());
    let begins = |words: &[&str]| words.iter().any(|word| word.as_bytes() == &name[..first_dot]);
    let mut out = String::with_capacity(name.len());
    for (at, &byte) in name.iter().enumerate() {
        let dot = at == first_dot && (at == 0 || begins(&CONTROLLERS));
        if kept(byte) && !dot {
            out.push(char::from(byte));
        } else {
            // Writing into memory cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    if FILES.contains(&out.as_str()) || (out.len() <= LONGEST && out.is_empty()) {
        out.push('%');
    }
    if out.len() > LONGEST {
        out.truncate(LONGEST);
        let _ = write!(out, "~{:016x}", fingerprint([name]));
    }
    out
}

/// A number for some texts that stays the same from one program to the next: FNV-1a, 64 bits.
pub(super) fn fingerprint<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> u64 {
    let bytes = texts.into_iter().flat_map(|text| text.iter().copied().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories_that_collide_with_nothing() {
        for (name, group) in [
            (&b"shop.ini"[..], "shop.ini"),
            (b"/srv/a b/x.ini", "%2Fsrv%2Fa%20b%2Fx.ini"),
            (b".hidden", "%2Ehidden"),
            (b"..", "%2E."),
            (b"a\nb%\xff~", "a%0Ab%25%FF%7E"),
            (b"memory.max", "memory%2Emax"),
            (b"cpu.ini", "cpu%2Eini"),
            (b"cpus.ini", "cpus.ini"),
            (b"tasks", "tasks%"),
        ] {
            assert_eq!(of_vassal(name), group);
        }
    }

    #[test]
    fn long_names_stay_apart_and_fit() {
        let (mut one, mut other) = (vec![b'/'; 254], vec![b'/'; 254]);
        one[253] = b'a';
        other[253] = b'b';
        let (one, other) = (of_vassal(&one), of_vassal(&other));
        assert_ne!(one, other);
        assert!(one.len() < 230 && one.contains('~'), "{one}");
        assert_eq!(of_vassal(&[b'x'; LONGEST]).len(), LONGEST);
    }
}
