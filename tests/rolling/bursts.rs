//! Bursts of load through nginx, and between them nobody: the vassal sleeps, and the next burst wakes it.
//!
//! `BURSTS=10 BURST_SECONDS=5 cargo nextest run --test rolling --no-capture -E 'test(bursts)'` measures more than a few.

use super::*;

fn number(name: &str, few: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// How many requests failed, in wrk's words, over all bursts.
fn bursts(server: Server, lines: &str) {
    let Some(mut stage) = Stage::new(Kind::Ours, server, &["nginx", "wrk"]) else { return };
    stage.write(1, lines);
    stage.behind_nginx();
    let sleeps = |stage: &Stage| {
        let asleep = || (stage.row("app.ini")?["pid"] == -1).then_some(());
        poll(PATIENCE, asleep).unwrap_or_else(|| stage.fail("it does not sleep"));
    };
    stage.emperor.wait_log("instance detected");
    let port = stage.nginx.as_ref().expect("nginx").1;
    poll(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok()).unwrap_or_else(|| stage.fail("no nginx"));
    let mut told = Vec::new();
    for _ in 0..number("BURSTS", 2) {
        sleeps(&stage);
        told.push(Load::of(port, number("BURST_SECONDS", 1)).told());
    }
    sleeps(&stage);
    let requests: u64 = told.iter().map(|(requests, ..)| requests).sum();
    let longest: Vec<_> = told.iter().map(|(_, longest, _)| longest.as_str()).collect();
    let failed: Vec<_> =
        told.iter().map(|(.., failed)| failed.as_str()).filter(|text| !text.is_empty()).collect();
    let _ = writeln!(
        std::io::stderr(),
        "{server:?}: {} bursts, {requests} requests, longest {longest:?}, failed: {failed:?}",
        told.len()
    );
    assert!(told.iter().all(|(requests, ..)| *requests > 0), "{told:?}");
    assert!(failed.is_empty(), "{failed:?}\n{}", stage.emperor.log());
    stage.emperor.stop(&stage.bed);
}

#[test]
fn no_request_to_uwsgi_fails_in_bursts_that_wake_it() {
    bursts(Server::Uwsgi, "on-demand = true\nidle = 1\ndie-on-idle = true\n");
}

#[test]
fn no_request_to_gunicorn_fails_in_bursts_that_wake_it() {
    bursts(Server::Gunicorn, "on-demand = true\nidle = 1\n");
}
