//! Rolling reload: each of the two processes has a group of its own, and no group stays that nobody is in.

use super::*;

#[test]
fn root_who_takes_anothers_place_has_a_group_of_its_own_and_the_other_ones_goes() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17 deaf wait exit=0");
    let write = |version: u32| {
        let socket = bed.path("a.sock");
        let lines =
            format!("socket = {}\ntouch-reload-mode = rolling\nenv = V={version}\n", socket.display());
        bed.write("v/a.ini", format!("[uwsgi]\n{lines}"));
    };
    write(1);
    let emperor = emperor(&bed).start();
    let first = bed.started("a.ini", 1);
    bed.until("it waits", |log| !log.of("a.ini", "waits").is_empty());
    if !has_groups(&emperor, first) {
        return emperor.stop(&bed);
    }
    let group = |pid: i32| groups(pid).iter().map(|group| directory(group)).collect::<Vec<_>>();
    let before = group(first);
    bed.script("a.ini", "say=1,5,17");
    write(2);
    let next = bed.started("a.ini", 2);
    let pid = |id: &str| emperor.stats_of(id).and_then(|row| row["pid"].as_i64());
    let both = || pid("a.ini") == Some(next.into()) && pid("a.ini:last") == Some(first.into());
    assert!(poll(PATIENCE, || both().then_some(())).is_some(), "{}", bed.report());
    let after = group(next);
    assert!(!after.is_empty() && before.iter().all(|path| !after.contains(path)), "{before:?} {after:?}");
    let usage = emperor.stats_of("a.ini").expect("its row");
    assert!(usage["cgroup"].is_object(), "{usage:#}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGUSR1)
        .expect("it lives");
    let gone = poll(PATIENCE, || before.iter().all(|path| !path.exists()).then_some(()));
    assert!(gone.is_some(), "{before:?}\n{}", bed.report());
    assert!(after.iter().all(|path| path.is_dir()), "{after:?}");
    // The next one may be of the same name as the first.
    write(3);
    let third = bed.started("a.ini", 3);
    assert!(
        poll(PATIENCE, || (pid("a.ini") == Some(third.into())).then_some(())).is_some(),
        "{}",
        bed.report()
    );
    let gone = poll(PATIENCE, || after.iter().all(|path| !path.exists()).then_some(()));
    assert!(gone.is_some(), "{after:?}\n{}", bed.report());
    emperor.stop_politely(&bed);
}
