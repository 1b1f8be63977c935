//! Tyrant mode trusts the owners of files. This says where the machine lets somebody put another's file, or a changed
//! one, in a place from which it is run.
//!
//! Caller: the start of the reign, once.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::warn;

use super::source::Sources;

/// Whether users may make hard links to others' files. Source: proc_sys_fs(5).
const PROTECTED_HARDLINKS: &str = "/proc/sys/fs/protected_hardlinks";
/// Written by the group or by all.
const OTHERS_WRITE: u32 = 0o022;
/// Only a file's owner may replace it.
const STICKY: u32 = 0o1000;

/// One warning for each door that is open.
pub fn warn_of_open_doors(sources: &Sources) {
    if std::fs::read_to_string(PROTECTED_HARDLINKS).is_ok_and(|text| text.trim() == "0") {
        warn!(
            "[emperor-tyrant] whoever may write to a directory of vassals can make a file of another user's into one, \
             by a hard link: set the sysctl fs.protected_hardlinks to 1"
        );
    }
    for (_, info) in sources.infos() {
        if info.cwd == Path::new(&info.argument) {
            look_at(&info.cwd);
        }
    }
}

fn look_at(directory: &Path) {
    let Ok(found) = std::fs::metadata(directory) else { return }; // the source will speak of it
    let path = directory.display();
    if ![0, nix::unistd::geteuid().as_raw()].contains(&found.uid()) {
        warn!(
            "[emperor-tyrant] {path} belongs to uid {}, who can replace every file in it while it is being started: \
             chown it to root",
            found.uid()
        );
    } else if found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0 {
        warn!(
            "[emperor-tyrant] {path} can be written to by others than root, and each of them can replace the others' \
             files while they are being started: chmod +t it, or give each user a directory of his own"
        );
    }
}
