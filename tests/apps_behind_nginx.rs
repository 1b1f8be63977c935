//! Real applications of four kinds on the real uWSGI, as vassals of ours, behind nginx: added, served, changed,
//! reloaded, killed, removed, stopped. The applications are in `tests/apps/`.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, PATIENCE, poll, skip, tools};

/// An application of `tests/apps`.
#[derive(Clone, Copy)]
struct App {
    /// Its directory there, and the first word of its answers.
    name: &'static str,
    /// The file with its code.
    code: &'static str,
    /// uWSGI's plugin, and the number that nginx sends for it.
    plugin: &'static str,
    modifier: u8,
    /// What must succeed where its framework is installed.
    probe: &'static [&'static str],
}

const FLASK: App = App {
    name: "flask",
    code: "app.py",
    plugin: "python3",
    modifier: 0,
    probe: &["/usr/bin/python3", "-c", "import flask"],
};
const DJANGO: App = App {
    name: "django",
    code: "app.py",
    plugin: "python3",
    modifier: 0,
    probe: &["/usr/bin/python3", "-c", "import django"],
};
const PERL: App =
    App { name: "perl", code: "app.psgi", plugin: "psgi", modifier: 5, probe: &["perl", "-e", "1"] };
const RUBY: App = App {
    name: "ruby",
    code: "config.ru",
    plugin: "rack",
    modifier: 7,
    probe: &["ruby", "-e", "require 'rack'"],
};

/// An application, its emperor, and nginx in front.
struct Site {
    app: App,
    port: u16,
    nginx: Child,
    emperor: Emperor,
    bed: Bed,
}

/// What one request brought: the words of an answer with status 200.
#[derive(Debug)]
struct Answer {
    version: String,
    master: i32,
    uid: u32,
}

impl App {
    /// Whether all that it needs is installed; says so where it is not.
    fn installed(&self) -> bool {
        let plugin = format!("/usr/lib/uwsgi/plugins/{}_plugin.so", self.plugin);
        let probe = Command::new(self.probe[0]).args(&self.probe[1..]).stderr(Stdio::null()).status();
        let there = [
            ("uwsgi", tools::on_path("uwsgi").is_some()),
            ("nginx", tools::on_path("nginx").is_some()),
            (&plugin, Path::new(&plugin).exists()),
            (self.name, probe.is_ok_and(|status| status.success())),
        ];
        let missing = there.iter().find(|(_, there)| !there);
        if let Some((what, _)) = missing {
            skip(&format!("{what} is not installed"));
        }
        missing.is_none()
    }

