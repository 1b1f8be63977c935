//! Starting the engine: without an emperor, on demand, as another user, and when it must not start.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use crate::place::{ENGINE, Place, Running, connect};

#[test]
fn without_an_emperor_it_serves_until_a_signal_and_reloads_on_hangup() {
    for signal in ["TERM", "INT", "QUIT"] {
        let place = Place::new();
        place.vassal("check-static = %dwww");
        let mut engine = Running::start(place.command(ENGINE));
        assert_eq!(place.get("/").status, 200);
        fs::create_dir(place.at("other")).unwrap();
        fs::write(place.at("other/new.txt"), "new").unwrap();
        place.vassal("check-static = %dother\ndisable-logging = true");
        engine.signal("HUP");
        crate::place::eventually("the new page is there", || {
            (place.get("/new.txt").status == 200).then_some(())
        });
        engine.signal(signal);
        assert_eq!(engine.ended(), 0);
        assert!(place.at("v.sock").exists(), "without vacuum the file stays");
    }
}

#[test]
fn on_demand_it_serves_the_socket_that_is_its_standard_input() {
    let place = Place::new();
    fs::write(
        place.at("v.ini"),
        "[uwsgi]\nprotocol = http\ncheck-static = %dwww\nstatic-index = index.html\n",
    )
    .unwrap();
    let listener = UnixListener::bind(place.at("v.sock")).unwrap();
    let waiting = connect(&place.at("v.sock")).unwrap();
    let mut command = place.command(ENGINE);
    command.stdin(OwnedFd::from(listener));
    let _engine = Running::start(command);
    let answer = crate::place::ask(waiting, "GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(answer.text(), "<p>hello</p>\n");
}

/// The engine with a listening socket as its descriptor 3, passed as a service manager does.
fn passed(place: &Place, listener: UnixListener, pid: &str) -> std::process::Command {
    let engine = place.command(ENGINE);
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(format!("LISTEN_PID={pid} LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null"));
    shell.arg(engine.get_program()).args(engine.get_args());
    shell.current_dir(engine.get_current_dir().expect("a directory"));
    shell.stdin(OwnedFd::from(listener)).stderr(fs::File::create(place.at("log")).expect("a log"));
    shell
}

#[test]
fn a_socket_that_a_service_manager_passes_is_served_and_kept_over_a_reload() {
    let place = Place::new();
    // Once by protocol, once because its address is named: then nobody binds it a second time.
    for (line, socket) in [("protocol = http", "a.sock"), ("http-socket = %da.sock", "a.sock")] {
        let lines = format!("[uwsgi]\n{line}\ncheck-static = %dwww\nstatic-index = index.html\n");
        fs::write(place.at("v.ini"), lines).unwrap();
        let listener = UnixListener::bind(place.at(socket)).unwrap();
        let inode = fs::metadata(place.at(socket)).unwrap().ino();
        let waiting = connect(&place.at(socket)).unwrap();
        let mut engine = Running::start(passed(&place, listener, "$$"));
        assert_eq!(crate::place::ask(waiting, "GET / HTTP/1.0\r\n\r\n").unwrap().text(), "<p>hello</p>\n");
        engine.signal("HUP");
        for _ in 0..3 {
            let again = connect(&place.at(socket)).unwrap();
            assert_eq!(crate::place::ask(again, "GET / HTTP/1.0\r\n\r\n").unwrap().status, 200);
        }
        engine.signal("TERM");
        assert_eq!(engine.ended(), 0);
        assert_eq!(fs::metadata(place.at(socket)).unwrap().ino(), inode, "it is the service manager's");
        fs::remove_file(place.at(socket)).unwrap();
    }
}

#[test]
fn a_passed_socket_that_would_not_speak_http_or_is_another_process_s_is_refused() {
    for (line, pid, why) in [
        ("", "$$", "what the service manager passes would speak the uwsgi protocol"),
        ("protocol = http", "1", "no `http-socket`"),
    ] {
        let place = Place::new();
        fs::write(place.at("v.ini"), format!("[uwsgi]\n{line}\ncheck-static = %dwww\n")).unwrap();
        let listener = UnixListener::bind(place.at("v.sock")).unwrap();
        assert_eq!(Running::start(passed(&place, listener, pid)).ended(), 1);
        let log = fs::read_to_string(place.at("log")).unwrap();
        assert!(log.contains(why), "{log}");
    }
}

#[test]
fn an_inherited_socket_that_would_not_speak_http_is_refused() {
    let place = Place::new();
    fs::write(place.at("v.ini"), "[uwsgi]\ncheck-static = %dwww\n").unwrap();
    let mut command = place.command(ENGINE);
    command.stdin(OwnedFd::from(UnixListener::bind(place.at("v.sock")).unwrap()));
    assert_eq!(Running::start(command).ended(), 1);
    assert_eq!(
        place.log(),
        "v.ini: standard input would speak the uwsgi protocol, the built-in engine speaks HTTP: set `protocol = http`\n"
    );
}

#[test]
fn an_option_it_cannot_honour_ends_the_start_with_one_line() {
    let place = Place::new();
    place.vassal("check-static = %dwww\nplugin = python3\nwsgi-file = app.py");
    assert_eq!(Running::start(place.command(ENGINE)).ended(), 1);
    let rest = "needs uWSGI, the built-in engine only serves static files: apt-get install uwsgi-core uwsgi-plugin-python3";
    assert_eq!(place.log(), format!("v.ini:6: `plugin = python3` {rest}\n"));
    place.vassal("check-static = %dwww\nwsgi-file = app.py\nmade-up = 1");
    assert_eq!(Running::start(place.command(ENGINE)).ended(), 1);
    assert_eq!(
        place.log(),
        format!("v.ini:6: `wsgi-file` {rest}\n"),
        "its plugin need not be loaded for that"
    );
}

#[test]
fn a_socket_that_cannot_be_bound_ends_the_start_with_one_line() {
    let place = Place::new();
    place.vassal("check-static = %dwww\nhttp-socket = /nonexistent/v.sock");
    assert_eq!(Running::start(place.command(ENGINE)).ended(), 1);
    assert!(
        place
            .log()
            .ends_with("cannot listen on /nonexistent/v.sock: No such file or directory (os error 2)\n")
    );
}

#[test]
fn a_config_may_move_the_log_and_the_directory() {
    let place = Place::new();
    place.vassal("check-static = www\nchdir = %d\nlogto = %dother.log\nprocname = pages");
    let mut command = place.command(ENGINE);
    command.args(["--set", "listen=7", "--master"]);
    let engine = Running::start(command);
    assert_eq!(place.get("/").status, 200);
    let log = fs::read_to_string(place.at("other.log")).unwrap();
    assert!(log.contains("listening on "), "{log}");
    let name = fs::read_to_string(format!("/proc/{}/comm", engine.0.id())).unwrap();
    assert_eq!(name, "pages\n");
}

#[test]
fn root_gives_up_its_rights_before_it_binds() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let place = Place::new();
    for path in [place.at(""), place.at("www")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(place.at("www/secret"), "root's").unwrap();
    fs::set_permissions(place.at("www/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    place.vassal("check-static = %dwww\nuid = www-data");
    let engine = Running::start(place.command(ENGINE));
    assert_eq!(place.get("/").status, 200);
    assert_eq!(place.get("/secret").status, 404);
    let user = nix::unistd::User::from_name("www-data").unwrap().unwrap();
    let socket = fs::metadata(place.at("v.sock")).unwrap();
    assert_eq!((socket.uid(), socket.gid()), (user.uid.as_raw(), user.gid.as_raw()));
    let status = fs::read_to_string(format!("/proc/{}/status", engine.0.id())).unwrap();
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    for (field, id) in [("Uid", &uid), ("Gid", &gid)] {
        let all = format!("{field}:\t{id}\t{id}\t{id}\t{id}\n");
        assert!(status.contains(&all), "{status}");
    }
    assert!(status.contains(&format!("Groups:\t{gid} \n")), "{status}");
    place.vassal("check-static = %dwww\nuid = no-such-user");
    assert_eq!(Running::start(place.command(ENGINE)).ended(), 1);
    assert_eq!(place.log(), "cannot become another user: no such user: no-such-user\n");
}

#[test]
fn a_check_tells_what_the_engine_will_refuse() {
    let place = Place::new();
    place.vassal("check-static = %dwww\nwsgi-file = app.py");
    let check = |path: &str| {
        let mut command = std::process::Command::new(ENGINE[0]);
        let output = command.arg("check").arg(place.at("v.ini")).env("PATH", path).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = check("/nonexistent");
    assert!(told.contains("(the built-in engine, for static files only: no uWSGI is installed)"), "{told}");
    assert!(
        told.contains("`wsgi-file` needs uWSGI, the built-in engine only serves static files: apt-get"),
        "{told}"
    );
    place.vassal("check-static = %dwww");
    assert!(check("/nonexistent").ends_with("no problems\n"), "{told}");
}
