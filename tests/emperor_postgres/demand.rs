//! A row that names a socket is a vassal on demand.

use crate::support::emperor::{Builder, Kind};
use crate::support::{Bed, PATIENCE, poll, postgres::Postgres, root};
use crate::{NEVER, listening, says, until_said};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

#[test]
fn a_row_with_a_socket_starts_with_its_first_client_and_follows_its_address() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    let [first, second] = ["1.sock", "2.sock"].map(|name| bed.path(name));
    postgres.vassal("a.ini", "[uwsgi]\n");
    let address = |path: &std::path::Path| {
        postgres.sql(&format!("UPDATE vassals SET socket = '{}'", path.display()));
    };
    address(&first);
    let emperor = listening(&bed, &postgres).start();
    emperor.wait_stats("waiting", |_| emperor.stats_of("a.ini").filter(|v| v["pid"] == -1));
    assert_eq!(emperor.stats_of("a.ini").expect("its row")["on_demand"], first.to_str().expect("a text"));
    // Another address for one that waits.
    address(&second);
    poll(PATIENCE, || second.exists().then_some(())).expect("the second socket");
    assert!(bed.log().execs("a.ini").is_empty());
    let _client = UnixStream::connect(&second).expect("a connection");
    let given = bed.given("a.ini", 1);
    assert!(given.fd(0).is_some_and(|fd| fd.listening), "{:?}", given.fds);
    assert_eq!(given.argv[1..], ["--ini", "emperor://a.ini"]);
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    // Another text for one that runs.
    postgres.sql("UPDATE vassals SET config = '[uwsgi]\nmaster = true'");
    bed.until("told", |log| log.heard("a.ini") == ["1"]);
    // No socket any more: it is stopped, and starts as an ordinary one.
    postgres.sql("UPDATE vassals SET socket = ''");
    bed.started("a.ini", 2);
    assert!(bed.given("a.ini", 2).fd(0).is_some_and(|fd| !fd.listening));
    emperor.stop(&bed);
    assert!(!first.exists() && !second.exists(), "the sockets' files are removed");
}

#[test]
fn real_a_vassal_on_demand_reads_the_text_that_is_there_when_its_client_comes() {
    if Kind::Real.program().is_none() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    let socket = bed.path("a.sock");
    let text = |word: &str| says(&bed, word).replace("http-socket = 127.0.0.1:0\n", "");
    postgres.vassal("a.ini", &text("one"));
    postgres.sql(&format!("UPDATE vassals SET socket = '{}'", socket.display()));
    let emperor = Builder::bare(&bed, Kind::Ours).on(postgres.all()).opt("emperor-freq", NEVER).start();
    poll(PATIENCE, || socket.exists().then_some(())).expect("the socket");
    postgres.vassal("a.ini", &text("two"));
    emperor.wait_log("updated configuration for \"on demand\" instance a.ini");
    let _client = UnixStream::connect(&socket).expect("a connection");
    assert_eq!(until_said(&bed, &emperor, 1), ["two"]);
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_socket_is_made_with_his_rights() {
    if !root() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    let his = bed.path("his");
    std::fs::create_dir(&his).expect("a directory");
    std::os::unix::fs::chown(&his, Some(4242), Some(4242)).expect("its owner");
    for (name, socket) in [("a.ini", his.join("a.sock")), ("b.ini", bed.path("b.sock"))] {
        postgres.vassal(name, "[uwsgi]\n");
        postgres.sql(&format!("UPDATE vassals SET socket = '{}' WHERE name = '{name}'", socket.display()));
    }
    postgres.sql("UPDATE vassals SET uid = 4242, gid = 4242");
    let emperor = listening(&bed, &postgres).flag("emperor-tyrant").start();
    poll(PATIENCE, || his.join("a.sock").exists().then_some(())).expect("the socket");
    assert_eq!(std::fs::metadata(his.join("a.sock")).expect("the socket").uid(), 4242);
    let line = emperor.wait_log("vassal b.ini gets no on-demand socket");
    assert!(line.contains("user 4242 must be allowed to make it"), "{line}");
    let _client = UnixStream::connect(his.join("a.sock")).expect("a connection");
    assert_eq!(bed.given("a.ini", 1).field("Uid"), "4242 4242 4242 4242");
    emperor.stop(&bed);
}
