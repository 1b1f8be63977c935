//! Real applications: uWSGI with Python, and the built-in engine where there is no uWSGI.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::time::Duration;

const APP: &str = "def application(env, answer):\n    answer('200 OK', [('Content-Type', 'text/plain')])\n    \
                   return [b'path ' + env['PATH_INFO'].encode() + b'\\n']\n";

/// An emperor whose vassals are run by what is found, not by the witness.
fn plain(bed: &Bed, kind: Kind) -> Builder {
    Builder::bare(bed, kind).on(bed.v()).quick().stats().opt("emperor-on-demand-extension", ".socket")
}

/// A request by HTTP, and the body of the answer.
fn get(mut stream: impl Read + Write, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("a request");
    let text = answer(stream);
    assert!(text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200"), "{text}");
    text.split_once("\r\n\r\n").expect("an answer's head").1.to_owned()
}

fn has_python() -> bool {
    let there = Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists();
    if !there {
        support::skip("uWSGI's plugin for Python is not installed");
    }
    there
}

/// `app.ini`, which goes idle after a second, with these lines besides.
fn python(bed: &Bed, lines: &str) {
    bed.write("app.py", APP);
    let file = bed.path("app.py");
    let text = format!(
        "[uwsgi]\nplugin = python3\nwsgi-file = {}\nprotocol = http\nmaster = true\nidle = 1\ndie-on-idle = true\n{lines}",
        file.display()
    );
    bed.write("v/app.ini", text);
}

both!(python_is_started_by_its_first_client_goes_idle_and_comes_back, |kind: Kind| {
    if !has_python() || Kind::Real.program().is_none() {
        return;
    }
    let bed = Bed::new();
    let path = bed.path("app.sock");
    bed.write("v/app.ini.socket", path.to_str().expect("plain text"));
    python(&bed, "");
    let emperor = plain(&bed, kind).start();
    waits(&emperor, "app.ini");
    let before = inode(&path);
    for round in 1..=2 {
        let clients: Vec<_> = (0..5).map(|_| call(&path)).collect();
        for (n, client) in clients.into_iter().enumerate() {
            assert_eq!(get(client, &format!("/{round}/{n}")), format!("path /{round}/{n}\n"));
        }
        emperor.wait_stats("its process", |s| s["vassals"][0]["pid"].as_i64().filter(|pid| *pid > 0));
        waits(&emperor, "app.ini");
        assert_eq!(inode(&path), before);
    }
    assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
    emperor.stop(&bed);
});

/// The classic trap: the vassal's own file names the socket that it is given, and uWSGI would unlink and bind it. It is
/// told that it has it already, and serves it by the protocol of its own line.
/// It serves, goes back to its socket, and serves again at the same one.
fn is_handed_its_own(emperor: &Emperor, path: &Path) {
    let before = inode(path);
    for round in 1..=2 {
        assert_eq!(get(call(path), "/x"), "path /x\n", "round {round}\n{}", emperor.log());
        emperor.wait_stats("its process", |s| s["vassals"][0]["pid"].as_i64().filter(|pid| *pid > 0));
        waits(emperor, "app.ini");
        assert_eq!(inode(path), before, "round {round}");
    }
    let line = emperor.wait_log("is handed the socket of its own line");
    assert!(line.contains("app.ini:9") && line.contains("http-socket"), "{line}");
}

#[test]
fn python_that_names_its_own_socket_is_handed_it() {
    if !has_python() || Kind::Real.program().is_none() {
        return;
    }
    let bed = Bed::new();
    let path = bed.path("app.sock");
    bed.write("v/app.ini.socket", path.to_str().expect("plain text"));
    python(&bed, &format!("protocol = uwsgi\nhttp-socket = {}\n", path.display()));
    let emperor = plain(&bed, Kind::Ours).start();
    waits(&emperor, "app.ini");
    is_handed_its_own(&emperor, &path);
    emperor.stop(&bed);
}

/// The same for a tenant, whose file is read by a process that has become him.
#[test]
fn root_a_tenants_python_that_names_its_own_socket_is_handed_it() {
    if !support::root() || !has_python() || Kind::Real.program().is_none() {
        return;
    }
    const TENANT: u32 = 61_616;
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(TENANT), Some(TENANT)).expect("an owner");
    let bed = Bed::new();
    let home = bed.path("home");
    std::fs::create_dir(&home).expect("a directory");
    own(&home);
    let path = home.join("app.sock");
    own(&bed.write("v/app.ini.socket", path.to_str().expect("plain text")));
    python(&bed, &format!("protocol = uwsgi\nhttp-socket = {}\n", path.display()));
    own(&bed.path("v/app.ini"));
    let emperor = plain(&bed, Kind::Ours).flag("emperor-tyrant").start();
    waits(&emperor, "app.ini");
    is_handed_its_own(&emperor, &path);
    // A changed file is searched anew: here, for a line that cannot be handed over.
    let text = std::fs::read_to_string(bed.path("v/app.ini")).expect("its file");
    let part = bed.write(".new", text.replace("http-socket", "shared-socket"));
    own(&part);
    std::fs::rename(part, bed.path("v/app.ini")).expect("his file");
    emperor.wait_log("updated configuration for");
    drop(call(&path));
    let line = emperor.wait_log("binds its own on-demand socket");
    assert!(line.contains("shared-socket"), "{line}");
    emperor.stop(&bed);
}

