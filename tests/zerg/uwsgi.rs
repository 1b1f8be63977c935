//! uWSGI itself at the other end.

use super::*;

const APP: &str = "def application(env, answer):\n    answer('200 OK', [])\n    return [b'uwsgi ' + str(__import__('os').getpid()).encode()]\n";

/// uWSGI with these options, if it is there.
fn uwsgi(bed: &Bed, options: &[&str]) -> Option<Process> {
    let program = Kind::Real.program()?;
    let log = std::fs::File::options().create(true).append(true).open(bed.path("uwsgi.log")).expect("a log");
    let mut command = Command::new(program);
    command.args(["--master", "--need-app"]).args(options).current_dir(bed.root()).stdin(Stdio::null());
    let output = log.try_clone().expect("a second descriptor");
    Some(Process(command.stdout(output).stderr(log).spawn().expect("uwsgi")))
}

fn python(bed: &Bed) -> Option<[String; 6]> {
    if !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
        support::skip("uWSGI's plugin for Python is not installed");
        return None;
    }
    bed.write("app.py", APP);
    let app = text(&bed.path("app.py")).to_owned();
    Some(["--plugin", "python3", "--wsgi-file", &app, "--protocol", "http"].map(str::to_owned))
}

#[test]
fn uwsgi_takes_the_sockets_of_our_pool() {
    let bed = bed();
    let Some(options) = python(&bed) else { return };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let (door, port) = (bed.path("pool"), free_port());
    let name = abstract_name(&bed);
    let first = format!("{}:127.0.0.1:{port}", text(&door));
    let other = free_port();
    let second = format!("@{name}:127.0.0.1:{other}");
    let emperor = emperor(&bed).opt("zerg-pool", first).opt("zerg-pool", second).start();
    offered(text(&door));
    let at = format!("@{name}");
    let Some(member) = uwsgi(&bed, &[&options[..], &["--zerg", text(&door), "--zerg", &at]].concat()) else {
        return;
    };
    for port in [port, other] {
        let answer = poll(PATIENCE, || get(port).filter(|answer| answer.starts_with("uwsgi")));
        assert!(
            answer.is_some(),
            "{port}\n{}",
            std::fs::read_to_string(bed.path("uwsgi.log")).unwrap_or_default()
        );
    }
    // Its successor takes the same sockets, and who came in between has waited.
    emperor.renew(&bed);
    drop(member);
    let waiting = std::thread::spawn(move || get(port));
    let _member = uwsgi(&bed, &[&options[..], &["--zerg", text(&door)]].concat());
    assert!(waiting.join().expect("a client").is_some_and(|answer| answer.starts_with("uwsgi")));
    emperor.stop(&bed);
}

/// uWSGI's client takes one message: the first 253 sockets of a pool that has more.
#[test]
fn uwsgi_takes_the_first_sockets_of_a_pool_of_hundreds() {
    let bed = bed();
    let Some(options) = python(&bed) else { return };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let (door, port, name) = (bed.path("pool"), free_port(), abstract_name(&bed));
    let others: Vec<_> = (0..299).map(|n| format!("@{name}.{n}")).collect();
    let pool = format!("{}:127.0.0.1:{port},{}", text(&door), others.join(","));
    let emperor = emperor(&bed).opt("zerg-pool", pool).start();
    assert_eq!(offered(text(&door)).len(), 300);
    let Some(member) = uwsgi(&bed, &[&options[..], &["--zerg", text(&door)]].concat()) else { return };
    let answer = poll(PATIENCE, || get(port).filter(|answer| answer.starts_with("uwsgi")));
    let log = || std::fs::read_to_string(bed.path("uwsgi.log")).unwrap_or_default();
    assert!(answer.is_some(), "{}", log());
    let taken = log().lines().filter(|line| line.starts_with("uwsgi zerg socket ")).count();
    assert_eq!(taken, 253, "{}", log());
    drop(member);
    emperor.stop(&bed);
}

