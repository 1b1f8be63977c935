//! Where a vassal's address comes from, and what it may be.

use super::*;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;

both!(
    /// Source: spec/zerg.md 5.3: standard input is the listening socket, which blocks; nothing tells of it.
    the_first_connection_starts_the_vassal_with_the_socket_as_its_standard_input,
    |kind| {
        let bed = Bed::new();
        let path = bed.path("a.sock");
        demand(&bed, "a.ini", path.to_str().expect("plain text"));
        let emperor = emperor(&bed, kind).start();
        waits(&emperor, "a.ini");
        let row = emperor.stats_of("a.ini").expect("a row");
        assert_eq!(row["on_demand"].as_str(), path.to_str());
        assert!(bed.log().execs("a.ini").is_empty());
        let client = call(&path);
        assert_eq!(answer(client), "ok\n");
        let given = bed.given("a.ini", 1);
        let numbers: Vec<i32> = given.fds.iter().map(|fd| fd.number).collect();
        let link = given.fd_in("UWSGI_EMPEROR_FD").expect("a link");
        assert_eq!(numbers, [0, 1, 2, link]);
        let socket = given.fd(0).expect("standard input");
        assert!(socket.listening && !socket.cloexec);
        assert_eq!(socket.flags & nix::libc::O_NONBLOCK, 0);
        assert!(given.env.keys().all(|name| !name.contains("LISTEN") && !name.contains("DEMAND")), "{:?}", given.env);
        emperor.wait_stats("its process", |_| emperor.stats_of("a.ini").filter(|v| v["pid"].as_i64() > Some(0)));
        assert_eq!(emperor.stats_of("a.ini").expect("a row")["on_demand"].as_str(), path.to_str());
        emperor.wait_log("\"on demand\" instance detected, waiting for connections on socket");
        emperor.stop(&bed);
    }
);

both!(tcp_addresses, |kind| {
    let bed = Bed::new();
    let (one, all) = (free_port(), free_port());
    demand(&bed, "one.ini", &format!("127.0.0.1:{one}"));
    demand(&bed, "all.ini", &format!(":{all}"));
    let emperor = emperor(&bed, kind).start();
    assert_eq!(answer(call_port(one)), "ok\n");
    assert_eq!(answer(call_port(all)), "ok\n");
    emperor.stop(&bed);
});

#[test]
fn ipv6_and_abstract_addresses_which_uwsgi_does_not_have() {
    let bed = Bed::new();
    let listener =
        TcpListener::bind("[::1]:0").map(|listener| listener.local_addr().expect("an address").port());
    let name = format!("emperor-test-{}", std::process::id());
    demand(&bed, "abstract.ini", &format!("@{name}"));
    if let Ok(port) = &listener {
        demand(&bed, "six.ini", &format!("[::1]:{port}"));
    }
    let emperor = emperor(&bed, Kind::Ours).start();
    if let Ok(port) = listener {
        let stream = poll(PATIENCE, || TcpStream::connect(("::1", port)).ok()).expect("a listener");
        assert_eq!(answer(stream), "ok\n");
    }
    let address = SocketAddr::from_abstract_name(format!("{name}\0")).expect("a name");
    let stream = poll(PATIENCE, || UnixStream::connect_addr(&address).ok()).expect("a listener");
    assert_eq!(answer(stream), "ok\n");
    emperor.stop(&bed);
}

both!(
    /// Source: spec/emperor.md 2.1: extension before directory before exec, and only one of them counts.
    only_the_first_of_the_options_counts,
    |kind: Kind| {
        let bed = Bed::new();
        bed.vassal("plain.ini");
        demand(&bed, "a.ini", bed.path("a.sock").to_str().expect("plain text"));
        std::fs::create_dir(bed.path("dir")).expect("a directory");
        let command = format!("echo {}/exec.sock #", bed.root().display());
        let all = Builder::new(&bed, kind).stats().opt("emperor-on-demand-exec", &command);
        let all = all.opt("emperor-on-demand-directory", bed.path("dir"));
        let emperor = all.opt("emperor-on-demand-ext", ".socket").start();
        bed.started("plain.ini", 1);
        assert_eq!(answer(call(&bed.path("a.sock"))), "ok\n");
        assert!(!bed.path("dir/plain.socket").exists());
        emperor.stop(&bed);
        drop(bed);

        let bed = Bed::new();
        demand(&bed, "a.ini", bed.path("a.sock").to_str().expect("plain text"));
        std::fs::create_dir(bed.path("dir")).expect("a directory");
        let two = Builder::new(&bed, kind).stats().opt("emperor-on-demand-exec", &command);
        let emperor = two.opt("emperor-on-demand-dir", bed.path("dir")).start();
        assert_eq!(answer(call(&bed.path("dir/a.socket"))), "ok\n");
        assert!(!bed.path("a.sock").exists());
        emperor.stop(&bed);
    }
);

