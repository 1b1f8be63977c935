//! Standard output and standard error into a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{dup2_stderr, dup2_stdout};

/// Mode of a fresh log, less the umask. Source: uWSGI.
const MODE: u32 = 0o640;

/// Appends to the file, with the rights that we have now. A fifo without a reader is an error, and no reason to wait.
///
/// # Errors
/// open(2), dup2(2).
pub(super) fn append_to(path: &Path) -> io::Result<()> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options().append(true).create(true).mode(MODE).custom_flags(flags.bits()).open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    dup2_stdout(&file)?;
    dup2_stderr(&file)?;
    Ok(())
}
