//! User, groups, and whose configuration it is.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, lstat};
use nix::unistd::{
    Gid, Uid, User, getgrouplist, getresgid, getresuid, setgroups, setresgid, setresuid, setsid,
};

use super::super::link::Failure;
use super::super::plan::{Groups, OwnedFile, Step, Text};
use crate::sys::caps;
use crate::sys::fs_identity::acting_for;

/// From here on nobody but root may trace this process, read its memory or open its /proc entries; until the
/// exec, which starts afresh.
pub(in super::super) fn become_undumpable() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Where this session has a terminal, we begin one of our own, which has none: TIOCSTI types for root.
pub(in super::super) fn leave_terminal() -> io::Result<()> {
    match open("/dev/tty", OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(_) => setsid().map(drop).map_err(Into::into),
        Err(_) => Ok(()), // ENXIO: there is none; or no such file, and none that we could be given
    }
}

/// Real, effective and saved group. Never root's.
pub(in super::super) fn set_group(gid: u32) -> io::Result<()> {
    let wanted = Gid::from_raw(gid);
    if gid == 0 {
        return Err(not_root());
    }
    setresgid(wanted, wanted, wanted)?;
    let now = getresgid()?;
    if [now.real, now.effective, now.saved] == [wanted; 3] { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// Supplementary groups: exactly these, or those that the system knows for a user.
pub(in super::super) fn set_groups(groups: &Groups) -> Result<(), Failure> {
    let failed = |object: String, error: io::Error| Failure::new(Step::Groups, &object, &error);
    let list = match groups {
        Groups::Exactly(list) => list.iter().copied().map(Gid::from_raw).collect(),
        Groups::OfUser(uid) => {
            groups_of(*uid).map_err(|error| failed(format!("groups of uid {uid}"), error))?
        }
    };
    setgroups(&list).map_err(|errno| failed(format!("{} groups", list.len()), errno.into()))
}

/// Looks up the groups of a user while the system's own files say what they are: in a view that a tenant has a word
/// in, so would the tenant, and its libraries would be loaded for it.
pub(in super::super) fn look_up(groups: &mut Groups) -> Result<(), Failure> {
    if let Groups::OfUser(uid) = groups {
        let found = groups_of(*uid);
        let failed = |error| Failure::new(Step::Groups, &format!("groups of uid {uid}"), &error);
        *groups = Groups::Exactly(found.map_err(failed)?.into_iter().map(Gid::as_raw).collect());
    }
    Ok(())
}

fn groups_of(uid: u32) -> io::Result<Vec<Gid>> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the system knows no such user");
    let user = User::from_uid(Uid::from_raw(uid))?.ok_or_else(unknown)?;
    let name = std::ffi::CString::new(user.name)?;
    Ok(getgrouplist(&name, user.gid)?)
}

/// Real, effective and saved user, and no capability left. Never root.
pub(in super::super) fn set_user(uid: u32) -> io::Result<()> {
    let wanted = Uid::from_raw(uid);
    if uid == 0 {
        return Err(not_root());
    }
    setresuid(wanted, wanted, wanted)?;
    // An emperor that is not root itself has given us capabilities that outlive the change.
    caps::clear_all()?;
    let now = getresuid()?;
    if [now.real, now.effective, now.saved] == [wanted; 3] { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// The file, opened as the engine will find it, belongs to whom the emperor thought when it decided, and only its
/// owner or root can lead the engine to another one by a link.
///
/// Before the user changes, it is looked at with the owner's rights; in a user namespace without root it must be, where
/// root's links would look like anybody's.
pub(in super::super) fn verify_owner(file: &OwnedFile) -> io::Result<()> {
    if file.uid == 0 || file.gid == 0 {
        return Err(not_root());
    }
    let who = nix::unistd::geteuid().is_root().then_some((file.uid, file.gid));
    acting_for(who, || looks_right(file))
}

fn looks_right(file: &OwnedFile) -> io::Result<()> {
    links_are_trusted(file)?;
    let link = if file.nofollow { OFlag::O_NOFOLLOW } else { OFlag::empty() };
    // O_PATH: the owner may not be allowed to read it, which is the engine's concern.
    let fd = open(file.path.as_path(), OFlag::O_PATH | OFlag::O_CLOEXEC | link, Mode::empty())?;
    let is = fstat(&fd)?;
    if (is.st_uid, is.st_gid) == (file.uid, file.gid) {
        return Ok(());
    }
    let (uid, gid) = (file.uid, file.gid);
    Err(io::Error::other(format!(
        "owned by {}:{} now, and by {uid}:{gid} when its start was decided",
        is.st_uid, is.st_gid
    )))
}

/// Every symbolic link on the way belongs to root, the emperor's user or the file's owner. Anybody else's could be re-pointed between
/// this look and the engine's own, and the engine would run somebody else's configuration with the owner's rights.
fn links_are_trusted(file: &OwnedFile) -> io::Result<()> {
    let mut here = PathBuf::new();
    let mut ahead = vec![file.path.as_path().to_owned()];
    let mut steps = 0;
    while let Some(path) = ahead.pop() {
        let mut parts = path.components();
        let Some(part) = parts.next() else { continue };
        ahead.push(parts.as_path().to_owned());
        let next = here.join(part); // the root replaces all before it
        let found = lstat(&next)?;
        steps += 1;
        if steps > MOST_STEPS {
            return Err(Errno::ELOOP.into());
        }
        let is_last = ahead.iter().all(|rest| rest.as_os_str().is_empty());
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFLNK
            || is_last && file.nofollow
        {
            here = next;
            continue;
        }
        if ![0, file.emperor, file.uid].contains(&found.st_uid) {
            return Err(io::Error::other(format!(
                "the link {} belongs to uid {}, which could point it elsewhere at any moment; the file behind it \
                 belongs to uid {}: chown -h the link to that user or to root, or copy the file",
                Text::from(next.as_os_str()),
                found.st_uid,
                file.uid
            )));
        }
        ahead.push(nix::fcntl::readlink(&next)?.into());
    }
    Ok(())
}

/// No path that a person has made is longer, with all its links.
const MOST_STEPS: u32 = 256;

fn not_root() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "root's identity is refused")
}
