//! Real programs, where they are installed, at each level: what is refused must be nothing that they live on.
//!
//! They need root, because they are started as a tenant.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use emperor::vassal::plan::{Become, Capabilities, Exec, Extra, LaunchPlan, Op, Text, Who};
use emperor::vassal::terms::{Landlock, Level, Privileges, Start};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::bed::{Ended, GID, UID, launch, root};
use super::ops;
use super::tools::on_path;

const PATIENCE: Duration = Duration::from_secs(60);
const LEVELS: [Level; 2] = [Level::Standard, Level::Strict];

/// The plan of a program that starts as a tenant, or as root; in its directory, which with /tmp is all that it may write
/// to.
fn plan(level: Level, start: Start, dir: &Path, program: &str, args: &[String]) -> LaunchPlan {
    // Required: a machine that cannot do it is not to pass for one on which programs live with it.
    let landlock = if level == Level::Strict && has_landlock() { Landlock::Yes } else { Landlock::No };
    let privileges = Privileges { landlock, ..Privileges::level(level) };
    let tenant = Become {
        user: Some(Who::Id(UID)),
        group: Some(Who::Id(GID)),
        groups: Extra::Exactly(Vec::new()),
        keep: Capabilities::default(),
    };
    let identity = if start == Start::Another { vec![Op::Become(tenant)] } else { Vec::new() };
    let mut ops = vec![Op::ChangeDir(Text::from(dir.as_os_str()))];
    let mut read = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys"].map(Path::new).to_vec();
    read.extend(Path::new(program).parent().and_then(Path::parent)); // a program with its own libraries
    ops.extend(self::ops(&privileges, start, identity, &read, &[dir, Path::new("/dev"), Path::new("/tmp")]));
    let path = Text::from("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    let home = Text::from(dir.as_os_str());
    ops.push(Op::Environment(vec![
        ("PATH".into(), path),
        ("HOME".into(), home.clone()),
        ("TMPDIR".into(), home),
    ]));
    let args = args.iter().map(|arg| Text::from(arg.as_str())).collect();
    ops.push(Op::Exec(Exec { programs: vec![program.into()], args, magic: None }));
    LaunchPlan { vassal: "a.ini".into(), config_pipe: false, safe_fds: Vec::new(), alone: false, ops }
}

fn has_landlock() -> bool {
    super::filters::landlock_version() > 0
}

fn home_of_tenant() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(UID), Some(GID)).unwrap();
    dir
}

/// Whether root may do this here and the program is there.
fn has(program: &str) -> bool {
    let there = on_path(program).is_some();
    if !there {
        println!("skipped: {program} is not installed");
    }
    there && root()
}

/// Runs a script to its end at each level: it prints `fine`, and nothing of it fails.
fn runs(program: &str, script: &str, flag: &str) {
    for level in LEVELS {
        let dir = home_of_tenant();
        let ended = launch(&plan(level, Start::Another, dir.path(), program, &[flag.into(), script.into()]));
        assert!(
            ended.status == Some(0) && ended.out.ends_with("fine\n"),
            "{program} in {level:?}: {ended:#?}"
        );
    }
}

#[test]
fn root_python_runs_with_threads_processes_and_libraries() {
    if !has("python3") {
        return;
    }
    runs(
        "python3",
        "import asyncio, ctypes, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading
ssl.create_default_context()
t = threading.Thread(target=lambda: None); t.start(); t.join()
assert subprocess.run(['sh', '-c', 'echo $((1+1))'], capture_output=True).stdout == b'2\\n'
q = multiprocessing.get_context('fork').SimpleQueue()
p = multiprocessing.get_context('fork').Process(target=q.put, args=(7,)); p.start(); assert q.get() == 7; p.join()
async def main():
    s = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)
    r, w = await asyncio.open_connection(*s.sockets[0].getsockname()); assert await r.read() == b''
    p = await asyncio.create_subprocess_exec('true'); assert await p.wait() == 0
asyncio.run(main())
with tempfile.NamedTemporaryFile() as f: f.write(b'x'); os.fsync(f.fileno()); os.chmod(f.name, 0o640)
sqlite3.connect('db').execute('create table t (a)')
socket.getaddrinfo('localhost', 80)
os.nice(1); os.sched_getaffinity(0); os.setuid(os.getuid())
ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)()
print('fine')",
        "-c",
    );
}

