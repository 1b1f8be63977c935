//! The machine is short of something: descriptors, processes, inotify instances, room on a disk; and a crowd of
//! vassals. The emperor says what it lacks and what to do, keeps what runs, and goes on when there is enough.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::emperor::{Builder, Kind};
use support::empire::Empire;
use support::{Bed, root, tools};

#[test]
fn descriptors_run_out() {
    let bed = Bed::new();
    // A witness opens a few descriptors, too, and inherits the limit.
    let empire = Empire::on(bed, |e| e.usher("nofile=64:64"));
    let names: Vec<_> = (0..70).map(|n| format!("v{n:02}.ini")).collect();
    names.iter().for_each(|n| drop(empire.bed.vassal(n)));
    empire.told(&["RLIMIT_NOFILE"]);
    let running = |at_least: usize| {
        let stats = empire.emperor.stats();
        let rows = stats["vassals"].as_array().expect("rows");
        (rows.iter().filter(|r| r["pid"].as_i64() > Some(0)).count() >= at_least).then_some(())
    };
    support::poll(support::PATIENCE, || running(18))
        .unwrap_or_else(|| panic!("few run\n{}", empire.bed.report()));
    assert_eq!(empire.emperor.stats()["blacklist"], serde_json::json!([]), "it is not the vassals' fault");
    // Some go: the others get their turn.
    let first: Vec<_> = names.iter().filter(|n| !empire.bed.log().execs(n).is_empty()).take(10).collect();
    first.iter().for_each(|n| empire.bed.remove(format!("v/{n}")));
    let before = empire.bed.log().names().len();
    empire.bed.until("those that waited", |log| log.names().len() >= before + 8);
    empire.unharmed();
}

#[test]
fn root_processes_run_out() {
    if !root() {
        return;
    }
    let user = 61_717;
    let bed = users_bed(user);
    // Processes and threads of this user: the emperor with its helpers, and a few vassals.
    let options = |e: Builder| e.usher(format!("gid={user}")).usher(format!("uid={user}")).usher("nproc=12");
    let empire = Empire::on(bed, options);
    let names: Vec<_> = (0..20).map(|n| format!("v{n:02}.ini")).collect();
    names.iter().for_each(|n| drop(empire.bed.vassal(n)));
    empire.told(&["RLIMIT_NPROC"]);
    empire.bed.until("some run", |log| log.names().len() >= 4);
    assert_eq!(empire.emperor.stats()["blacklist"], serde_json::json!([]), "it is not the vassals' fault");
    let log = empire.bed.log();
    names
        .iter()
        .filter(|n| !log.execs(n).is_empty())
        .take(3)
        .for_each(|n| empire.bed.remove(format!("v/{n}")));
    let before = log.names().len();
    empire.bed.until("those that waited", |log| log.names().len() >= before + 3);
    empire.unharmed();
}

/// A bed on which an emperor of another user can work.
fn users_bed(user: u32) -> Bed {
    let bed = Bed::new();
    for path in ["", "v", "log", "log/events", "script"] {
        std::os::unix::fs::chown(bed.path(path), Some(user), Some(user)).expect("chown");
    }
    bed
}

/// Holds as many of something as a user may have, until dropped.
struct Hog(Child);

