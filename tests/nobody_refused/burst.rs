//! A thousand clients at once, at a vassal that sleeps behind a queue that is too short for them.

use super::clients::Failure;
use super::*;
use std::io::Write;
use std::sync::{Arc, Barrier};
use std::time::Instant;

const CLIENTS: usize = 1000;

fn all_are_answered(how: How, at: impl Fn(&Bed) -> Target, listen: u32) {
    let Some(mut stage) = Stage::new() else { return };
    let at = at(&stage.bed);
    stage.vassal("a", how, at.clone());
    stage.write(&stage.vassals[0], 1, &format!("listen = {listen}\n"));
    let emperor = stage.emperor().opt("listen", listen.to_string()).start();
    sleep(&emperor, &stage.vassals);
    let together = Arc::new(Barrier::new(CLIENTS + 1));
    let client = |n: usize| {
        let (at, together) = (at.clone(), Arc::clone(&together));
        let client = std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
            together.wait();
            ask(&at, &format!("/{n}"))
        });
        client.expect("a thread")
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    together.wait();
    let began = Instant::now();
    let heard: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
    let failed: Vec<&Failure> = heard.iter().filter_map(|heard| heard.as_ref().err()).collect();
    let _ = writeln!(std::io::stderr(), "{at:?}, listen = {listen}: {:.1?}", began.elapsed());
    assert!(failed.is_empty(), "{} failed: {:?}\n{}", failed.len(), failed.first(), emperor.log());
    emperor.stop(&stage.bed);
}

#[test]
fn a_thousand_at_a_path_with_a_queue_of_eight_are_answered() {
    all_are_answered(How::Own, |bed| Target::File(bed.path("a.sock")), 8);
}

/// The kernel drops what does not fit, and clients come again after 1 s, 3 s, 7 s.
#[test]
fn a_thousand_at_a_port_with_a_queue_of_a_hundred_are_answered() {
    all_are_answered(How::Companion, |_| Target::Port(free_port()), 100);
}
