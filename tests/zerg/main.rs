//! Listening sockets that are shared: pools and servers of ours, uWSGI at either end, and those who may not have them.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod doors;
mod hostile;
mod load;
mod scale;
mod tenants;
mod uwsgi;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use emperor::zerg::client::{Offered, Server, attach};
use support::emperor::{Builder, Emperor, Kind};
use support::served::{abstract_name, bed_with, free_port, inode, own, serve, tenant};
use support::{Bed, PATIENCE, poll};

/// A program on the sockets that it is given, that answers by HTTP with its first argument and the socket's name.
const SERVER: &str = r#"
import os, select, socket, sys
link = socket.socket(fileno=int(os.environ["UWSGI_EMPEROR_FD"]))
names = os.environ.get("LISTEN_FDNAMES", "").split(":") if "LISTEN_FDS" in os.environ else []
there = {socket.socket(fileno=3 + n): name for n, name in enumerate(names)}
link.send(b"\x01\x05\x11")
for listener in there: listener.setblocking(False)
while True:
    ready, _, _ = select.select([link, *there], [], [])
    if link in ready: sys.exit(0)
    for listener in ready:
        try: client, _ = listener.accept()
        except BlockingIOError: continue
        client.setblocking(True)
        client.recv(4096)
        client.sendall(f"HTTP/1.0 200 OK\r\n\r\n{sys.argv[1]} {there[listener]}".encode())
        client.close()
"#;

/// A bed with the server on it.
fn bed() -> Bed {
    bed_with(SERVER)
}

/// An emperor whose vassals are programs.
fn emperor(bed: &Bed) -> Builder {
    Builder::new(bed, Kind::Ours).stats()
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of an answer at this port, or nothing.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// What a server offers.
fn offered(at: &str) -> Vec<Offered> {
    let ask = || attach(Server(at.as_bytes()), Duration::from_secs(20)).ok();
    poll(PATIENCE, ask).unwrap_or_else(|| panic!("nothing is offered at {at}"))
}

fn addresses(offered: &[Offered]) -> Vec<&str> {
    offered.iter().map(|it| it.address.as_str()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain text")
}
