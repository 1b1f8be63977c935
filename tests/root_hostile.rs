//! Tenants who mean harm, and an emperor that must not notice: each attempt of `docs/security.md` that takes real
//! processes. All of it needs root.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, root};

/// Two tenants; no password file names them.
const MALLORY: u32 = 61_666;
const VICTIM: u32 = 61_777;

fn own(path: impl AsRef<Path>, uid: u32) {
    lchown(path, Some(uid), Some(uid)).expect("chown");
}

fn tyrant(bed: &Bed) -> Builder {
    Builder::new(bed, Kind::Ours).flag("emperor-tyrant")
}

/// A tenant's vassal, complete before anybody can see it.
fn vassal(bed: &Bed, name: &str, uid: u32) -> PathBuf {
    let fresh = bed.write("fresh", "[uwsgi]\n");
    own(&fresh, uid);
    let path = bed.v().join(name);
    fs::rename(fresh, &path).expect("a rename");
    path
}

/// A directory of a tenant's own.
fn home(bed: &Bed, name: &str, uid: u32) -> PathBuf {
    let dir = bed.path(name);
    fs::create_dir(&dir).expect("a directory");
    own(&dir, uid);
    dir
}

/// The emperor goes on: a vassal that comes now is started in good time.
fn goes_on(bed: &Bed, emperor: &mut Emperor) {
    assert!(emperor.running(), "{}", bed.report());
    let count = bed.log().names().len();
    let name = format!("good{count}.ini");
    vassal(bed, &name, VICTIM);
    bed.wait_up_to(Duration::from_secs(5), "a good vassal starts", |log| {
        (log.said(&name, 17) == 1).then_some(())
    });
}

#[test]
fn root_a_socket_file_that_is_a_link_shows_nothing_of_roots() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let secret = bed.write("secret", "root:$6$hash:19000:\n");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    symlink(&secret, bed.path("v/a.ini.socket")).unwrap();
    own(bed.path("v/a.ini.socket"), MALLORY);
    vassal(&bed, "a.ini", MALLORY);
    let mut emperor = tyrant(&bed).opt("emperor-on-demand-extension", ".socket").start();
    let line = emperor.wait_log("vassal a.ini gets no on-demand socket");
    assert!(line.contains("Permission denied"), "{line}");
    assert!(!emperor.log().contains("hash"), "{}", emperor.log());
    goes_on(&bed, &mut emperor);
    emperor.stop(&bed);
}

#[test]
fn root_an_address_that_is_no_text_ends_nobody() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.write("v/a.ini.socket", b"\xff\xff:80\n");
    vassal(&bed, "a.ini", MALLORY);
    let mut emperor = tyrant(&bed).opt("emperor-on-demand-extension", ".socket").start();
    emperor.wait_log("vassal a.ini gets no on-demand socket");
    goes_on(&bed, &mut emperor);
    emperor.stop(&bed);
}

#[test]
fn root_a_socket_that_is_served_by_nobody_holds_nobody_up() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let home = home(&bed, "mallory", MALLORY);
    let listener = UnixListener::bind(home.join("s")).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    own(home.join("s"), MALLORY);
    let _full = UnixStream::connect(home.join("s")).unwrap();
    bed.write("v/a.ini.socket", home.join("s").as_os_str().as_bytes());
    vassal(&bed, "a.ini", MALLORY);
    let mut emperor = tyrant(&bed).opt("emperor-on-demand-extension", ".socket").start();
    emperor.wait_log("another process serves this socket");
    goes_on(&bed, &mut emperor);
    emperor.stop(&bed);
}

#[test]
fn root_a_socket_is_removed_only_where_its_tenant_could() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let home = home(&bed, "mallory", MALLORY);
    fs::create_dir(home.join("d")).unwrap();
    own(home.join("d"), MALLORY);
    bed.write("v/a.ini.socket", home.join("d/s").as_os_str().as_bytes());
    vassal(&bed, "a.ini", MALLORY);
    let mut emperor = tyrant(&bed).opt("emperor-on-demand-extension", ".socket").start();
    emperor.wait_log("waiting for connections on socket");
    // The same file under the same name, but where only root may remove it.
    fs::create_dir(bed.path("roots")).unwrap();
    fs::hard_link(home.join("d/s"), bed.path("roots/s")).unwrap();
    fs::rename(home.join("d"), home.join("elsewhere")).unwrap();
    symlink(bed.path("roots"), home.join("d")).unwrap();
    bed.remove("v/a.ini");
    emperor.wait_log("removed uwsgi instance a.ini");
    goes_on(&bed, &mut emperor);
    assert!(bed.path("roots/s").exists(), "root has removed it");
    emperor.stop(&bed);
}
