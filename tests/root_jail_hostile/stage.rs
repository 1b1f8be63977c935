//! An emperor, a victim and an attacker, in namespaces of their own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::rows::{Found, UNLIMITED};
use super::support::emperor::{Builder, Emperor, Kind};
use super::support::{Bed, PATIENCE, poll, root, skip};

/// Two tenants; no password file names them.
pub(crate) const MALLORY: u32 = 61_666;
pub(crate) const VICTIM: u32 = 61_777;
/// What the program calls the secret.
pub(crate) const SECRET: &str = "what only the victim knows";
/// All the attempts of one attacker, on a loaded machine.
const LONG: Duration = Duration::from_secs(300);

/// A level of the sandbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Level {
    None,
    Standard,
    Strict,
}

impl Level {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Standard => "standard",
            Self::Strict => "strict",
        }
    }

    /// The column of `attempts.tsv`.
    pub(crate) fn column(self, who: Who) -> String {
        format!("{}-{}", self.word(), format!("{who:?}").to_lowercase())
    }
}

/// Who the attacker is, and in the same way the victim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// The owner of his file, in tyrant mode. The policy sets the level; his file asks for none.
    Tenant,
    /// The user that a file of root's names.
    User,
    /// Root.
    Root,
}

impl Who {
    fn uids(self) -> (u32, u32) {
        if self == Self::Root { (0, 0) } else { (MALLORY, VICTIM) }
    }
}

/// Sources of the program.
const SOURCES: &[&str] = &["main", "victim", "processes", "files", "kernel", "escapes", "stage"];

/// Whether the test can be made here: as root, with a C compiler that links statically. Says so where it cannot.
pub(crate) fn possible() -> bool {
    if !root() {
        return false;
    }
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut cc = Command::new(cc);
    cc.args(["-static", "-x", "c", "-o", "/dev/null", "-"]).stdin(Stdio::piped()).stderr(Stdio::null());
    let done = cc.spawn().and_then(|mut cc| {
        std::io::Write::write_all(&mut cc.stdin.take().expect("its input"), b"int main(void) { return 0; }")?;
        cc.wait()
    });
    let links = done.is_ok_and(|status| status.success());
    if !links {
        skip("no C compiler that links statically: install gcc, libc6-dev or glibc-static");
    }
    links
}

/// Compiles the program: static, for it runs in roots of all kinds, and at fixed addresses, for the victim's memory.
pub(crate) fn program(target: &Path) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/root_jail_hostile/hostile");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let sources = SOURCES.iter().map(|name| format!("{dir}/{name}.c"));
    let done = Command::new(cc)
        .args(["-O1", "-Wall", "-static", "-no-pie", "-o"])
        .arg(target)
        .args(sources)
        .output();
    let done = done.expect("the C compiler");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Runs a program that must succeed; gives what it prints.
pub(crate) fn run(program: &Path, words: &[&OsStr]) -> String {
    let done =
        Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{} {words:?}: {printed}\n{complained}", program.display());
    printed
}

pub(crate) fn mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
}

pub(crate) fn own(path: impl AsRef<Path>, uid: u32) {
    lchown(path, Some(uid), Some(uid)).expect("chown");
}

/// What is there to be attacked, below `/srv` and `/home` of the stage.
pub(crate) struct World {
    pub(crate) srv: PathBuf,
    pub(crate) home: PathBuf,
    /// The directory of the vassals, below `srv`. Groups of two emperors are told apart by its name.
    pub(crate) vassals: String,
}

impl World {
    /// The attacker is this user, the victim that one.
    pub(crate) fn new(bed: &Bed, attacker: u32, victim: u32) -> Self {
        let (srv, home) = (bed.path("srv"), bed.path("home"));
        let vassals = format!("v-{}", bed.root().file_name().expect("a name").display());
        for (dir, owner) in [("", 0), (&vassals, 0), ("tmp", 0), ("victim", victim), ("mallory", attacker)] {
            let path = srv.join(dir);
            fs::create_dir_all(&path).expect("a directory");
            mode(&path, if dir == "tmp" { 0o1777 } else { 0o755 });
            own(path, owner);
        }
        program(&srv.join("hostile"));
        for (copy, bits, owner) in [
            ("suid", 0o4755, 0),
            ("capable", 0o755, 0),
            ("victim/hostile", 0o755, victim),
            ("mallory/hostile", 0o755, attacker),
        ] {
            // By another process: a descriptor of ours that is open for writing could be in some other test's child.
            run(Path::new("cp"), &[srv.join("hostile").as_os_str(), srv.join(copy).as_os_str()]);
            own(srv.join(copy), owner);
            mode(srv.join(copy), bits);
        }
        run(&srv.join("hostile"), &[OsStr::new("grant"), srv.join("capable").as_os_str()]);
        for (dir, owner) in [("victim", victim), ("root", 0)] {
            fs::create_dir_all(home.join(dir)).expect("a directory");
            own(home.join(dir), owner);
        }
        for (path, bits, owner) in [
            (srv.join("system"), 0o644, 0),
            (srv.join("leak"), 0o600, 0),
            (home.join("root/notes"), 0o644, 0),
            (home.join("victim/notes"), 0o644, victim),
            (home.join("victim/secret"), 0o600, victim),
        ] {
            fs::write(&path, SECRET).expect("a file");
            mode(&path, bits);
            own(path, owner);
        }
        Self { srv, home, vassals }
    }

