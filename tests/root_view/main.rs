//! Views of the system, from inside: the launcher runs a plan that has one, and the engine looks around.
//!
//! Needs root, because it mounts; says so and does nothing otherwise. Every mount is in a namespace of the launcher's.
#![cfg(test)]

#[path = "../root_launcher/bed.rs"]
#[expect(dead_code, reason = "the launcher's own tests use the rest")]
mod bed;
mod cost;
mod phases;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use bed::{Ended, GID, UID, order, root, vassals};
use emperor::vassal::plan::{LaunchPlan, Op, Step, VassalOrder};
use emperor::vassal::terms::Level;
use emperor::vassal::terms::view::{Around, View};

/// A plan of the shell `script`, in `dir`, as the tenant, in this view.
fn plan(dir: &Path, view: &View, script: &str) -> LaunchPlan {
    let around = Around {
        directory: dir.as_os_str().into(),
        file: dir.join("a.ini").as_os_str().into(),
        uid: Some(UID),
        needs: Vec::new(),
    };
    VassalOrder { tyrant: bed::tyrant(), view: view.clone(), around, ..order(dir, script) }.plan()
}

/// Runs a plan; where it wants to be process 1 of a pid namespace, `unshare` forks it into one.
fn launch_cloned(plan: &LaunchPlan) -> Ended {
    if !plan.needs_pid_namespace() {
        return bed::launch(plan);
    }
    bed::launch_by("unshare", &["--pid", "--fork", env!("CARGO_BIN_EXE_emperor")], plan)
}

fn look(dir: &Path, view: &View, script: &str) -> Ended {
    launch_cloned(&plan(dir, view, script))
}

/// The same with the rights of root: who may do everything that a view leaves to do.
fn look_as_root(dir: &Path, view: &View, script: &str) -> Ended {
    let mut plan = plan(dir, view, script);
    let of_tenant = |op: &Op| {
        matches!(
            op,
            Op::VerifyOwner(_) | Op::SetGroup(_) | Op::SetGroups(_) | Op::SetUser(_) | Op::OwnUsers(_)
        )
    };
    plan.ops.retain(|op| !of_tenant(op));
    launch_cloned(&plan)
}

/// What a shell says of writing to a path, and of reading it.
fn tries(paths: &[&str]) -> String {
    let each = |path: &&str| format!("try {path}; ");
    format!(
        "try() {{ if [ -d $1 ]; then (: > $1/.probe && rm $1/.probe) 2>&1; ls $1 > /dev/null; \
         else (: >> $1) 2>&1; cat $1 > /dev/null; fi 2>&1 | sed \"s|^|$1 |\"; }}; {}",
        paths.iter().map(each).collect::<String>()
    )
}

#[test]
fn root_standard_leaves_the_host_to_read_and_nothing_of_the_others() {
    if !root() {
        return;
    }
    let dir = vassals();
    let script = format!(
        "{} echo dev: $(ls /dev); echo root: $(ls -A /root); echo home: $(ls -A /home); echo tmp: $(ls -A /tmp); \
         echo x > /tmp/.probe && echo y > /dev/shm/.probe && cat a.ini; echo pids: $(ls /proc | grep -c '^[0-9]'); \
         pwd; echo group: $(cut -d: -f3 /proc/self/cgroup | sort -u); cat /dev/zero | head -c1 | wc -c",
        tries(&["/usr", "/etc", "/proc/sys/kernel/hostname", "/sys", "/proc/kallsyms", "/proc/keys", "/dev"])
    );
    let ended = look_as_root(dir.path(), &View::level(Level::Standard), &script);
    for path in ["/usr", "/etc", "/proc/sys/kernel/hostname", "/sys", "/dev"] {
        let refused =
            ended.out.lines().any(|line| line.starts_with(path) && line.contains("Read-only file system"));
        assert!(refused, "{path}: {ended:#?}");
    }
    for path in ["/proc/kallsyms", "/proc/keys"] {
        let refused =
            ended.out.lines().any(|line| line.starts_with(path) && line.contains("Permission denied"));
        assert!(refused, "{path}: {ended:#?}");
    }
    assert!(ended.told("dev:").starts_with("fd full"), "{ended:#?}");
    assert!(!ended.told("dev:").contains("vd") && !ended.told("dev:").contains("mem"), "{ended:#?}");
    assert_eq!(ended.told("root:"), "");
    assert_eq!(ended.told("home:"), "");
    let own = dir.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(ended.told("tmp:"), own, "its own directory stays where others are hidden");
    assert_eq!(ended.told("group:"), "/");
    assert!(ended.out.contains("[uwsgi]") && ended.out.contains(dir.path().to_str().unwrap()), "{ended:#?}");
    assert_eq!(ended.out.lines().last(), Some("1"), "devices work: {ended:#?}");
    let pids: u32 = ended.told("pids:").parse().unwrap();
    assert!((2..9).contains(&pids), "{ended:#?}");
    assert!(!Path::new("/tmp/.probe").exists() && !Path::new("/dev/shm/.probe").exists());
    let ended = look(
        dir.path(),
        &View::level(Level::Standard),
        "ls /proc | grep '^[0-9]' | head -1; cat /proc/1/stat",
    );
    assert!(
        ended.out.starts_with("2\n") && ended.err.contains("/proc/1/stat"),
        "process 1 is root's: {ended:#?}"
    );
}

