//! No connection to a socket that the emperor holds for uWSGI is refused or reset, whatever happens to the vassal, to its
//! processes and to the emperor. What a killed process had accepted is lost with it: exactly that, which is looked up.
//!
//! `LOADS=10 cargo nextest run --test nobody_refused --no-capture` goes through the history more than once.

#[path = "../support/mod.rs"]
mod support;

mod burst;
mod clients;
mod history;
mod queue;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clients::ask;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::emperor::{Builder, Emperor, Kind};
use support::load::Target;
use support::manager::Manager;
use support::served::free_port;
use support::tools::on_path;
use support::{Bed, PATIENCE, poll};

/// Tells who answers, and keeps a client who asks for that until the process ends.
const APP: &str = "import os, time, uwsgi
def application(environ, answer):
    path = environ['PATH_INFO']
    if path.startswith('/hold'):
        with open(os.environ['HELD'], 'a') as held: held.write(f'{os.getpid()} {path}\\n')
        time.sleep(600)
    answer('200 OK', [('Content-Type', 'text/plain')])
    return [f\"{uwsgi.masterpid()} {os.getpid()} {os.environ['VERSION']} {path}\\n\".encode()]
";

/// How a vassal comes to its socket.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// `on-demand = true` in its file, which names it.
    Own,
    /// A file beside its own names it.
    Companion,
    /// The classic trap: both do.
    Both,
}

struct Vassal {
    name: String,
    how: How,
    at: Target,
}

struct Stage {
    bed: Bed,
    manager: Manager,
    vassals: Vec<Vassal>,
}

impl Stage {
    /// `None` where there is no uWSGI with Python.
    fn new() -> Option<Self> {
        if on_path("ss").is_none() {
            support::skip("ss, of iproute2, is not installed");
            return None;
        }
        if on_path("uwsgi").is_none() || !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
            support::skip("uWSGI with its plugin for Python is not installed");
            return None;
        }
        let bed = Bed::new();
        bed.write("app.py", APP);
        let manager = Manager::new(bed.root(), 200);
        Some(Self { bed, manager, vassals: Vec::new() })
    }

    fn vassal(&mut self, name: &str, how: How, at: Target) {
        self.vassals.push(Vassal { name: format!("{name}.ini"), how, at });
    }

    fn emperor(&self) -> Builder {
        Builder::bare(&self.bed, Kind::Ours)
            .on(self.bed.v())
            .quick()
            .stats()
            .opt("emperor-on-demand-extension", ".socket")
            .opt("emperor-throttle", "200")
            .opt("emperor-control", self.bed.path("control.sock"))
            .opt("emperor-runtime-dir", self.bed.path("run"))
            .env("NOTIFY_SOCKET", self.manager.socket())
            .flag("emperor-fd-store")
    }

    /// The vassal's file in this version, and the one beside it; version 0 cannot start.
    fn write(&self, vassal: &Vassal, version: u32, lines: &str) {
        let root = self.bed.root().display();
        let address = match &vassal.at {
            Target::File(path) => path.display().to_string(),
            Target::Port(port) => format!("127.0.0.1:{port}"),
        };
        let own = match vassal.how {
            How::Own => format!("on-demand = true\nhttp-socket = {address}"),
            How::Companion => "protocol = http".to_owned(),
            How::Both => format!("http-socket = {address}"),
        };
        if vassal.how != How::Own {
            self.bed.write(format!("v/{}.socket", vassal.name), address);
        }
        let app = if version == 0 { "missing" } else { "app" };
        let text = format!(
            "[uwsgi]\nplugin = python3\nwsgi-file = {root}/{app}.py\nneed-app = true\nmaster = true\nprocesses = 2\n\
             disable-logging = true\nenv = VERSION={version}\nenv = HELD={root}/held\n{own}\n{lines}"
        );
        self.bed.write(format!("v/{}", vassal.name), text);
    }

    /// A word of the client's about all of them.
    fn tell(&self, word: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
        command.args([word, "--all"]).env_clear().env("EMPEROR_CONTROL", self.bed.path("control.sock"));
        let done = command.stdin(Stdio::null()).output().expect("the client");
        assert!(done.status.success(), "{word}: {done:?}");
    }

    fn fail(&self, emperor: &Emperor, what: &str) -> ! {
        panic!("{what}\n{:#}\n{}", emperor.stats(), emperor.log())
    }
}

