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
use support::{Bed, PATIENCE, poll, root};

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

/// A program in place of an engine that runs a script of Python's as the tenant; what it prints is `told` below.
fn engine(bed: &Bed, script: &str) -> PathBuf {
    bed.write("engine.py", script);
    let (python, out) = (bed.path("engine.py"), bed.path("log/told"));
    let body = format!(
        "python3 {0} > {1}.part 2>&1; mv {1}.part {1}; exec sleep 1000",
        python.display(),
        out.display()
    );
    bed.shell("engine", &body)
}

fn told(bed: &Bed) -> String {
    let text = || fs::read_to_string(bed.path("log/told")).ok();
    poll(PATIENCE, text).unwrap_or_else(|| panic!("the engine says nothing\n{}", bed.report()))
}

/// Whether Python is there, to call the kernel with.
fn python() -> bool {
    let there = support::tools::on_path("python3").is_some();
    if !there {
        support::skip("python3 is not installed");
    }
    there
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

#[test]
fn root_a_link_to_anothers_file_does_not_make_one_run_as_him() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let home = home(&bed, "victim", VICTIM);
    fs::write(home.join("notes.ini"), "[uwsgi]\n").unwrap();
    own(home.join("notes.ini"), VICTIM);
    // Mallory's link at once; Mallory's behind root's; Mallory's directory on the way.
    for (name, to, owner) in [
        ("v/a.ini", home.join("notes.ini"), MALLORY),
        ("second", home.join("notes.ini"), MALLORY),
        ("v/b.ini", bed.path("second"), 0),
        ("dir", home.clone(), MALLORY),
        ("v/c.ini", bed.path("dir/notes.ini"), 0),
        ("third", home.join("notes.ini"), VICTIM),
        ("v/fine.ini", bed.path("third"), 0),
    ] {
        symlink(to, bed.path("link")).unwrap();
        own(bed.path("link"), owner);
        fs::rename(bed.path("link"), bed.path(name)).unwrap();
    }
    let mut emperor = tyrant(&bed).start();
    for (name, link) in [("a", "a.ini"), ("b", "second"), ("c", "dir")] {
        let line =
            emperor.wait_log(&format!("vassal {name}.ini cannot be started: cannot confirm the owner"));
        assert!(line.contains(&format!("{link} belongs to uid {MALLORY}")), "{line}");
    }
    bed.started("fine.ini", 1);
    goes_on(&bed, &mut emperor);
    let names = bed.log().names();
    assert!(!names.iter().any(|name| ["a.ini", "b.ini", "c.ini"].contains(&name.as_str())), "{names:?}");
    emperor.stop(&bed);
}

#[test]
fn root_a_vassal_shares_no_terminal_with_root() {
    if !root() || !python() {
        return;
    }
    let bed = Bed::new();
    let engine = engine(
        &bed,
        "import os, fcntl, termios
try: fd = os.open('/dev/tty', os.O_RDWR); print('a terminal')
except OSError as e: print('none')
for fd in (1, 2):
    mode = fcntl.fcntl(int(os.environ.get('FD', 2)), fcntl.F_GETFL) & os.O_ACCMODE
    print('readable' if mode != os.O_WRONLY else 'write only')
",
    );
    vassal(&bed, "a.ini", MALLORY);
    let mut builder = Builder::bare(&bed, Kind::Ours).flag("emperor-tyrant").on(bed.v());
    // The engine's own standard error goes to its file: descriptor 9 is the emperor's.
    let body = fs::read_to_string(&engine).unwrap().replace("python3", "exec 9>&2; FD=9 python3");
    let engine = bed.shell("engine9", body.trim_start_matches("#!/bin/sh\n"));
    builder = builder.opt("emperor-wrapper", engine);
    for word in ["python3", "-c", "import pty, sys; pty.spawn(sys.argv[1:])"] {
        builder = builder.before(word);
    }
    let emperor = builder.start();
    assert_eq!(told(&bed), "none\nwrite only\nwrite only\n", "{}", bed.report());
    drop(emperor);
}