    /// The same on the stage, where our emperor is `/srv/emperor`: the place where it is built may not be seen there.
    pub(crate) fn staged(&self, builder: Builder) -> Builder {
        run(
            Path::new("cp"),
            &[OsStr::new(env!("CARGO_BIN_EXE_emperor")), self.srv.join("emperor").as_os_str()],
        );
        let words: Vec<OsString> = vec![
            self.srv.join("hostile").into(),
            "stage".into(),
            format!("world={}", self.srv.display()).into(),
            format!("home={}", self.home.display()).into(),
            "--".into(),
        ];
        words.into_iter().fold(builder, Builder::before)
    }
}

/// An emperor with both vassals.
pub(crate) struct Stage {
    pub(crate) bed: Bed,
    pub(crate) world: World,
    pub(crate) emperor: Emperor,
    kind: Kind,
    level: Level,
    who: Who,
    tag: String,
}

impl Stage {
    pub(crate) fn new(kind: Kind, level: Level, who: Who) -> Self {
        let bed = Bed::new();
        let (attacker, victim) = who.uids();
        let world = World::new(&bed, attacker, victim);
        let tag = format!("hostile-{}", bed.root().file_name().expect("a name").display());
        // Nobody but root may read the log.
        bed.write("emperor.log", "");
        mode(bed.path("emperor.log"), 0o600);
        let mut builder = Builder::bare(&bed, kind)
            .on(format!("/srv/{}", world.vassals))
            .quick()
            .opt("emperor-stats", "/srv/stats");
        builder = match kind {
            Kind::Ours => builder.program("/srv/emperor").opt("emperor-runtime-dir", "/srv/run"),
            Kind::Real => builder.opt("emperor-wrapper", "/srv/engine"),
        };
        if who == Who::Tenant {
            builder = builder.flag("emperor-tyrant");
        }
        if who == Who::Tenant && level != Level::None {
            let policy = format!("[vassal mallory.ini]\nsandbox = {}\n", level.word());
            fs::write(world.srv.join("policy"), policy).expect("the policy");
            builder = builder.opt("emperor-policy", "/srv/policy");
        }
        let this = Self { emperor: world.staged(builder).start(), bed, world, kind, level, who, tag };
        this.vassal("victim", "port=8100");
        this.emperor.wait_log("victim: ready");
        this
    }

    /// A vassal that runs the program; its file is complete before anybody can see it.
    fn vassal(&self, name: &str, words: &str) {
        let verb = if name == "victim" { name } else { "attack" };
        let command =
            format!("/srv/{name}/hostile {verb} tag={} place=/srv own=/srv/{name} {words}", self.tag);
        let srv = &self.world.srv;
        let mut text = format!("[uwsgi]\ncommand = {command}\n");
        let (attacker, victim) = self.who.uids();
        let uid = if name == "victim" { victim } else { attacker };
        if self.who == Who::User {
            text += &format!("uid = {uid}\ngid = {uid}\n");
        }
        if name != "victim" && self.level != Level::None {
            // A tenant would rather have none of it.
            let wish = if self.who == Who::Tenant { "none" } else { self.level.word() };
            text += &format!("sandbox = {wish}\nmemory-max = 64M\ntasks-max = 64\ncpu-max = 20000 100000\n");
            if self.level == Level::Strict {
                text += &format!("bind = /srv/{name}\n");
            }
        }
        if self.kind == Kind::Real {
            text = "[uwsgi]\n".into();
            let line = format!("case \"$*\" in *{name}.ini*) exec {command};; esac\n");
            let engine = fs::read_to_string(srv.join("engine")).unwrap_or("#!/bin/sh\n".into());
            fs::write(srv.join("engine.new"), engine + &line).expect("an engine");
            mode(srv.join("engine.new"), 0o755);
            fs::rename(srv.join("engine.new"), srv.join("engine")).expect("a rename");
        }
        let fresh = srv.join("fresh");
        fs::write(&fresh, text).expect("a file");
        mode(&fresh, 0o600);
        own(&fresh, if self.who == Who::Tenant { uid } else { 0 });
        fs::rename(fresh, srv.join(&self.world.vassals).join(format!("{name}.ini"))).expect("a rename");
    }

