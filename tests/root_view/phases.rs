//! uWSGI's own options of jails, for a command vassal.

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use emperor::config::{Limits, Loader, Machine, Mode};
use emperor::vassal::plan::{Step, VassalOrder};
use emperor::vassal::terms::Asked;
use emperor::vassal::terms::phases::Phases;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::bed::{Ended, order, root, vassals};
use super::launch_cloned;

fn phases(lines: &str) -> Phases {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.ini"), format!("[uwsgi]\n{lines}")).unwrap();
    let world = Machine::new().in_directory(dir.path());
    let words = ["--ini", "a.ini"].map(std::ffi::OsString::from);
    let config = Loader::new(&world, Limits::default()).load(&words, &[], Mode::Vassal).unwrap();
    Phases::read(Asked(&config)).unwrap()
}

fn run(dir: &Path, lines: &str, script: &str) -> Ended {
    launch_cloned(&VassalOrder { phases: phases(lines), ..order(dir, script) }.plan())
}

/// A directory with a shell and its libraries, by links into what is mounted at `usr`.
fn jail() -> tempfile::TempDir {
    let jail = vassals();
    for name in ["usr", "proc", "old", "srv", "tmp"] {
        fs::create_dir(jail.path().join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), jail.path().join(name)).unwrap();
    }
    jail
}

#[test]
fn root_a_chroot_leaves_no_directory_outside_and_hooks_mount_in_the_vassals_namespace() {
    if !root() {
        return;
    }
    let (dir, jail) = (vassals(), jail());
    let at = jail.path().to_str().unwrap();
    let lines = format!(
        "unshare = fs,uts\nhook-post-jail = mount:none /usr {at}/usr bind,ro\nhook-post-jail = hostname:box\n\
         chroot = {at}\nhook-in-jail = create:/srv/in-jail\nhook-as-root = mount:tmpfs none /tmp\n\
         exec-as-root = echo command\nchdir = /srv\n"
    );
    let ended = run(
        dir.path(),
        &lines,
        "pwd; ls / /srv; cd ..; cd ..; ls -d /etc; : > /tmp/x; touch /usr/x; uname -n",
    );
    assert!(
        ended
            .out
            .starts_with("command\n/srv\n/:\nbin\nlib\nlib64\nold\nproc\nsrv\ntmp\nusr\n\n/srv:\nin-jail\n"),
        "{ended:#?}"
    );
    assert!(ended.out.ends_with("box\n") && ended.err.contains("'/usr/x': Read-only"), "{ended:#?}");
    assert!(ended.err.contains("cannot access '/etc'"), "{ended:#?}");
    assert_eq!(fs::read_dir(jail.path().join("usr")).unwrap().count(), 0, "nothing was mounted on the host");
    assert_eq!(fs::read_dir(jail.path().join("tmp")).unwrap().count(), 0);
    let missing = run(dir.path(), "chroot = /nonexistent/jail\n", "true");
    assert_eq!(missing.failure(), (Step::Root, "is /nonexistent/jail".into(), nix::libc::ENOENT));
}

#[test]
fn root_parity_the_documented_recipe_of_pivot_root_works() {
    if !root() {
        return;
    }
    let (dir, jail) = (vassals(), jail());
    let at = jail.path().to_str().unwrap();
    let lines = format!(
        "unshare = fs,ipc,uts,pid\nhook-post-jail = mount:none {at} {at} bind\nhook-post-jail = mount:none /usr {at}/usr bind\n\
         pivot-root = {at} {at}/old\nhook-as-root = mount:proc none /proc nodev,nosuid,noexec hidepid=2\n\
         hook-as-root = umount:/old rec,detach\n"
    );
    let ended =
        run(dir.path(), &lines, "pwd; ls /old | wc -l; ls /etc; echo $$ $PPID; ls /proc | grep -c '^[0-9]'");
    assert!(ended.out.starts_with("/\n0\n2 1\n"), "{ended:#?}");
    assert!(ended.err.contains("cannot access '/etc'"), "{ended:#?}");
}

#[test]
fn root_parity_a_namespace_is_a_root_with_what_is_kept() {
    if !root() {
        return;
    }
    let (dir, jail) = (vassals(), jail());
    let at = jail.path().to_str().unwrap();
    fs::create_dir(jail.path().join("data")).unwrap();
    fs::set_permissions(jail.path().join("data"), PermissionsExt::from_mode(0o755)).unwrap();
    let lines = format!("namespace = {at}:box\nnamespace-keep-mount = /usr\nnamespace-net = true\n");
    let ended = run(
        dir.path(),
        &lines,
        "pwd; uname -n; ls /; echo $$; cut -d ' ' -f 5 /proc/self/mountinfo; \
        grep -c : /proc/net/dev; touch /data/made",
    );
    let expected = "/\nbox\nbin\ndata\nlib\nlib64\nold\nproc\nsrv\ntmp\nusr\n2\n/\n/proc\n/usr\n1\n";
    let mut lines: Vec<&str> = ended.out.lines().collect();
    lines[12..15].sort_unstable();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>(), "{ended:#?}");
    assert!(jail.path().join("data/made").exists());
}

#[test]
fn root_parity_the_namespaces_of_a_setns_socket_are_joined_in_their_order() {
    if !root() {
        return;
    }
    let dir = vassals();
    let path = dir.path().join("s");
    let server = UnixListener::bind(&path).unwrap();
    let serve = |greeting: &'static [u8]| {
        let server = server.try_clone().unwrap();
        std::thread::spawn(move || {
            let uts: OwnedFd = fs::File::open("/proc/thread-self/ns/uts").unwrap().into();
            let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS);
            nix::unistd::sethostname("joined").unwrap();
            let own: OwnedFd = fs::File::open("/proc/thread-self/ns/uts").unwrap().into();
            let (client, _) = server.accept().unwrap();
            let text = [greeting, &2_i32.to_ne_bytes()].concat();
            let fds = [uts.as_raw_fd(), own.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(&text)], &rights, MsgFlags::empty(), None)
                .unwrap();
        })
    };
    let thread = serve(b"uwsgi-setns");
    let ended = run(dir.path(), &format!("setns = {}\n", path.display()), "uname -n");
    thread.join().unwrap();
    assert_eq!(ended.out, "joined\n", "{ended:#?}");
    let thread = serve(b"other-setns");
    let ended = run(dir.path(), &format!("setns = {}\n", path.display()), "uname -n");
    thread.join().unwrap();
    assert_eq!(ended.failure().0, Step::JoinNamespaces, "{ended:#?}");
}
