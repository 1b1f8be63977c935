//! Reinforcements for programs, by the length of their queues.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Takes a fifth of a second for each client, one after the other.
const SLOW: &str = r#"
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listener = socket.socket(fileno=3)
while True:
    client, _ = listener.accept()
    client.recv(4096)
    time.sleep(0.2)
    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + str(os.getpid()).encode())
    client.close()
"#;

fn members(emperor: &Emperor) -> Vec<i64> {
    let stats = emperor.stats();
    let rows = stats["vassals"].as_array().expect("vassals");
    let zergs = rows.iter().filter(|row| row["zerg"] == 1);
    let up = zergs.filter(|row| row["parent"] == "slow.ini" && row["id"] == "slow.ini:zerg");
    up.filter_map(|row| row["pid"].as_i64()).filter(|pid| *pid > 0).collect()
}

/// Clients that come until they are told to stop; how many were answered, and how many were not.
struct Crowd {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    fn new(count: usize, ask: impl Fn() -> Option<String> + Clone + Send + 'static) -> Self {
        let (over, answered, lost) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let client = || {
            let (over, answered, lost, ask) = (over.clone(), answered.clone(), lost.clone(), ask.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let count = if ask().is_some() { &answered } else { &lost };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..count).map(|_| client()).collect();
        Self { over, answered, lost, clients }
    }

    fn end(self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client"));
        (self.answered.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

fn at_unix(path: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn grows_and_shrinks(socket: &str, ask: impl Fn() -> Option<String> + Clone + Send + 'static) {
    let bed = Bed::new();
    bed.write("slow.py", SLOW);
    let program = bed.path("slow.py");
    let file = format!(
        "[uwsgi]\ncommand = python3 -S {}\nhttp-socket = {socket}\nscale-max = 3\nscale-backlog = 3\nscale-cooldown = 3\n",
        program.display()
    );
    bed.write("v/slow.ini", file);
    let emperor = emperor(&bed).start();
    poll(PATIENCE, &ask).unwrap_or_else(|| panic!("nobody answers\n{}", bed.report()));
    assert!(members(&emperor).is_empty());
    let crowd = Crowd::new(12, ask);
    let full = poll(PATIENCE, || (members(&emperor).len() == 2).then_some(()));
    assert!(full.is_some(), "{}", bed.report());
    // Another program takes the emperor's place, and goes on with it.
    emperor.renew(&bed);
    assert_eq!(members(&emperor).len(), 2);
    let (answered, lost) = crowd.end();
    assert!(answered > 0 && lost == 0, "{answered} {lost}");
    let gone = poll(PATIENCE, || members(&emperor).is_empty().then_some(()));
    assert!(gone.is_some(), "{}", bed.report());
    assert_eq!(emperor.lines("going in broodlord mode").len(), 2);
    emperor.stop(&bed);
}

#[test]
fn a_long_queue_at_a_port_calls_for_more_processes_and_a_quiet_one_ends_them() {
    let port = free_port();
    grows_and_shrinks(&format!("127.0.0.1:{port}"), move || get(port));
}

#[test]
fn a_long_queue_at_a_unix_socket_does_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("slow.sock");
    grows_and_shrinks(text(&path), {
        let path = path.clone();
        move || at_unix(&path)
    });
}

/// Whoever came first has all the places, until somebody else asks.
#[test]
fn places_are_shared_over_the_vassals_that_ask_for_them() {
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17,30 after=1100 say=30 after=1100 say=30");
    bed.script("b.ini", "say=1,5,17,30 after=1100 say=30");
    for name in ["a.ini:zerg", "b.ini:zerg"] {
        bed.script(name, "say=1,5,17");
    }
    bed.vassal("a.ini");
    let emperor = emperor(&bed).opt("emperor-broodlord", "2").start();
    let zergs = |name: &'static str| {
        move |stats: &serde_json::Value| {
            let rows = stats["vassals"].as_array()?.iter();
            Some(rows.filter(|row| row["parent"] == name && row["ready"] == 1).count())
        }
    };
    bed.until("all its cries", |log| log.said("a.ini", 30) == 3);
    emperor.wait_stats("two of them", |stats| (zergs("a.ini")(stats)? == 2).then_some(()));
    bed.vassal("b.ini");
    emperor.wait_stats("one each", |stats| {
        (zergs("a.ini")(stats)? == 1 && zergs("b.ini")(stats)? == 1).then_some(())
    });
    assert_eq!(bed.log().got("a.ini:zerg", 2), 1, "it ends what it has taken\n{}", bed.report());
    assert_eq!(bed.log().execs("a.ini").len() + bed.log().execs("b.ini").len(), 2);
    emperor.stop_politely(&bed);
}