#[test]
fn root_a_vassal_has_none_of_roots_keys() {
    if !root() || !python() {
        return;
    }
    const CALL: &str = "import ctypes, os, platform, sys
c = ctypes.CDLL(None, use_errno=True)
ADD, CTL = {'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]
";
    let bed = Bed::new();
    let engine = engine(
        &bed,
        &format!(
            "{CALL}
key = c.syscall(CTL, 10, -3, b'user', b'emperor-test', 0)
text = ctypes.create_string_buffer(64)
n = c.syscall(CTL, 11, key, text, 64) if key >= 0 else -1
print(text.value if n >= 0 else 'nothing')
"
        ),
    );
    vassal(&bed, "a.ini", MALLORY);
    let with_key = format!(
        "{CALL}
c.syscall(CTL, 1, None)
if c.syscall(ADD, b'user', b'emperor-test', b'secret', 6, -3) < 0: print('no keys here')
os.execv(sys.argv[1], sys.argv[1:])
"
    );
    let mut builder = Builder::bare(&bed, Kind::Ours).flag("emperor-tyrant").on(bed.v());
    builder = builder.opt("emperor-wrapper", engine);
    for word in ["python3", "-c", &with_key] {
        builder = builder.before(word);
    }
    let emperor = builder.start();
    if emperor.log().contains("no keys here") {
        return support::skip("this kernel has no keyrings");
    }
    assert_eq!(told(&bed), "nothing\n", "{}", bed.report());
    emperor.stop(&bed);
}

#[test]
fn root_a_vassal_cannot_read_the_log_of_the_others() {
    if !root() || !python() {
        return;
    }
    let bed = Bed::new();
    let engine = engine(
        &bed,
        "import os
try: print(os.pread(9, 10, 0))
except OSError as e: print('not readable')
try: print(os.open('/proc/self/fd/9', os.O_RDONLY))
except OSError as e: print('not to be opened')
",
    );
    let body = fs::read_to_string(&engine).unwrap().replace("python3", "exec 9>&2; python3");
    let engine = bed.shell("engine9", body.trim_start_matches("#!/bin/sh\n"));
    vassal(&bed, "a.ini", MALLORY);
    let log = bed.path("the.log");
    let emperor = Builder::bare(&bed, Kind::Ours)
        .flag("emperor-tyrant")
        .on(bed.v())
        .opt("logto", &log)
        .opt("emperor-wrapper", engine)
        .start();
    assert_eq!(told(&bed), "not readable\nnot to be opened\n", "{}", bed.report());
    emperor.stop(&bed);
}

#[test]
fn root_names_stay_on_their_line_and_hooks_get_them_as_they_are() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let hook = bed
        .shell("hook", &format!("printf %s \"$UWSGI_VASSAL_CONFIG\" > {}", bed.path("log/hooked").display()));
    let name = std::ffi::OsStr::from_bytes(b"--a $(id)\n\x1b[2J;\xff.ini");
    let fresh = bed.write("fresh", "[uwsgi]\n");
    own(&fresh, MALLORY);
    fs::rename(fresh, bed.v().join(name)).unwrap();
    let mut emperor = tyrant(&bed).opt("exec-as-emperor", hook).start();
    emperor.wait_log("is now loyal");
    let hooked = poll(PATIENCE, || fs::read(bed.path("log/hooked")).ok().filter(|text| !text.is_empty()));
    assert_eq!(hooked.as_deref(), Some(name.as_bytes()));
    let log = emperor.log();
    assert!(
        !log.contains('\x1b') && log.lines().all(|line| line.contains(" 20") || line.starts_with("running")),
        "{log}"
    );
    assert!(log.contains("--a $(id)\\n\\u{1b}[2J;\\xff.ini"), "{log}");
    goes_on(&bed, &mut emperor);
    emperor.stop(&bed);
}

/// What a vassal says on its link, however much and whatever it is, harms nobody else.
#[test]
fn root_floods_reports_of_its_own_and_descriptors_on_the_link() {
    if !root() || !python() {
        return;
    }
    let bed = Bed::new();
    let mallory = engine(
        &bed,
        "import os, socket, array, time
link = socket.socket(fileno=3)
report = b'{\"step\":\"exec\",\"object\":\"x\\\\n[emperor] vassal good.ini is now loyal\",\"errno\":0,\"cause\":\"\\\\u001b[2J\"}'
link.send(b'\\xf1' + len(report).to_bytes(2, 'little') + report)
link.send(b'\\xf1\\xff\\xff' + b'x' * 70000)
null = os.open('/dev/null', os.O_RDONLY)
for n in range(2000):
    link.sendmsg([bytes([n % 256])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [null] * 8))])
link.send(bytes(range(256)) * 4096)
link.send(bytes([30, 22 + 4, 5]) * 100000)
print('said')
",
    );
    vassal(&bed, "a.ini", MALLORY);
    let wrapper = bed.shell(
        "wrapper",
        &format!(
            "[ \"$2\" = a.ini ] && exec {} \"$@\"; exec {} \"$@\"",
            mallory.display(),
            bed.witness().display()
        ),
    );
    let builder = Builder::bare(&bed, Kind::Ours)
        .flag("emperor-tyrant")
        .opt("emperor-broodlord", "4")
        .opt("emperor-stop-timeout", "1");
    let mut emperor = builder.on(bed.v()).opt("emperor-wrapper", wrapper).start();
    assert_eq!(told(&bed), "said\n", "{}", bed.report());
    goes_on(&bed, &mut emperor);
    let open = fs::read_dir(format!("/proc/{}/fd", emperor.pid())).unwrap().count();
    assert!(open < 60, "{open} descriptors are open");
    let log = emperor.log();
    assert!(!log.contains('\x1b') && log.lines().count() < 200, "{log}");
    emperor.stop(&bed);
}