both!(
    /// The name loses what is behind its last dot, and a relative directory is one below the vassals'.
    a_directory_of_sockets,
    |kind| {
        let bed = Bed::new();
        std::fs::create_dir(bed.path("v/run")).expect("a directory");
        for name in ["a.b.ini", "c d.json", "e"] {
            bed.vassal(name);
        }
        let emperor = Builder::new(&bed, kind).stats().opt("emperor-on-demand-directory", "run").start();
        for name in ["a.b", "c d"] {
            assert_eq!(answer(call(&bed.path(format!("v/run/{name}.socket")))), "ok\n");
        }
        assert_eq!(std::fs::read_dir(bed.path("v/run")).expect("a directory").count(), 2);
        emperor.stop(&bed);
    }
);

both!(
    /// Relative to where the vassal starts: the emperor's directory for a pattern.
    a_companion_of_a_pattern,
    |kind| {
        let bed = Bed::new();
        std::fs::create_dir(bed.path("v/one")).expect("a directory");
        demand(&bed, "one/u.ini", "here.sock");
        let options = Builder::bare(&bed, kind).on("v/*/u.ini").quick().witnessed().stats();
        let emperor = options.opt("emperor-on-demand-extension", ".socket").start();
        assert_eq!(answer(call(&bed.path("here.sock"))), "ok\n");
        emperor.stop(&bed);
    }
);

both!(
    /// Up to the first byte below the blank; nothing there means that the vassal is an ordinary one.
    what_counts_of_a_companion,
    |kind| {
        let bed = Bed::new();
        let path = |name: &str| bed.path(name).to_str().expect("plain text").to_owned();
        for (name, text) in [
            ("crlf.ini", format!("{}\r\nmore", path("crlf.sock"))),
            ("tab.ini", format!("{}\tmore", path("tab.sock"))),
            ("bare.ini", path("bare.sock")),
            ("empty.ini", String::new()),
            ("line.ini", format!("\n{}", path("never.sock"))),
            ("nul.ini", format!("\0{}", path("never.sock"))),
        ] {
            bed.write(format!("v/{name}.socket"), text);
            bed.vassal(name);
        }
        std::os::unix::fs::symlink("nowhere", bed.path("v/dangling.ini.socket")).expect("a link");
        bed.vassal("dangling.ini");
        std::os::unix::fs::symlink("bare.ini.socket", bed.path("v/.link")).expect("a link");
        let long = format!("{}.ini", "n".repeat(250));
        bed.vassal(&long);
        let emperor = emperor(&bed, kind).start();
        for name in ["empty.ini", "line.ini", "nul.ini", "dangling.ini", &long] {
            bed.started(name, 1);
        }
        for name in ["crlf", "tab", "bare"] {
            assert_eq!(answer(call(&bed.path(format!("{name}.sock")))), "ok\n");
        }
        assert!(!bed.path("never.sock").exists());
        emperor.stop(&bed);
    }
);

#[test]
fn a_companion_that_is_copied_after_its_vassal_is_not_missed() {
    let bed = Bed::new();
    bed.vassal("plain.ini");
    let emperor = emperor(&bed, Kind::Ours).start();
    bed.started("plain.ini", 1);
    for round in 0..10 {
        let name = format!("{round}.ini");
        bed.vassal(&name);
        std::thread::sleep(std::time::Duration::from_millis(10 * round));
        bed.write(format!("v/{name}.socket"), format!("{round}.sock"));
        waits(&emperor, &name);
        assert!(bed.log().execs(&name).is_empty(), "{}", bed.report());
    }
    emperor.stop(&bed);
}

/// Beside standard input: most programs look for a socket where systemd puts it.
#[test]
fn a_program_finds_the_socket_that_its_file_does_not_name_behind_its_own_where_systemd_would_put_it() {
    let bed = Bed::new();
    let (given, own) = (bed.path("given.sock"), bed.path("own.sock"));
    let tell = "sh -c 'echo $LISTEN_FDS $LISTEN_FDNAMES > ../part; mv ../part ../told; exec sleep 1000'";
    for (name, lines, told) in [
        ("a.ini", String::new(), "1 on-demand"),
        ("b.ini", format!("http-socket = {}\n", own.display()), "2 http-socket:on-demand"),
        ("c.ini", format!("http-socket = {}\n", given.display()), "1 http-socket"),
        ("d.ini", "listen-fds = no\n".into(), ""),
    ] {
        bed.write("told", "");
        bed.write(format!("v/{name}.socket"), given.to_str().expect("plain text"));
        bed.write(format!("v/{name}"), format!("[uwsgi]\ncommand = {tell}\n{lines}"));
        let emperor = emperor(&bed, Kind::Ours).start();
        waits(&emperor, name);
        std::fs::remove_file(bed.path("told")).expect("a file");
        let _client = call(&given);
        let said = poll(PATIENCE, || std::fs::read_to_string(bed.path("told")).ok());
        assert_eq!(said.as_deref().map(str::trim), Some(told), "{name}\n{}", emperor.log());
        let pid = emperor.stats_of(name).expect("a row")["pid"].as_i64().expect("a number");
        let target = |fd: u32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
        let last = 2 + told.split_whitespace().next().map_or(1, |count| count.parse().expect("a number"));
        assert_eq!(target(0), target(last), "{name}: it is the same socket");
        emperor.stop(&bed);
        bed.remove(format!("v/{name}"));
    }
}
