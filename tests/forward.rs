//! Stats of all vassals through the emperor's door: real uWSGI under load, hostile stats servers, tenants who name what
//! is not theirs, and clients who want to be in the way.

#![expect(clippy::print_stdout, reason = "a test that cannot run here says so, and figures are shown")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::emperor::{Builder, Kind, fetch};
use support::served::free_port;
use support::{Bed, PATIENCE, poll, tools};

const ALICE: u32 = 61_414;
const BOB: u32 = 61_515;
/// The system's: another one may be where only we can go.
const PYTHON: &str = "/usr/bin/python3";

fn emperor(bed: &Bed) -> Builder {
    Builder::new(bed, Kind::Ours).opt("emperor-control", bed.path("control"))
}

/// The same whose vassals are run by the real uWSGI; `None` where it is not installed.
fn with_uwsgi(bed: &Bed) -> Option<Builder> {
    Kind::Real.program()?;
    if !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
        println!("skipped: uWSGI's plugin python3 is not installed");
        return None;
    }
    let builder = Builder::bare(bed, Kind::Ours).on(bed.v()).quick();
    Some(builder.opt("emperor-control", bed.path("control")))
}

/// Status line and body of a request at a unix socket.
fn ask(socket: &Path, path: &str) -> (String, String) {
    let stream = poll(PATIENCE, || UnixStream::connect(socket).ok()).expect("a server");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    converse(stream, path)
}

