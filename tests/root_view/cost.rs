//! What a view costs at a start, beside bubblewrap: figures for a person, no verdict.
//!
//! `cargo nextest run --release --test root_view --run-ignored all --no-capture cost`

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use emperor::sys::fds;
use emperor::sys::spawn::{CStrings, Candidate, Groups, Program, Spawner};
use emperor::sys::wait;
use emperor::vassal::plan::{Exec, LaunchPlan, VassalOrder};
use emperor::vassal::terms::Level;
use emperor::vassal::terms::view::{Around, View};

use super::bed::{self, UID, order, root, vassals};

/// Starts of each kind, one of each after the other.
const ROUNDS: usize = 200;
/// `standard`, as near as bubblewrap comes to it.
const BWRAP: &str = "--unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup --ro-bind / / --dev /dev --proc /proc \
    --tmpfs /tmp --tmpfs /var/tmp --tmpfs /home --tmpfs /root --tmpfs /run/user --ro-bind /sys /sys";
/// `strict`, likewise.
const BWRAP_STRICT: &str = "--unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup --unshare-net --ro-bind /usr /usr \
    --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/sbin /sbin --dev /dev \
    --proc /proc --tmpfs /tmp --tmpfs /var/tmp --ro-bind /etc/passwd /etc/passwd --ro-bind /etc/group /etc/group \
    --ro-bind /etc/hosts /etc/hosts --ro-bind /etc/resolv.conf /etc/resolv.conf --ro-bind /etc/ssl/certs /etc/ssl/certs \
    --ro-bind /etc/ld.so.cache /etc/ld.so.cache --ro-bind /etc/nsswitch.conf /etc/nsswitch.conf";

fn of_launcher(spawner: &mut Spawner, plan: &LaunchPlan) -> Duration {
    let began = Instant::now();
    let sealed = plan.seal().unwrap();
    let (mut ours, link) = UnixStream::pair().unwrap();
    let path = CString::new(env!("CARGO_BIN_EXE_emperor")).unwrap();
    let arguments = CStrings::new([c"emperor", c"vassal", c"--plan"].map(CString::from).into());
    let nothing = CStrings::new(Vec::new());
    let child = spawner
        .spawn(&Program {
            candidates: &[Candidate { path: &path, arguments: &arguments }],
            environment: &nothing,
            passed: [Some(link.as_fd()), Some(sealed.as_fd()), None],
            new_pid_namespace: plan.needs_pid_namespace(),
            cwd: None,
            stdin: None,
            kept: &[],
            parent_death_signal: 0,
            own_group: false,
            groups: Groups::default(),
        })
        .unwrap();
    drop(link);
    let mut said = [0; 4]; // three bytes of the launcher, one of the program
    ours.read_exact(&mut said).unwrap();
    let took = began.elapsed();
    assert_eq!(said, [0xf0, 0, 0, b'x']);
    wait::reap_ending(child.pidfd.as_fd()).unwrap();
    took
}

fn of_command(program: &str, arguments: &str) -> Duration {
    let began = Instant::now();
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).args(["/bin/sh", "-c", "echo x"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let took = began.elapsed();
    assert!(child.wait().unwrap().success(), "{program} {arguments}");
    took
}

#[test]
#[ignore = "takes a while, and prints figures for a person"]
fn root_cost_of_a_view_beside_bubblewrap() {
    if !root() {
        return;
    }
    let dir = vassals();
    let around = Around {
        directory: dir.path().as_os_str().into(),
        file: dir.path().join("a.ini").as_os_str().into(),
        uid: Some(UID),
        needs: Vec::new(),
    };
    let plan = |level: Option<Level>| {
        let args = vec!["-c".into(), "echo x >&3".into()];
        let exec = Exec { programs: vec!["/bin/sh".into()], args, magic: None };
        let view = level.map(View::level).unwrap_or_default();
        let around = around.clone();
        VassalOrder { tyrant: bed::tyrant(), view, around, exec, ..order(dir.path(), "") }.plan()
    };
    let plans = [None, Some(Level::Standard), Some(Level::Strict)].map(plan);
    let has_bwrap = Command::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok();
    let mut spawner = Spawner::new(fds::reserve(|_, _| ()).unwrap(), None).unwrap();
    let mut times: Vec<(&str, Vec<Duration>)> =
        ["bare", "launcher", "standard", "strict", "bwrap", "bwrap strict"]
            .into_iter()
            .map(|name| (name, Vec::new()))
            .collect();
    for _ in 0..ROUNDS {
        times[0].1.push(of_command("/usr/bin/env", ""));
        for (at, plan) in plans.iter().enumerate() {
            times[1 + at].1.push(of_launcher(&mut spawner, plan));
        }
        if has_bwrap {
            times[4].1.push(of_command("bwrap", BWRAP));
            times[5].1.push(of_command("bwrap", BWRAP_STRICT));
        }
    }
    for (name, times) in &mut times {
        times.sort_unstable();
        if let Some(median) = times.get(times.len() / 2) {
            println!("{name}: {median:?} until the program has written a byte");
        }
    }
}