    fn source(&self, file: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps").join(self.name).join(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

impl Site {
    /// Puts the application and nginx up, and starts an emperor on an empty directory.
    fn new(app: App, options: impl FnOnce(Builder) -> Builder) -> Self {
        let bed = Bed::new();
        fs::create_dir(bed.path("app")).expect("a directory");
        bed.write(Path::new("app").join(app.code), app.source(app.code));
        let (nginx, port) = nginx(&bed, app);
        let base = Builder::bare(&bed, Kind::Ours).on(bed.v()).stats();
        let emperor = options(base).start();
        Self { app, port, nginx, emperor, bed }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.bed.path("app.sock")
    }

    /// Adds the vassal's file.
    fn add(&self) {
        let dir = self.bed.path("app").display().to_string();
        let socket = self.socket().display().to_string();
        let ini = self.app.source("vassal.ini").replace("@DIR@", &dir).replace("@SOCKET@", &socket);
        self.bed.write("v/app.ini", ini);
    }

    /// One request with all that can go wrong on its way: a path, a query, a body.
    fn ask(&self) -> Option<Answer> {
        let (head, body) = ask(self.port)?;
        head.starts_with("HTTP/1.1 200").then_some(())?;
        let words: Vec<&str> = body.split(' ').collect();
        let [name, version, master, uid, rest @ ..] = &words[..] else { panic!("{body:?}") };
        assert_eq!((*name, rest), (self.app.name, &["POST", "some/path", "x", "[ping]"][..]), "{body:?}");
        let master = master.parse().expect("a process id");
        Some(Answer { version: (*version).to_owned(), master, uid: uid.parse().expect("a user id") })
    }

    /// Asks until there is an answer that is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let answer = poll(PATIENCE, || self.ask().filter(&wanted));
        answer.unwrap_or_else(|| {
            let nginx = fs::read_to_string(self.bed.path("nginx.log")).unwrap_or_default();
            panic!("never answered: {what}; last {:?}\n{}\n--- nginx\n{nginx}", self.ask(), self.bed.report())
        })
    }

    /// Changes the code, and touches the vassal's file. Nobody who asks meanwhile is turned away.
    fn change(&self, from: &str, to: &str) {
        let code = fs::read_to_string(self.bed.path("app").join(self.app.code)).expect("the code");
        let changed = code.replace(&format!("\"{from}\""), &format!("\"{to}\""));
        assert_ne!(code, changed);
        self.bed.write(Path::new("app").join(self.app.code), changed);
        self.without_a_gap(|| {
            fs::File::options()
                .append(true)
                .open(self.bed.path("v/app.ini"))
                .and_then(|mut file| file.write_all(b"# changed\n"))
                .expect("a change of the file");
            self.until("the change", |answer| answer.version == to);
        });
    }

    /// Does something while another thread asks all the time: each time there must be an answer.
    fn without_a_gap(&self, act: impl FnOnce()) {
        let done = AtomicBool::new(false);
        let refused = std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut refused = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    match ask(self.port) {
                        Some((head, _)) if head.starts_with("HTTP/1.1 200") => {}
                        other => refused.push(format!("{other:?}")),
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                refused
            });
            {
                let _done = Done(&done);
                act();
            }
            others.join().expect("the other asker")
        });
        assert!(
            refused.is_empty(),
            "{} not answered, first {}\n{}",
            refused.len(),
            refused[0],
            self.bed.report()
        );
    }

    /// Stops everything.
    fn end(mut self) {
        self.nginx.kill().expect("a running nginx");
        self.nginx.wait().expect("its end");
        self.emperor.stop_politely(&self.bed);
    }
}

/// Ends the other asker, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One request; the head and the body of what comes back.
fn ask(port: u16) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head = "POST /some/path?a=1&q=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\n";
    stream.write_all(format!("{head}ping").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let body = if head.contains("Transfer-Encoding: chunked") { body.split("\r\n").nth(1)? } else { body };
    Some((head.to_owned(), body.to_owned()))
}

/// nginx in front of the application's socket, on a port that was free: tried again if somebody was quicker.
fn nginx(bed: &Bed, app: App) -> (Child, u16) {
    let conf = include_str!("apps/nginx.conf");
    let started = poll(PATIENCE, || {
        let free =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let text = conf
            .replace("@RUN@", bed.root().to_str().expect("plain text"))
            .replace("@SOCKET@", bed.path("app.sock").to_str().expect("plain text"))
            .replace("@MODIFIER@", &app.modifier.to_string())
            .replace("@PORT@", &free.to_string());
        bed.write("nginx.conf", text);
        let mut nginx = Command::new(tools::usher());
        nginx.args(["launch", "--"]).arg(tools::on_path("nginx").expect("nginx"));
        nginx
            .arg("-p")
            .arg(bed.root())
            .arg("-c")
            .arg(bed.path("nginx.conf"))
            .arg("-e")
            .arg(bed.path("nginx.log"));
        nginx.env_clear().env("PATH", "/usr/bin:/bin").env("WITNESS_DIR", bed.root());
        let mut nginx =
            nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx");
        let listens = || TcpStream::connect(("127.0.0.1", free)).ok().map(|_| true);
        let ended = |nginx: &mut Child| nginx.try_wait().expect("its status").map(|_| false);
        match poll(PATIENCE, || listens().or_else(|| ended(&mut nginx))) {
            Some(true) => Some((nginx, free)),
            _ => None,
        }
    });
    started.unwrap_or_else(|| panic!("{}", fs::read_to_string(bed.path("nginx.log")).unwrap_or_default()))
}