#[test]
fn a_command_vassal_takes_the_sockets_of_uwsgis_pool() {
    let bed = bed();
    let (door, port) = (bed.path("pool"), free_port());
    let pool = format!("{}:127.0.0.1:{port}", text(&door));
    let Some(program) = Kind::Real.program() else { return };
    let log = std::fs::File::create(bed.path("uwsgi.log")).expect("a log");
    let mut command = Command::new(program);
    command
        .args(["--plugin", "zergpool", "--master", "--zergpool", &pool])
        .arg("--socket")
        .arg(bed.path("own.sock"));
    let _pool = Process(command.stdout(log.try_clone().expect("a copy")).stderr(log).spawn().expect("uwsgi"));
    offered(text(&door));
    serve(&bed, "member.ini", &format!("zerg = {}\n", text(&door)));
    let emperor = emperor(&bed).start();
    assert_eq!(poll(PATIENCE, || get(port)).as_deref(), Some("member zerg"));
    // At each start, also where the former process is gone.
    serve(&bed, "member.ini", &format!("zerg = {}\n# again\n", text(&door)));
    emperor.wait_stats("its successor", |stats| {
        let vassal = &stats["vassals"][0];
        (vassal["last_mod"] != vassal["born"] || vassal["pid"].as_i64() > Some(0)).then_some(())
    });
    assert_eq!(poll(PATIENCE, || get(port)).as_deref(), Some("member zerg"));
    emperor.stop(&bed);
}

/// spec/zerg.md, section 2: what comes at the door of uWSGI's own pool, and at ours.
#[test]
fn parity_both_pools_say_the_same_and_give_the_same_sockets() {
    let Some(program) = Kind::Real.program() else { return };
    let mut told = Vec::new();
    for real in [true, false] {
        let bed = bed();
        let (door, port) = (bed.path("pool"), free_port());
        let unix = bed.path("a.sock");
        let pool = format!("{}:127.0.0.1:{port},{}", text(&door), text(&unix));
        let mut running = None;
        let mut ours = None;
        if real {
            let mut command = Command::new(&program);
            command
                .args(["--plugin", "zergpool", "--master", "--zergpool", &pool])
                .arg("--socket")
                .arg(bed.path("own.sock"));
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("uwsgi");
            running = Some(Process(child));
        } else {
            ours = Some(emperor(&bed).opt("zerg-pool", pool).start());
        }
        let sockets = offered(text(&door));
        let blocking = sockets.iter().map(|it| {
            use nix::fcntl::{FcntlArg, OFlag, fcntl};
            let flags = fcntl(&it.socket, FcntlArg::F_GETFL).expect("its flags");
            !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
        });
        let blocking: Vec<bool> = blocking.collect();
        let names = [format!("127.0.0.1:{port}"), text(&unix).to_owned()];
        assert_eq!(addresses(&sockets), names, "real: {real}");
        let mut bytes = Vec::new();
        let mut stream = UnixStream::connect(&door).expect("the door");
        stream.read_to_end(&mut bytes).expect("the message");
        bytes.truncate(14);
        told.push((bytes, blocking));
        if let Some(emperor) = ours {
            emperor.stop(&bed);
        }
        drop(running);
    }
    assert_eq!(told[0], told[1]);
}

