//! Twenty restarts under load, and nobody is turned away.

use super::*;
use std::io::ErrorKind;
use support::load::{Load, Target, Told};

const TIMES: usize = 20;

/// What has become of the clients of a unix socket and of a port. The server asks nobody for a word.
fn restarts(name: &str, restart: impl Fn(&Bed, i32)) -> [Told; 2] {
    let bed = bed();
    let port = free_port();
    let path = bed.path("a.sock");
    serve(&bed, name, &format!("socket = ../a.sock\nhttp-socket = 127.0.0.1:{port}\nlisten = 100\n"));
    let emperor = emperor(&bed).opt("emperor-throttle", "10").start(); // many short lives are meant here
    let (mut pid, _) = answer(&bed, || at_path(&path));
    let before = inode(&path);
    let loads = [Target::File(path.clone()), Target::Port(port)].map(|target| Load::new(&target, "", 4));
    for _ in 0..TIMES {
        restart(&bed, pid);
        pid = successor(&bed, pid, || at_port(port));
    }
    let mut told = loads.map(Load::end);
    if name == "unlink.ini" {
        told[0].refused.retain(|kind| *kind != ErrorKind::NotFound); // there are moments without a file
    }
    assert_eq!(inode(&path), before);
    assert!(told.iter().all(|told| told.answered > TIMES && told.refused.is_empty()), "{told:?}");
    emperor.stop(&bed);
    told
}

#[test]
fn twenty_changes_of_the_file_refuse_and_lose_nobody() {
    let told = restarts("plain.ini", |bed, _| {
        let file = bed.path("v/plain.ini");
        let text = std::fs::read(&file).expect("the vassal's file");
        bed.write("v/plain.ini", text);
    });
    assert!(told.iter().all(|told| told.lost == 0), "{told:?}");
}

#[test]
fn twenty_changes_of_the_file_of_a_program_that_removes_its_socket_lose_nobody() {
    let told = restarts("unlink.ini", |bed, _| {
        let file = bed.path("v/unlink.ini");
        let text = std::fs::read(&file).expect("the vassal's file");
        bed.write("v/unlink.ini", text);
    });
    assert!(told.iter().all(|told| told.lost == 0), "{told:?}");
}

#[test]
fn twenty_sudden_deaths_refuse_nobody() {
    let told = restarts("plain.ini", |_, pid| kill(pid));
    // One process serves one client at a time, and each death may take that one along.
    assert!(told.iter().all(|told| told.lost <= TIMES), "{told:?}");
}
