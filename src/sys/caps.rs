//! Capability sets of the calling thread, as bits. Source: capabilities(7).
//!
//! Caller: the launcher and the emperor's start, both with a single thread.

use std::io;

use caps::{CapSet, CapsHashSet, errors::CapsError};
use nix::errno::Errno;

/// Drops every capability that is not in `keep` from the bounding set, also those newer than this program.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP in the user namespace.
pub fn bound(keep: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        // SAFETY: reads one bit of the bounding set.
        let there = unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number), 0, 0, 0) };
        if there < 0 {
            break; // EINVAL: the kernel knows no capability of this number
        }
        if there == 1 && keep & 1 << number == 0 {
            // SAFETY: changes one bit of the bounding set.
            let r = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
            if r < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Empties every set but the bounding one.
///
/// # Errors
/// None in practice: giving up needs no permission.
pub fn clear_all() -> io::Result<()> {
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(as_io)?;
    }
    Ok(())
}

/// Makes the permitted, effective and inheritable sets exactly `bits`, as far as they are permitted now.
///
/// # Errors
/// `EPERM` for a capability that is not permitted.
pub fn limit_to(bits: u64) -> io::Result<()> {
    let wanted = to_set(bits);
    // The effective set must stay within the permitted one at each step.
    caps::set(None, CapSet::Inheritable, &wanted).map_err(as_io)?;
    caps::set(None, CapSet::Effective, &wanted).map_err(as_io)?;
    caps::set(None, CapSet::Permitted, &wanted).map_err(as_io)
}

/// Keeps of the capabilities only `bits`, as far as they are permitted now, and lets none pass an exec. Works with an
/// empty bounding set, which lets nothing become inheritable.
///
/// # Errors
/// `EPERM` for a capability that is not permitted.
pub fn keep_for_ourselves(bits: u64) -> io::Result<()> {
    let wanted = to_set(bits);
    caps::clear(None, CapSet::Ambient).map_err(as_io)?;
    caps::clear(None, CapSet::Inheritable).map_err(as_io)?;
    caps::set(None, CapSet::Effective, &wanted).map_err(as_io)?;
    caps::set(None, CapSet::Permitted, &wanted).map_err(as_io)
}

/// Runs `start`, and what it executes keeps our capabilities, also where we are not root. For starting a launcher
/// that has to change its user; nothing else may have them.
///
/// # Errors
/// `EPERM` where the machine forbids ambient capabilities. `start` is not run then.
pub fn passing_on<T>(start: impl FnOnce() -> T) -> io::Result<T> {
    if nix::unistd::geteuid().is_root() {
        return Ok(start()); // root's exec keeps them anyhow
    }
    let permitted = caps::read(None, CapSet::Permitted).map_err(as_io)?;
    let before = caps::read(None, CapSet::Ambient).map_err(as_io)?;
    // Only what is inheritable can become ambient.
    caps::set(None, CapSet::Inheritable, &permitted).map_err(as_io)?;
    caps::set(None, CapSet::Ambient, &permitted).map_err(as_io)?;
    let result = start();
    // What was ambient before is so again: both steps only take away, or give back, what we hold.
    let _ = caps::set(None, CapSet::Ambient, &before);
    Ok(result)
}

/// The capabilities that whatever this process executes keeps.
///
/// # Errors
/// None in practice.
pub fn ambient() -> io::Result<u64> {
    let set = caps::read(None, CapSet::Ambient).map_err(as_io)?;
    Ok(set.into_iter().map(|capability| capability.bitmask()).sum())
}

/// The capabilities that this process may make use of.
///
/// # Errors
/// None in practice.
pub fn permitted() -> io::Result<u64> {
    let set = caps::read(None, CapSet::Permitted).map_err(as_io)?;
    Ok(set.into_iter().map(|capability| capability.bitmask()).sum())
}

/// What a change of user leaves alone: `PR_SET_KEEPCAPS`. Ends with the next exec.
///
/// # Errors
/// `EPERM` where the secure bits are locked.
pub fn keep_over_change_of_user() -> io::Result<()> {
    // SAFETY: two integers.
    let r = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Neither user 0 nor a change of user means anything for capabilities any more, here and in all that this process
/// executes, and nobody can take that back. Source: capabilities(7), "The securebits flags".
///
/// From here on a change of user keeps all capabilities: empty the sets by hand.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn lock_secure_bits() -> io::Result<()> {
    // SAFETY: two integers.
    let r = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// NOROOT, NO_SETUID_FIXUP, both locked, and KEEP_CAPS locked. Source: linux/securebits.h.
const SECURE_BITS: libc::c_ulong = 0b10_1111;

/// Makes the ambient set exactly `bits`.
///
/// # Errors
/// `EPERM` for a capability that is not both permitted and inheritable.
pub fn set_ambient(bits: u64) -> io::Result<()> {
    caps::set(None, CapSet::Ambient, &to_set(bits)).map_err(as_io)
}

/// Runs `act` without the capabilities that open files whatever their permissions say.
///
/// # Errors
/// None in practice: giving up needs no permission, and what is permitted can be taken back.
pub fn without_file_rights<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    use caps::Capability::*;
    let before = caps::read(None, CapSet::Effective).map_err(as_io)?;
    let of_files = [
        CAP_CHOWN,
        CAP_DAC_OVERRIDE,
        CAP_DAC_READ_SEARCH,
        CAP_FOWNER,
        CAP_FSETID,
        CAP_MKNOD,
        CAP_LINUX_IMMUTABLE,
        CAP_MAC_OVERRIDE,
    ];
    if !of_files.iter().any(|capability| before.contains(capability)) {
        return Ok(act());
    }
    let without = before.iter().filter(|capability| !of_files.contains(capability)).copied().collect();
    caps::set(None, CapSet::Effective, &without).map_err(as_io)?;
    let result = act();
    caps::set(None, CapSet::Effective, &before).map_err(as_io)?;
    Ok(result)
}

fn to_set(bits: u64) -> CapsHashSet {
    caps::all().into_iter().filter(|capability| bits & capability.bitmask() != 0).collect()
}

fn as_io(error: CapsError) -> io::Error {
    match Errno::last_raw() {
        0 => io::Error::other(error),
        errno => io::Error::from_raw_os_error(errno),
    }
}
