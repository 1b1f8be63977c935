//! One history for six vassals: each way to come to a socket, at a path and at a port.

use super::clients::{Failure, Load, Tally};
use super::*;
use std::io::Write;
use std::time::{Duration, Instant};

struct History {
    stage: Stage,
    emperor: Option<Emperor>,
    load: Load,
    version: u32,
    began: Instant,
}

/// None is idle for so long, unless nobody asks.
const LINES: &str = "idle = 2\ndie-on-idle = true\nlisten = 100\n";
const WORKERS: usize = 2;

impl History {
    fn emperor(&self) -> &Emperor {
        self.emperor.as_ref().expect("it governs")
    }

    fn each(&self) -> impl Iterator<Item = (usize, &Vassal)> {
        self.stage.vassals.iter().enumerate()
    }

    fn write(&self, version: u32) {
        self.each().for_each(|(_, vassal)| self.stage.write(vassal, version, LINES));
    }

    fn masters(&self) -> Vec<i32> {
        let master = |name: &str| poll(PATIENCE, || pid(self.emperor(), name));
        self.each()
            .map(|(_, vassal)| {
                master(&vassal.name).unwrap_or_else(|| self.fail(&format!("{} does not run", vassal.name)))
            })
            .collect()
    }

    fn fail(&self, what: &str) -> ! {
        self.stage.fail(self.emperor(), what)
    }

    /// Waits until the answers of every vassal have come to what is wanted, and everybody has asked again since.
    fn until(&self, what: &str, wanted: impl Fn(usize, &Tally) -> bool) {
        for (n, vassal) in self.each() {
            let done = poll(PATIENCE, || self.load.look(n, |tally| wanted(n, tally)).then_some(()));
            if done.is_none() {
                let failures = self.load.look(n, |tally| format!("{:?} {:?}", tally.last, tally.failures));
                self.fail(&format!("{what}: {} {failures}", vassal.name));
            }
        }
        let counts: Vec<_> = self.each().map(|(n, _)| self.load.look(n, |tally| tally.answered)).collect();
        for (n, vassal) in self.each() {
            let enough = || self.load.look(n, |tally| tally.answered >= counts[n] + 5).then_some(());
            poll(PATIENCE, enough)
                .unwrap_or_else(|| self.fail(&format!("{what}: {} answers no more", vassal.name)));
        }
    }

    fn until_version(&self, what: &str) {
        self.until(what, |_, tally| tally.last.version == self.version);
    }

    /// The end of a phase: what failed, by vassal.
    fn phase(&mut self, what: &str) -> Vec<Vec<Failure>> {
        let tallies: Vec<_> = (0..self.stage.vassals.len()).map(|n| self.load.take(n)).collect();
        let answered: usize = tallies.iter().map(|tally| tally.answered).sum();
        let longest = tallies.iter().map(|tally| tally.longest).max().unwrap_or_default();
        let failed: Vec<_> = tallies.into_iter().map(|tally| tally.failures).collect();
        let count: usize = failed.iter().map(Vec::len).sum();
        let _ = writeln!(
            std::io::stderr(),
            "{what}: {:.1?}, {answered} answered, {count} failed, longest {longest:.1?}",
            self.began.elapsed()
        );
        self.began = Instant::now();
        failed
    }

    /// The end of a phase in which uWSGI's workers ended because they were told to. What it does with a connection that
    /// such a worker has just accepted is its own; that is one for each worker at most.
    fn but_for_leaving(&mut self, what: &str) {
        let failed = self.phase(what);
        for (failures, vassal) in failed.iter().zip(&self.stage.vassals) {
            let taken = failures.iter().all(|failure| matches!(failure, Failure::Lost { .. }));
            let log = || self.emperor().log();
            assert!(taken && failures.len() <= WORKERS, "{what}: {}: {failures:?}\n{}", vassal.name, log());
        }
    }

    /// The socket behind each address. As long as that is the same, the kernel has ended none of those in its queue.
    fn queues(&self) -> Vec<String> {
        let number = |vassal: &Vassal| poll(PATIENCE, || queue(&vassal.at)).map(|(number, _)| number);
        self.each()
            .map(|(_, vassal)| {
                number(vassal).unwrap_or_else(|| self.fail(&format!("{} has no socket", vassal.name)))
            })
            .collect()
    }

