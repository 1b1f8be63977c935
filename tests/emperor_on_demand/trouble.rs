//! Sockets that cannot be made: one line each, nobody else is harmed, and they are made when the cause is gone.

use super::*;
use crate::support::empire::Empire;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::os::unix::net::UnixListener;
use std::time::Duration;

fn empire(prepare: impl FnOnce(&Bed), options: impl FnOnce(Builder) -> Builder) -> Empire {
    let bed = Bed::new();
    prepare(&bed);
    Empire::on(bed, |emperor| options(emperor.opt("emperor-on-demand-extension", ".socket")))
}

const NO_SOCKET: &str = "gets no on-demand socket";

#[test]
fn each_bad_companion_is_named_once_with_the_remedy_and_taken_when_it_is_mended() {
    let cases: [(&str, &str, &str); 8] = [
        ("port.ini", "127.0.0.1:65536", "no port between 0 and 65535"),
        ("text.ini", "127.0.0.1:http", "no port between 0 and 65535"),
        ("host.ini", "localhost:8080", "no ip address"),
        ("six.ini", "::1:8080", "stands in brackets; write `[::1]:8080`"),
        ("directory.ini", "nowhere/a.sock", "make its directory"),
        ("interface.ini", "192.0.2.1:8080", "no interface of this machine has it"),
        ("at.ini", "@", "the address is empty"),
        ("file.ini", "precious", "a file that is no socket is in the way"),
    ];
    let long = format!("{}x", "y".repeat(102));
    let endless = "z".repeat(1_000_000);
    let empire = empire(
        |bed| {
            bed.write("v/precious", "precious");
            for (name, text, _) in
                cases.iter().chain(&[("long.ini", &*long, ""), ("endless.ini", &*endless, "")])
            {
                demand(bed, name, text);
            }
            bed.vassal("fifo.ini");
            nix::unistd::mkfifo(&bed.path("v/fifo.ini.socket"), nix::sys::stat::Mode::S_IRWXU)
                .expect("a fifo");
            bed.vassal("dir.ini");
            std::fs::create_dir(bed.path("v/dir.ini.socket")).expect("a directory");
            bed.vassal("loop.ini");
            std::os::unix::fs::symlink("loop.ini.socket", bed.path("v/loop.ini.socket")).expect("a link");
        },
        |emperor| emperor.opt("emperor-throttle", "100"),
    );
    let more = [
        ("long.ini", "102 bytes"),
        ("endless.ini", "102 bytes"),
        ("fifo.ini", "it is no file"),
        ("dir.ini", "it is no file"),
        ("loop.ini", "symbolic links"),
    ];
    for (name, words) in cases.iter().map(|(name, _, words)| (*name, *words)).chain(more) {
        let line = empire.told(&[name, NO_SOCKET, words]);
        assert!(line.contains(&format!("{name}.socket")), "the file is named: {line}");
        assert!(line.contains("at once when") && line.len() < 500, "{line}");
    }
    assert_eq!(std::fs::read(empire.bed.path("v/precious")).expect("still there"), b"precious");
    // The retries say nothing more.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(empire.lines(&[NO_SOCKET]).len(), 13, "{:#?}", empire.lines(&[NO_SOCKET]));
    assert!(empire.lines(&["is started again"]).is_empty());
    for (name, _) in cases.iter().map(|(name, _, words)| (*name, *words)).chain(more) {
        let companion = empire.bed.path(format!("v/{name}.socket"));
        empire.bed.write("mended", format!("{name}.sock"));
        // At no moment without one: a try just then would find a vassal that is not started on demand.
        renameat2(AT_FDCWD, &empire.bed.path("mended"), AT_FDCWD, &companion, RenameFlags::RENAME_EXCHANGE)
            .expect("an exchange");
        let before = empire.bed.path("mended");
        let _ = std::fs::remove_file(&before).or_else(|_| std::fs::remove_dir(&before));
        waits(&empire.emperor, name); // the next try, without a touch
    }
    empire.unharmed();
}

