//! Load through nginx, by wrk, while members come and go.

use super::*;

/// Answers one client after the other, and ends between two of them.
const MEMBER: &str = r#"
import os, select, signal, socket, sys
TERM = {signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, TERM)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
there = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
for listener in there: listener.setblocking(False)
while True:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERM)
    ready, _, _ = select.select(there, [], [])
    signal.pthread_sigmask(signal.SIG_BLOCK, TERM)
    for listener in ready:
        try: client, _ = listener.accept()
        except BlockingIOError: continue
        client.setblocking(True)
        client.recv(4096)
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")
        client.shutdown(socket.SHUT_WR)
        client.recv(4096)
        client.close()
"#;

/// nginx in front of this socket.
fn nginx(bed: &Bed, socket: &Path) -> (Process, u16) {
    let (port, root) = (free_port(), text(bed.root()).to_owned());
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {root}/{name};\n"))
        .concat();
    let conf = format!(
        "daemon off;\nmaster_process off;\npid {root}/nginx.pid;\nerror_log {root}/nginx.log;\nevents {{}}\nhttp {{\n\
         access_log off;\n{temp}server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://unix:{}; }} }}\n}}\n",
        text(socket)
    );
    let conf = bed.write("nginx.conf", conf);
    let log = std::fs::File::create(bed.path("nginx.out")).expect("a log");
    let child = Command::new("nginx").arg("-c").arg(conf).stdin(Stdio::null()).stderr(log).spawn();
    (Process(child.expect("nginx")), port)
}

#[test]
fn no_request_fails_while_members_restart_and_the_emperor_is_renewed() {
    for tool in ["nginx", "wrk"] {
        if support::tools::on_path(tool).is_none() {
            return support::skip(&format!("{tool} is not installed"));
        }
    }
    let bed = bed();
    let program = bed.write("member.py", MEMBER);
    let (door, socket) = (bed.path("pool"), bed.path("app.sock"));
    let pool = format!("{}:{}", text(&door), text(&socket));
    let emperor = emperor(&bed).opt("zerg-pool", pool).opt("listen", "128").start();
    let member = |name: &str| {
        let file = format!("[uwsgi]\ncommand = python3 -S {}\nzerg = {}\n", program.display(), text(&door));
        bed.write(format!("v/{name}"), file);
    };
    let names = ["one.ini", "two.ini", "three.ini"];
    names.iter().for_each(|name| member(name));
    let (_nginx, port) = nginx(&bed, &socket);
    poll(PATIENCE, || get(port).filter(|body| body == "hi\n")).unwrap_or_else(|| panic!("{}", bed.report()));
    let url = format!("http://127.0.0.1:{port}/");
    let mut wrk = Command::new("wrk");
    wrk.args(["-t2", "-c16", "-d6s", "--timeout", "30s", &url]).stdout(Stdio::piped());
    let wrk = wrk.spawn().expect("wrk");
    let pid = |name: &str| emperor.stats_of(name).and_then(|row| row["pid"].as_i64()).filter(|pid| *pid > 0);
    for round in 0..4 {
        for name in names {
            let before = pid(name);
            member(name);
            let after = || pid(name).filter(|pid| Some(*pid) != before);
            poll(PATIENCE, after).unwrap_or_else(|| panic!("{name}\n{}", bed.report()));
        }
        if round == 1 {
            emperor.renew(&bed);
        }
    }
    let output = wrk.wait_with_output().expect("what wrk has measured");
    let told = String::from_utf8_lossy(&output.stdout);
    let requests =
        told.split_whitespace().zip(told.split_whitespace().skip(1)).find(|(_, it)| *it == "requests");
    let requests: usize = requests.and_then(|(count, _)| count.parse().ok()).unwrap_or(0);
    assert!(requests > 1000 && !told.contains("Non-2xx") && !told.contains("Socket errors"), "{told}");
    emperor.stop(&bed);
}
