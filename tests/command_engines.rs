//! Application servers other than uWSGI as command vassals: each is added, serves, is changed under load without a lost
//! request if it can, answers what it has begun when it is stopped, and is gone. An engine that is not installed is skipped.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use support::emperor::{Builder, Emperor, Kind};
use support::tools::on_path;
use support::{Bed, PATIENCE, poll};

/// How an engine is asked.
#[derive(Clone, Copy)]
enum Ask {
    Http,
    /// This script, by FastCGI.
    FastCgi(&'static str),
}

/// An engine, and what its vassal's file says. `{app}` is the directory of the application.
struct Engine {
    /// The programs without which it is skipped.
    needs: &'static [&'static str],
    /// Files of the application; `{version}` is replaced in them.
    files: &'static [(&'static str, &'static str)],
    /// Lines of the vassal's file; the socket's line comes first.
    lines: &'static str,
    ask: Ask,
    /// Whether it makes its socket itself.
    binds: bool,
    /// How long it goes on with a reload when its new workers answer already.
    rest: Duration,
    /// How many requests each change may cost: those that it has taken, and drops when it is told to end.
    drops: u32,
}

/// Who a web application is on most machines.
const USER: &str = "www-data";

/// What an engine is shut in by.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Jail {
    None,
    Standard,
    Strict,
}

impl Jail {
    /// Lines of the vassal's file. The application is below /tmp here, which both levels hide.
    fn lines(self) -> &'static str {
        const LINES: [&str; 2] = [
            "sandbox = standard\nuid = www-data\nbind-read-only = {app}\n",
            "sandbox = strict\nuid = www-data\nbind-read-only = {app}\n",
        ];
        match self {
            Self::None => "",
            Self::Standard => LINES[0],
            Self::Strict => LINES[1],
        }
    }

    /// How often the application is changed under load.
    fn changes(self) -> u32 {
        if self == Self::None { 5 } else { 1 }
    }
}

const WSGI: &str = "import os, time
def application(environ, start_response):
    if environ['PATH_INFO'] == '/slow':
        time.sleep(1)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'version {version}']
";
const ASGI: &str = "import asyncio
async def asgi(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.shutdown':
                return
    if scope['path'] == '/slow':
        await asyncio.sleep(1)
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'version {version}'})
";
const RACK: &str = "run lambda { |env|
  sleep 1 if env['PATH_INFO'] == '/slow'
  [200, { 'Content-Type' => 'text/plain' }, ['version {version}']]
}
";
const NODE: &str = "const http = require('http');
const server = http.createServer((request, response) => {
  const answer = () => response.end('version {version}');
  if (request.url === '/slow') setTimeout(answer, 1000); else answer();
});
server.listen({ fd: Number(process.argv[2]) });
process.on('SIGTERM', () => server.close());
";
const PHP: &str = "<?php if ($_SERVER['REQUEST_URI'] == '/slow') { sleep(1); } echo 'version {version}';";
const FPM: &str = "[global]
error_log = /dev/null
process_control_timeout = 10
daemonize = no
[www]
user = root
group = root
listen = {socket}
pm = static
pm.max_children = 2
";
const WAITRESS: &str = "import socket, sys, waitress, app
waitress.serve(app.application, sockets=[socket.socket(fileno=int(sys.argv[1]))])
";

const SLOW: &str = "/slow";

struct Stage {
    bed: Bed,
    emperor: Emperor,
    engine: Engine,
    jail: Jail,
    socket: PathBuf,
    app: PathBuf,
}

impl Stage {
    /// `None` where the engine is not installed, or cannot be shut in.
    fn new(engine: Engine, jail: Jail) -> Option<Self> {
        if jail != Jail::None && !support::root() {
            return None;
        }
        if let Some(lacking) = engine.needs.iter().find(|program| installed(program).is_none()) {
            support::skip(&format!("{lacking} is not installed"));
            return None;
        }
        let bed = Bed::new();
        let emperor = Builder::new(&bed, Kind::Ours).start();
        let (socket, app) = (bed.path("own/s"), bed.path("app"));
        let own = bed.path("own");
        fs::create_dir(&own).expect("a directory for its socket");
        if jail != Jail::None {
            let user = nix::unistd::User::from_name(USER).ok().flatten().expect("the user of web servers");
            nix::unistd::chown(&own, Some(user.uid), Some(user.gid)).expect("its owner");
        }
        fs::create_dir(&app).expect("a directory");
        let stage = Self { bed, emperor, engine, jail, socket, app };
        stage.write_version(0);
        Some(stage)
    }

