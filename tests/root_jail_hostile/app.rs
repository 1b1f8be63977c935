//! A uWSGI with a Python application in the same places: a tenant's, in a sandbox, with what the emperor itself applies.
//! uWSGI's Emperor has no sandbox, and cannot make namespaces for a tenant.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;

use super::stage::{Level, MALLORY, VICTIM, World, mode, own, possible};
use super::support::emperor::{Builder, Emperor, Kind};
use super::support::{Bed, PATIENCE, poll, skip};

/// The emperor's own words beside the sandbox.
const WITH_MORE: &[(&str, &str)] = &[
    ("emperor-use-clone", "pid,ipc,uts"),
    ("emperor-cap", "net_bind_service"),
    ("hook-as-vassal", "exec:id -u > /srv/mallory/hooked"),
];

struct App {
    bed: Bed,
    world: World,
    emperor: Emperor,
}

impl App {
    /// The application of a tenant, running; `None` where Python's plugin is not installed.
    fn start(level: Level, more: &[(&str, &str)]) -> Option<Self> {
        if !possible() || Kind::Real.program().is_none() {
            return None;
        }
        if !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
            skip("uwsgi-plugin-python3 is not installed");
            return None;
        }
        let bed = Bed::new();
        let world = World::new(&bed, MALLORY, VICTIM);
        fs::write(world.srv.join("policy"), format!("[default]\nsandbox = {}\n", level.word()))
            .expect("a policy");
        let builder = Builder::bare(&bed, Kind::Ours)
            .program("/srv/emperor")
            .opt("emperor-runtime-dir", "/srv/run")
            .on(format!("/srv/{}", world.vassals))
            .quick()
            .flag("emperor-tyrant")
            .opt("emperor-policy", "/srv/policy")
            // With threads, a worker of uWSGI that has just answered may not end by itself, whoever has started it: hence
            // the mercy of its file, too.
            .opt("emperor-stop-timeout", "5");
        let builder = more.iter().fold(builder, |builder, (option, value)| builder.opt(option, value));
        let emperor = world.staged(builder).start();
        let app = Self { bed, world, emperor };
        app.write("one");
        app.put();
        Some(app)
    }

    fn write(&self, version: &str) {
        let text = format!(
            "import os, threading
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    told = ['{version}', str(os.getuid()), str(os.path.exists('/home/victim/notes')), open('/proc/self/status').read()]
    thread = threading.Thread(target=told.append, args=('thread',))
    thread.start()
    thread.join()
    return ['\\n'.join(told).encode()]
"
        );
        let path = self.world.srv.join("mallory/app.py");
        fs::write(&path, text).expect("an application");
        own(path, MALLORY);
    }

    /// Its file, complete before anybody can see it; the second time it is a change.
    fn put(&self) {
        let fresh = self.world.srv.join("fresh");
        let text = "[uwsgi]\nplugin = python3\nhttp-socket = /srv/mallory/app.sock\nwsgi-file = /srv/mallory/app.py\n\
             chdir = /srv/mallory\nmaster = true\nprocesses = 2\nenable-threads = true\nneed-app = true\n\
             worker-reload-mercy = 2\n             bind = /srv/mallory\nsandbox = none\n";
        fs::write(&fresh, text).expect("a file");
        mode(&fresh, 0o600);
        own(&fresh, MALLORY);
        fs::rename(fresh, self.world.srv.join(&self.world.vassals).join("app.ini")).expect("a rename");
    }

    /// An answer that begins with this version.
    fn serves(&self, version: &str) -> String {
        let socket = self.world.srv.join("mallory/app.sock");
        let ask = || {
            let mut stream = UnixStream::connect(&socket).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            text.contains(&format!("\r\n\r\n{version}\n")).then_some(text)
        };
        poll(PATIENCE, ask).unwrap_or_else(|| panic!("{version} is not served\n{}", self.bed.report()))
    }

    /// It serves as the tenant, is reloaded in place, is stopped, and nothing stays.
    fn lives(self) {
        let told = self.serves("one");
        for line in [
            &format!("\none\n{MALLORY}\nFalse\n"),
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "CapBnd:\t0000000000000000",
            "\nthread",
        ] {
            assert!(told.contains(line), "{line:?} is not in {told}");
        }
        self.write("two");
        self.put();
        self.serves("two");
        let starts = self.emperor.lines("vassal app.ini has been spawned").len();
        assert_eq!(starts, 1, "it was reloaded, not started again\n{}", self.emperor.log());
        fs::remove_file(self.world.srv.join(&self.world.vassals).join("app.ini")).expect("removal of a file");
        self.emperor.wait_log("removed uwsgi instance app.ini");
        self.emperor.signal(Signal::SIGTERM);
        let Self { bed, mut emperor, .. } = self;
        assert_eq!(emperor.end().code(), Some(0), "{}", bed.report());
        bed.nothing_left();
    }
}

#[test]
fn root_a_tenants_uwsgi_serves_reloads_and_ends_in_a_standard_sandbox() {
    if let Some(app) = App::start(Level::Standard, &[]) {
        app.lives();
    }
}

#[test]
fn root_a_tenants_uwsgi_serves_reloads_and_ends_in_a_strict_sandbox() {
    if let Some(app) = App::start(Level::Strict, &[]) {
        app.lives();
    }
}

#[test]
fn root_clone_flags_capabilities_and_hooks_of_the_emperor_go_together_with_a_sandbox_and_tyrant_mode() {
    for level in [Level::None, Level::Standard, Level::Strict] {
        let Some(app) = App::start(level, WITH_MORE) else { return };
        let told = app.serves("one");
        // Only without a sandbox is anything left in the bounding set: what `emperor-cap` says, and setpcap.
        let bounding =
            if level == Level::None { "CapBnd:\t0000000000000500" } else { "CapBnd:\t0000000000000000" };
        assert!(told.contains(bounding), "{told}");
        let numbers = told.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("its numbers");
        let numbers: Vec<i32> =
            numbers.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        assert!(numbers.last().is_some_and(|own| *own < 100), "{told}");
        assert_eq!(numbers.len() == 1, level != Level::None, "its /proc is its own in a sandbox: {told}");
        let hooked = fs::read_to_string(app.world.srv.join("mallory/hooked")).expect("what the hook wrote");
        assert_eq!(hooked, format!("{MALLORY}\n"));
        app.emperor.signal(Signal::SIGTERM);
        let App { bed, mut emperor, .. } = app;
        assert_eq!(emperor.end().code(), Some(0), "{}", bed.report());
    }
}
