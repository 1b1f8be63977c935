//! Who waits in the queue is answered, whatever becomes of those whom the processes have accepted.

use super::clients::{Failure, Who};
use super::*;
use std::thread::JoinHandle;

const WAITING: usize = 20;
type Client = JoinHandle<Result<Who, Failure>>;

fn client(at: &Target, path: String) -> Client {
    let at = at.clone();
    std::thread::spawn(move || ask(&at, &path))
}

/// Both workers of each vassal have a client whom they do not answer, and others wait behind: nobody has accepted those.
fn crowd(stage: &Stage, emperor: &Emperor, round: usize) -> Vec<(Vec<Client>, Vec<Client>)> {
    let held = || std::fs::read_to_string(stage.bed.path("held")).unwrap_or_default();
    let crowd = stage.vassals.iter().map(|vassal| {
        let last = poll(PATIENCE, || ask(&vassal.at, "/first").ok());
        let last = last.unwrap_or_else(|| stage.fail(emperor, "nobody answers"));
        let mine = format!("/hold/{round}/{}", vassal.name);
        let busy: Vec<_> = (0..2).map(|_| client(&vassal.at, mine.clone())).collect();
        let both = || (held().lines().filter(|line| line.ends_with(&mine)).count() == 2).then_some(());
        poll(PATIENCE, both).unwrap_or_else(|| stage.fail(emperor, "not both are busy"));
        let waiting: Vec<_> = (0..WAITING).map(|n| client(&vassal.at, format!("/{n}"))).collect();
        let wait = || (queue(&vassal.at)?.1 == WAITING).then_some(());
        poll(PATIENCE, wait).unwrap_or_else(|| stage.fail(emperor, &format!("not all wait: {last:?}")));
        let accepted = Accepted::by(&workers(last.master));
        assert_eq!(accepted.ports.len() + accepted.unix, 2, "{accepted:?}");
        (busy, waiting)
    });
    crowd.collect()
}

#[test]
fn who_waits_in_the_queue_is_answered_whoever_dies() {
    let Some(mut stage) = Stage::new() else { return };
    stage.vassal("path", How::Own, Target::File(stage.bed.path("a.sock")));
    stage.vassal("port", How::Both, Target::Port(free_port()));
    let lines = "listen = 100\nworker-reload-mercy = 1\n";
    let write = |version: u32| stage.vassals.iter().for_each(|vassal| stage.write(vassal, version, lines));
    write(1);
    let emperor = stage.emperor().start();
    sleep(&emperor, &stage.vassals);
    let sockets: Vec<_> =
        stage.vassals.iter().map(|vassal| queue(&vassal.at).expect("it is bound").0).collect();
    let masters = || stage.vassals.iter().map(|vassal| pid(&emperor, &vassal.name).expect("it runs"));
    let acts: [(&str, &dyn Fn()); 5] = [
        ("workers killed", &|| masters().flat_map(workers).for_each(|pid| signal(pid, Signal::SIGKILL))),
        ("all killed", &|| {
            for master in masters() {
                let workers = workers(master);
                stand_still(&workers);
                signal(master, Signal::SIGKILL);
                workers.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
            }
        }),
        ("restart", &|| stage.tell("restart")),
        ("stop, start", &|| {
            stage.tell("stop");
            emperor.wait_stats("no process", |stats| {
                stats["vassals"].as_array()?.iter().all(|row| row["pid"] == -1).then_some(())
            });
            for (vassal, number) in stage.vassals.iter().zip(&sockets) {
                assert_eq!(queue(&vassal.at), Some((number.clone(), WAITING)), "they wait on");
            }
            stage.tell("start");
        }),
        ("touch", &|| write(2)),
    ];
    for (round, (what, act)) in acts.iter().enumerate() {
        let crowd = crowd(&stage, &emperor, round);
        act();
        for (busy, waiting) in crowd {
            for client in waiting {
                let heard = client.join().expect("a client");
                assert!(heard.is_ok(), "{what}: {heard:?}\n{}", emperor.log());
            }
            for client in busy {
                let heard = client.join().expect("a client");
                assert!(matches!(heard, Err(Failure::Lost { .. })), "{what}: {heard:?}\n{}", emperor.log());
            }
        }
        for (vassal, number) in stage.vassals.iter().zip(&sockets) {
            assert_eq!(&queue(&vassal.at).expect("it is bound").0, number, "{what}: another socket");
        }
    }
    // Without its file there is no vassal any more, and nobody to wait for.
    let crowd = crowd(&stage, &emperor, acts.len());
    stage.vassals.iter().for_each(|vassal| stage.bed.remove(format!("v/{}", vassal.name)));
    for client in crowd.into_iter().flat_map(|(busy, waiting)| busy.into_iter().chain(waiting)) {
        let heard = client.join().expect("a client");
        assert!(matches!(heard, Err(Failure::Lost { .. })), "{heard:?}\n{}", emperor.log());
    }
    emperor.stop(&stage.bed);
}
