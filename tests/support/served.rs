//! What tests of listening sockets have in common: vassals that are a server of the test's own, whose they are, and
//! where they listen.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use super::Bed;

/// A bed with this server, a program in Python, on it.
pub(crate) fn bed_with(server: &str) -> Bed {
    let bed = Bed::new();
    bed.write("server.py", server);
    bed
}

fn words(bed: &Bed, lines: &str) -> String {
    format!("[uwsgi]\ncommand = python3 -S {} %n\n{lines}", bed.path("server.py").display())
}

/// A vassal that is this server.
pub(crate) fn serve(bed: &Bed, name: &str, lines: &str) {
    bed.write(format!("v/{name}"), words(bed, lines));
}

/// The same as a user's.
pub(crate) fn tenant(bed: &Bed, name: &str, uid: u32, lines: &str) {
    let part = bed.write(".new", words(bed, lines));
    own(&part, uid);
    fs::rename(part, bed.path(format!("v/{name}"))).expect("a vassal's file");
}

/// Gives a file to a user.
pub(crate) fn own(path: &Path, uid: u32) {
    lchown(path, Some(uid), Some(uid)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// A directory of a user's.
pub(crate) fn home(bed: &Bed, name: &str, uid: u32) -> PathBuf {
    let home = bed.path(name);
    fs::create_dir(&home).expect("a directory");
    own(&home, uid);
    home
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

/// A name that nobody else has.
pub(crate) fn abstract_name(bed: &Bed) -> String {
    bed.root().to_str().expect("plain text").replace('/', ".")
}

/// The number of a file, whatever it is.
pub(crate) fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).ino()
}
