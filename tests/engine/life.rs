//! The engine as a vassal: what it says to an emperor, and what it does when told.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::place::{ENGINE, PATIENCE, Place, Running, connect, eventually};

const SPAWNED: u8 = 1;
const ACCEPTING: u8 = 5;
const LOYAL: u8 = 17;
const IDLE: u8 = 22;
const BEAT: u8 = 26;

/// A vassal and the emperor's end of its link.
struct Vassal {
    process: Running,
    link: UnixStream,
}

impl Vassal {
    /// Starts `v.ini`. The link is descriptor 3, as it is for a vassal of the emperor.
    fn start(place: &Place) -> Self {
        let (link, theirs) = UnixStream::pair().expect("a socket pair");
        link.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let shell = ["sh", "-c", "exec \"$@\" 3<&0 0</dev/null", "sh"];
        let mut command = place.command(&[&shell, ENGINE].concat());
        command.stdin(OwnedFd::from(theirs)).env("UWSGI_EMPEROR_FD", "3");
        Self { process: Running::start(command), link }
    }

    #[track_caller]
    fn hears(&mut self, words: &[u8]) {
        for word in words {
            let mut byte = [0];
            self.link.read_exact(&mut byte).expect("a word");
            assert_eq!(byte[0], *word);
        }
    }

    fn tell(&mut self, order: u8) {
        self.link.write_all(&[order]).expect("a link");
    }
}

#[test]
fn it_says_that_it_is_configured_accepting_and_loyal() {
    let place = Place::new();
    place.vassal("check-static = %dwww");
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    for _ in 0..3 {
        assert_eq!(place.get("/").text(), "<p>hello</p>\n");
    }
    vassal.hears(&[LOYAL]);
    vassal.tell(0);
    assert_eq!(vassal.process.ended(), 0);
    let mut rest = Vec::new();
    vassal.link.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [], "loyalty is said once");
    assert!(place.log().contains("unix GET / => 13 bytes (HTTP 200)"), "{}", place.log());
}

#[test]
fn a_reload_keeps_the_process_its_socket_and_its_connections() {
    let place = Place::new();
    place.vassal("check-static = %dwww\nhttp-socket = %dold.sock\nvacuum = true");
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    let socket = fs::metadata(place.at("v.sock")).unwrap().ino();
    let mut connection = connect(&place.at("v.sock")).unwrap();
    let mut ask = |path: &str| {
        connection.write_all(format!("HEAD {path} HTTP/1.1\r\nHost: v\r\n\r\n").as_bytes()).unwrap();
        let mut answer = vec![0; 4096];
        let length = connection.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask("/new.txt").contains(" 404 "));
    vassal.hears(&[LOYAL]);

    fs::create_dir(place.at("other")).unwrap();
    fs::write(place.at("other/new.txt"), "new").unwrap();
    place.vassal("check-static = %dother\nhttp-socket = %dnew.sock\nvacuum = true\nchmod-socket = 600");
    vassal.tell(1);
    vassal.hears(&[ACCEPTING]);
    assert!(ask("/new.txt").contains(" 200 "));
    vassal.hears(&[LOYAL]);
    assert_eq!(fs::metadata(place.at("v.sock")).unwrap().ino(), socket);
    assert_eq!(fs::metadata(place.at("v.sock")).unwrap().mode() & 0o777, 0o600);
    connect(&place.at("new.sock")).unwrap();
    assert!(!place.at("old.sock").exists());
    vassal.tell(0);
    assert_eq!(vassal.process.ended(), 0);
    assert!(!place.at("v.sock").exists() && !place.at("new.sock").exists(), "vacuum");
}

