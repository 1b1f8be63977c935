//! What counts as use of a program, and what keeps it although nobody uses it.

use std::io::Write;
use std::time::{Duration, Instant};

use super::own::{ask, plain, sleeps};
use super::*;

/// Answers `hey` with its process id, `big` with [`BIG`] bytes, and `web` with silence until its client goes.
const SERVER: &str = r#"
import os, socket, threading
there = socket.socket(fileno=3)
def serve(client):
    word = client.recv(3)
    if word == b"hey": client.sendall(f"{os.getpid()}".encode())
    if word == b"big": client.sendall(b"x" * (32 << 20))
    if word == b"web": client.recv(1)
    client.close()
while True:
    threading.Thread(target=serve, args=(there.accept()[0],)).start()
"#;
const BIG: usize = 32 << 20;

fn pid_of(emperor: &Emperor, name: &str) -> i64 {
    emperor.stats_of(name).expect("a row")["pid"].as_i64().expect("a number")
}

#[test]
fn a_silent_client_and_a_slow_one_are_use_and_files_may_ask_for_more_time() {
    let bed = Bed::new();
    let server = bed.write("idle.py", SERVER);
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    for (name, at, lines) in [
        ("calm", format!("127.0.0.1:{}", ports[0]), ""),
        ("web", format!("127.0.0.1:{}", ports[1]), ""),
        ("web6", format!(":{}", ports[2]), ""),
        ("big", format!("127.0.0.1:{}", ports[3]), ""),
        ("unix", "../unix.sock".into(), ""),
        ("young", format!("127.0.0.1:{}", ports[4]), "idle-min-uptime = 6\n"),
        ("kept", format!("127.0.0.1:{}", ports[5]), "idle-keep = true\n"),
    ] {
        let words = format!("command = python3 -S {}\non-demand = true\nidle = 1\n", server.display());
        bed.write(format!("v/{name}.ini"), format!("[uwsgi]\n{words}socket = {at}\n{lines}"));
    }
    let emperor = plain(&bed).start();
    let say = |mut stream: TcpStream, word: &[u8]| {
        stream.write_all(word).expect("a word");
        stream
    };
    let begin = Instant::now();
    let young = i64::from(ask(call_port(ports[4]), "hey"));
    let kept = i64::from(ask(call_port(ports[5]), "hey"));
    ask(call_port(ports[0]), "hey");
    let web = [say(call_port(ports[1]), b"web"), say(call_port(ports[2]), b"web")];
    let mut unix = call(&bed.path("unix.sock"));
    unix.write_all(b"web").expect("a word");
    let mut big = say(call_port(ports[3]), b"big");
    let mut piece = vec![0; 16 << 10];
    let mut read = 0;
    // It takes its time, and longer than others may be idle.
    let slowly = Instant::now();
    while slowly.elapsed() < Duration::from_secs(5) {
        read += big.read(&mut piece).expect("a piece");
        std::thread::sleep(Duration::from_millis(50));
    }
    sleeps(&emperor, "calm.ini");
    for name in ["web", "web6", "big", "unix"] {
        assert!(pid_of(&emperor, &format!("{name}.ini")) > 0, "{name} was stopped\n{}", emperor.log());
    }
    if begin.elapsed() < Duration::from_secs(6) {
        assert_eq!(pid_of(&emperor, "young.ini"), young);
    }
    let mut rest = Vec::new();
    big.read_to_end(&mut rest).expect("the rest");
    assert_eq!(read + rest.len(), BIG, "all of it, though it took long");
    drop((web, unix));
    for name in ["web", "web6", "big", "unix", "young"] {
        sleeps(&emperor, &format!("{name}.ini"));
    }
    assert!(begin.elapsed() >= Duration::from_secs(6), "it was too young to be stopped");
    assert_eq!(pid_of(&emperor, "kept.ini"), kept);
    assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
    assert!(emperor.lines("curse").is_empty(), "{}", emperor.log());
    emperor.stop(&bed);
}