#[test]
fn root_strict_is_a_root_of_its_own_without_a_network() {
    if !root() {
        return;
    }
    let dir = vassals();
    let app = tempfile::tempdir_in("/var/lib").unwrap();
    fs::set_permissions(app.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir(app.path().join("data")).unwrap();
    chown(app.path().join("data"), Some(UID), Some(GID)).unwrap();
    fs::write(app.path().join("code"), "code\n").unwrap();
    let at = app.path().to_str().unwrap();
    let mut view = View::level(Level::Strict);
    view.paths = rules(&format!(
        "bind-read-only = {at}:/app\nread-write-paths = {at}/data\nbind = {at}/data:/app/data\n"
    ));
    let script = format!(
        "echo top: $(ls /); echo etc: $(ls /etc | grep -c shadow); cat /app/code; echo z > /app/data/z && cat {at}/data/z; \
         touch /app/w /etc/w /w a.new; echo lo: $(cat /proc/net/dev | grep -c :); \
         python3 -c \"import socket; s=socket.create_server(('127.0.0.1',0)); socket.create_connection(s.getsockname()); print('loopback')\"; \
         echo id: $(id -u) $(id -g); echo map: $(cat /proc/self/uid_map); ls -nd /usr | cut -d' ' -f3; \
         echo sys: $(ls -d /sys /run 2>/dev/null)"
    );
    let ended = look(dir.path(), &view, &script);
    assert_eq!(ended.told("top:"), "app bin dev etc lib lib64 proc sbin tmp usr var", "{ended:#?}");
    assert_eq!(ended.told("etc:"), "0");
    assert!(ended.out.contains("code\nz\n") && ended.out.contains("loopback\n"), "{ended:#?}");
    assert_eq!(ended.told("lo:"), "1", "{ended:#?}");
    assert_eq!(ended.told("id:"), format!("{UID} {GID}"));
    assert_eq!(
        ended.told("map:").split_whitespace().collect::<Vec<_>>(),
        [&UID.to_string(), &UID.to_string(), "1"]
    );
    assert!(ended.out.contains("\n65534\n"), "root is nobody in there: {ended:#?}");
    assert_eq!(ended.told("sys:"), "");
    for path in ["/app/w", "/etc/w", "/w", "a.new"] {
        assert!(
            ended.err.contains(&format!("cannot touch '{path}': Read-only file system")),
            "{path} {ended:#?}"
        );
    }
    assert_eq!(fs::read_to_string(app.path().join("data/z")).unwrap(), "z\n");
}

/// The path rules of these lines.
fn rules(lines: &str) -> Vec<emperor::vassal::terms::view::PathRule> {
    use emperor::config::{Limits, Loader, Machine, Mode};
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.ini"), format!("[uwsgi]\n{lines}")).unwrap();
    let world = Machine::new().in_directory(dir.path());
    let words = ["--ini", "a.ini"].map(std::ffi::OsString::from);
    let config = Loader::new(&world, Limits::default()).load(&words, &[], Mode::Vassal).unwrap();
    View::read(emperor::vassal::terms::Asked(&config), Level::None).unwrap().paths
}

fn as_tenant(lines: &str) -> View {
    View { paths: rules(lines), ..View::default() }.of_tenant(UID, GID).unwrap()
}

#[test]
fn root_a_tenant_opens_only_what_is_its_own_whatever_the_way() {
    if !root() {
        return;
    }
    let dir = vassals();
    let base = vassals();
    let at = base.path().to_str().unwrap();
    for (name, uid) in [("his", UID), ("other", UID + 1)] {
        fs::create_dir(base.path().join(name)).unwrap();
        fs::write(base.path().join(name).join("f"), name).unwrap();
        chown(base.path().join(name), Some(uid), Some(uid)).unwrap();
    }
    let locked = base.path().join("locked");
    fs::create_dir_all(locked.join("his")).unwrap();
    chown(locked.join("his"), Some(UID), Some(GID)).unwrap();
    fs::set_permissions(&locked, PermissionsExt::from_mode(0o700)).unwrap();
    for (link, to) in [("shadow", "/etc/shadow"), ("self", "/proc/self/root"), ("others", "../other")] {
        symlink(to, base.path().join("his").join(link)).unwrap();
        std::os::unix::fs::lchown(base.path().join("his").join(link), Some(UID), Some(GID)).unwrap();
    }
    symlink(base.path().join("his"), base.path().join("foreign")).unwrap();
    std::os::unix::fs::lchown(base.path().join("foreign"), Some(UID + 1), None).unwrap();

    let ended = look(
        dir.path(),
        &as_tenant(&format!("bind = {at}/his:/mnt\n")),
        "cat /mnt/f; grep ' /usr\\| / ' /proc/self/mountinfo",
    );
    assert!(ended.out.starts_with("his"), "{ended:#?}");
    assert!(
        ended.out.contains("nosuid"),
        "a tenant's word in the view takes set-id programs away: {ended:#?}"
    );
    for (source, why) in [
        (format!("{at}/other"), "it belongs to uid 12346"),
        (format!("{at}/his/shadow"), "it belongs to uid 0"),
        (format!("{at}/his/others"), "it belongs to uid 12346"),
        (format!("{at}/his/self"), "it belongs to uid 0"),
        (format!("{at}/locked/his"), "Permission denied"),
        (format!("{at}/foreign"), "belongs to uid 12346, who could lead it anywhere"),
        ("/etc".into(), "it belongs to uid 0"),
        (format!("{at}/none"), "No such file"),
    ] {
        for option in ["bind", "read-write-paths"] {
            let to = if option == "bind" { ":/mnt" } else { "" };
            let ended = look(dir.path(), &as_tenant(&format!("{option} = {source}{to}\n")), "echo started");
            assert_eq!(ended.out, "", "{option} {source}: {ended:#?}");
            let (step, object, _) = ended.failure();
            assert_eq!((step, object.contains(&source)), (Step::View, true), "{ended:#?}");
            assert!(format!("{:?}", ended.reports).contains(why), "{option} {source} {why}: {ended:#?}");
        }
    }
    let ended = look(dir.path(), &as_tenant(&format!("bind = -{at}/none:/mnt\n")), "echo started");
    assert_eq!(ended.out, "started\n", "{ended:#?}");
}

#[test]
fn root_a_target_is_no_way_out_and_no_directory_is_made_on_the_host() {
    if !root() {
        return;
    }
    let (dir, base) = (vassals(), vassals());
    let at = base.path().to_str().unwrap();
    let his = base.path().join("his");
    fs::create_dir(&his).unwrap();
    symlink("/etc", his.join("etc")).unwrap();
    std::os::unix::fs::lchown(his.join("etc"), Some(UID + 1), None).unwrap();
    chown(&his, Some(UID), Some(GID)).unwrap();
    for (target, why) in
        [(format!("{at}/his/etc"), "belongs to uid 12346"), (format!("{at}/fresh/dir"), "No such file")]
    {
        let ended = look(dir.path(), &as_tenant(&format!("bind = {at}/his:{target}\n")), "echo started");
        assert_eq!(ended.failure().0, Step::View);
        assert!(format!("{:?}", ended.reports).contains(why), "{ended:#?}");
    }
    assert!(!base.path().join("fresh").exists());
}

#[test]
fn root_the_working_directory_is_no_back_door() {
    if !root() {
        return;
    }
    let dir = vassals();
    let view = View { protect_system: emperor::vassal::terms::view::System::Strict, ..View::default() };
    let ended = look_as_root(dir.path(), &view, "touch x; : > /dev/null && touch /usr/x; pwd");
    assert!(ended.err.contains("cannot touch 'x': Read-only"), "{ended:#?}");
    assert!(ended.err.contains("cannot touch '/usr/x': Read-only"), "{ended:#?}");
    assert_eq!(ended.out.trim(), dir.path().to_str().unwrap());
    assert!(!dir.path().join("x").exists());
    let lines = format!(
        "read-write-paths = {}\ninaccessible-paths = /etc/passwd /srv -/none\nread-only-paths = /var/tmp\n",
        dir.path().display()
    );
    let view = View { paths: rules(&lines), ..view };
    let ended = look_as_root(
        dir.path(),
        &view,
        "touch x && echo written; cat /etc/passwd; ls -A /srv | wc -l; touch /srv/x /var/tmp/x",
    );
    assert_eq!(ended.out, "written\n0\n", "{ended:#?}");
    for what in ["/etc/passwd: Permission denied", "'/srv/x': Read-only", "'/var/tmp/x': Read-only"] {
        assert!(ended.err.contains(what), "{what} {ended:#?}");
    }
}

#[test]
fn root_the_groups_of_a_user_are_those_of_the_system_and_not_of_the_view() {
    if !root() {
        return;
    }
    let dir = vassals();
    let base = vassals();
    let passwd = base.path().join("passwd");
    fs::write(&passwd, "nobody:x:65534:0::/:/bin/sh\n").unwrap();
    let view =
        View { paths: rules(&format!("bind = {}:/etc/passwd\n", passwd.display())), ..View::default() };
    let mut plan = plan(dir.path(), &view, "id -G; cat /etc/passwd");
    for op in &mut plan.ops {
        if let Op::SetGroups(groups) = op {
            *groups = emperor::vassal::plan::Groups::OfUser(bed::NOBODY);
        }
    }
    let ended = launch_cloned(&plan);
    assert_eq!(ended.out, format!("{GID} {}\nnobody:x:65534:0::/:/bin/sh\n", bed::NOBODY), "{ended:#?}");
}

fn pids() -> View {
    View { private_pids: true, ..View::default() }
}

#[test]
fn root_process_1_hands_on_signals_and_the_status_and_reaps() {
    if !root() {
        return;
    }
    let dir = vassals();
    let ended = look_as_root(dir.path(), &pids(), "echo $$ $PPID; exit 42");
    assert_eq!((ended.out.as_str(), ended.status), ("2 1\n", Some(42)));
    assert_eq!(look_as_root(dir.path(), &pids(), "kill -KILL $$").status, Some(128 + 9));
    assert_eq!(look_as_root(dir.path(), &pids(), "kill -36 $$").status, Some(128 + 36), "a real-time signal");
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "WINCH", "CONT", "40"] {
        let script = format!(
            "trap 'echo got; exit 3' {signal}; kill -{signal} 1; for i in $(seq 2000); do sleep 0.01; done"
        );
        let ended = look_as_root(dir.path(), &pids(), &script);
        assert_eq!((ended.out.as_str(), ended.status), ("got\n", Some(3)), "{signal}");
    }
    let orphan = "sh -c 'sleep 0.02 & echo $! > o'; p=$(cat o); \
        for i in $(seq 1000); do [ -e /proc/$p ] || { echo reaped; exit; }; sleep 0.01; done";
    assert_eq!(look_as_root(dir.path(), &pids(), orphan).out, "reaped\n");
    // A signal to the program's own group comes once.
    let group = "trap 'echo got' USR1; kill -USR1 0; sleep 0.1; echo end";
    assert_eq!(look_as_root(dir.path(), &pids(), group).out, "got\nend\n");
}