fn converse(mut stream: impl Read + Write, path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // what was there is enough
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (header, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no header: {answer}"));
    (header.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// One vassal's row by the control socket.
fn stats(bed: &Bed, name: &str) -> Value {
    json(&ask(&bed.path("control"), &format!("/v1/vassals/{name}/stats")).1)
}

fn error_of(bed: &Bed, name: &str) -> String {
    stats(bed, name)["error"].as_str().unwrap_or_default().to_owned()
}

/// A stats server of the test's own: what `serve` makes of each client, until it gets none any more.
fn server(socket: PathBuf, serve: impl Fn(UnixStream) + Send + Sync + 'static) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn says(text: impl Into<Vec<u8>>) -> impl Fn(UnixStream) + Send + Sync + 'static {
    let text = text.into();
    move |mut stream| {
        let _ = stream.write_all(&text); // a client may have heard enough
    }
}

const APP: &str = "def application(env, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    \
    if env['PATH_INFO'] == '/bad':\n        raise ValueError()\n    return [b'x' * 1000]\n";

fn uwsgi_vassal(bed: &Bed, name: &str, more: &str) {
    let root = bed.root().display();
    let text = format!(
        "[uwsgi]\nplugin = python3\nmaster = true\nprocesses = 2\nwsgi-file = {root}/app.py\n\
         http-socket = {root}/%n.http\nmemory-report = true\n{more}"
    );
    bed.write(format!("v/{name}.ini"), text);
}

fn load(bed: &Bed, name: &str, requests: usize) {
    for number in 0..requests {
        let socket = bed.path(format!("{name}.http"));
        let stream = poll(PATIENCE, || UnixStream::connect(&socket).ok()).expect("the application");
        let mut stream = stream;
        let path = if number % 5 == 0 { "/bad" } else { "/" };
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("a request");
        let _ = stream.read_to_end(&mut Vec::new()); // an exception closes the connection
    }
}

/// What a tool of uWSGI's world shows at this address, for as long as it takes to show `wanted`.
fn uwsgitop(address: &str, wanted: &str) -> Option<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/engines/bin/uwsgitop");
    if !program.exists() || tools::on_path("script").is_none() {
        println!("skipped: packaging/install-test-engines has not got uwsgitop");
        return None;
    }
    let line = format!("stty cols 200 rows 50; exec {} {address}", program.display());
    let mut child = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script");
    let (mut out, mut shown) = (child.stdout.take().expect("a pipe"), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&shown).contains(wanted) && Instant::now() < deadline {
        match out.read(&mut piece) {
            Ok(count @ 1..) => shown.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    let _ = child.stdin.take().expect("a pipe").write_all(b"q"); // it may have ended
    drop(out);
    child.wait().expect("its end");
    Some(String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn the_forwarded_figures_are_the_vassals_own_and_uwsgitop_reads_them() {
    let bed = Bed::new();
    let Some(builder) = with_uwsgi(&bed) else { return };
    let port = free_port();
    bed.write("app.py", APP);
    let root = bed.root().display().to_string();
    uwsgi_vassal(&bed, "a b", &format!("set-placeholder = dir={root}\nstats = %(dir)/%n.stats\n"));
    uwsgi_vassal(&bed, "rel", &format!("chdir = {root}\nstats = rel.stats\nstats-http = true\n"));
    uwsgi_vassal(&bed, "none", "");
    let address = format!("127.0.0.1:{port}");
    let posts = bed.path("posts");
    let builder = builder.opt("emperor-stats-full", &address).flag("stats-http");
    let emperor = builder.opt("emperor-stats-directory", &posts).start();
    std::thread::scope(|scope| {
        scope.spawn(|| load(&bed, "a b", 60));
        scope.spawn(|| load(&bed, "rel", 40));
    });
    // A worker counts after it has answered.
    let settled = poll(PATIENCE, || {
        let rows = [stats(&bed, "a%20b.ini"), stats(&bed, "rel.ini")];
        let counts = rows.each_ref().map(|row| row["figures"]["requests"].as_u64());
        (counts == [Some(60), Some(40)]).then_some(rows)
    });
    let rows = settled.unwrap_or_else(|| panic!("{}\n{}", stats(&bed, "rel.ini"), emperor.log()));
    let own = fetch(&bed.path("a b.stats"));
    let sum = |key: &str| -> u64 {
        own["workers"].as_array().expect("workers").iter().map(|worker| worker[key].as_u64().unwrap()).sum()
    };
    let figures = &rows[0]["figures"];
    for (ours, theirs) in [
        ("requests", "requests"),
        ("exceptions", "exceptions"),
        ("tx_bytes", "tx"),
        ("running_micros", "running_time"),
        ("respawns", "respawn_count"),
        ("harakiri", "harakiri_count"),
        ("rss_bytes", "rss"),
    ] {
        assert_eq!(figures[ours].as_u64(), Some(sum(theirs)), "{ours}: {figures}\n{own}");
    }
    assert_eq!((&figures["exceptions"], &figures["workers"]), (&12.into(), &2.into()), "{figures}");
    assert_eq!(rows[0]["stats"], own, "the document is the vassal's own");
    assert_eq!(rows[0]["process"]["count"], 3, "a master and two workers: {}", rows[0]);
    let none = stats(&bed, "none.ini");
    assert_eq!(
        (&none["address"], &none["error"], &none["figures"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let list = json(&ask(&bed.path("control"), "/v1/stats").1);
    let names: Vec<_> = list["vassals"].as_array().expect("rows").iter().map(|row| &row["id"]).collect();
    assert_eq!(names, ["a%20b.ini", "none.ini", "rel.ini"]);
    // By HTTP: everything, one vassal's own, and what is not there.
    let get = |path: &str| converse(TcpStream::connect(&address).expect("emperor-stats-full"), path);
    let full = json(&get("/").1);
    assert_eq!(full["vassals"][0]["stats"], own);
    assert_eq!(full["vassals"][0]["figures"]["requests"], 60);
    assert_eq!(full["vassals"][0]["pid"], own["pid"]);
    assert_eq!(json(&get("/a%20b.ini").1), own);
    for path in ["/none.ini", "/nobody"] {
        let (head, body) = get(path);
        assert!(head.contains("404"), "{path}: {head}\n{body}\n{}", emperor.log());
    }
    // By a socket for each, that comes and goes with its vassal.
    assert_eq!(fetch(&posts.join("a%20b.ini")), own);
    let mut text = String::new();
    let mut none = UnixStream::connect(posts.join("none.ini")).expect("a socket");
    none.read_to_string(&mut text).expect("an end");
    assert_eq!(text, "", "no document is no document");
    bed.write("v/later.ini", "[uwsgi]\nmaster = true\n");
    poll(PATIENCE, || posts.join("later.ini").exists().then_some(())).expect("a socket of its own");
    bed.remove("v/none.ini");
    poll(PATIENCE, || (!posts.join("none.ini").exists()).then_some(())).expect("its end");
    emperor.renew(&bed);
    poll(PATIENCE, || UnixStream::connect(posts.join("a%20b.ini")).ok()).expect("the next program's socket");
    assert_eq!(fetch(&posts.join("a%20b.ini"))["pid"], own["pid"]);
    let wanted = own["workers"][0]["pid"].to_string();
    let addresses = [
        format!("'{root}/a b.stats'"),
        format!("http://{address}/a%20b.ini"),
        posts.join("a%20b.ini").display().to_string(),
    ];
    for address in addresses {
        let Some(shown) = uwsgitop(&address, &wanted) else { break };
        println!("uwsgitop {address}: {} bytes", shown.len());
        assert!(shown.contains(&wanted), "{address}: {shown}");
    }
    if let Some(shown) = uwsgitop(&format!("http://{address}/"), "rel.ini") {
        assert!(shown.contains("rel.ini"), "{shown}");
    }
    emperor.stop(&bed);
}

#[test]
fn a_hostile_stats_server_costs_its_own_row_alone() {
    let bed = Bed::new();
    let document = r#"{"workers":[{"pid":1,"status":"busy","requests":7}]}"#;
    let lie = r#"{"id":"root","vassals":[{"id":"x"}],"pid":-1,"uid":0,"workers":[{"pid":1,"status":"busy",
        "requests":18446744073709551615},{"pid":1,"requests":18446744073709551615}]}"#;
    let cases = [
        ("closing", "without a word"),
        ("deep", "brackets deep"),
        ("endless", "longer than 4194304 bytes"),
        ("garbage", "no JSON object"),
        ("good", ""),
        ("lying", ""),
        ("nobody", "cannot be reached: No such file"),
        ("silent", "not answered within 250 ms"),
        ("slow", "not answered within 250 ms"),
    ];
    for (name, _) in cases {
        bed.write(format!("v/{name}.ini"), format!("[uwsgi]\nstats = {}/%n.stats\n", bed.root().display()));
    }
    let place = |name: &str| bed.path(format!("{name}.stats"));
    server(place("good"), says(document));
    server(place("lying"), says(lie));
    server(place("closing"), says(""));
    server(place("garbage"), says([b'\xff'; 3000]));
    server(place("deep"), says(format!("{{\"a\":{}", "[".repeat(1 << 20))));
    server(place("silent"), |stream| {
        let _ = (&stream).read(&mut [0; 10]); // until the other one goes
    });
    server(place("slow"), |mut stream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(20)); // it is its manner
        }
    });
    server(place("endless"), |mut stream| while stream.write_all(&[b' '; 65536]).is_ok() {});
    let emperor = emperor(&bed).opt("emperor-stats-full", bed.path("full")).start();
    cases.iter().for_each(|(name, _)| {
        bed.started(&format!("{name}.ini"), 1);
    });
    let begin = Instant::now();
    let mut text = String::new();
    let mut full = UnixStream::connect(bed.path("full")).expect("emperor-stats-full");
    full.read_to_string(&mut text).expect("a document without a request");
    let took = begin.elapsed();
    let full = json(&text);
    assert!(took < Duration::from_secs(8), "{took:?}");
    println!("nine rows, two of them silent, in {took:?}");
    for (row, (name, wanted)) in full["vassals"].as_array().expect("rows").iter().zip(cases) {
        assert_eq!(row["id"], format!("{name}.ini"));
        let error = row["error"].as_str().unwrap_or_default();
        assert!(error.contains(wanted) && error.is_empty() == wanted.is_empty(), "{name}: {error}");
        assert_eq!(row["stats"].is_null(), !wanted.is_empty(), "{name}");
        assert_eq!(row["process"]["count"], 1, "{name}: what the kernel says is there all the same");
    }
    let row = |name: &str| full["vassals"].as_array().unwrap().iter().find(|row| row["id"] == name).unwrap();
    assert_eq!(row("good.ini")["figures"]["requests"], 7);
    let liar = row("lying.ini");
    assert_eq!(liar["figures"]["requests"], u64::MAX);
    assert_ne!((&liar["pid"], &liar["stats"]["pid"]), (&liar["stats"]["pid"], &liar["pid"]));
    assert_eq!(full["vassals"].as_array().unwrap().len(), cases.len(), "nobody adds rows");
    // For a second the same answer is as good.
    let begin = Instant::now();
    let again = stats(&bed, "good.ini");
    assert_eq!(again["read_at"], row("good.ini")["read_at"], "{:?} later", begin.elapsed());
    emperor.stop(&bed);
}

#[test]
fn a_programs_processes_and_queues_are_the_kernels_word() {
    let bed = Bed::new();
    let port = free_port();
    bed.write("v/p.ini", format!("[uwsgi]\ncommand = sleep 1000\nsocket = 127.0.0.1:{port}\nlisten = 7\n"));
    let emperor = emperor(&bed).start();
    let running = |row: &Value| row["process"]["count"] == 1;
    poll(PATIENCE, || running(&stats(&bed, "p.ini")).then_some(())).expect("a process");
    let _clients = [(); 3].map(|()| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a place"));
    let seen = poll(PATIENCE, || Some(stats(&bed, "p.ini")).filter(|row| row["process"]["queue"] == 3));
    let row = seen.unwrap_or_else(|| panic!("{}", stats(&bed, "p.ini")));
    assert_eq!(row["process"]["queue_limit"], 7, "{row}");
    assert!(row["process"]["memory_bytes"].as_u64() > Some(4096), "{row}");
    assert_eq!((&row["error"], &row["figures"]), (&Value::Null, &Value::Null), "{row}");
    emperor.stop(&bed);
}

/// A stats server that runs as somebody; it ends with this value.
struct Served(std::process::Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve_as(uid: u32, address: &str) -> Option<Served> {
    use std::os::unix::process::CommandExt;
    if !Path::new(PYTHON).exists() {
        println!("skipped: {PYTHON} is not installed");
        return None;
    }
    let code = "import socket, sys\na = sys.argv[1]\ntcp = ':' in a\n\
        s = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)\n\
        at = (a.split(':')[0], int(a.split(':')[1])) if tcp else chr(0) + a[1:] + chr(0) if a[0] == '@' else a\n\
        s.bind(at)\ns.listen(50)\nprint('up', flush=True)\nwhile True:\n c, _ = s.accept()\n \
        c.sendall(b'{\"workers\":[{\"pid\":1,\"requests\":7}]}')\n c.close()\n";
    let mut child = Command::new(PYTHON)
        .args(["-c", code, address])
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut up = [0; 3];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut up).expect("it listens");
    Some(Served(child))
}

fn tenants(bed: &Bed, name: &str, uid: u32, stats: &str) {
    let part = bed.write(".new", format!("[uwsgi]\nstats = {stats}\n"));
    lchown(&part, Some(uid), Some(uid)).expect("its owner");
    fs::rename(part, bed.path(format!("v/{name}.ini"))).expect("a vassal's file");
}

#[test]
fn root_a_tenant_is_asked_at_what_is_his_own_and_nowhere_else() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let home = bed.path("alice");
    fs::create_dir(&home).expect("her directory");
    lchown(&home, Some(ALICE), Some(ALICE)).expect("her own");
    let (own_port, bobs_port) = (free_port(), free_port());
    let name = format!("emperor-forward-{}", std::process::id());
    let at_home = |file: &str| home.join(file).display().to_string();
    let Some(_own) = serve_as(ALICE, &at_home("own")) else { return };
    let _own_tcp = serve_as(ALICE, &format!("127.0.0.1:{own_port}"));
    let _own_name = serve_as(ALICE, &format!("@{name}-own"));
    let _bobs_tcp = serve_as(BOB, &format!("127.0.0.1:{bobs_port}"));
    let _bobs_name = serve_as(BOB, &format!("@{name}-bob"));
    // Of root: a socket for all, one behind a closed door, one at an address, one by a name; nobody is to come.
    let open = UnixListener::bind(bed.path("roots")).expect("a socket");
    fs::set_permissions(bed.path("roots"), fs::Permissions::from_mode(0o777)).expect("its mode");
    let closed = bed.path("closed");
    fs::create_dir(&closed).expect("a directory");
    let hidden = UnixListener::bind(closed.join("there")).expect("a socket");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("its mode");
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let abstract_name = SocketAddr::from_abstract_name(format!("{name}-root\0")).expect("a name");
    let named = UnixListener::bind_addr(&abstract_name).expect("a socket");
    symlink(bed.path("roots"), home.join("link")).expect("a link");
    // A root's socket that belongs to her by its file alone.
    let given = UnixListener::bind(home.join("given")).expect("a socket");
    lchown(home.join("given"), Some(ALICE), Some(ALICE)).expect("its owner");
    fs::write(home.join("file"), "").expect("a file");
    let roots_port = tcp.local_addr().expect("its port").port();
    let cases = [
        ("own", at_home("own"), ""),
        ("own-tcp", format!("127.0.0.1:{own_port}"), ""),
        ("own-name", format!("@{name}-own"), ""),
        ("roots", bed.path("roots").display().to_string(), "belongs to uid 0"),
        ("link", at_home("link"), "belongs to uid 0"),
        ("given", at_home("given"), "uid 0 listens there"),
        ("file", at_home("file"), "is no socket"),
        ("hidden", closed.join("there").display().to_string(), "Permission denied"),
        ("missing", closed.join("not").display().to_string(), "Permission denied"),
        ("tcp", format!("127.0.0.1:{roots_port}"), "somebody else than its own user"),
        ("bobs-tcp", format!("127.0.0.1:{bobs_port}"), "somebody else than its own user"),
        ("far", "192.0.2.1:80".to_owned(), "only addresses of this machine's own"),
        ("any-host", "example.org:80".to_owned(), "names are not looked up"),
        ("nobody", "127.0.0.1:1".to_owned(), "nobody listens"),
        ("name", format!("@{name}-root"), "somebody else than its own user"),
        ("bobs-name", format!("@{name}-bob"), "somebody else than its own user"),
        ("proc", "/proc/1/root/run/x".to_owned(), "cannot be reached"),
    ];
    for (name, address, _) in &cases {
        tenants(&bed, name, ALICE, address);
    }
    tenants(&bed, "of-bob", BOB, &at_home("own"));
    let posts = bed.path("posts");
    let emperor = emperor(&bed).flag("emperor-tyrant").opt("emperor-stats-directory", &posts).start();
    cases.iter().for_each(|(name, ..)| {
        bed.started(&format!("{name}.ini"), 1);
    });
    bed.started("of-bob.ini", 1);
    for (name, address, wanted) in &cases {
        let row = poll(PATIENCE, || {
            Some(stats(&bed, &format!("{name}.ini")))
                .filter(|row| !row["error"].to_string().contains("ask again"))
        });
        let row = row.expect("its file is looked at");
        let error = row["error"].as_str().unwrap_or_default();
        assert_eq!(row["address"], *address, "{name}");
        assert!(
            error.contains(wanted) && error.is_empty() == wanted.is_empty(),
            "{name} ({address}): {error}"
        );
        let requests = if wanted.is_empty() { Value::from(7) } else { Value::Null };
        assert_eq!(row["figures"]["requests"], requests, "{name}");
    }
    let of_bob = error_of(&bed, "of-bob.ini");
    assert!(of_bob.contains("belongs to uid 61414"), "{of_bob}");
    for listener in [&open, &hidden, &named, &given] {
        listener.set_nonblocking(true).expect("a flag");
        let came = listener.accept();
        let of_her_file = std::ptr::eq(listener, &given);
        assert_eq!(came.is_ok(), of_her_file, "{listener:?}: only a socket whose file is hers is tried");
    }
    tcp.set_nonblocking(true).expect("a flag");
    assert!(tcp.accept().is_err(), "nobody comes to root's port");
    // Each sees his own.
    let post = fs::metadata(posts.join("own.ini")).expect("her socket");
    assert_eq!((post.uid(), post.permissions().mode() & 0o777), (ALICE, 0o600));
    assert_eq!(fetch(&posts.join("own.ini"))["workers"][0]["requests"], 7);
    let names = |uid: u32| {
        use std::os::unix::process::CommandExt;
        let code = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
            s.sendall(b'GET ' + sys.argv[2].encode() + b' HTTP/1.0\\r\\n\\r\\n')\nd = b''\n\
            while True:\n p = s.recv(65536)\n d += p\n if not p: break\nprint(d.decode())\n";
        let ask = |path: &str| {
            let control = bed.path("control");
            let mut command = Command::new(PYTHON);
            command.args(["-c", code]).arg(control).arg(path).uid(uid).gid(uid).current_dir("/");
            String::from_utf8(command.output().expect("python3").stdout).expect("text")
        };
        [ask("/v1/stats"), ask("/v1/vassals/of-bob.ini/stats")]
    };
    let [list, one] = names(ALICE);
    assert!(list.contains("own-tcp.ini") && !list.contains("of-bob.ini"), "{list}");
    assert!(one.contains(" 404 "), "{one}");
    let [list, one] = names(BOB);
    assert!(!list.contains("own-tcp.ini") && list.contains("of-bob.ini"), "{list}");
    assert!(one.contains(" 200 "), "{one}");
    emperor.stop(&bed);
}

/// A connection, if there is a place in the backlog.
fn without_waiting(socket: &Path) -> Option<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as make};
    let stream = make(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).ok()?;
    connect(stream.as_raw_fd(), &UnixAddr::new(socket).ok()?).ok()?;
    Some(stream.into())
}

#[test]
fn a_thousand_clients_of_stats_and_control_are_in_nobodys_way() {
    let bed = Bed::new();
    for number in 0..50 {
        let text = format!("[uwsgi]\nstats = {}/one.stats\n", bed.root().display());
        bed.write(format!("v/{number:02}.ini"), text);
    }
    server(bed.path("one.stats"), says(format!("{{\"a\":\"{}\"}}", "x".repeat(200_000))));
    let port = free_port();
    let full = format!("127.0.0.1:{port}");
    let builder = emperor(&bed).stats().opt("emperor-stats-full", &full);
    let emperor = builder.flag("stats-http").opt("listen", "1024").opt("socket-timeout", "1").start();
    bed.started("49.ini", 1);
    // How long it takes until the loop obeys a signal, which is how long supervision is held up.
    let length = || fs::metadata(bed.path("emperor.log")).expect("its log").len();
    let probe = || {
        let mut all: Vec<Duration> = Vec::new();
        for _ in 0..100 {
            let before = length();
            let begin = Instant::now();
            emperor.signal(Signal::SIGUSR1);
            while length() == before && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_micros(100)); // the file has no other way to tell
            }
            all.push(begin.elapsed());
        }
        all.sort_unstable();
        (all[50], all[98])
    };
    let quiet = probe();
    let mut clients: Vec<Box<dyn Send>> = Vec::new();
    for number in 0..850 {
        let Ok(mut slow) = TcpStream::connect(&full) else { continue };
        slow.set_nonblocking(true).expect("a flag");
        let words: &[u8] = match number % 4 {
            0 => b"GET / HTTP/1.0\r\n\r\n", // and never reads
            1 => b"",
            2 => &[0xff; 4096],
            _ => &[b'A'; 200_000],
        };
        let _ = slow.write(words);
        clients.push(Box::new(slow));
        if let Some(control) = without_waiting(&bed.path("control")) {
            let words: &[u8] =
                if number % 2 == 0 { b"GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n" } else { words };
            let _ = (&control).write(words);
            clients.push(Box::new(control));
        }
    }
    assert!(clients.len() > 900, "{}", clients.len()); // a full queue turns some away
    let busy = probe();
    println!(
        "the loop obeys within {:?} and {:?} (median, 99 of 100) beside {} clients, {:?} and {:?} alone",
        busy.0,
        busy.1,
        clients.len(),
        quiet.0,
        quiet.1
    );
    drop(clients);
    let answered = poll(PATIENCE, || {
        let mut stream = TcpStream::connect(&full).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /49.ini HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (answer.contains(" 200 ") && answer.len() > 200_000).then_some(())
    });
    assert!(answered.is_some(), "there is room again: {}", emperor.log());
    let after = probe();
    let alone = quiet.0.max(after.0);
    assert!(busy.0 < alone * 3 + Duration::from_millis(5), "{busy:?}, alone {quiet:?} and {after:?}");
    emperor.stop(&bed);
}
