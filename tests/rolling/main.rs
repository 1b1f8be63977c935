//! Rolling reload: another process takes the place of a vassal's when it is ready, and no client notices. Under load
//! through nginx, with real uWSGI and gunicorn, and the real Emperor's way beside them.
//!
//! `ROLLS=50 cargo nextest run --test rolling --no-capture` measures more than a few.

#[path = "../support/mod.rs"]
mod support;

mod bursts;
mod for_all;
mod orders;
mod places;
mod stages;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::emperor::{Builder, Emperor, Kind};
use support::served::free_port;
use support::tools::on_path;
use support::{Bed, PATIENCE, poll};

const APP: &str = "import os
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [os.environ['VERSION'].encode()]
";

/// What runs the application.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Uwsgi,
    Gunicorn,
}

struct Stage {
    bed: Bed,
    emperor: Emperor,
    server: Server,
    port: u16,
    nginx: Option<(Process, u16)>,
}

/// Ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

impl Stage {
    /// `None` where something is not installed.
    fn new(kind: Kind, server: Server, needs: &[&str]) -> Option<Self> {
        let own: &[&str] = if server == Server::Uwsgi { &["uwsgi"] } else { &["gunicorn"] };
        for tool in needs.iter().chain(own) {
            if on_path(tool).is_none() {
                support::skip(&format!("{tool} is not installed"));
                return None;
            }
        }
        if server == Server::Uwsgi && !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
            support::skip("uWSGI's plugin for Python is not installed");
            return None;
        }
        let bed = Bed::new();
        bed.write("app.py", APP);
        let builder = Builder::bare(&bed, kind).on(bed.v()).quick().stats();
        let emperor = match kind {
            Kind::Real => builder.start(),
            _ => builder
                .opt("emperor-control", bed.path("control.sock"))
                .opt("emperor-runtime-dir", bed.path("run"))
                .start(),
        };
        Some(Self { bed, emperor, server, port: free_port(), nginx: None })
    }

    /// The vassal's file in this version; a version of 0 does not start.
    fn write(&self, version: u32, lines: &str) {
        let (root, port) = (self.bed.root().display(), self.port);
        let app = if version == 0 { "missing" } else { "app" };
        let text = match self.server {
            Server::Uwsgi => format!(
                "[uwsgi]\nplugin = python3\nwsgi-file = {root}/{app}.py\nneed-app = true\nmaster = true\n\
                 processes = 2\ndisable-logging = true\nsocket = 127.0.0.1:{port}\nenv = VERSION={version}\n{lines}"
            ),
            Server::Gunicorn => format!(
                "[uwsgi]\ncommand = gunicorn --chdir {root} -w 2 {app}:application\nsocket = 127.0.0.1:{port}\n\
                 env = VERSION={version}\n{lines}"
            ),
        };
        self.bed.write("v/app.ini", text);
    }

    /// nginx in front of it.
    fn behind_nginx(&mut self) {
        let (port, root) = (free_port(), self.bed.root().display().to_string());
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {root}/{name};\n"))
            .concat();
        let pass = match self.server {
            Server::Uwsgi => format!("uwsgi_pass 127.0.0.1:{};", self.port),
            Server::Gunicorn => format!("proxy_pass http://127.0.0.1:{};", self.port),
        };
        let params = "uwsgi_param REQUEST_METHOD $request_method; uwsgi_param PATH_INFO $document_uri; \
                      uwsgi_param QUERY_STRING $query_string; uwsgi_param SERVER_PROTOCOL $server_protocol; \
                      uwsgi_param SERVER_NAME $server_name; uwsgi_param SERVER_PORT $server_port;";
        let conf = format!(
            "daemon off;\nmaster_process off;\npid {root}/nginx.pid;\nerror_log {root}/nginx.log;\nevents {{}}\n\
             http {{\naccess_log off;\n{temp}server {{ listen 127.0.0.1:{port}; location / {{ {params} {pass} }} }}\n}}\n"
        );
        let conf = self.bed.write("nginx.conf", conf);
        let log = std::fs::File::create(self.bed.path("nginx.out")).expect("a log");
        let child = Command::new("nginx").arg("-c").arg(conf).stdin(Stdio::null()).stderr(log).spawn();
        self.nginx = Some((Process(child.expect("nginx")), port));
    }

    /// The body of an answer, by nginx.
    fn get(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.nginx.as_ref()?.1)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    fn rows(&self) -> Vec<Value> {
        self.emperor.stats()["vassals"].as_array().cloned().unwrap_or_default()
    }

    fn row(&self, id: &str) -> Option<Value> {
        self.rows().into_iter().find(|row| row["id"] == id)
    }

    fn pid(&self, id: &str) -> Option<i64> {
        self.row(id)?["pid"].as_i64().filter(|pid| *pid > 0)
    }

    fn up(&self) -> i64 {
        let up = || self.row("app.ini").filter(|row| row["accepting"] == 1)?["pid"].as_i64();
        poll(PATIENCE, up).unwrap_or_else(|| self.fail("it is not up"))
    }

    /// Another process is the vassal, and nobody else is left.
    fn replaced(&self, before: i64) -> i64 {
        let done = || {
            let alone = self.rows().len() == 1;
            self.pid("app.ini").filter(|pid| alone && *pid != before)
        };
        poll(PATIENCE, done).unwrap_or_else(|| self.fail("it is not replaced"))
    }

    fn client(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
        command.args(words).env_clear().env("EMPEROR_CONTROL", self.bed.path("control.sock"));
        command.stdin(Stdio::null()).output().expect("the client")
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}: {:#?}\n{}\n{}", self.rows(), self.emperor.log(), self.bed.report())
    }
}

