//! What is offered outlives the emperor that has offered it, where a service manager keeps it.

use super::*;
use support::manager::Manager;
use support::systemd_box::SystemdBox;

/// The kernel's numbers of what is offered.
fn ids(offered: &[Offered]) -> Vec<u64> {
    offered.iter().map(|it| nix::sys::stat::fstat(&it.socket).expect("the socket").st_ino).collect()
}

/// An emperor that finds the manager.
fn kept(bed: &Bed, manager: &Manager) -> Builder {
    emperor(bed).env("NOTIFY_SOCKET", manager.socket()).flag("emperor-fd-store")
}

fn until_sockets(manager: &Manager, count: usize) {
    let names = || manager.names().into_iter().filter(|name| name.starts_with("emperor-socket-")).count();
    let done = poll(PATIENCE, || (names() == count).then_some(()));
    assert!(done.is_some(), "{count} wanted, there are {:?}", manager.names());
}

/// Asks at a door, where nobody may be who answers yet.
fn ask(door: &Path) -> std::thread::JoinHandle<Vec<u64>> {
    let door = text(door).to_owned();
    std::thread::spawn(move || ids(&attach(Server(door.as_bytes()), PATIENCE).expect("an answer")))
}

#[test]
fn a_pool_and_its_doors_refuse_nobody_while_their_emperor_is_away() {
    let bed = bed();
    let manager = Manager::new(bed.root(), 100);
    let name = abstract_name(&bed);
    let (door, unix, port) = (bed.path("offers"), bed.path("a.sock"), free_port());
    let pool = format!("{}:127.0.0.1:{port},{},@{name}.a", text(&door), text(&unix));
    let start = || {
        let builder = kept(&bed, &manager).opt("zerg-pool", &pool);
        builder.opt("zerg-pool", format!("@{name}:@{name}.b")).opt("zerg-server", bed.path("all"))
    };
    let mut emperor = start().start();
    let before = (ids(&offered(text(&door))), inode(&door), inode(&unix));
    // Four doors, one of them under two names, and four sockets, of which the server has none of its own.
    until_sockets(&manager, 8);
    for round in 0..2 {
        drop(emperor);
        let client = ask(&door);
        let mut waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a place in its queue");
        waiting.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
        emperor = start().usher(manager.pass()).start();

        assert_eq!(client.join().expect("a client"), before.0);
        assert_eq!((inode(&door), inode(&unix)), (before.1, before.2));
        assert_eq!(offered(&format!("@{name}")).len(), 1);
        serve(&bed, "member.ini", &format!("zerg = {}\n", text(&door)));
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("member pool"), "{answer}");
        bed.remove("v/member.ini");
        if round == 0 {
            emperor.renew(&bed); // what is kept is known to the next program as well
        }
        emperor.wait_stats("nobody", |stats| stats["vassals"].as_array()?.is_empty().then_some(()));
        assert_eq!(emperor.lines("made anew").len(), 0, "{}", emperor.log());
        manager.hear_all();
    }
    until_sockets(&manager, 8);
    emperor.stop(&bed);
    assert!(!door.exists() && !unix.exists());
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0], "nothing is kept for nobody");
}

#[test]
fn a_pool_that_is_another_one_after_a_crash_leaves_nothing_behind() {
    let bed = bed();
    let manager = Manager::new(bed.root(), 100);
    let (first, second) = (bed.path("first"), bed.path("second"));
    let (a, b, port) = (bed.path("a.sock"), bed.path("b.sock"), free_port());
    let old = format!("{}:{},127.0.0.1:{port}", text(&first), text(&a));
    let emperor = kept(&bed, &manager).opt("zerg-pool", old).start();
    let before = ids(&offered(text(&first)));
    until_sockets(&manager, 3);
    drop(emperor);
    // One socket stays, one goes, one comes; the door is another one.
    let new = format!("{}:{},127.0.0.1:{port}", text(&second), text(&b));
    let next = kept(&bed, &manager).opt("zerg-pool", new).usher(manager.pass()).start();
    let after = ids(&offered(text(&second)));
    assert_eq!(after[1], before[1]);
    assert!(!first.exists() && !a.exists());
    until_sockets(&manager, 3);
    drop(next);
    let none = kept(&bed, &manager).usher(manager.pass()).start();
    none.wait_stats("it governs", |_| Some(()));
    until_sockets(&manager, 0);
    assert!(!second.exists() && !b.exists());
    none.stop(&bed);
}

