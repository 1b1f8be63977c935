//! What `ps` and `top` show of this process.

use std::ffi::CString;
use std::fs;
use std::io;

/// `PR_SET_MM_MAP` of `linux/prctl.h`, which the C library's headers leave out.
const PR_SET_MM_MAP: libc::c_ulong = 14;
/// Leaves the link `/proc/PID/exe` as it is.
const NO_FILE: u32 = u32::MAX;

/// `struct prctl_mm_map` of `linux/prctl.h`: the bounds of a process's memory that the kernel reports.
#[repr(C)]
struct Bounds {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Sets the name of the calling thread, which is that of the process where it is the first: 15 bytes are kept.
///
/// # Errors
/// `InvalidInput` for a NUL in it.
pub fn set_name(name: &str) -> io::Result<()> {
    Ok(nix::sys::prctl::set_name(&CString::new(name)?)?)
}

/// Sets what `/proc/PID/cmdline` shows, in place of the arguments. The text stays in memory for ever: call it
/// once, or seldom; only with a single thread.
///
/// # Errors
/// `EINVAL` on a kernel without `CONFIG_CHECKPOINT_RESTORE`. Source: prctl(2), `PR_SET_MM`.
pub fn set_command_line(title: &str) -> io::Result<()> {
    let mut bounds = Bounds::read()?;
    let text = Box::leak(CString::new(title)?.into_boxed_c_str()).to_bytes_with_nul();
    bounds.arg_start = text.as_ptr().addr() as u64;
    bounds.arg_end = bounds.arg_start + text.len() as u64;
    let size = size_of::<Bounds>();
    // SAFETY: the kernel copies `size` bytes of a struct of its own layout; all bounds are those it has told us, but
    // for the arguments', which name bytes that are leaked and so stay ours.
    let r = unsafe { libc::prctl(libc::PR_SET_MM, PR_SET_MM_MAP, &raw const bounds, size, 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Bounds {
    /// The bounds in force. Source: proc(5), `/proc/PID/stat`, whose fields count from 1.
    fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest); // the second, a name, may hold anything
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| {
            let text = fields.get(number - 3).copied().unwrap_or_default();
            text.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        };
        // SAFETY: asks where the heap ends and moves nothing.
        let brk = unsafe { libc::sbrk(0) }.addr() as u64;
        Ok(Self {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            brk,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            auxv: 0,
            auxv_size: 0,
            exe_fd: NO_FILE,
        })
    }
}