    /// Waits until each vassal has come back from a reload in its place.
    fn reloaded(&self, what: &str, before: &[Vec<i32>]) {
        self.until(what, |n, tally| !before[n].contains(&tally.last.worker));
        self.emperor().wait_stats("all accept", |stats| {
            stats["vassals"].as_array()?.iter().all(|row| row["accepting"] == 1).then_some(())
        });
    }

    fn workers(&self) -> Vec<Vec<i32>> {
        self.masters().into_iter().map(workers).collect()
    }

    /// The end of a phase in which nobody was failed.
    fn in_peace(&mut self, what: &str) {
        let failed = self.phase(what);
        for (n, failures) in failed.iter().enumerate() {
            let name = &self.stage.vassals[n].name;
            assert!(failures.is_empty(), "{what}: {name}: {failures:?}\n{}", self.emperor().log());
        }
    }

    /// The end of a phase in which processes were killed: who has failed is who they had accepted.
    fn but_for(&mut self, what: &str, accepted: &[Accepted]) {
        let failed = self.phase(what);
        for ((failures, vassal), accepted) in failed.iter().zip(&self.stage.vassals).zip(accepted) {
            let is_theirs = |failure: &Failure| match failure {
                Failure::Lost { port: Some(port), .. } => accepted.ports.contains(port),
                Failure::Lost { port: None, .. } => failures.len() <= accepted.unix,
                Failure::Refused(_) | Failure::Late => false,
            };
            assert!(
                failures.iter().all(is_theirs),
                "{what}: {}: {failures:?} are not among {accepted:?}\n{}",
                vassal.name,
                self.emperor().log()
            );
        }
    }

    /// Waits until no vassal has a process.
    fn down(&self) {
        self.emperor().wait_stats("no process", |stats| {
            stats["vassals"].as_array()?.iter().all(|row| row["pid"] == -1).then_some(())
        });
    }

    /// Another process is each vassal's, and answers.
    fn replaced(&self, what: &str, before: &[i32]) {
        self.until(what, |n, tally| tally.last.master != before[n]);
    }

    fn activation(&mut self) {
        sleep(self.emperor(), &self.stage.vassals);
        self.load.go_on();
        self.until_version("activation");
        self.in_peace("activation");
    }

    fn touch(&mut self) {
        self.version += 1;
        self.write(self.version);
        self.until_version("touch");
        self.but_for_leaving("touch");
    }

    /// The next change comes in the moment of the first answer after the last one, when not all workers listen to their
    /// master yet: what that tells them too soon, they never hear.
    fn touch_twice(&mut self) {
        self.version += 1;
        self.write(self.version);
        let first = || self.load.look(0, |tally| (tally.last.version == self.version).then_some(()));
        poll(PATIENCE, first).unwrap_or_else(|| self.fail("touch twice"));
        self.version += 1;
        self.write(self.version);
        self.until_version("touch twice");
        self.but_for_leaving("touch twice");
    }

    fn death_of_a_worker(&mut self) {
        let doomed: Vec<_> = self
            .masters()
            .into_iter()
            .map(|master| poll(PATIENCE, || workers(master).first().copied()).expect("a worker"))
            .collect();
        let accepted: Vec<_> = doomed
            .iter()
            .map(|worker| {
                stand_still(&[*worker]);
                let accepted = Accepted::by(&[*worker]);
                signal(*worker, Signal::SIGKILL);
                accepted
            })
            .collect();
        self.until("a worker's death", |n, tally| tally.last.worker != doomed[n]);
        self.but_for("a worker's death", &accepted);
    }

    /// uWSGI's workers see by themselves that their master is gone; until then they serve beside the next one's.
    fn death_of_a_master(&mut self) {
        let masters = self.masters();
        let all: Vec<Vec<i32>> = masters.iter().map(|master| workers(*master)).collect();
        masters.iter().for_each(|master| signal(*master, Signal::SIGKILL));
        self.replaced("a master's death", &masters);
        let gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
        poll(PATIENCE, || all.iter().flatten().all(gone).then_some(())).expect("they end without a master");
        self.but_for_leaving("a master's death");
    }

    fn back_off(&mut self) {
        self.write(0);
        self.emperor().wait_stats("all rest from failures", |stats| {
            let rows = stats["blacklist"].as_array()?;
            let rests = |vassal: &Vassal| rows.iter().any(|row| row["id"] == vassal.name.as_str());
            self.each().all(|(_, vassal)| rests(vassal)).then_some(())
        });
        self.version += 1;
        self.write(self.version);
        self.until_version("back-off");
        self.but_for_leaving("back-off");
    }