    /// What its attempts came to. The end of the test: nothing is left of it.
    pub(crate) fn found(self) -> Found {
        let uid = if self.who == Who::Root { VICTIM + 1 } else { VICTIM };
        let Process { host, number: victim } = find(&self.tag, "victim").expect("the victim's process");
        let environment = fs::read(format!("/proc/{host}/environ")).expect("its environment");
        let variable =
            |entry: &[u8]| Some(String::from_utf8_lossy(entry.strip_prefix(b"NOTIFY_SOCKET=")?).into_owned());
        let notify = environment.split(|byte| *byte == 0).find_map(variable);
        assert_eq!(notify.is_some(), self.kind == Kind::Ours, "a NOTIFY_SOCKET of its own");
        let words = format!(
            "victim={victim} emperor=10000 vassals=/srv/{} port=8100 uid={uid} notify={}",
            self.world.vassals,
            notify.as_deref().unwrap_or("/nonexistent")
        );
        self.vassal("mallory", &words);
        let done = format!("{} done", self.tag);
        let ends = [&done, "mallory.ini cannot be started", "mallory.ini is started again"];
        let log = || Some(self.emperor.log()).filter(|log| ends.iter().any(|end| log.contains(end)));
        let log = poll(LONG, log).unwrap_or_else(|| panic!("it comes to no end\n{}", self.emperor.log()));
        assert!(log.contains(&done), "{log}");
        assert!(log.contains(&format!("{done} {}\n", self.who.uids().0)), "{log}");
        let mut found = attempts(&self.tag, &log);
        fs::remove_file(self.world.srv.join(&self.world.vassals).join("mallory.ini"))
            .expect("removal of a file");
        self.emperor.wait_log("removed uwsgi instance mallory.ini");
        let left = if find(&self.tag, "daemon").is_some() { "succeeded" } else { "nothing" };
        found.insert("daemon-left".into(), left.into());
        if log.contains("is not enforced") || log.contains("vassals have no control groups") {
            for name in ["share-tasks", "share-memory", "share-processor"] {
                found.insert(name.into(), UNLIMITED.into());
            }
        }
        let Self { bed, mut emperor, kind, tag, .. } = self;
        if kind == Kind::Ours {
            emperor.signal(Signal::SIGTERM);
            assert_eq!(emperor.end().code(), Some(0), "{}", bed.report());
        }
        drop(emperor); // and with it the stage
        let gone = || (find(&tag, "victim").is_none() && find(&tag, "daemon").is_none()).then_some(());
        poll(PATIENCE, gone).expect("nothing is left");
        found
    }
}

/// The attacker as the stage's only program; what it prints until it is done.
pub(crate) fn alone(words: &str) -> String {
    let bed = Bed::new();
    let world = World::new(&bed, 0, 0);
    fs::write(world.srv.join("victim/secret"), SECRET).expect("a file");
    // Not of our kind: that one gets options.
    let builder =
        Builder::bare(&bed, Kind::Real).program("/srv/hostile").arg("attack").arg("place=/srv").arg(words);
    let emperor = world.staged(builder).start();
    emperor.wait_log("hostile done");
    emperor.log()
}

/// The lines that the program printed.
pub(crate) fn attempts(tag: &str, log: &str) -> Found {
    let line = |line: &str| {
        let (_, words) = line.split_once(tag)?;
        let (name, result) = words.trim().split_once(' ')?;
        (name != "done" && !result.contains(' ')).then(|| (name.to_owned(), result.to_owned()))
    };
    log.lines().filter_map(line).collect()
}

/// A process, as the host and as the stage numbers it.
struct Process {
    host: i32,
    number: i32,
}

/// The process that runs the program with this first word.
fn find(tag: &str, verb: &str) -> Option<Process> {
    let tag = format!("tag={tag}");
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        if words.nth(1) != Some(verb.as_bytes()) || !words.any(|word| word == tag.as_bytes()) {
            continue;
        }
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let Some(numbers) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else { continue };
        let numbers: Vec<i32> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if let [host, number, ..] = numbers[..] {
            return Some(Process { host, number });
        }
    }
    None
}
