//! One vassal file, served by uWSGI and by the built-in engine: what a browser gets must be the same.

use std::fs;
use std::os::unix::fs::symlink;

use crate::place::{Answer, ENGINE, Place, Running};

const FILES: &[&str] = &[
    "www/a.css",
    "www/a.txt",
    "www/a.weird",
    "www/none",
    "www/.hidden",
    "www/A.HTML",
    "www/a b.txt",
    "www/a.js",
    "www/a.json",
    "www/a.svg",
    "www/a.png",
    "www/sub/index.html",
    "www/empty/x.txt",
    "outside/secret.txt",
    "more/index.html",
    "more/only.txt",
    "more/icon.png",
];

const PATHS: &[&str] = &[
    "/",
    "/index.html",
    "/a.css",
    "/a.txt",
    "/a.txt?x=1",
    "/a.weird",
    "/none",
    "/.hidden",
    "/A.HTML",
    "/a.js",
    "/a.json",
    "/a.svg",
    "/a.png",
    "/a%20b.txt",
    "/a+b.txt",
    "/%61.txt",
    "/a.txt/",
    "/sub",
    "/sub/",
    "/sub//index.html",
    "//a.txt",
    "/./a.txt",
    "/sub/../a.txt",
    "/empty",
    "/empty/",
    "/empty/x.txt",
    "/missing",
    "/out.txt",
    "/in.txt",
    "/dangling",
    "/outdir/secret.txt",
    "/../v.ini",
    "/..%2fv.ini",
    "/%2e%2e/v.ini",
    "/more",
    "/more/",
    "/more/only.txt",
    "/only.txt",
    "/icon",
    "/nowhere/x",
];

const OPTIONS: &str = "check-static = %dwww
static-map = /more=%dmore
static-map = /=%dmore
static-map = /icon=%dmore/icon.png
static-map = /nowhere=%dnowhere
chmod-socket = 660
listen = 20
master = true
processes = 1";

#[test]
fn parity_one_vassal_file_is_served_alike_by_uwsgi_and_by_the_engine() {
    let place = Place::new();
    for file in FILES {
        let path = place.at(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    symlink("../outside/secret.txt", place.at("www/out.txt")).unwrap();
    symlink("../outside", place.at("www/outdir")).unwrap();
    symlink("a.txt", place.at("www/in.txt")).unwrap();
    symlink("nowhere", place.at("www/dangling")).unwrap();
    place.vassal(OPTIONS);

    let Some(theirs) = answers(&place, &["uwsgi"]) else {
        println!("skipped: there is no uwsgi to compare with");
        return;
    };
    let ours = answers(&place, ENGINE).unwrap();
    assert_eq!(theirs.len(), ours.len());
    for ((request, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        assert_eq!(ours.status, theirs.status, "{request}");
        assert_eq!(ours.text(), theirs.text(), "{request}");
        assert_eq!(ours.header("last-modified"), theirs.header("last-modified"), "{request}");
        if fs::exists("/etc/mime.types").unwrap() {
            assert_eq!(ours.header("content-type"), theirs.header("content-type"), "{request}");
        }
        if let Some(length) = theirs.header("content-length") {
            assert_eq!(ours.header("content-length"), Some(length), "{request}");
        }
    }
    let served = ours.iter().filter(|(_, answer)| answer.status == 200).count();
    assert!(served > 30, "only {served} requests were answered with a file");
}

/// The answers to all requests; `None` where the program is not installed.
fn answers(place: &Place, program: &[&str]) -> Option<Vec<(String, Answer)>> {
    let mut command = place.command(program);
    let mut vassal = Running(command.spawn().ok()?);
    let mut requests = Vec::new();
    for path in PATHS {
        requests.push(format!("GET {path} HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n"));
    }
    for path in ["/", "/a.css"] {
        requests.push(format!("HEAD {path} HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n"));
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        requests.push(format!(
            "{method} /a.txt HTTP/1.1\r\nHost: v\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ));
    }
    for header in [
        "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT",
        "If-Modified-Since: Fri, 01 Jan 2010 00:00:00 GMT",
        "If-Modified-Since: yesterday",
        "Range: bytes=1-2",
    ] {
        requests.push(format!("GET /a.txt HTTP/1.1\r\nHost: v\r\nConnection: close\r\n{header}\r\n\r\n"));
    }
    requests.push("GET /a.txt HTTP/1.0\r\n\r\n".into());
    let answers = requests.into_iter().map(|request| (request.clone(), place.ask(&request))).collect();
    vassal.signal("INT");
    vassal.ended();
    Some(answers)
}