/// The whole life of an application.
fn life(app: App) {
    if !app.installed() {
        return;
    }
    let site = Site::new(app, |e| e);
    assert!(site.ask().is_none(), "nobody is there yet");

    site.add();
    let first = site.until("the first", |answer| answer.version == "one");
    let row =
        site.emperor.wait_stats("loyal", |_| site.emperor.stats_of("app.ini").filter(|v| v["loyal"] == 1));
    assert_eq!(row["pid"].as_i64(), Some(i64::from(first.master)), "{row:#}");

    site.change("one", "two");
    let second = site.until("the change", |answer| answer.version == "two");
    assert_eq!(second.master, first.master, "a reload keeps the process");

    let told = site.emperor.stats_of("app.ini").expect("a row")["respawns"].clone();
    site.without_a_gap(|| {
        site.emperor.signal(Signal::SIGHUP);
        let more =
            |_: &_| site.emperor.stats_of("app.ini").filter(|v| v["respawns"] != told && v["accepting"] == 1);
        site.emperor.wait_stats("a reload", more);
        site.until("after the reload", |answer| answer.version == "two");
    });

    kill(Pid::from_raw(first.master), Signal::SIGKILL).expect("a running master");
    let third = site.until("after the crash", |answer| answer.master != first.master);
    assert_eq!(third.version, "two");
    assert!(site.socket().exists());

    site.bed.remove("v/app.ini");
    site.emperor.wait_stats("gone", |s| (s["vassals"] == serde_json::json!([])).then_some(()));
    assert!(site.ask().is_none(), "it is still served");
    assert!(!site.socket().exists(), "its socket is still there");

    site.add();
    site.until("it is back", |answer| answer.version == "two");
    let socket = site.socket();
    site.end();
    assert!(!socket.exists(), "its socket is still there");
}

#[test]
fn flask() {
    life(FLASK);
}

#[test]
fn django() {
    life(DJANGO);
}

#[test]
fn perl_psgi() {
    life(PERL);
}

#[test]
fn ruby_rack() {
    life(RUBY);
}

#[test]
fn root_flask_in_tyrant_mode_runs_as_the_owner_of_its_file() {
    if !support::root() || !FLASK.installed() {
        return;
    }
    let owner = 62_121;
    let site = Site::new(FLASK, |e| e.flag("emperor-tyrant"));
    std::os::unix::fs::chown(site.bed.root(), Some(owner), Some(owner)).expect("the socket's directory");
    site.add();
    site.emperor.wait_log("invalid permissions for vassal app.ini");
    std::os::unix::fs::chown(site.bed.path("v/app.ini"), Some(owner), Some(owner)).expect("chown");
    let answer = site.until("an answer", |_| true);
    assert_eq!(answer.uid, owner);
    site.end();
}

#[test]
fn a_change_that_cannot_work_leaves_the_application_as_it_is() {
    if !FLASK.installed() {
        return;
    }
    let site = Site::new(FLASK, |e| e);
    site.add();
    let first = site.until("the first", |_| true);
    let ini = fs::read_to_string(site.bed.path("v/app.ini")).expect("the file");
    site.without_a_gap(|| {
        site.bed
            .write("v/app.ini", ini.replace("plugin = python3", "plugin = python3\nini = /nonexistent.ini"));
        site.emperor.wait_log("/nonexistent.ini");
    });
    let still = site.until("as before", |_| true);
    assert_eq!(still.master, first.master);
    site.bed.write("v/app.ini", ini);
    site.change("one", "two");
    assert_eq!(site.until("the change", |_| true).master, first.master);
    site.end();
}
