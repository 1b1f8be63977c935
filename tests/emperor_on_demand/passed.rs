//! Sockets that a service manager has bound and passed, by the names of vassals; and what else may come that way.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use super::*;
use crate::support::manager::Manager;

fn listener(path: &Path) -> OwnedFd {
    UnixListener::bind(path).expect("a socket").into()
}

fn passing(bed: &Bed, sockets: Vec<(String, OwnedFd)>) -> (Manager, Emperor) {
    let manager = Manager::new(bed.root(), 100);
    manager.change(|store| *store = sockets);
    let emperor = Builder::new(bed, Kind::Ours).stats().usher(manager.pass()).start();
    emperor.wait_log("starting uWSGI Emperor");
    (manager, emperor)
}

#[test]
fn each_starts_the_vassal_of_its_name_and_what_is_none_is_told_of_in_one_line() {
    let bed = Bed::new();
    let [a, again, up, long, forged] = ["a", "again", "up", "long", "forged"].map(|name| bed.path(name));
    bed.vassal("a.ini");
    let endless = "x".repeat(255);
    let fifo = bed.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let fifo = std::fs::File::options().read(true).write(true).open(fifo).expect("a fifo");
    let packets = || {
        let socket =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).expect("a socket");
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(&bed.path("packets")).expect("a path"))
            .expect("bind");
        listen(&socket, Backlog::new(5).expect("a number")).expect("listen");
        socket
    };
    let sockets: Vec<(String, OwnedFd)> = vec![
        ("a".into(), listener(&a)),
        ("a.socket".into(), listener(&again)),
        ("../v/a".into(), listener(&up)),
        (endless.clone(), listener(&long)),
        ("b\n[emperor] vassal a.ini is forged".into(), listener(&forged)),
        ("udp".into(), UdpSocket::bind("127.0.0.1:0").expect("a socket").into()),
        ("datagrams".into(), UnixDatagram::bind(bed.path("datagrams")).expect("a socket").into()),
        ("packets".into(), packets()),
        ("connected".into(), UnixStream::pair().expect("a pair").0.into()),
        ("fifo".into(), fifo.into()),
        ("file".into(), std::fs::File::open("/dev/null").expect("a file").into()),
    ];
    let (_manager, emperor) = passing(&bed, sockets);
    waits(&emperor, "a.ini");
    emperor.wait_log("which the service manager has bound ...");
    let line = emperor.wait_log("which the service manager has passed as `a.socket`, is not used");
    assert!(line.contains("the vassal of that name waits at ") && line.contains("/a already"), "{line}");
    for name in ["../v/a", &endless, "b[emperor] vassal a.ini is forged"] {
        emperor.wait_log(&format!(
            "passed as `{name}`, belongs to no vassal: FileDescriptorName= must be a vassal's name"
        ));
    }
    for name in ["udp", "datagrams", "packets", "connected", "fifo", "file"] {
        let told = format!("passed as `{name}` is no listening stream socket, and is closed");
        assert!(emperor.wait_log(&told).contains("ListenStream= and Accept=no"));
    }
    assert!(!emperor.log().lines().any(|line| line.starts_with("[emperor]")), "a line was forged");
    assert_eq!(answer(call(&a)), "ok\n");
    assert!(bed.given("a.ini", 1).fd(0).expect("standard input").listening);
    let open = std::fs::read_dir(format!("/proc/{}/fd", emperor.pid())).expect("its descriptors");
    let targets = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    assert!(!targets.into_iter().any(|target| target.ends_with("fifo")), "what is of no use is closed");
    emperor.stop(&bed);
    assert!(a.exists() && again.exists(), "their files are the manager's");
}

#[test]
fn a_vassal_that_comes_later_has_the_socket_of_its_name_and_keeps_it_over_its_crash() {
    let bed = Bed::new();
    let path = bed.path("late");
    let (_manager, emperor) = passing(&bed, vec![("late.ini".into(), listener(&path))]);
    emperor.wait_log("passed as `late.ini`, belongs to no vassal");
    let early = call(&path); // it waits in the queue until there is somebody
    bed.vassal("late.ini");
    assert_eq!(answer(early), "ok\n");
    let pid = bed.started("late.ini", 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert_eq!(answer(call(&path)), "ok\n");
    emperor.stop(&bed);
}

#[test]
fn a_vassal_whose_file_names_what_was_passed_for_another_is_told_who_has_it() {
    let bed = Bed::new();
    let path = bed.path("taken");
    let (_manager, emperor) = passing(&bed, vec![("nobody".into(), listener(&path))]);
    own::serve(&bed, "b.ini", &format!("socket = {}\n", path.display()));
    let line = emperor.wait_log("vassal b.ini cannot be started: ");
    assert!(line.contains("the service manager, as `nobody`, has it, choose another address"), "{line}");
    emperor.stop(&bed);
}
