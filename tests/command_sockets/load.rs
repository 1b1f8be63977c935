//! Twenty restarts under load, and nobody is turned away.

use super::*;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

#[derive(Default)]
struct Counts {
    over: AtomicBool,
    answered: AtomicUsize,
    /// A connection, but no answer: whoever had it was killed.
    lost: AtomicUsize,
    refused: Mutex<Vec<ErrorKind>>,
}

/// Clients that connect without a pause, until they are told to stop.
struct Load {
    counts: Arc<Counts>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn new<S: Read + 'static>(connect: impl Fn() -> std::io::Result<S> + Clone + Send + 'static) -> Self {
        let counts = Arc::new(Counts::default());
        let client = || {
            let (counts, connect) = (Arc::clone(&counts), connect.clone());
            std::thread::spawn(move || {
                while !counts.over.load(Ordering::Relaxed) {
                    match connect() {
                        Ok(stream) => {
                            let count =
                                if hear(Some(stream)).is_some() { &counts.answered } else { &counts.lost };
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => counts.refused.lock().expect("a list").push(error.kind()),
                    }
                }
            })
        };
        let clients = (0..4).map(|_| client()).collect();
        Self { counts, clients }
    }

    /// Answered, and lost; nobody was refused, unless there may be moments without a file.
    fn end(self, may_be_absent: bool) -> (usize, usize) {
        self.counts.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client"));
        let mut refused = self.counts.refused.lock().expect("a list");
        refused.retain(|kind| !may_be_absent || *kind != ErrorKind::NotFound);
        assert!(refused.is_empty(), "{} refused: {refused:?}", refused.len());
        let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        (count(&self.counts.answered), count(&self.counts.lost))
    }
}

const TIMES: usize = 20;

fn restarts(name: &str, restart: impl Fn(&Bed, i32)) -> [(usize, usize); 2] {
    let bed = bed();
    let port = free_port();
    let path = bed.path("a.sock");
    serve(&bed, name, &format!("socket = ../a.sock\nhttp-socket = 127.0.0.1:{port}\nlisten = 100\n"));
    let emperor = emperor(&bed).opt("emperor-throttle", "10").start(); // many short lives are meant here
    let (mut pid, _) = answer(&bed, || at_path(&path));
    let before = inode(&path);
    let unix = Load::new({
        let path = path.clone();
        move || UnixStream::connect(&path)
    });
    let tcp = Load::new(move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
    for _ in 0..TIMES {
        restart(&bed, pid);
        pid = successor(&bed, pid, || at_port(port));
    }
    let told = [unix.end(name == "unlink.ini"), tcp.end(false)];
    assert_eq!(inode(&path), before);
    assert!(told.iter().all(|(answered, _)| *answered > TIMES), "{told:?}");
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
    assert_eq!(told.map(|(_, lost)| lost), [0, 0], "{told:?}");
}

#[test]
fn twenty_changes_of_the_file_of_a_program_that_removes_its_socket_lose_nobody() {
    let told = restarts("unlink.ini", |bed, _| {
        let file = bed.path("v/unlink.ini");
        let text = std::fs::read(&file).expect("the vassal's file");
        bed.write("v/unlink.ini", text);
    });
    assert_eq!(told.map(|(_, lost)| lost), [0, 0], "{told:?}");
}

#[test]
fn twenty_sudden_deaths_refuse_nobody() {
    let told = restarts("plain.ini", |_, pid| kill(pid));
    // One process serves one client at a time, and each death may take that one along.
    assert!(told.iter().all(|(_, lost)| *lost <= TIMES), "{told:?}");
}