/// The vassal's process; `None` while it has none.
fn pid(emperor: &Emperor, name: &str) -> Option<i32> {
    let pid = emperor.stats_of(name)?["pid"].as_i64().filter(|pid| *pid > 0)?;
    i32::try_from(pid).ok()
}

/// Waits until they wait for connections.
fn sleep(emperor: &Emperor, vassals: &[Vassal]) {
    emperor.wait_stats("all wait for connections", |stats| {
        let rows = stats["vassals"].as_array()?;
        let waits = |vassal: &Vassal| {
            let row = rows.iter().find(|row| row["id"] == vassal.name.as_str());
            row.is_some_and(|row| row["pid"] == -1 && row["on_demand"] != "")
        };
        vassals.iter().all(waits).then_some(())
    });
}

fn workers(master: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
    children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a signal for a process that lives");
}

/// The lines that ss(8) writes for these words, as words.
fn ss(words: &[&str]) -> Vec<Vec<String>> {
    let done = Command::new("ss").arg("-Hn").args(words).output().expect("ss, of iproute2");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The socket's number behind an address, and how many wait in its queue.
fn queue(at: &Target) -> Option<(String, usize)> {
    let (lines, address) = match at {
        Target::File(path) => (ss(&["-lx"]), path.to_str()?.to_owned()),
        Target::Port(port) => (ss(&["-lte"]), format!("127.0.0.1:{port}")),
    };
    let line = lines.into_iter().find(|line| line.contains(&address))?;
    let number = match at {
        Target::File(_) => line.iter().skip_while(|word| **word != address).nth(1)?.clone(),
        Target::Port(_) => line.iter().find_map(|word| word.strip_prefix("ino:"))?.to_owned(),
    };
    // With -lx the kind of the socket comes first.
    let waiting = line.iter().find_map(|word| word.parse().ok())?;
    Some((number, waiting))
}

/// The connections that processes had accepted when they were looked at.
#[derive(Debug, Default)]
struct Accepted {
    /// The ports of their TCP clients.
    ports: Vec<u16>,
    /// How many clients of unix sockets.
    unix: usize,
}

impl Accepted {
    /// Of processes that stand still.
    fn by(pids: &[i32]) -> Self {
        let number = |link: PathBuf| -> Option<String> {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        };
        let open = |pid: &i32| std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links =
            pids.iter().flat_map(open).filter_map(|entry| number(std::fs::read_link(entry.path()).ok()?));
        let held: BTreeSet<String> = links.collect();
        let mut found = Self::default();
        // Also of a client that has gone, or has shut his side down.
        for line in ss(&["-te", "state", "established", "state", "close-wait"]) {
            let of = |word: &str| word.strip_prefix("ino:").is_some_and(|number| held.contains(number));
            let Some(at) = line.iter().position(|word| of(word)) else { continue };
            let peer: Option<u16> =
                line[..at].iter().filter_map(|word| word.rsplit_once(':')?.1.parse().ok()).nth(1);
            found.ports.extend(peer);
        }
        // Source: proc(5); 03 is a connected one, and only one that was accepted has a path.
        for line in std::fs::read_to_string("/proc/net/unix").expect("sockets").lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            if words.len() > 7 && words[5] == "03" && held.contains(words[6]) {
                found.unix += 1;
            }
        }
        found
    }
}

/// Waits until each of them has been stopped by a signal.
fn stand_still(pids: &[i32]) {
    let stopped = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|fields| fields.trim_start().starts_with('T'))
    };
    for pid in pids {
        signal(*pid, Signal::SIGSTOP);
    }
    poll(PATIENCE, || pids.iter().all(stopped).then_some(())).expect("processes that stand still");
}
