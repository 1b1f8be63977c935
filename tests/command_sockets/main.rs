//! Listening sockets of vassals that are run by a program of their own choice: bound by the emperor, held over every
//! restart, and found by the program where systemd would put them.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod life;
mod load;
mod places;
mod tenants;
mod trouble;

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use support::emperor::{Builder, Emperor, Kind};
use support::served::{abstract_name, bed_with, free_port, home, inode, serve, tenant};
use support::{Bed, PATIENCE, poll};

/// Answers everybody with its process id and the name of the socket, says that it is loyal, and ends when it is told
/// anything. With `unlink` it removes the files of its sockets then, as many programs do; with `shut`, it shuts them down.
const SERVER: &str = r#"
import os, select, signal, socket, sys
link = socket.socket(fileno=int(os.environ["UWSGI_EMPEROR_FD"]))
assert os.environ["LISTEN_PID"] == str(os.getpid())
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"])
there = {socket.socket(fileno=3 + n): name for n, name in enumerate(names)}
def end(*_):
    for listener in there:
        path = listener.getsockname()
        if "unlink" in sys.argv and isinstance(path, str) and path: os.unlink(path)
        if "shut" in sys.argv: listener.shutdown(socket.SHUT_RDWR)
    sys.exit(0)
busy = over = False
def asked(*_):
    global over
    over = True
    if not busy: end() # else when the client that it has taken is answered
signal.signal(signal.SIGTERM, asked)
link.send(b"\x01\x05\x11")
while True:
    ready, _, _ = select.select([link, *there], [], [])
    if link in ready: end()
    for listener in ready:
        busy = True
        client, _ = listener.accept()
        client.sendall(f"{os.getpid()} {there[listener]}".encode())
        client.close()
        busy = False
        if over: end()
"#;

/// A bed with the server on it.
fn bed() -> Bed {
    bed_with(SERVER)
}

fn emperor(bed: &Bed) -> Builder {
    Builder::new(bed, Kind::Ours).stats()
}

/// What a client hears: who answers, at which socket.
fn hear(stream: Option<impl Read>) -> Option<(i32, String)> {
    let mut text = String::new();
    stream?.read_to_string(&mut text).ok()?;
    let (pid, name) = text.split_once(' ')?;
    Some((pid.parse().ok()?, name.to_owned()))
}

fn at_path(path: &Path) -> Option<(i32, String)> {
    hear(UnixStream::connect(path).ok())
}

fn at_port(port: u16) -> Option<(i32, String)> {
    hear(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
}

/// Waits for an answer.
fn answer(bed: &Bed, mut ask: impl FnMut() -> Option<(i32, String)>) -> (i32, String) {
    poll(PATIENCE, &mut ask).unwrap_or_else(|| panic!("nobody answers\n{}", bed.report()))
}

/// Waits until another process answers than this one.
fn successor(bed: &Bed, former: i32, mut ask: impl FnMut() -> Option<(i32, String)>) -> i32 {
    answer(bed, || ask().filter(|(pid, _)| *pid != former)).0
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a process that lives");
}