#[test]
fn a_new_configuration_that_cannot_be_used_changes_nothing_and_is_explained() {
    let place = Place::new();
    place.vassal("check-static = %dwww");
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    for (broken, reason) in [
        ("wsgi-file = app.py", "v.ini:5: `wsgi-file` needs uWSGI, "),
        (
            "http-socket = /nonexistent/folder/v.sock\ncheck-static = /",
            "cannot listen on /nonexistent/folder/v.sock: ",
        ),
        ("check-static = /\nchdir = /nonexistent", "cannot enter /nonexistent: "),
        ("check-static = /\nuid = nobody", "`uid` and `gid` cannot change while the vassal runs"),
        ("check-static = /\nexit = 0", "the configuration asks to exit with status 0"),
    ] {
        place.vassal(broken);
        vassal.tell(1);
        vassal.hears(&[ACCEPTING]);
        assert!(place.log().contains(reason), "{reason}: {}", place.log());
        assert_eq!(place.get("/").text(), "<p>hello</p>\n");
        if broken.starts_with("wsgi") {
            vassal.hears(&[LOYAL]);
        }
    }
    fs::remove_file(place.at("v.ini")).unwrap();
    vassal.tell(1);
    vassal.hears(&[ACCEPTING]);
    assert_eq!(place.get("/").text(), "<p>hello</p>\n");
}

#[test]
fn a_reload_may_move_to_an_address_that_overlaps_with_the_former_one() {
    let place = Place::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.vassal(&format!("check-static = %dwww\nhttp-socket = 127.0.0.1:{port}"));
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    place.vassal(&format!("check-static = %dwww\nhttp-socket = :{port}"));
    vassal.tell(1);
    vassal.hears(&[ACCEPTING]);
    assert!(place.log().contains(&format!("listening on 0.0.0.0:{port}")), "{}", place.log());
    std::net::TcpStream::connect(("127.0.0.2", port)).unwrap();
}

#[test]
fn a_graceful_stop_ends_running_requests_and_takes_no_new_ones() {
    let place = Place::new();
    let size = 8 << 20;
    fs::write(place.at("www/large"), vec![b'x'; size]).unwrap();
    place.vassal("check-static = %dwww");
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    let unused = connect(&place.at("v.sock")).unwrap();
    let mut connection = connect(&place.at("v.sock")).unwrap();
    connection.write_all(b"GET /large HTTP/1.1\r\nHost: v\r\n\r\n").unwrap();
    let mut first = [0; 1024];
    connection.read_exact(&mut first).unwrap();
    vassal.tell(2);
    vassal.tell(1);
    eventually("new connections are refused", || connect(&place.at("v.sock")).err());
    assert!(vassal.process.0.try_wait().unwrap().is_none());
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).unwrap();
    assert_eq!(first.iter().chain(&rest).filter(|byte| **byte == b'x').count(), size);
    assert_eq!(vassal.process.ended(), 0);
    drop(unused);
}

#[test]
fn a_graceful_stop_has_an_end() {
    let place = Place::new();
    fs::write(place.at("www/large"), vec![b'x'; 8 << 20]).unwrap();
    place.vassal("check-static = %dwww\nreload-mercy = 1");
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    let mut connection = connect(&place.at("v.sock")).unwrap();
    connection.write_all(b"GET /large HTTP/1.1\r\nHost: v\r\n\r\n").unwrap();
    connection.read_exact(&mut [0; 1024]).unwrap();
    vassal.tell(2);
    assert_eq!(vassal.process.ended(), 0);
}

#[test]
fn it_ends_with_its_emperor() {
    let place = Place::new();
    place.vassal("check-static = %dwww");
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING]);
    drop(vassal.link);
    assert_eq!(vassal.process.ended(), 1);
    assert!(place.log().contains("the emperor is gone"));
}

#[test]
fn it_beats_and_tells_once_that_it_is_idle() {
    let place = Place::new();
    place.vassal("check-static = %dwww\nheartbeat = 1\nidle = 1\ndie-on-idle = true");
    let started = Instant::now();
    let mut vassal = Vassal::start(&place);
    vassal.hears(&[SPAWNED, ACCEPTING, BEAT]);
    let mut heard = [0; 3];
    vassal.link.read_exact(&mut heard).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(heard.iter().filter(|word| **word == IDLE).count(), 1, "{heard:?}");
    assert_eq!(heard.iter().filter(|word| **word == BEAT).count(), 2, "{heard:?}");
    vassal.tell(0);
    assert_eq!(vassal.process.ended(), 0);
}
