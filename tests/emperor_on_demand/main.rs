//! Sockets on demand, with real processes: how a vassal is started by its first client, goes back to its socket, and
//! what happens when any of this goes wrong.
//!
//! Where uWSGI's Emperor does the same, the same scenario is run against it.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod ask;
mod cost;
mod frozen;
mod heal;
mod idle;
mod life;
mod load;
mod own;
mod passed;
mod real;
mod sockets;
mod tenants;
mod trouble;

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use support::emperor::{Builder, Emperor, Kind};
use support::served::{free_port, home, inode, own};
use support::{Bed, PATIENCE, poll};

/// A scenario that both emperors pass.
macro_rules! both {
    ($(#[$doc:meta])* $name:ident, $scenario:expr) => {
        $(#[$doc])*
        mod $name {
            use super::*;
            #[test]
            fn real() {
                if Kind::Real.program().is_some() {
                    $scenario(Kind::Real);
                }
            }
            #[test]
            fn ours() {
                $scenario(Kind::Ours);
            }
        }
    };
}
use both;

/// An emperor whose vassals have a socket where a file `NAME.socket` says so.
fn emperor(bed: &Bed, kind: Kind) -> Builder {
    Builder::new(bed, kind).stats().opt("emperor-on-demand-extension", ".socket")
}

/// A vassal with a socket on demand.
fn demand(bed: &Bed, name: &str, address: &str) {
    bed.write(format!("v/{name}.socket"), format!("{address}\n"));
    bed.vassal(name);
}

/// Waits until a vassal waits for connections.
fn waits(emperor: &Emperor, name: &str) {
    emperor.wait_stats(&format!("{name} waits"), |stats| {
        let row = stats["vassals"].as_array()?.iter().find(|v| v["id"] == name)?;
        (row["pid"] == -1 && row["on_demand"] != "").then_some(())
    });
}

/// Connects, once there is a socket.
fn call(path: &Path) -> UnixStream {
    let connected = poll(PATIENCE, || UnixStream::connect(path).ok());
    let stream = connected.unwrap_or_else(|| panic!("no socket at {}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What a witness answers.
fn answer(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

fn call_port(port: u16) -> TcpStream {
    let stream = poll(PATIENCE, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What a process has used: ticks of the processor, and how often it went to sleep.
fn used(pid: i32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its figures");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<u64>().expect("a number");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its figures");
    let slept = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    (ticks(11) + ticks(12), slept.expect("a count").trim().parse().expect("a number"))
}
