//! Touching files as somebody else, for the length of one call.

use std::io;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::caps;

/// Runs `act` with the file-system identity of a user: what that user may not open, create or remove, it may not
/// either, whoever we are. The thread's other rights, and other threads, keep theirs. Source: setfsuid(2).
///
/// The supplementary groups stay ours: the caller must have given them up.
///
/// # Errors
/// `EPERM` where we may not take on that identity; `act` is not run then. Otherwise what `act` says.
pub fn acting_as<T>(uid: u32, gid: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let become_and_act = || {
        let group = setfsgid(Gid::from_raw(gid));
        let user = setfsuid(Uid::from_raw(uid));
        let _back = Back { user, group };
        if is_now(uid, gid) { act() } else { Err(io::ErrorKind::PermissionDenied.into()) }
    };
    // The kernel takes root's rights to files away with the identity. Without root's, they are capabilities.
    if nix::unistd::geteuid().is_root() {
        become_and_act()
    } else {
        caps::without_file_rights(become_and_act)?
    }
}

/// Runs `act` as a user of the two numbers, or as ourselves.
///
/// # Errors
/// As [`acting_as`].
pub fn acting_for<T>(who: Option<(u32, u32)>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match who {
        Some((uid, gid)) => acting_as(uid, gid, act),
        None => act(),
    }
}

/// The calls say what was before, never whether they did anything. -1 is nobody: it changes nothing.
fn is_now(uid: u32, gid: u32) -> bool {
    setfsuid(Uid::from_raw(u32::MAX)).as_raw() == uid && setfsgid(Gid::from_raw(u32::MAX)).as_raw() == gid
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn root_what_the_user_may_not_do_is_not_done_and_we_are_ourselves_again() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root may be somebody else
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "secret").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let refused = acting_as(65_534, 65_534, || fs::read(&file)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let refused = acting_as(65_534, 65_534, || fs::remove_file(&file)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read(&file).unwrap(), b"secret");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        acting_as(65_534, 65_533, || fs::write(dir.path().join("his"), "")).unwrap();
        let his = fs::metadata(dir.path().join("his")).unwrap();
        assert_eq!((his.uid(), his.gid()), (65_534, 65_533));
        fs::write(dir.path().join("ours"), "").unwrap();
        assert_eq!(fs::metadata(dir.path().join("ours")).unwrap().uid(), 0);
    }
}
