//! Who is at the other end of a connection.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most groups that one may be in. Source: `NGROUPS_MAX` of the kernel (limits.h).
const MOST_GROUPS: usize = 65_536;

/// The supplementary groups of the process that has connected to a unix socket, as they were then, and its group.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.13, `ENODATA` for a socket that nobody has connected to. Source: socket(7), unix(7);
/// `sk_getsockopt` of the kernel: `ERANGE` with the length that is needed.
pub fn groups(stream: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(0);
        // SAFETY: the buffer is live and as long as `bytes` says; the kernel writes no more, and both pointers are
        // only used during the call.
        let r = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if r == 0 {
            groups.truncate(bytes as usize / size_of::<u32>());
            break;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= MOST_GROUPS {
            return Err(error);
        }
        groups.resize(MOST_GROUPS, 0);
    }
    let credentials = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
    groups.push(credentials.gid());
    Ok(groups)
}

/// The user as which the kernel shows whoever has no number in this user namespace, and who cannot be told from one who
/// really has that number; `None` where everybody has a number. Source: user_namespaces(7).
#[must_use]
pub fn stranger() -> Option<u32> {
    // Without user namespaces there is no such file.
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    if maps_all(&map) {
        return None;
    }
    let shown = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    shown.and_then(|text| text.trim().parse().ok()).or(Some(OVERFLOW_UID))
}

/// What `/proc/sys/kernel/overflowuid` says where nobody has changed it.
const OVERFLOW_UID: u32 = 65_534;

/// Lines are: first inside, first outside, count. No line means that nobody is mapped yet.
fn maps_all(map: &str) -> bool {
    let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum::<u64>() >= u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_strangers_unless_all_have_a_number() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(maps_all("0 0 65536\n65536 65536 4294901759\n"));
        for map in ["", "0 1000 1\n", "0 100000 65536\n", "nonsense\n", "0 0\n"] {
            assert!(!maps_all(map), "{map}");
        }
    }

    use std::os::fd::AsFd;

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut found = groups(ours.as_fd()).unwrap();
        let mut wanted: Vec<u32> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        wanted.push(nix::unistd::getegid().as_raw());
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(groups(file.as_fd()).is_err());
    }
}