/// uWSGI asks when its queue is long (byte 30), and its reinforcements take its sockets from it.
#[test]
fn uwsgis_reinforcements_serve_its_sockets_and_end_with_it() {
    let bed = bed();
    if python(&bed).is_none() || Kind::Real.program().is_none() {
        return;
    }
    let app = "import os, time\ndef application(env, answer):\n    time.sleep(0.2)\n    answer('200 OK', [])\n    \
               return [str(os.getppid()).encode()]\n";
    let app = bed.write("slow.py", app);
    let (door, port) = (bed.path("door"), free_port());
    let common = format!("plugin = python3\nwsgi-file = {}\nmaster = true\nprotocol = http\n", app.display());
    let file = format!(
        "[uwsgi]\n{common}socket = 127.0.0.1:{port}\nzerg-server = {door}\nvassal-sos-backlog = 3\n[zerg]\n{common}zerg = {door}\n",
        door = text(&door)
    );
    bed.write("v/slow.ini", file);
    let emperor = Builder::bare(&bed, Kind::Ours).on(bed.v()).quick().stats();
    let emperor = emperor.opt("emperor-broodlord", "5").opt("vassal-broodlord", "1").start();
    poll(PATIENCE, || get(port)).unwrap_or_else(|| panic!("nobody answers\n{}", bed.report()));
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    get(port);
                }
            })
        })
        .collect();
    let zerg = emperor.wait_stats("a reinforcement that serves", |stats| {
        let row = stats["vassals"].as_array()?.iter().find(|row| row["zerg"] == 1 && row["loyal"] == 1)?;
        assert_eq!((&row["id"], &row["parent"]), (&"slow.ini:zerg".into(), &"slow.ini".into()));
        row["pid"].as_i64()
    });
    let served = poll(PATIENCE, || get(port).filter(|pid| *pid == zerg.to_string()));
    assert!(served.is_some(), "{}", bed.report());
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    assert_eq!(emperor.lines("going in broodlord mode").len(), 1, "vassal-broodlord");
    // Alone it could go on, for the sockets are its own as well.
    bed.remove("v/slow.ini");
    emperor.wait_stats("nobody", |stats| stats["vassals"].as_array()?.is_empty().then_some(()));
    emperor.stop(&bed);
}

/// uWSGI as the server of sockets, in one of its ways.
fn uwsgi_offers(bed: &Bed, options: &[&str]) -> Option<Process> {
    let own = bed.path(format!("own-{}.sock", options.len()));
    uwsgi_without_app(bed, &[&["--plugin", "zergpool", "--socket", text(&own)], options].concat())
}

fn uwsgi_without_app(bed: &Bed, options: &[&str]) -> Option<Process> {
    let log = std::fs::File::options().create(true).append(true).open(bed.path("uwsgi.log")).expect("a log");
    let mut command = Command::new(Kind::Real.program()?);
    command.arg("--master").args(options).current_dir(bed.root()).stdin(Stdio::null());
    let output = log.try_clone().expect("a second descriptor");
    Some(Process(command.stdout(output).stderr(log).spawn().expect("uwsgi")))
}