#[test]
fn root_process_1_holds_next_to_nothing() {
    if !root() {
        return;
    }
    let dir = vassals();
    // What counts is a release build. Without optimisation relocations and the functions that run take three times as
    // much and grow with the program; a process 1 that gives nothing back holds more than 8 MiB.
    let most = if cfg!(debug_assertions) { 4096 } else { 1024 };
    let script = format!(
        "for i in $(seq 500); do n=$(awk '/^Rss:/ {{print $2}}' /proc/1/smaps_rollup); \
         [ $n -lt {most} ] && break; sleep 0.01; done; echo rss=$n; echo fds=$(ls /proc/1/fd | wc -l); \
         echo cwd=$(readlink /proc/1/cwd); grep 'Cap\\|NoNew' /proc/1/status"
    );
    let ended = look_as_root(dir.path(), &pids(), &script);
    let kib: u32 = ended.told("rss=").parse().unwrap();
    println!("process 1: {kib} KiB resident");
    assert!(kib < most, "{ended:#?}");
    assert_eq!(ended.told("fds="), "0");
    assert_eq!(ended.told("cwd="), "/");
    for (set, bits) in [("CapPrm:", 1 << 5), ("CapEff:", 1 << 5), ("CapBnd:", 0), ("CapAmb:", 0)] {
        assert_eq!(u64::from_str_radix(&ended.told(set), 16).unwrap(), bits, "{set}");
    }
    assert_eq!(ended.told("NoNewPrivs:"), "1");
}
