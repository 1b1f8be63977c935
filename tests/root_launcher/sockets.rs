//! What a program finds of the listening sockets that it is given. Needs no root.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use emperor::vassal::plan::{Exec, Granted, Limit, Limits, Namespaces, Passing, Step, VassalOrder};
use emperor::vassal::terms::Privileges;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::bed::{Ended, launch_with, order, vassals};

/// Tells what it has, from within.
const TELL: &str = r#"
import os, socket, stat
for name in sorted(os.environ): print(f"{name}={os.environ[name]}")
print(f"me={os.getpid()}")
def mode(fd):
    try: return os.fstat(fd).st_mode
    except OSError: pass
for fd, mode in [(fd, mode(fd)) for fd in range(0, 30)]:
    if mode is None: continue
    if stat.S_ISSOCK(mode):
        there = socket.socket(fileno=os.dup(fd))
        listens = there.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        print(f"{fd}: {there.getsockname()} {listens} {os.get_blocking(fd)} {os.get_inheritable(fd)}")
    else: print(f"{fd}")
"#;

fn passing(numbers: &[i32]) -> Passing {
    Passing {
        numbers: numbers.to_vec(),
        names: numbers.iter().map(|number| format!("s{number}")).collect(),
        addresses: numbers.iter().map(|_| "somewhere".into()).collect(),
        stdin: None,
        silent: false,
        ..Passing::default()
    }
}

fn run(change: impl FnOnce(VassalOrder) -> VassalOrder) -> (Ended, String, String) {
    let dir = vassals();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(dir.path().join("s")).unwrap();
    fcntl(&tcp, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let environment = [("PATH", "/usr/bin:/bin"), ("LISTEN_PID", "1"), ("UWSGI_EMPEROR_FD", "3")];
    let order = VassalOrder {
        environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
        exec: Exec { programs: vec!["python3".into()], args: vec!["-c".into(), TELL.into()], magic: None },
        sockets: Some(passing(&[21, 20])),
        ..order(dir.path(), "")
    };
    let program = env!("CARGO_BIN_EXE_emperor");
    let plan = change(order).plan();
    let mut given = vec![(unix.as_fd(), 21)];
    given.extend([20, 22, 23, 24, 25, 26].map(|number| (tcp.as_fd(), number)));
    let ended = launch_with(program, &[], &plan, &given);
    let path = dir.path().join("s").display().to_string();
    (ended, format!("('127.0.0.1', {})", tcp.local_addr().unwrap().port()), path)
}

#[test]
fn sockets_are_at_three_and_up_the_link_behind_them_and_the_environment_says_so() {
    let (ended, tcp, unix) = run(|order| order);
    let lines: Vec<_> =
        ended.out.lines().filter(|line| !line.starts_with("LC_") && !line.starts_with("PWD")).collect();
    let me = ended.told("me=");
    let wanted = [
        "LISTEN_FDNAMES=s21:s20".to_owned(),
        "LISTEN_FDS=2".into(),
        format!("LISTEN_PID={me}"),
        "PATH=/usr/bin:/bin".into(),
        "UWSGI_EMPEROR_FD=5".into(),
        format!("me={me}"),
        "0".into(),
        "1".into(),
        "2".into(),
        format!("3: {unix} 1 True True"),
        format!("4: {tcp} 1 True True"),
        "5:  0 True True".into(),
    ];
    assert_eq!(lines, wanted, "{ended:#?}");
}

#[test]
fn a_program_that_does_not_want_to_be_told_is_not_and_may_have_a_socket_as_its_input() {
    let (ended, tcp, _) = run(|order| {
        let sockets = Some(Passing { silent: true, stdin: Some(1), ..passing(&[21, 20]) });
        VassalOrder { sockets, config_pipe: true, safe_fds: vec![9], ..order }
    });
    assert!(!ended.out.contains("LISTEN_"), "{ended:#?}");
    assert!(ended.out.contains(&format!("\n0: {tcp} 1")), "{ended:#?}");
    assert!(ended.out.contains("UWSGI_EMPEROR_FD=5\nUWSGI_EMPEROR_FD_CONFIG=6\n"), "{ended:#?}");
    assert!(ended.out.ends_with("\n6\n9\n"), "{ended:#?}");
}

#[test]
fn root_the_process_is_named_as_it_sees_itself_in_a_pid_namespace() {
    if !super::root() {
        return;
    }
    // The launcher is started outside of one here; with `unshare` it is process 1.
    let dir = vassals();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let order = VassalOrder {
        namespaces: Namespaces::parse("pid").unwrap().0,
        exec: Exec { programs: vec!["python3".into()], args: vec!["-c".into(), TELL.into()], magic: None },
        sockets: Some(passing(&[20])),
        ..order(dir.path(), "")
    };
    let words = ["--pid", "--fork", env!("CARGO_BIN_EXE_emperor")];
    let ended = launch_with("unshare", &words, &order.plan(), &[(tcp.as_fd(), 20)]);
    assert!(ended.out.contains("LISTEN_PID=1\n") && ended.out.contains("me=1\n"), "{ended:#?}");
}

#[test]
fn a_number_that_two_want_and_a_socket_that_is_none_are_named() {
    let failure = |change: fn(VassalOrder) -> VassalOrder| {
        let (ended, ..) = run(change);
        let failure = ended.reports.last().map(|report| format!("{report:?}")).unwrap_or_default();
        assert_eq!(ended.status, Some(Step::Descriptors.status().into()), "{failure}");
        failure
    };
    let twice = failure(|order| VassalOrder { sockets: Some(passing(&[21, 21])), ..order });
    assert!(twice.contains("s21 somewhere"), "{twice}");
    let none = failure(|order| VassalOrder { sockets: Some(passing(&[33])), ..order });
    assert!(none.contains("s33 somewhere") && none.contains("Bad file"), "{none}");
    let taken = failure(|order| VassalOrder {
        safe_fds: vec![9],
        sockets: Some(passing(&[20, 21, 22, 23, 24, 25, 26])),
        ..order
    });
    assert!(taken.contains("s26 somewhere") && taken.contains("safe-fd wants descriptor 9"), "{taken}");
}

#[test]
fn a_limit_that_leaves_no_room_for_the_sockets_is_named_with_the_number_that_would() {
    let (ended, ..) = run(|order| {
        let limits = Limits { nofile: Some(Granted::by_root(Limit::of(16))), ..Limits::default() };
        let privileges = Privileges { limits, ..Privileges::default() };
        VassalOrder { privileges, sockets: Some(passing(&[20, 21, 22, 23, 24, 25, 26])), ..order }
    });
    let failure = ended.reports.last().map(|report| format!("{report:?}")).unwrap_or_default();
    assert_eq!(ended.status, Some(Step::Descriptors.status().into()), "{failure}");
    assert!(
        failure.contains("they take 24 descriptors, and its limit is 16: raise limit-nofile"),
        "{failure}"
    );
}