    fn write_version(&self, version: u32) {
        for (name, text) in self.engine.files {
            let text = text.replace("{version}", &version.to_string());
            let text = text.replace("{socket}", &self.socket.display().to_string());
            let (part, file) = (self.app.join("part"), self.app.join(name));
            fs::write(&part, text).expect("a file of the application");
            fs::rename(part, file).expect("a rename");
        }
        // Python takes a file of the same second and length for the same.
        let _ = fs::remove_dir_all(self.app.join("__pycache__"));
    }

    fn write_vassal(&self) {
        let socket =
            if self.engine.binds { String::new() } else { format!("socket = {}\n", self.socket.display()) };
        let program = installed(self.engine.needs[0]).expect("it was there");
        let mut lines = format!("{}{}", self.engine.lines, self.jail.lines());
        if self.jail != Jail::None && self.engine.binds {
            lines += &format!("bind = {}\n", self.bed.path("own").display());
            // A program outside of /usr has to be shown.
            let tree = program.parent().and_then(Path::parent).expect("PREFIX/bin/PROGRAM");
            lines += &format!("bind-read-only = {}\n", tree.display());
        }
        let lines = lines.replace("{app}", &self.app.display().to_string());
        let lines = lines.replace("{program}", &program.display().to_string());
        let lines = lines.replace("{path}", &self.socket.display().to_string());
        self.bed.write("v/a.ini", format!("[uwsgi]\n{socket}env = PYTHONDONTWRITEBYTECODE=1\n{lines}"));
    }

    fn ask(&self, path: &str) -> Option<String> {
        ask(&self.socket, &self.app, self.engine.ask, path)
    }

    fn until_version(&self, version: u32) {
        let wanted = format!("version {version}");
        poll(PATIENCE, || self.ask("/").filter(|answer| *answer == wanted)).unwrap_or_else(|| {
            panic!("no {wanted}; {:?}\n{}\n{}", self.ask("/"), self.emperor.log(), self.bed.report())
        });
    }

    /// The whole life of a vassal.
    fn live(mut self) {
        self.write_vassal();
        self.until_version(0);
        let load = Load::start(&self);
        let changes = self.jail.changes();
        for version in 1..=changes {
            self.write_version(version);
            self.write_vassal();
            self.until_version(version);
            thread::sleep(Duration::from_millis(100)); // a while of ordinary work
        }
        let (answered, lost) = load.end();
        let may_be_lost = self.engine.drops * changes;
        assert!(
            answered > 2 * changes && lost <= may_be_lost,
            "{answered} answered, {lost} lost\n{}",
            self.emperor.log()
        );

        // An engine that replaces its workers one after the other may still be at it.
        let wanted = format!("version {changes}");
        let settled = || (0..20).all(|_| self.ask("/").as_ref() == Some(&wanted)).then_some(());
        poll(PATIENCE, settled).expect("all workers are of the last version");
        thread::sleep(self.engine.rest);
        let (socket, app, how) = (self.socket.clone(), self.app.clone(), self.engine.ask);
        let begun = thread::spawn(move || ask(&socket, &app, how, SLOW));
        thread::sleep(Duration::from_millis(300)); // it is with the engine now, which will take a second
        self.bed.remove("v/a.ini");
        let answer = begun.join().expect("the asker");
        assert_eq!(answer, Some(format!("version {changes}")), "{}", self.emperor.log());
        self.emperor.wait_log("removed uwsgi instance a.ini");
        let log = self.emperor.log();
        assert!(!log.contains("throttling"), "{log}");
        assert!(self.emperor.running());
        self.emperor.stop(&self.bed);
    }
}

/// Where a program is: `packaging/install-test-engines` has some below the build directory.
fn installed(program: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("engines/bin").join(program);
    on_path(program).or_else(|| own.is_file().then_some(own))
}

/// Requests without end, from two clients.
struct Load {
    over: Arc<AtomicBool>,
    counts: Arc<[AtomicU32; 2]>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(stage: &Stage) -> Self {
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU32::new(0) }; 2]));
        let client = |_| {
            let (over, counts) = (Arc::clone(&over), Arc::clone(&counts));
            let (socket, app, how) = (stage.socket.clone(), stage.app.clone(), stage.engine.ask);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answered = ask(&socket, &app, how, "/").is_some();
                    counts[usize::from(!answered)].fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let clients = (0..2).map(client).collect();
        Self { over, counts, clients }
    }

    /// How many requests were answered, and how many were lost.
    fn end(self) -> (u32, u32) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client"));
        (self.counts[0].load(Ordering::Relaxed), self.counts[1].load(Ordering::Relaxed))
    }
}