#[test]
fn a_command_vassal_takes_a_server_and_a_pool_of_uwsgi_and_comes_back_when_they_do() {
    let bed = bed();
    let (server, pool, name) = (bed.path("server"), free_port(), abstract_name(&bed));
    let served = bed.path("served.sock");
    let options = ["--socket", text(&served), "--zerg-server", text(&server)];
    let Some(first) = uwsgi_without_app(&bed, &options) else { return };
    let pooled = format!("@{name}:127.0.0.1:{pool}");
    let offers = || uwsgi_offers(&bed, &["--zergpool", &pooled]).expect("uWSGI");
    let second = offers();
    offered(text(&server));
    offered(&format!("@{name}"));
    serve(&bed, "member.ini", &format!("zerg = {}\nzerg = @{name}\n", text(&server)));
    let emperor = emperor(&bed).opt("emperor-throttle", "100").opt("emperor-max-throttle", "200").start();
    assert_eq!(poll(PATIENCE, || get(pool)).as_deref(), Some("member zerg-2"));
    // What the server has served itself is the member's alone when that is gone.
    drop(first);
    let at_unix = || {
        let mut stream = UnixStream::connect(&served).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    let answer = poll(PATIENCE, || at_unix().filter(|answer| answer.ends_with("member zerg")));
    assert!(answer.is_some(), "{}", bed.report());
    // Without one of them it does not come back, until that is there again.
    drop(second);
    let pid = emperor.stats_of("member.ini").expect("its row")["pid"].as_i64().expect("a process");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a process that lives");
    emperor.wait_log("cannot get the sockets of a zerg server");
    let _first = uwsgi_without_app(&bed, &options);
    let _second = offers();
    assert_eq!(poll(PATIENCE, || get(pool)).as_deref(), Some("member zerg-2"), "{}", bed.report());
    emperor.stop(&bed);
}

#[test]
fn uwsgi_takes_the_sockets_of_a_command_vassal_and_goes_on_without_it() {
    let bed = bed();
    let Some(options) = python(&bed) else { return };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let (door, port) = (bed.path("offers"), free_port());
    serve(&bed, "first.ini", &format!("http-socket = 127.0.0.1:{port}\nzerg-server = {}\n", text(&door)));
    let emperor = emperor(&bed).start();
    offered(text(&door));
    let Some(_member) = uwsgi(&bed, &[&options[..], &["--zerg", text(&door)]].concat()) else { return };
    let seen =
        |begin: &str| poll(PATIENCE, || get(port).filter(|answer| answer.starts_with(begin))).is_some();
    assert!(seen("uwsgi") && seen("first"), "both serve it");
    bed.remove("v/first.ini");
    emperor.wait_stats("nobody", |stats| stats["vassals"].as_array()?.is_empty().then_some(()));
    assert!((0..5).all(|_| get(port).is_some_and(|answer| answer.starts_with("uwsgi"))));
    emperor.stop(&bed);
}

/// uWSGI asks when all its workers are busy (`vassal-sos`); its reinforcement is numbered, and reloads with it.
#[test]
fn a_busy_uwsgi_is_reinforced_and_a_reload_goes_through_all() {
    let bed = bed();
    if python(&bed).is_none() || Kind::Real.program().is_none() {
        return;
    }
    let app = "import os, time\nversion = open('version').read()\ndef application(env, answer):\n    time.sleep(0.1)\n    \
               answer('200 OK', [])\n    \
               return [(os.environ.get('UWSGI_BROODLORD_NUM', 'base') + ' ' + version).encode()]\n";
    let app = bed.write("v/slow.py", app);
    bed.write("v/version", "old");
    let (door, port) = (bed.path("offers"), free_port());
    let common = format!("plugin = python3\nwsgi-file = {}\nmaster = true\nprotocol = http\n", app.display());
    let file = format!(
        "[uwsgi]\n{common}socket = 127.0.0.1:{port}\nzerg-server = {door}\nvassal-sos = 1\n[zerg]\n{common}zerg = {door}\n",
        door = text(&door)
    );
    bed.write("v/slow.ini", &file);
    let emperor = Builder::bare(&bed, Kind::Ours).on(bed.v()).quick().stats();
    let emperor = emperor.opt("emperor-broodlord", "5").opt("vassal-broodlord", "1").start();
    poll(PATIENCE, || get(port)).unwrap_or_else(|| panic!("nobody answers\n{}", bed.report()));
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    get(port);
                }
            })
        })
        .collect();
    let answers =
        |wanted: &'static str| poll(PATIENCE, || get(port).filter(|answer| answer == wanted)).is_some();
    assert!(answers("1 old") && answers("base old"), "{}", bed.report());
    bed.write("v/version", "new");
    bed.write("v/slow.ini", format!("{file}# again\n"));
    // A reinforcement that has no line for the sockets that it was given ends at its reload (spec/zerg.md, section 3),
    // and its vassal asks for another.
    assert!(answers("2 new") && answers("base new"), "{}", bed.report());
    let late: Vec<_> = (0..20).filter_map(|_| get(port)).filter(|answer| answer.ends_with("old")).collect();
    assert!(late.is_empty(), "{late:?}");
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    assert_eq!(emperor.lines("going in broodlord mode").len(), 2, "vassal-broodlord");
    emperor.stop(&bed);
}
