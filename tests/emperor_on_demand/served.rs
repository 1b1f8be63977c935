//! Real uWSGI at a socket that is held for it, under clients that connect without a pause, through all that can happen to
//! it: nobody is ever refused, and only whom a process has taken that ends is lost.
//!
//! `ROUNDS=20 cargo nextest run --test emperor_on_demand served --no-capture` does everything more often, and says
//! what became of the clients at each step.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::time::Duration;
use support::load::{Load, Target};

const APP: &str = "import os
def application(env, answer):
    answer('200 OK', [('Content-Type', 'text/plain')])
    return [('%s %s' % (os.environ['VERSION'], os.getpid())).encode()]
";
const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";
/// How many processes answer, one client at a time each.
const WORKERS: usize = 2;

/// What names the socket.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    /// The vassal's own file, with `on-demand`.
    Own,
    /// A file beside it.
    Companion,
    /// Both.
    Trap,
}

struct Stage {
    bed: Bed,
    emperor: Emperor,
    named: Named,
    target: Target,
    /// How often each step is done.
    rounds: usize,
    version: usize,
    before: Option<u64>,
    load: Load,
    /// How many were lost at the steps before.
    lost: usize,
}

fn is_answer(text: &str) -> bool {
    text.starts_with("HTTP/1.") && text.contains(" 200 ") && body(text).is_some()
}

/// The version of the application, and the process that has answered.
fn body(text: &str) -> Option<(usize, i32)> {
    let (version, pid) = text.split_once("\r\n\r\n")?.1.split_once(' ')?;
    Some((version.parse().ok()?, pid.parse().ok()?))
}

impl Stage {
    fn new(named: Named, target: impl Fn(&Bed) -> Target) -> Option<Self> {
        if Kind::Real.program().is_none() || !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
            support::skip("uWSGI with Python is not installed");
            return None;
        }
        let bed = Bed::new();
        bed.write("app.py", APP);
        let target = target(&bed);
        let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
        let builder =
            Builder::bare(&bed, Kind::Ours).on(bed.v()).quick().stats().opt("emperor-throttle", "100");
        let builder = match named {
            Named::Own => builder,
            _ => {
                bed.write("v/app.ini.socket", address(&target));
                builder.opt("emperor-on-demand-extension", ".socket")
            }
        };
        let emperor = builder.opt("emperor-control", bed.path("control.sock")).start();
        let (load, before) = (Load::new(&target, REQUEST, 0), None);
        let mut stage = Self { bed, emperor, named, target, rounds, version: 0, before, load, lost: 0 };
        stage.write("app");
        waits(&stage.emperor, "app.ini");
        stage.before = stage.inode();
        stage.load = Load::checked(&stage.target, REQUEST, 4, is_answer);
        Some(stage)
    }

    /// Another version of the vassal's file.
    fn write(&mut self, app: &str) {
        self.version += 1;
        let lines = match self.named {
            Named::Own => format!("on-demand = true\nhttp-socket = {}", address(&self.target)),
            Named::Companion => "protocol = http".to_owned(),
            Named::Trap => format!("http-socket = {}", address(&self.target)),
        };
        let text = format!(
            "[uwsgi]\nplugin = python3\nwsgi-file = {}/{app}.py\nneed-app = true\nmaster = true\nprocesses = {WORKERS}\n\
             idle = 1\ndie-on-idle = true\nlisten = 100\nenv = VERSION={}\n{lines}\n",
            self.bed.root().display(),
            self.version
        );
        self.bed.write("v/app.ini", text);
    }

    fn inode(&self) -> Option<u64> {
        match &self.target {
            Target::File(path) => Some(inode(path)),
            Target::Port(_) => None,
        }
    }

    /// The process that answers now, if it answers with the newest version.
    fn answers(&self) -> Option<i32> {
        let (version, pid) = body(&self.target.ask(REQUEST).ok()?)?;
        (version == self.version).then_some(pid)
    }

    fn settled(&self) -> i32 {
        poll(PATIENCE, || self.answers()).unwrap_or_else(|| self.fail("the newest version does not answer"))
    }

    fn master(&self) -> i32 {
        let pid = || self.emperor.stats_of("app.ini")?["pid"].as_i64().filter(|pid| *pid > 0);
        let pid = poll(PATIENCE, pid).unwrap_or_else(|| self.fail("there is no process"));
        i32::try_from(pid).expect("a pid")
    }

    fn sleeps(&self) {
        waits(&self.emperor, "app.ini");
    }

    /// What became of the clients: so many processes have ended that answered them, each of which may have taken one
    /// along. Also those of uWSGI that end in peace: it loses whom it accepts in the moment in which it is told. (uWSGI
    /// 2.0.21 alone, 30 times SIGHUP: 2 of 364,721.)
    fn told(&mut self, step: &str, ended: usize) {
        let told = self.load.so_far();
        let lost = told.lost - std::mem::replace(&mut self.lost, told.lost);
        let (answered, named) = (told.answered, self.named);
        let line =
            format!("{named:?}, {step}: {answered} answered so far, {lost} of {ended} who may be are lost\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        if !told.refused.is_empty() || lost > ended || self.inode() != self.before {
            self.fail(step);
        }
    }

    fn fail(&self, what: &str) -> ! {
        let told = self.load.so_far();
        panic!("{:?}: {what}: {told:?}\n{}\n{}", self.named, self.emperor.log(), self.bed.report())
    }

    fn signal(&self, pid: i32) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    }

    fn is_touched(&mut self) {
        for _ in 0..self.rounds {
            self.write("app");
            self.settled();
        }
        let rounds = self.rounds;
        self.told("its file has changed", rounds * WORKERS);
    }

    fn crashes(&mut self) {
        for _ in 0..self.rounds {
            self.signal(self.settled());
            self.settled();
        }
        let rounds = self.rounds;
        self.told("workers have died", rounds);
        for _ in 0..self.rounds {
            let master = self.master();
            self.signal(master);
            poll(PATIENCE, || Some(self.master()).filter(|pid| *pid != master)).expect("another one");
            self.settled();
        }
        self.told("the master has died", rounds * WORKERS);
    }

    /// A file that does not start, and pauses.
    fn fails_for_a_while(&mut self) {
        for round in 1..=self.rounds {
            self.write("missing");
            let pauses = || self.emperor.lines("is started again in").len();
            poll(PATIENCE, || (pauses() >= 2 * round).then_some(())).unwrap_or_else(|| self.fail("no pause"));
            self.write("app");
            self.settled();
        }
        let rounds = self.rounds;
        self.told("its file was broken and is mended", rounds * WORKERS);
    }

    /// By hand.
    fn say(&self, words: &[&str]) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_emperor"));
        let said = command
            .args(words)
            .env("EMPEROR_CONTROL", self.bed.path("control.sock"))
            .output()
            .expect("emperor");
        assert!(said.status.success(), "{words:?}: {said:?}\n{}", self.emperor.log());
    }

    fn is_operated(&mut self) {
        for _ in 0..self.rounds {
            self.say(&["reload", "app.ini"]);
            self.settled();
            kill(Pid::from_raw(self.emperor.pid()), Signal::SIGHUP).expect("the emperor"); // all are to reload
            self.emperor.wait_log("reload");
            self.settled();
        }
        let rounds = self.rounds;
        self.told("it was told to reload", 2 * rounds * WORKERS);
        for _ in 0..self.rounds {
            self.say(&["restart", "app.ini"]);
            self.settled();
            // While somebody has stopped it, clients wait for him to start it.
            self.say(&["stop", "app.ini"]);
            let answered = self.load.so_far().answered;
            self.say(&["start", "app.ini"]);
            poll(PATIENCE, || (self.load.so_far().answered > answered + 4).then_some(()))
                .unwrap_or_else(|| self.fail("those who have waited are not answered"));
            self.settled();
        }
        // uWSGI that is told to stop kills its workers, unless it is told by `emperor-graceful-shutdown`.
        self.told("somebody has restarted it, and stopped and started", 2 * WORKERS * rounds);
    }

    /// Without clients it ends, and those who come in that very moment are answered too.
    fn is_left(&mut self) {
        let load = std::mem::replace(&mut self.load, Load::new(&self.target, REQUEST, 0));
        let told = load.end();
        assert!(told.refused.is_empty() && told.lost == self.lost, "{told:?}\n{}", self.emperor.log());
        for round in 0..self.rounds {
            self.sleeps();
            let clients = Load::checked(&self.target, REQUEST, 20, is_answer);
            poll(PATIENCE, || (clients.so_far().answered >= 20).then_some(()))
                .unwrap_or_else(|| self.fail("a burst is not answered"));
            let told = clients.end();
            assert!(told.lost == 0 && told.refused.is_empty(), "{told:?}\n{}", self.emperor.log());
            // One after the other about when its second is over.
            std::thread::sleep(Duration::from_millis(980 + 7 * round as u64 % 40));
            for _ in 0..40 {
                let text = self.target.ask(REQUEST).unwrap_or_else(|error| self.fail(&error.to_string()));
                assert!(is_answer(&text), "{text}\n{}", self.emperor.log());
            }
        }
        self.sleeps();
        assert_eq!(self.inode(), self.before);
        assert_eq!(self.emperor.stats()["blacklist"], serde_json::json!([]));
    }

    fn live(mut self) {
        self.settled();
        self.told("the first client has started it", 0);
        self.is_touched();
        self.crashes();
        self.fails_for_a_while();
        self.is_operated();
        self.is_left();
        self.emperor.stop(&self.bed);
    }
}