#[test]
fn root_node_compiles_at_run_time_and_starts_threads_and_processes() {
    if !has("node") {
        return;
    }
    runs(
        "node",
        "const { Worker } = require('worker_threads'), http = require('http'), fs = require('fs');
let sum = 0; for (let i = 0; i < 3e6; i++) sum += i % 7;
new Worker('require(\"worker_threads\").parentPort.postMessage(1)', { eval: true }).on('message', () => {
  fs.promises.writeFile('x', 'y').then(() => {
    const out = require('child_process').execSync('echo 1').toString();
    const server = http.createServer((q, a) => a.end('ok')).listen('s.sock', () =>
      http.get({ socketPath: 's.sock', path: '/' }, a => a.on('data', d => { console.log(out.trim() === '1' && 'fine'); server.close(); })));
  });
});",
        "-e",
    );
}

#[test]
fn root_php_ruby_and_perl_run() {
    for (program, flag, script) in [
        (
            "php",
            "-r",
            "$p = proc_open('true', [], $x); proc_close($p); fclose(tmpfile()); echo 'fine', PHP_EOL;",
        ),
        ("ruby", "-e", "Thread.new { 1 }.join; `true`; Process.wait(fork { exit! }); puts 'fine'"),
        ("perl", "-e", "system('true') == 0 or die; fork or exit; wait; print \"fine\\n\""),
    ] {
        if has(program) {
            runs(program, script, flag);
        }
    }
}

/// The first line of the body of an answer, once there is one.
fn get(socket: &Path) -> String {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let mut answer = String::new();
        let asked = UnixStream::connect(socket).and_then(|mut link| {
            link.set_read_timeout(Some(Duration::from_secs(5)))?;
            link.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            link.read_to_string(&mut answer)
        });
        if let (Ok(_), Some((_, body))) = (asked, answer.split_once("\r\n\r\n")) {
            return body.trim().to_owned();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no answer on {}", socket.display());
}

const APP: &str = "import os, threading
import uwsgi
uwsgi.register_signal(9, '', lambda n: None); uwsgi.add_timer(9, 1)
loaded = open('loads', 'a'); loaded.write('x'); loaded.close()
def application(env, start):
    t = threading.Thread(target=lambda: None); t.start(); t.join()
    start('200 OK', [])
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    return [('%d %s %d' % (os.getuid(), status['Seccomp'].strip(), os.path.getsize('loads'))).encode()]
";

/// The process of a master that is not left behind when a test fails.
struct Master(i32);

impl Master {
    fn of(pidfile: &Path) -> Self {
        let end = Instant::now() + PATIENCE;
        loop {
            match fs::read_to_string(pidfile).unwrap_or_default().trim().parse() {
                Ok(pid) => return Self(pid),
                Err(_) => assert!(Instant::now() < end, "no {}", pidfile.display()),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn tell(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.0), signal).unwrap();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.0), Signal::SIGQUIT);
    }
}