impl Hog {
    fn new(user: u32, what: &str, most: u32) -> Self {
        let usher = tools::usher();
        let mut hog = Command::new(&usher);
        hog.arg("launch").arg(format!("uid={user}")).arg("--").arg(&usher).args([
            "hog",
            what,
            &most.to_string(),
        ]);
        let mut hog = hog.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a hog");
        let mut line = String::new();
        let mut output = BufReader::new(hog.stdout.take().expect("its output"));
        output.read_line(&mut line).expect("how many it has");
        let got: u32 = line.trim().parse().expect("a number");
        assert!(got < most, "it could take {got}: there is no limit to run into");
        Self(hog)
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn root_inotify_instances_run_out() {
    if !root() {
        return;
    }
    let user = 61_818;
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap_or_default();
    if limit.trim().parse::<u32>().is_ok_and(|n| n > 4000) {
        return support::skip("a user may have very many inotify instances here");
    }
    let hog = Hog::new(user, "inotify", 5000);
    let empire = Empire::on(users_bed(user), |e| e.usher(format!("gid={user}")).usher(format!("uid={user}")));
    empire.told_once(&["fs.inotify.max_user_instances"]);
    // It looks from time to time instead.
    empire.bed.vassal("late.ini");
    empire.bed.started("late.ini", 1);
    empire.bed.remove("v/late.ini");
    empire.bed.until("the stop", |log| log.got("late.ini", 0) == 1);
    drop(hog);
    empire.bed.vassal("later.ini");
    empire.bed.started("later.ini", 1);
    empire.unharmed();
}

#[test]
fn root_disk_is_full() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    // A file system of 64 KiB that only this emperor sees; we reach it through its process.
    let (v, log) = (bed.v(), bed.v().join("emperor.log"));
    let mount = format!(
        "mount -t tmpfs -o size=64k,mode=755 tmpfs '{0}' && printf '[uwsgi]\\n' > '{0}/good.ini' && exec \"$@\"",
        v.display()
    );
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount, "sh"];
    let empire = Empire::on(bed, |e| words.iter().fold(e, |e, w| e.before(w)).opt("logto", &log));
    let inside = std::path::PathBuf::from(format!("/proc/{}/root{}", empire.emperor.pid(), v.display()));
    std::fs::write(inside.join("fill"), vec![b'x'; 128 * 1024]).expect_err("the disk to be full");
    // The log cannot grow, files can still be touched, made without content, and removed.
    std::fs::write(inside.join("empty.ini"), "").expect("a file without content");
    empire.bed.started("empty.ini", 1);
    std::fs::write(inside.join("half.ini"), "[uwsgi]\n").expect_err("still full");
    std::fs::remove_file(inside.join("empty.ini")).expect("removal");
    empire.bed.until("the stop", |log| log.got("empty.ini", 0) == 1);
    std::fs::remove_file(inside.join("fill")).expect("removal");
    std::fs::write(inside.join("late.ini"), "[uwsgi]\n").expect("room again");
    empire.bed.started("late.ini", 1);
    empire.unharmed();
}

#[test]
fn ten_thousand_files() {
    let nofile = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, limit) = nix::sys::resource::getrlimit(nofile).expect("the limit");
    // Two descriptors for each: the link and the process.
    let crowd = 10_000.min(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(500) / 2);
    if crowd < 5000 {
        return support::skip(&format!("{limit} descriptors are too few for thousands of vassals"));
    }
    let bed = Bed::new();
    let idler = bed.install(&tools::idler(), "idler");
    for n in 0..crowd {
        std::fs::write(bed.path(format!("v/{n:05}.ini")), "[uwsgi]\n").expect("a file");
    }
    let options = |e: Builder| e.on(bed.v()).opt("emperor-wrapper", idler).stats();
    let emperor = options(Builder::bare(&bed, Kind::Ours)).usher(format!("nofile={limit}")).start();
    let begin = Instant::now();
    let running = |stats: &serde_json::Value| -> Option<usize> {
        Some(stats["vassals"].as_array()?.iter().filter(|v| v["pid"].as_i64() > Some(0)).count())
    };
    let all = || {
        std::thread::sleep(Duration::from_millis(50));
        (running(&emperor.stats()) == Some(crowd)).then_some(())
    };
    support::poll(Duration::from_secs(180), all).unwrap_or_else(|| {
        panic!("only {:?} run after {:?}\n{}", running(&emperor.stats()), begin.elapsed(), bed.report())
    });
    // One among so many is still noticed at once.
    let begin = Instant::now();
    std::fs::remove_file(bed.path("v/04000.ini")).expect("removal");
    emperor.wait_stats("one less", |_| emperor.stats_of("04000.ini").is_none().then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    emperor.stop_politely(&bed);
}