    fn idle(&mut self) {
        self.load.rest();
        sleep(self.emperor(), &self.stage.vassals);
        self.in_peace("idle");
        self.load.go_on();
        self.until_version("re-activation");
        self.in_peace("re-activation");
    }

    fn by_hand(&mut self) {
        let before = self.workers();
        self.stage.tell("reload");
        self.reloaded("reload by hand", &before);
        self.but_for_leaving("reload by hand");
        let before = self.masters();
        self.stage.tell("stop");
        self.down();
        let sockets = self.queues();
        self.emperor().renew(&self.stage.bed);
        self.crash();
        std::thread::sleep(Duration::from_millis(200)); // clients wait, and nothing is to come of it
        self.down();
        assert_eq!(self.queues(), sockets, "{}", self.emperor().log());
        self.stage.tell("start");
        self.replaced("stop and start", &before);
        self.but_for_leaving("stop and start");
    }

    /// The emperor is killed, and the next one is given what the service manager keeps.
    fn crash(&mut self) {
        let ready = self.stage.manager.heard("READY=1");
        self.stage.manager.hear_all();
        drop(self.emperor.take());
        let word = self.stage.manager.pass();
        self.emperor = Some(self.stage.emperor().usher(word).start());
        poll(PATIENCE, || (self.stage.manager.heard("READY=1") > ready).then_some(()))
            .unwrap_or_else(|| self.fail("no successor"));
    }

    fn emperors(&mut self) {
        let before = self.workers();
        self.emperor().signal(Signal::SIGHUP);
        self.reloaded("SIGHUP", &before);
        self.but_for_leaving("SIGHUP");
        self.emperor().renew(&self.stage.bed);
        self.until_version("SIGUSR2");
        self.in_peace("SIGUSR2");
        let before = self.masters();
        self.crash();
        self.until_version("kill -9");
        assert_eq!(self.masters(), before, "{}", self.emperor().log());
        self.in_peace("kill -9");
        // The successor has what the former had, and gives it to the next processes.
        self.stage.tell("restart");
        self.replaced("restart", &before);
        self.but_for_leaving("restart");
    }

    fn removal(&mut self, sockets: &[String]) {
        assert_eq!(self.queues(), sockets, "{}", self.emperor().log());
        self.load.rest();
        self.each().for_each(|(_, vassal)| self.stage.bed.remove(format!("v/{}", vassal.name)));
        let none = |stats: &serde_json::Value| stats["vassals"].as_array()?.is_empty().then_some(());
        self.emperor().wait_stats("none is left", none);
        for (_, vassal) in self.each() {
            let refused = ask(&vassal.at, "/removed");
            assert!(matches!(refused, Err(Failure::Refused(_))), "{}: {refused:?}", vassal.name);
        }
        self.in_peace("removal");
        self.version += 1;
        self.write(self.version);
        self.activation();
    }
}

#[test]
fn through_all_that_can_happen_nobody_is_refused_and_who_ends_loses_only_whom_he_had_accepted() {
    let Some(mut stage) = Stage::new() else { return };
    for (word, how) in [("own", How::Own), ("companion", How::Companion), ("both", How::Both)] {
        let path = stage.bed.path(format!("{word}.sock"));
        stage.vassal(&format!("{word}-path"), how, Target::File(path));
        stage.vassal(&format!("{word}-port"), how, Target::Port(free_port()));
    }
    let places: Vec<_> = stage.vassals.iter().map(|vassal| vassal.at.clone()).collect();
    let emperor = Some(stage.emperor().start());
    let load = Load::new(&places, 0);
    let mut history = History { stage, emperor, load, version: 1, began: Instant::now() };
    history.write(1);
    sleep(history.emperor(), &history.stage.vassals);
    let rounds = std::env::var("LOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    history.load = Load::new(&places, 2);
    for round in 1..=rounds {
        let sockets = history.queues();
        if round == 1 {
            history.until_version("activation");
            history.in_peace("activation");
        }
        history.touch();
        history.touch_twice();
        history.death_of_a_worker();
        history.death_of_a_master();
        history.back_off();
        history.idle();
        history.by_hand();
        history.emperors();
        history.removal(&sockets);
    }
    history.load.end();
    history.in_peace("the last ones");
    history.emperor.take().expect("it governs").stop(&history.stage.bed);
}