/// uWSGI with a master, threads, cheaper and a timer; it answers, executes itself anew at HUP, answers, and ends.
fn uwsgi(level: Level, start: Start) -> Ended {
    let dir = home_of_tenant();
    fs::write(dir.path().join("app.py"), APP).unwrap();
    let socket = dir.path().join("s.sock");
    let mut args: Vec<String> = "--master --processes 3 --cheaper 1 --threads 2 --enable-threads --plugin python3 \
        --wsgi-file app.py --pidfile p.pid --http11-socket s.sock --vacuum --die-on-term --max-fd 64 --limit-as 2048 \
        --listen 8 --harakiri 20 --umask 022 --touch-reload app.py"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    if start == Start::Root {
        args.extend([
            "--uid".into(),
            UID.to_string(),
            "--gid".into(),
            GID.to_string(),
            "--chmod-socket=666".into(),
        ]);
    }
    let plan = plan(level, start, dir.path(), "uwsgi", &args);
    let launched = std::thread::spawn(move || launch(&plan));
    let first = get(&socket);
    let master = Master::of(&dir.path().join("p.pid"));
    assert_eq!(first, format!("{UID} 2 1"), "as the tenant, filtered, loaded once");
    master.tell(Signal::SIGHUP);
    let end = Instant::now() + PATIENCE;
    while get(&socket) == first {
        assert!(Instant::now() < end, "it has not loaded its application again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(get(&socket), format!("{UID} 2 2"));
    master.tell(Signal::SIGTERM);
    let ended = launched.join().unwrap();
    std::mem::forget(master);
    ended
}

#[test]
fn root_uwsgi_serves_and_executes_itself_anew_as_a_tenant() {
    if !has("uwsgi") {
        return;
    }
    for level in LEVELS {
        let ended = uwsgi(level, Start::Another);
        assert_eq!(ended.status, Some(0), "{ended:#?}");
    }
}

#[test]
fn root_uwsgi_that_starts_as_root_drops_by_itself() {
    if !has("uwsgi") {
        return;
    }
    for level in LEVELS {
        let ended = uwsgi(level, Start::Root);
        assert_eq!(ended.status, Some(0), "{ended:#?}");
    }
}

/// A server that is given its files answers on `s.sock`, and ends at TERM. `speaks_http`: else it is enough that it
/// accepts.
fn serves(program: &str, args: &str, files: &[(&str, &str)], speaks_http: bool) {
    let Some(path) = on_path(program) else { return println!("skipped: {program} is not installed") };
    if !root() {
        return;
    }
    for level in LEVELS {
        let dir = home_of_tenant();
        for (name, text) in files {
            fs::write(dir.path().join(name), text.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        }
        let args = args.replace("DIR", dir.path().to_str().unwrap());
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        let plan = plan(level, Start::Another, dir.path(), path.to_str().unwrap(), &args);
        let launched = std::thread::spawn(move || launch(&plan));
        let socket = dir.path().join("s.sock");
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            assert!(!launched.is_finished(), "{program} in {level:?}: {:#?}", launched.join());
            assert!(Instant::now() < end, "{program} in {level:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let master = Master::of(&dir.path().join("p.pid"));
        assert!(!speaks_http || get(&socket) == "fine", "{program} in {level:?}");
        master.tell(Signal::SIGTERM);
        let ended = launched.join().unwrap();
        std::mem::forget(master);
        assert!(ended.reports.len() == 1, "{ended:#?}");
    }
}

#[test]
fn root_gunicorn_serves() {
    let app = "def application(env, start):\n    start('200 OK', [])\n    return [b'fine']\n";
    serves("gunicorn", "-w 2 --threads 2 -p p.pid -b unix:s.sock app", &[("app.py", app)], true);
}

#[test]
fn root_puma_serves() {
    let app = "run lambda { |env| [200, {}, ['fine']] }\n";
    serves("puma", "-w 2 -t 2 --pidfile p.pid -b unix://DIR/s.sock config.ru", &[("config.ru", app)], true);
}

#[test]
fn root_php_fpm_serves() {
    let conf = "[global]\npid = DIR/p.pid\nerror_log = DIR/e.log\n[www]\nlisten = DIR/s.sock\npm = dynamic\n\
        pm.max_children = 3\npm.start_servers = 1\npm.min_spare_servers = 1\npm.max_spare_servers = 2\n";
    serves("php-fpm8.2", "-F -y DIR/fpm.conf", &[("fpm.conf", conf)], false);
}