#[test]
fn root_a_directory_in_which_anybody_replaces_files_is_named() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    for (mode, owner, warned) in
        [(0o777, 0, true), (0o1777, 0, false), (0o755, MALLORY, true), (0o755, 0, false)]
    {
        own(bed.v(), owner);
        fs::set_permissions(bed.v(), PermissionsExt::from_mode(mode)).unwrap();
        let mut emperor = tyrant(&bed).start();
        goes_on(&bed, &mut emperor);
        let lines = emperor.lines("while").len();
        assert_eq!(lines, usize::from(warned), "{mode:o} {owner}\n{}", emperor.log());
        emperor.stop(&bed);
    }
}

#[test]
fn root_a_thousand_names_of_all_kinds_fill_neither_the_log_nor_the_time() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let mut emperor = tyrant(&bed).start();
    for n in 0..1000 {
        let fifo = bed.v().join(format!("fifo{n}.ini"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("/nowhere", bed.v().join(format!("link{n}.ini"))).unwrap();
    }
    goes_on(&bed, &mut emperor);
    emperor.wait_log("the others are counted only");
    let count = emperor.lines("is no vassal").len();
    assert_eq!(count, 100);
    emperor.stop(&bed);
}

/// A vassal's file that is changed over and over costs a few looks a second, and one at a time.
#[test]
fn root_a_file_that_changes_without_end_costs_a_few_looks() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let empty = bed.path("empty");
    fs::create_dir(&empty).unwrap();
    // An engine that is taken for uWSGI, so that its files are looked at.
    symlink(bed.witness(), empty.join("uwsgi")).unwrap();
    vassal(&bed, "a.ini", MALLORY);
    let builder = Builder::bare(&bed, Kind::Ours).flag("emperor-tyrant").on(bed.v());
    let mut emperor = builder.env("PATH", format!("{}:/usr/bin:/bin", empty.display())).start();
    emperor.wait_log("vassal a.ini is now loyal");
    let end = std::time::Instant::now() + Duration::from_secs(2);
    let judges = || {
        let children = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"judge" || word == b"--plan")
                && status.contains(&format!("PPid:\t{}\n", emperor.pid()))
        });
        children.count()
    };
    let mut most = 0;
    while std::time::Instant::now() < end {
        for _ in 0..100 {
            fs::write(bed.v().join("a.ini"), "[uwsgi]\n").unwrap();
        }
        most = most.max(judges());
    }
    assert!(most <= 1, "{most} at once");
    let told = emperor.lines("reload the uwsgi instance a.ini").len();
    assert!((1..=10).contains(&told), "{told}");
    goes_on(&bed, &mut emperor);
    emperor.stop(&bed);
}

/// A tenant may end his own vassal, and its launcher; nobody else, and not the emperor.
#[test]
fn root_a_tenant_signals_only_his_own() {
    if !root() || !python() {
        return;
    }
    let bed = Bed::new();
    vassal(&bed, "good.ini", VICTIM);
    let script = "import os, signal
for what, pid in [('emperor', os.getppid()), ('victim', int(open('/proc/self/environ') and os.environ['VICTIM']))]:
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGHUP):
        try: os.kill(pid, number); print('signalled', what, number)
        except PermissionError: pass
    try: open(f'/proc/{pid}/environ').read(); print('read', what)
    except PermissionError: pass
    try: os.listdir(f'/proc/{pid}/fd'); print('listed', what)
    except PermissionError: pass
print('done')
";
    let mallory = engine(&bed, script);
    let wrapper = bed.shell(
        "wrapper",
        &format!(
            "[ \"$2\" = a.ini ] && {{ export VICTIM=$(cat {0}); exec {1} \"$@\"; }}; echo $$ > {0}; exec {2} \"$@\"",
            bed.path("log/victim").display(),
            mallory.display(),
            bed.witness().display()
        ),
    );
    // The engine is a child of the emperor, and its script a grandchild.
    let text = fs::read_to_string(&mallory).unwrap().replace("python3", "export EMPEROR=$PPID; python3");
    let mallory = bed.shell("engine", text.trim_start_matches("#!/bin/sh\n"));
    assert!(mallory.exists());
    bed.write("engine.py", script.replace("os.getppid()", "int(os.environ['EMPEROR'])"));
    let builder = Builder::bare(&bed, Kind::Ours).flag("emperor-tyrant").on(bed.v());
    let mut emperor = builder.opt("emperor-wrapper", wrapper).opt("emperor-stop-timeout", "1").start();
    bed.started("good.ini", 1);
    vassal(&bed, "a.ini", MALLORY);
    assert_eq!(told(&bed), "done\n", "{}", bed.report());
    goes_on(&bed, &mut emperor);
    emperor.stop(&bed);
}