#[test]
fn a_file_that_is_touched_is_tried_at_once() {
    let empire =
        empire(|bed| demand(bed, "a.ini", "127.0.0.1:http"), |e| e.opt("emperor-throttle", "3600000"));
    empire.told(&[NO_SOCKET]);
    empire.emperor.wait_stats("a pause", |stats| {
        stats["blacklist"][0]["throttle_level"].as_u64().filter(|&level| level > 1000)
    });
    empire.bed.write("v/a.ini.socket", "a.sock");
    empire.bed.vassal("a.ini");
    assert_eq!(answer(call(&empire.bed.path("v/a.sock"))), "ok\n");
    empire.unharmed();
}

#[test]
fn another_cause_is_another_line() {
    let empire = empire(|bed| demand(bed, "a.ini", "127.0.0.1:http"), |e| e.opt("emperor-throttle", "0"));
    empire.told_once(&[NO_SOCKET, "no port"]);
    empire.bed.write("v/a.ini.socket", "nowhere/a.sock");
    empire.told_once(&[NO_SOCKET, "make its directory"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(empire.lines(&["a.ini"]).len(), 3, "{:#?}", empire.lines(&["a.ini"])); // one of them: throttling it
    empire.unharmed();
}

#[test]
fn an_address_that_is_taken_is_neither_taken_away_nor_disturbed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its number").port();
    let mut mine = None;
    let empire = empire(
        |bed| {
            demand(bed, "tcp.ini", &format!("127.0.0.1:{port}"));
            demand(bed, "unix.ini", bed.path("mine.sock").to_str().expect("plain text"));
            mine = Some(UnixListener::bind(bed.path("mine.sock")).expect("a socket"));
            drop(UnixListener::bind(bed.path("stale.sock")).expect("a socket"));
            demand(bed, "stale.ini", bed.path("stale.sock").to_str().expect("plain text"));
        },
        |emperor| emperor.opt("emperor-throttle", "100"),
    );
    let mine = mine.expect("a listener");
    empire.told_once(&["tcp.ini", NO_SOCKET, "in use", "choose another address"]);
    empire.told_once(&["unix.ini", NO_SOCKET, "another process serves this socket"]);
    assert_eq!(answer(call(&empire.bed.path("stale.sock"))), "ok\n");
    mine.set_nonblocking(true).expect("a flag");
    assert!(mine.accept().is_err(), "nobody has knocked");
    drop((mine, listener));
    assert_eq!(answer(call(&empire.bed.path("mine.sock"))), "ok\n");
    assert_eq!(answer(call_port(port)), "ok\n");
    empire.unharmed();
}

#[test]
fn of_two_vassals_with_one_address_the_first_has_it_and_is_not_woken() {
    let empire = empire(
        |bed| {
            demand(bed, "a.ini", bed.path("one.sock").to_str().expect("plain text"));
            demand(bed, "b.ini", bed.path("one.sock").to_str().expect("plain text"));
        },
        |emperor| emperor.opt("emperor-throttle", "50"),
    );
    empire.told_once(&["b.ini", NO_SOCKET, "one.sock", "vassal a.ini has it"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(empire.bed.log().execs("a.ini").is_empty());
    empire.bed.remove("v/a.ini");
    waits(&empire.emperor, "b.ini");
    assert_eq!(answer(call(&empire.bed.path("one.sock"))), "ok\n");
    assert_eq!(empire.bed.log().execs("b.ini").len(), 1);
    empire.unharmed();
}

#[test]
fn without_free_descriptors_no_vassal_starts_without_its_socket() {
    let bed = Bed::new();
    for n in 0..30 {
        demand(&bed, &format!("{n}.ini"), &format!("{n}.sock"));
    }
    // Enough for the sockets, not for the vassals behind them.
    let emperor = emperor(&bed, Kind::Ours).usher("nofile=64:64").start();
    let clients: Vec<_> = (0..30).map(|n| call(&bed.path(format!("v/{n}.sock")))).collect();
    emperor.wait_log("cannot make another process or descriptor");
    let log = bed.log();
    assert!(log.names().len() < 30);
    for name in log.names() {
        assert!(bed.given(&name, 1).fd(0).expect("standard input").listening, "{name}");
    }
    drop(clients);
    emperor.stop(&bed);
}