/// One request; `None` if it gets no answer with status 200.
fn ask(socket: &Path, app: &Path, how: Ask, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    match how {
        Ask::Http => {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let version = body.find("version").map(|at| &body[at..])?; // a body in chunks has a length before it
            head.contains(" 200 ").then(|| version.lines().next().unwrap_or_default().to_owned())
        }
        Ask::FastCgi(script) => {
            stream.write_all(&fastcgi(&app.join(script), path)).ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok()?;
            let text = String::from_utf8_lossy(&answer);
            let version: String = text[text.find("version")?..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == ' ')
                .collect();
            Some(version)
        }
    }
}

/// A request of the FastCGI protocol, version 1: begin, parameters, no body.
fn fastcgi(script: &Path, uri: &str) -> Vec<u8> {
    let record = |kind: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("a short record").to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0], content].concat()
    };
    let parameter = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).expect("a short parameter");
        [&[length(name), length(value)], name.as_bytes(), value.as_bytes()].concat()
    };
    let script = script.to_str().expect("a path of letters");
    let parameters = [
        parameter("SCRIPT_FILENAME", script),
        parameter("REQUEST_METHOD", "GET"),
        parameter("REQUEST_URI", uri),
    ];
    let begin = record(1, &[0, 1, 0, 0, 0, 0, 0, 0]); // a responder, and the connection is closed afterwards
    [begin, record(4, &parameters.concat()), record(4, &[]), record(5, &[])].concat()
}

fn live(engine: Engine, jail: Jail) {
    if let Some(stage) = Stage::new(engine, jail) {
        stage.live();
    }
}

macro_rules! engines {
    ($($name:ident: $engine:expr;)*) => {
        $(mod $name {
            use super::*;
            #[test]
            fn bare() {
                live($engine, Jail::None);
            }
            #[test]
            fn root_standard() {
                live($engine, Jail::Standard);
            }
            #[test]
            fn root_strict() {
                live($engine, Jail::Strict);
            }
        })*
    };
}

engines! {
    gunicorn_reloads_by_hup: Engine {
        needs: &["gunicorn"],
        files: &[("app.py", WSGI)],
        lines: "command = gunicorn --chdir {app} -w 2 app:application\nreload-signal = HUP\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    gunicorn_is_replaced: Engine {
        needs: &["gunicorn"],
        files: &[("app.py", WSGI)],
        lines: "command = gunicorn --chdir {app} -w 2 app:application\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    uvicorn_is_replaced: Engine {
        needs: &["uvicorn"],
        files: &[("app.py", ASGI)],
        lines: "command = uvicorn --app-dir {app} --fd %(socket.0) app:asgi\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 1, // a connection that it has taken, and of which it has read nothing yet, is closed
    };
    hypercorn_is_replaced: Engine {
        needs: &["hypercorn"],
        files: &[("app.py", ASGI)],
        lines: "command = hypercorn -b fd://%(socket.0) app:asgi\nenv = PYTHONPATH={app}\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    waitress_is_replaced_by_int: Engine {
        needs: &["waitress-serve", "python3"],
        files: &[("app.py", WSGI), ("serve.py", WAITRESS)],
        lines: "command = python3 {app}/serve.py %(socket.0)\nstop-signal = INT\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 2,
    };
    node_is_replaced: Engine {
        needs: &["node"],
        files: &[("app.js", NODE)],
        lines: "command = node {app}/app.js %(socket.0)\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    php_fpm_reloads_by_usr2: Engine {
        needs: &["php-fpm8.2"],
        files: &[("app.php", PHP), ("fpm.conf", FPM)],
        lines: "command = php-fpm8.2 -F -R -y {app}/fpm.conf\nenv = FPM_SOCKETS=%(socket.0.address)=%(socket.0)\n\
                reload-signal = USR2\nstop-signal = QUIT\n",
        ask: Ask::FastCgi("app.php"),
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    puma_is_replaced: Engine {
        needs: &["puma"],
        files: &[("config.ru", RACK)],
        lines: "command = puma -q -b unix://%(socket.0.address) {app}/config.ru\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    unicorn_reloads_by_hup: Engine {
        needs: &["unicorn"],
        files: &[("config.ru", RACK), ("unicorn.rb", "worker_processes 2\n")],
        lines: "command = unicorn -c {app}/unicorn.rb -l %(socket.0.address) {app}/config.ru\nreload-signal = HUP\nstop-signal = QUIT\n",
        ask: Ask::Http,
        binds: false,
        rest: Duration::ZERO,
        drops: 0,
    };
    granian_has_a_socket_of_its_own: Engine {
        needs: &["granian"],
        files: &[("app.py", WSGI)],
        lines: "command = {program} --interface wsgi --workers 2 --uds {path} --working-dir {app} app:application\n\
                reload-signal = HUP\n",
        ask: Ask::Http,
        binds: true,
        rest: Duration::from_secs(3),
        drops: 0,
    };
}
