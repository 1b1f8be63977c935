//! Mounts by descriptor: a tree is made or copied, gets its attributes, and only then appears somewhere.
//!
//! Caller: the launcher, with a single thread, in a mount namespace of its own. Needs Linux 5.12.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::mount::{MntFlags, umount2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// What a mount does not allow. Source: mount_setattr(2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Nothing can be written; devices and sockets can still be used.
    pub read_only: bool,
    /// Set-id bits and file capabilities have no effect.
    pub no_suid: bool,
    /// Device files cannot be opened.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
}

impl Limits {
    fn bits(self) -> u64 {
        let of = [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.no_suid, libc::MOUNT_ATTR_NOSUID),
            (self.no_dev, libc::MOUNT_ATTR_NODEV),
            (self.no_exec, libc::MOUNT_ATTR_NOEXEC),
        ];
        of.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | *bit)
    }
}

/// A tree of mounts: in nobody's view until it is [attached](Tree::attach), and gone with the last descriptor if it
/// never is.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// A copy of what is mounted at `place`, from there on; with the mounts below it if `whole`.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN over the mount namespace. Source: open_tree(2), Linux 5.2.
    pub fn copy(place: BorrowedFd<'_>, whole: bool) -> io::Result<Self> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        flags.set(OpenTreeFlags::AT_RECURSIVE, whole);
        Ok(Self(open_tree(place, "", flags)?))
    }

    /// A new file system of a type, such as `tmpfs` or `proc`, with its options.
    ///
    /// # Errors
    /// `ENODEV` for a type that this kernel lacks, `EINVAL` for an option, `EPERM` without the rights. Source:
    /// fsopen(2), Linux 5.2.
    pub fn file_system(kind: &str, options: &[(&str, &str)], limits: Limits) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(u32::try_from(limits.bits()).unwrap_or(u32::MAX));
        Ok(Self(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// Forbids something in this tree; with all mounts in it if `whole`. What is forbidden already stays so.
    ///
    /// # Errors
    /// As [`limit`].
    pub fn limit(&self, limits: Limits, whole: bool) -> io::Result<()> {
        limit(self.0.as_fd(), limits, whole)
    }

    /// Lets the tree appear at `place`, over whatever is there.
    ///
    /// # Errors
    /// `ENOTDIR` or `EINVAL` when one is a directory and the other is not. Source: move_mount(2), Linux 5.2.
    pub fn attach(&self, place: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.0, "", place, "", flags)?)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Forbids something in the mount at `place`, which must be its root; with all mounts below it if `whole`.
///
/// # Errors
/// `Unsupported` before Linux 5.12; `EPERM` without CAP_SYS_ADMIN; `EBUSY` when it becomes read-only while somebody
/// writes. Source: mount_setattr(2).
pub fn limit(place: BorrowedFd<'_>, limits: Limits, whole: bool) -> io::Result<()> {
    set_attributes(
        place,
        MountAttributes { set: limits.bits(), clear: 0, propagation: 0, userns_fd: 0 },
        whole,
    )
}

/// Cuts the mounts at and below `place` off from the namespace that they were copied from: nothing that is mounted
/// in one appears in the other any more.
///
/// # Errors
/// As [`limit`].
pub fn make_private(place: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = MountAttributes { set: 0, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attributes(place, attributes, true)
}

fn set_attributes(place: BorrowedFd<'_>, attributes: MountAttributes, whole: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if whole { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: a borrowed descriptor, an empty string, and a struct of the size that is told; nothing is written.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            place.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if r == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOSYS) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel lacks mount_setattr(2), which a view of its own needs: Linux 5.12 or later",
        ));
    }
    Err(error)
}

/// Makes the mount whose root is `new` the root of this process and of all in its mount namespace that have the old
/// one, and lets go of the old one with all that is mounted there. The working directory is the new root then.
///
/// # Errors
/// `EINVAL` when `new` is no mount point, or the old root is that of the initial ramdisk. Source: pivot_root(2), with
/// its "pivot_root(".", ".")".
pub fn become_root(new: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(new)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}