#[test]
fn python_waits_at_its_own_socket_of_any_kind_and_goes_back_to_it() {
    if !has_python() || Kind::Real.program().is_none() {
        return;
    }
    let (bed, port) = (Bed::new(), free_port());
    let path = bed.path("app.sock").to_str().expect("plain text").to_owned();
    for (kind, address) in [
        ("http-socket", path),
        ("socket", format!("127.0.0.1:{port}")),
        ("http-socket", format!("[::1]:{port}")),
    ] {
        python(
            &bed,
            &format!("on-demand = true\n{kind} = {address}\nsocket = {}.2\n", bed.path("b").display()),
        );
        let connect = || -> Box<dyn Stream> {
            if address.starts_with('/') {
                return Box::new(call(Path::new(&address)));
            }
            let stream = TcpStream::connect(&address).expect("a listener");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            Box::new(stream)
        };
        let emperor = Builder::bare(&bed, Kind::Ours).on(bed.v()).quick().stats().start();
        for round in 1..=2 {
            waits(&emperor, "app.ini");
            assert_eq!(get(connect(), "/x"), "path /x\n", "round {round}, {address}\n{}", emperor.log());
            let row = emperor.stats_of("app.ini").expect("a row");
            let pid = Pid::from_raw(i32::try_from(row["pid"].as_i64().expect("a number")).expect("a pid"));
            let begun = || emperor.log().matches("*** Starting uWSGI").count();
            let before = begun();
            kill(pid, Signal::SIGHUP).expect("a signal"); // it reloads, and keeps it
            // Without a master, uWSGI resets a connection that it takes in the last moment before it begins anew.
            poll(PATIENCE, || (begun() > before).then_some(())).expect("a reload");
            assert_eq!(get(connect(), "/y"), "path /y\n", "round {round}, {address}\n{}", emperor.log());
        }
        waits(&emperor, "app.ini");
        assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
        emperor.stop(&bed);
    }
}

/// A connection of any kind.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

#[test]
fn root_python_of_a_tenant() {
    if !has_python() || Kind::Real.program().is_none() || !support::root() {
        return;
    }
    let bed = Bed::new();
    let home = bed.path("home");
    std::fs::create_dir(&home).expect("a directory");
    python(&bed, "");
    bed.write("v/app.ini.socket", home.join("app.sock").to_str().expect("plain text"));
    for path in [&home, &bed.path("v/app.ini"), &bed.path("v/app.ini.socket")] {
        std::os::unix::fs::chown(path, Some(61_414), Some(61_414)).expect("chown");
    }
    let emperor = plain(&bed, Kind::Ours).flag("emperor-tyrant").start();
    for _ in 0..2 {
        assert_eq!(get(call(&home.join("app.sock")), "/x"), "path /x\n");
        emperor.wait_stats("its process", |s| s["vassals"][0]["pid"].as_i64().filter(|pid| *pid > 0));
        waits(&emperor, "app.ini");
    }
    emperor.stop(&bed);
}

#[test]
fn the_built_in_engine_serves_the_client_that_has_started_it() {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("www")).expect("a directory");
    bed.write("www/index.html", "<p>hello</p>\n");
    let port = free_port();
    bed.write("v/www.ini.socket", format!("127.0.0.1:{port}"));
    let text = "[uwsgi]\nprotocol = http\ncheck-static = ../www\nstatic-index = index.html\n";
    bed.write("v/www.ini", text);
    // Nowhere in PATH is a uwsgi.
    let empty = bed.path("script");
    let emperor = plain(&bed, Kind::Ours).env("PATH", &empty).start();
    waits(&emperor, "www.ini");
    emperor.wait_log("built-in");
    assert_eq!(get(call_port(port), "/"), "<p>hello</p>\n");
    // Killed, it is there again for the next one.
    let pid = emperor.stats_of("www.ini").expect("a row")["pid"].as_i64().expect("a number");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(get(call_port(port), "/index.html"), "<p>hello</p>\n");
    emperor.stop(&bed);
}