fn address(target: &Target) -> String {
    match target {
        Target::File(path) => path.to_str().expect("plain text").to_owned(),
        Target::Port(port) => format!("127.0.0.1:{port}"),
    }
}

fn at_file(bed: &Bed) -> Target {
    Target::File(bed.path("app.sock"))
}

fn at_port(_: &Bed) -> Target {
    Target::Port(free_port())
}

#[test]
fn nobody_is_refused_at_its_own_file() {
    Stage::new(Named::Own, at_file).into_iter().for_each(Stage::live);
}

#[test]
fn nobody_is_refused_at_its_own_port() {
    Stage::new(Named::Own, at_port).into_iter().for_each(Stage::live);
}

#[test]
fn nobody_is_refused_at_the_file_of_its_companion() {
    Stage::new(Named::Companion, at_file).into_iter().for_each(Stage::live);
}

#[test]
fn nobody_is_refused_at_the_port_that_its_companion_and_its_own_file_name() {
    Stage::new(Named::Trap, at_port).into_iter().for_each(Stage::live);
}

#[test]
fn a_crowd_that_does_not_fit_into_the_queue_is_answered_to_the_last() {
    const CROWD: usize = 300;
    let Some(stage) = Stage::new(Named::Own, at_file) else { return };
    let Stage { bed, emperor, target, load, .. } = stage;
    load.end();
    waits(&emperor, "app.ini");
    let asks = || {
        let target = target.clone();
        std::thread::spawn(move || target.ask(REQUEST))
    };
    let crowd: Vec<_> = std::iter::repeat_with(asks).take(CROWD).collect();
    for client in crowd {
        let told = client.join().expect("a client");
        assert!(told.as_ref().is_ok_and(|text| is_answer(text)), "{told:?}\n{}", emperor.log());
    }
    emperor.stop(&bed);
}