/// How often it is reloaded: a few times, or as often as is asked for.
fn rolls(few: u32) -> u32 {
    std::env::var("ROLLS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// wrk on this port, until its time is over or it is interrupted.
struct Load(Process);

impl Load {
    fn on(port: u16) -> Self {
        Self::of(port, 600)
    }

    fn of(port: u16, seconds: u32) -> Self {
        let url = format!("http://127.0.0.1:{port}/");
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c8", "--timeout", "30s", &format!("-d{seconds}s"), &url]).stdout(Stdio::piped());
        Self(Process(wrk.spawn().expect("wrk")))
    }

    /// How many requests were answered, the longest time that one took, and what of them failed, in wrk's words.
    fn end(self) -> (u64, String, String) {
        let pid = Pid::from_raw(i32::try_from(self.0.0.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("wrk is there");
        self.told()
    }

    /// The same, when it has ended by itself.
    fn told(mut self) -> (u64, String, String) {
        let mut told = String::new();
        self.0.0.stdout.take().expect("a pipe").read_to_string(&mut told).expect("text");
        let words: Vec<_> = told.split_whitespace().collect();
        let count = words.windows(2).find(|pair| pair[1] == "requests").and_then(|pair| pair[0].parse().ok());
        let failed = told.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
        let longest = words.windows(4).find(|words| words[0] == "Latency").map_or("?", |words| words[3]);
        (count.unwrap_or(0), longest.to_owned(), failed.collect::<Vec<_>>().join(", "))
    }
}

/// Touched over and over under load: how many requests there were, and which failed.
fn reloads(kind: Kind, server: Server, few: u32) -> Option<String> {
    let mut stage = Stage::new(kind, server, &["nginx", "wrk"])?;
    let lines = if kind == Kind::Real { "" } else { "touch-reload-mode = rolling\n" };
    stage.write(1, lines);
    stage.behind_nginx();
    let answers = |stage: &Stage, version: u32| {
        let there = poll(PATIENCE, || (stage.get()? == version.to_string()).then_some(()));
        there.unwrap_or_else(|| stage.fail(&format!("version {version} never came")));
    };
    answers(&stage, 1);
    let load = Load::on(stage.nginx.as_ref().expect("nginx").1);
    let (times, began) = (rolls(few), Instant::now());
    for version in 2..2 + times {
        let before = stage.pid("app.ini").expect("a process");
        if kind == Kind::Real {
            std::thread::sleep(Duration::from_millis(1100)); // it compares whole seconds
        }
        stage.write(version, lines);
        if kind != Kind::Real {
            stage.replaced(before);
        }
        answers(&stage, version);
    }
    let took = began.elapsed();
    let (requests, longest, failed) = load.end();
    let told =
        format!("{times} reloads in {took:.1?}, {requests} requests, longest {longest}, failed: {failed:?}");
    let _ = writeln!(std::io::stderr(), "{kind:?} {server:?}: {told}");
    assert!(requests > 100, "{told}");
    stage.emperor.stop(&stage.bed);
    Some(failed)
}

#[test]
fn no_request_to_uwsgi_fails_while_its_processes_take_turns() {
    let Some(failed) = reloads(Kind::Ours, Server::Uwsgi, 5) else { return };
    assert_eq!(failed, "");
    // For comparison only: what it loses depends on the moment.
    reloads(Kind::Real, Server::Uwsgi, 5);
}

#[test]
fn no_request_to_gunicorn_fails_while_its_processes_take_turns() {
    let Some(failed) = reloads(Kind::Ours, Server::Gunicorn, 3) else { return };
    assert_eq!(failed, "");
}

#[test]
fn one_that_cannot_start_takes_nobodys_place_and_says_why() {
    for server in [Server::Uwsgi, Server::Gunicorn] {
        let Some(stage) = Stage::new(Kind::Ours, server, &[]) else { continue };
        let lines = "touch-reload-mode = rolling\n";
        stage.write(1, lines);
        let first = stage.up();
        stage.write(0, lines);
        let failed = |row: Value| row["rolling_failure"].as_str().map(str::to_owned);
        let told = poll(PATIENCE, || failed(stage.row("app.ini")?)).unwrap_or_else(|| stage.fail("not told"));
        assert!(told.contains("exited with status"), "{told}");
        let meaning = "exited with status 22: uWSGI cannot load its application";
        assert!(server != Server::Uwsgi || told.contains(meaning), "{told}");
        stage.emperor.wait_log("the rolling reload of vassal app.ini has failed, and it goes on as it was");
        let status = stage.client(&["status", "app.ini"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(text.contains("rolling reload has failed") && text.contains("exited with status"), "{text}");
        assert_eq!((stage.pid("app.ini"), stage.rows().len()), (Some(first), 1));
        let events = String::from_utf8_lossy(&stage.client(&["events"]).stdout).into_owned();
        assert!(
            events.contains("app.ini:next  it is no more") && !events.contains("file is gone"),
            "{events}"
        );
        // The next change is tried again, and is well.
        stage.write(2, lines);
        stage.replaced(first);
        assert_eq!(stage.row("app.ini").and_then(failed), None);
        stage.emperor.stop(&stage.bed);
    }
}

#[test]
fn why_names_the_line_for_which_the_new_one_does_not_start() {
    let Some(stage) = Stage::new(Kind::Ours, Server::Uwsgi, &[]) else { return };
    let lines = "touch-reload-mode = rolling\n";
    stage.write(1, lines);
    let first = stage.up();
    stage.write(2, &format!("{lines}strict = true\nproceses = 4\n"));
    stage.emperor.wait_log("the rolling reload of vassal app.ini has failed");
    let why = String::from_utf8_lossy(&stage.client(&["why", "app.ini"]).stdout).into_owned();
    let told = "the new process: it cannot be started: app.ini:12: [strict-mode] unknown config directive: proceses (write \
                `processes`)";
    assert!(why.contains(told), "{why}");
    assert_eq!(stage.pid("app.ini"), Some(first));
    stage.emperor.stop(&stage.bed);
}

#[test]
fn by_hand_where_two_can_serve_at_once_and_otherwise_it_is_said_how() {
    let Some(stage) = Stage::new(Kind::Ours, Server::Uwsgi, &[]) else { return };
    stage.write(1, "");
    let first = stage.up();
    let refused = stage.client(&["reload", "--rolling", "app.ini"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(why.contains("uWSGI binds its sockets itself") && why.contains("touch-reload-mode"), "{why}");
    assert_eq!(stage.pid("app.ini"), Some(first));
    // From its next start on it can.
    stage.write(1, "touch-reload-mode = rolling\n");
    stage.client(&["restart", "app.ini"]);
    let second = stage.replaced(first);
    stage.up();
    let done = stage.client(&["reload", "--rolling", "app.ini"]);
    assert!(done.status.success(), "{done:?}");
    let third = stage.replaced(second);
    // What a program has, the emperor holds anyway: here the next one comes while the emperor is renewed.
    stage.client(&["reload", "--rolling", "app.ini"]);
    stage.emperor.renew(&stage.bed);
    stage.replaced(third);
    stage.emperor.stop(&stage.bed);
}

#[test]
fn a_second_socket_of_uwsgi_is_named_as_what_is_in_the_way() {
    let Some(stage) = Stage::new(Kind::Ours, Server::Uwsgi, &[]) else { return };
    stage.write(1, "http-socket = 127.0.0.1:1\ntouch-reload-mode = rolling\n");
    stage
        .emperor
        .wait_log("http-socket: its processes take turns by the socket that the emperor holds for them");
    stage.emperor.stop(&stage.bed);
}

#[test]
fn other_sockets_are_no_reason_to_lose_the_old_ones() {
    let Some(stage) = Stage::new(Kind::Ours, Server::Gunicorn, &[]) else { return };
    let lines = "touch-reload-mode = rolling\n";
    stage.write(1, lines);
    let first = stage.up();
    let other = Stage { port: free_port(), ..stage };
    other.write(2, lines);
    other.emperor.wait_log("its file names other sockets now");
    assert_eq!(other.pid("app.ini"), Some(first));
    other.client(&["restart", "app.ini"]);
    let second = other.replaced(first);
    assert!(second > 0 && TcpStream::connect(("127.0.0.1", other.port)).is_ok());
    other.emperor.stop(&other.bed);
}

/// The old one dies while the new one starts, a change comes in between, and the file goes: it is always one process
/// that stays, or none.
#[test]
fn whatever_comes_in_between_one_process_stays() {
    let Some(stage) = Stage::new(Kind::Ours, Server::Gunicorn, &[]) else { return };
    let lines = "touch-reload-mode = rolling\n";
    stage.write(1, lines);
    let first = stage.up();
    let next = || poll(PATIENCE, || stage.pid("app.ini:next")).unwrap_or_else(|| stage.fail("no successor"));
    stage.write(2, lines);
    let second = next();
    kill(Pid::from_raw(i32::try_from(first).expect("a pid")), Signal::SIGKILL).expect("it is there");
    assert_eq!(stage.replaced(first), second, "who was on its way has taken its place");
    std::thread::sleep(Duration::from_millis(300)); // changes are that far apart at least
    stage.write(3, lines);
    let third = next();
    stage.write(4, lines);
    let fourth = stage.replaced(second);
    assert_ne!(fourth, third, "that one had read what does not count any more");
    stage.write(5, lines);
    next();
    stage.bed.remove("v/app.ini");
    poll(PATIENCE, || stage.rows().is_empty().then_some(())).unwrap_or_else(|| stage.fail("some are left"));
    stage.emperor.stop(&stage.bed);
}

/// uWSGI would remove the file of a socket that it takes for its own.
#[test]
fn the_file_of_a_socket_stays_whoever_goes() {
    let Some(stage) = Stage::new(Kind::Ours, Server::Uwsgi, &[]) else { return };
    let socket = stage.bed.path("app.sock");
    let file = |version: u32| {
        let root = stage.bed.root().display();
        let text = format!(
            "[uwsgi]\nplugin = python3\nwsgi-file = {root}/app.py\nmaster = true\nsocket = {root}/app.sock\nvacuum = true\n\
             env = VERSION={version}\ntouch-reload-mode = rolling\n"
        );
        stage.bed.write("v/app.ini", text);
    };
    file(1);
    let mut pid = stage.up();
    let inode = || std::fs::metadata(&socket).map(|there| there.ino()).ok();
    let before = inode();
    for version in 2..4 {
        file(version);
        pid = stage.replaced(pid);
        assert!(UnixStream::connect(&socket).is_ok(), "nobody can be reached");
        assert_eq!(inode(), before, "it is another one");
    }
    stage.emperor.stop(&stage.bed);
}