#[test]
fn a_kept_socket_that_is_no_good_any_more_is_made_anew() {
    use std::os::fd::AsRawFd;
    let bed = bed();
    let manager = Manager::new(bed.root(), 100);
    let (door, unix, port) = (bed.path("offers"), bed.path("a.sock"), free_port());
    let pool = format!("{}:127.0.0.1:{port},{}", text(&door), text(&unix));
    let start = || kept(&bed, &manager).opt("zerg-pool", &pool);
    let emperor = start().start();
    let before = offered(text(&door));
    until_sockets(&manager, 3);
    drop(emperor);
    // A member has shut one down, for everybody; somebody has removed the file of the other, and that of the door.
    nix::sys::socket::shutdown(before[0].socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("shut");
    let before = ids(&before);
    for name in ["a.sock", ".a.sock.held", "offers"] {
        std::fs::remove_file(bed.path(name)).expect("its file");
    }
    let emperor = start().usher(manager.pass()).start();

    let after = ids(&offered(text(&door)));
    assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    assert_eq!(emperor.lines("is made anew: the former one was shut down").len(), 2, "{}", emperor.log());
    until_sockets(&manager, 3);
    drop(emperor);
    // What comes under the name of one of ours and is none is not taken.
    let mut foreign = None;
    manager.change(|store| {
        for (_, fd) in store.iter_mut().filter(|(name, _)| *name == format!("emperor-socket-{}", after[0])) {
            let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            foreign = other.local_addr().ok();
            *fd = other.into();
        }
    });
    let emperor = start().usher(manager.pass()).start();
    let last = offered(text(&door));
    assert_eq!(addresses(&last)[0], format!("127.0.0.1:{port}"));
    assert_ne!(foreign.map(|at| at.port()), Some(port));
    assert_eq!(ids(&last)[1], after[1]);
    emperor.stop(&bed);
}

#[test]
fn the_doors_of_a_vassal_refuse_nobody_while_the_emperor_is_away() {
    let bed = bed();
    let manager = Manager::new(bed.root(), 100);
    let (all, pool, own) = (bed.path("all"), bed.path("pool"), free_port());
    let lines = format!(
        "http-socket = 127.0.0.1:{own}\nzerg-server = {}\nzerg-pool = {}:{}\n",
        text(&all),
        text(&pool),
        text(&bed.path("a.sock"))
    );
    serve(&bed, "first.ini", &lines);
    let emperor = kept(&bed, &manager).start();
    let before = (ids(&offered(text(&all))), ids(&offered(text(&pool))), inode(&all));
    poll(PATIENCE, || get(own)).expect("an answer");
    // Two doors, two sockets, and the one at which it notifies us.
    until_sockets(&manager, 5);
    let pid = emperor.stats_of("first.ini").expect("its row")["pid"].clone();
    drop(emperor);
    let clients = [ask(&all), ask(&pool)];
    let emperor = kept(&bed, &manager).usher(manager.pass()).start();
    let [first, second] = clients.map(|client| client.join().expect("a client"));
    assert_eq!((first, second, inode(&all)), before);
    assert_eq!(emperor.stats_of("first.ini").expect("its row")["pid"], pid);
    // It is his to close.
    serve(&bed, "first.ini", &format!("http-socket = 127.0.0.1:{own}\n"));
    poll(PATIENCE, || (!all.exists() && !pool.exists()).then_some(())).expect("closed doors");
    until_sockets(&manager, 2);
    emperor.stop(&bed);
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0]);
}

/// systemd keeps one copy of a socket, under the first name that it was given.
#[test]
fn root_systemd_keeps_what_is_offered_and_what_a_vassal_has_over_its_restarts() {
    if !support::root() {
        return;
    }
    let bed = bed();
    let program = bed.install(Path::new(env!("CARGO_BIN_EXE_emperor")), "program");
    let (at, door, pooled) = (bed.path("a.sock"), bed.path("offers"), bed.path("p.sock"));
    let unit = format!(
        "[Service]\nType=notify\nExecStart={} --emperor {} --emperor-fd-store --zerg-pool {}:{}\n\
         KillMode=process\nFileDescriptorStoreMax=64\nRestart=on-failure\nRestartSec=10ms\nStartLimitBurst=50\n",
        program.display(),
        bed.v().display(),
        text(&door),
        text(&pooled),
    );
    let unit = bed.write("emperor.service", unit);
    let server = "import os, socket\ns = socket.socket(fileno=3)\nwhile True:\n  c, _ = s.accept()\n  \
                  c.sendall(str(os.getpid()).encode())\n  c.close()\n";
    let server = bed.write("pid.py", server);
    let lines = format!("command = python3 -S {}\non-demand = true\n", server.display());
    bed.write("v/a.ini", format!("[uwsgi]\n{lines}socket = {}\n", text(&at)));
    let Some(systemd) = SystemdBox::start(&bed, "emperor") else { return };
    systemd.copy(&unit, "/etc/systemd/system/");
    systemd.systemctl(&["start", "emperor"]);
    let ask_pid = || {
        let mut said = String::new();
        UnixStream::connect(&at).ok()?.read_to_string(&mut said).ok()?;
        Some(said).filter(|said| !said.is_empty())
    };
    let first = poll(PATIENCE, ask_pid).unwrap_or_else(|| panic!("{}", systemd.journal()));
    let before = (inode(&at), inode(&door), ids(&offered(text(&door))));
    let crash = |round: &str| {
        let client = ask(&door);
        systemd.systemctl(&["kill", "--kill-who=main", "-s", "KILL", "emperor"]);
        let clients = [client, ask(&door)];
        systemd.until("NRestarts", round);
        systemd.until("ActiveState", "active");
        for client in clients {
            assert_eq!(client.join().expect("a client"), before.2, "{}", systemd.journal());
        }
    };
    // Its process and its link; its socket, the one where it notifies us, the door, the pool's; the state, the canary.
    systemd.until("NFileDescriptorStore", "8");
    crash("1");
    systemd.exec(&["kill", "-KILL", &first]);
    let second = poll(PATIENCE, || ask_pid().filter(|said| *said != first)).expect("its successor");
    systemd.until("NFileDescriptorStore", "8");
    crash("2");
    systemd.exec(&["kill", "-KILL", &second]);
    poll(PATIENCE, || ask_pid().filter(|said| *said != second)).expect("its successor");
    assert_eq!((inode(&at), inode(&door)), (before.0, before.1));
    assert!(!systemd.journal().contains("made anew"), "{}", systemd.journal());
    systemd.systemctl(&["stop", "emperor"]);
    systemd.until("NFileDescriptorStore", "0");
    assert!(!door.exists() && !pooled.exists());
}
