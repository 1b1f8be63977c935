//! What `ps` and `top` show of this process.

use std::ffi::CString;
use std::io;

/// Sets the name of the calling thread, which is that of the process where it is the first: 15 bytes are kept.
///
/// # Errors
/// None in practice.
pub fn set_name(name: &str) -> io::Result<()> {
    Ok(nix::sys::prctl::set_name(&CString::new(name)?)?)
}

/// Sets what `/proc/PID/cmdline` shows, in place of the arguments. The text stays in memory for ever: call it
/// once, or seldom.
///
/// # Errors
/// `EPERM` without CAP_SYS_RESOURCE. Source: prctl(2), `PR_SET_MM`.
pub fn set_command_line(title: &str) -> io::Result<()> {
    let text = CString::new(title)?.into_boxed_c_str();
    let bytes = Box::leak(text).to_bytes_with_nul();
    let (start, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
    // The kernel keeps start before end at each step, so the order depends on where the new text lies.
    if set_bound(libc::PR_SET_MM_ARG_START, start).is_ok() {
        set_bound(libc::PR_SET_MM_ARG_END, end)
    } else {
        set_bound(libc::PR_SET_MM_ARG_END, end)?;
        set_bound(libc::PR_SET_MM_ARG_START, start)
    }
}

fn set_bound(which: libc::c_int, address: usize) -> io::Result<()> {
    // SAFETY: tells the kernel where to read the title from; the bytes there are leaked, so they stay ours.
    let r = unsafe { libc::prctl(libc::PR_SET_MM, which, address, 0, 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
