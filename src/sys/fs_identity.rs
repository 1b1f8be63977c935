//! Touching files as somebody else, for the length of one call.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Runs `act` with the file-system identity of a user: what that user may not open, create or remove, it may not
/// either, also when we are root. The thread's other rights, and other threads, keep theirs. Source: setfsuid(2).
///
/// The supplementary groups stay ours: a caller that is root must have given them up.
pub fn acting_as<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> T {
    let group = setfsgid(Gid::from_raw(gid));
    let user = setfsuid(Uid::from_raw(uid));
    let _back = Back { user, group };
    act()
}

/// Puts our own identity back, also when `act` panics.
struct Back {
    user: Uid,
    group: Gid,
}

impl Drop for Back {
    fn drop(&mut self) {
        setfsuid(self.user);
        setfsgid(self.group);
    }
}
