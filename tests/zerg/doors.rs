//! Who gets what at the doors of our emperor.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

#[test]
fn what_a_pool_holds_is_the_same_over_reloads_and_renewals_and_for_every_client() {
    let bed = bed();
    let (door, port, unix) = (bed.path("pool"), free_port(), bed.path("a.sock"));
    let pool = format!("{}:127.0.0.1:{port},{},@{}", text(&door), text(&unix), text(&unix));
    let emperor = emperor(&bed).opt("zerg-pool", pool).start();
    let first = offered(text(&door));
    let at = format!("127.0.0.1:{port}");
    assert_eq!(addresses(&first), [&at, text(&unix), &format!("@{}", text(&unix))]);
    let id = |it: &Offered| nix::sys::stat::fstat(&it.socket).expect("the socket").st_ino;
    let (sockets, files) = (first.iter().map(id).collect::<Vec<_>>(), [inode(&door), inode(&unix)]);
    emperor.signal(nix::sys::signal::Signal::SIGHUP);
    emperor.renew(&bed);
    emperor.renew(&bed);
    let again = offered(text(&door));
    assert_eq!(again.iter().map(id).collect::<Vec<_>>(), sockets);
    assert_eq!([inode(&door), inode(&unix)], files);
    drop((first, again));
    std::fs::remove_file(&unix).expect("its file");
    emperor.nudge();
    poll(PATIENCE, || unix.exists().then_some(())).expect("its file again");
    assert_eq!(inode(&unix), files[1]);
    // Nobody reads from it: who connects waits for a member.
    let mut waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a place in its queue");
    waiting.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    serve(&bed, "member.ini", &format!("zerg = {}\n", text(&door)));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("member pool"), "{answer}");
    emperor.stop(&bed);
    assert!(!door.exists());
}

#[test]
fn a_name_without_a_file_is_offered_with_and_without_the_nul_that_uwsgi_adds() {
    use std::os::linux::net::SocketAddrExt;
    let bed = bed();
    let name = abstract_name(&bed);
    let emperor = emperor(&bed).opt("zerg-pool", format!("@{name}:{}", text(&bed.path("a.sock")))).start();
    assert_eq!(offered(&format!("@{name}")).len(), 1);
    for nul in ["", "\0"] {
        let address =
            std::os::unix::net::SocketAddr::from_abstract_name(format!("{name}{nul}")).expect("a name");
        let mut stream = UnixStream::connect_addr(&address).expect("both are there");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the message");
        assert_eq!(bytes[..14], [&b"uwsgi-zerg"[..], &1_i32.to_ne_bytes()].concat());
    }
    emperor.stop(&bed);
}

fn descriptors(emperor: &Emperor) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", emperor.pid())).expect("its descriptors").count()
}

#[test]
fn hundreds_of_sockets_are_given_to_many_clients_and_nothing_is_left_open() {
    let bed = bed();
    let door = bed.path("pool");
    let name = abstract_name(&bed);
    let all: Vec<_> = (0..600).map(|n| format!("@{name}.{n}")).collect();
    let emperor = emperor(&bed).opt("zerg-pool", format!("{}:{}", text(&door), all.join(","))).start();
    let given = offered(text(&door));
    assert_eq!(given.len(), 600);
    assert!(given.iter().all(|it| it.label.is_some()));
    drop(given);
    let before = descriptors(&emperor);
    // Those that never take what they are sent, and those that leave at once, hold nobody up.
    let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(&door).expect("the door")).collect();
    for _ in 0..200 {
        drop(UnixStream::connect(&door).expect("the door"));
    }
    assert_eq!(addresses(&offered(text(&door))), all);
    // The one before it may be about to be closed.
    poll(PATIENCE, || (descriptors(&emperor) <= before).then_some(())).expect("as many as before");
    drop(silent);
    // A program is given them all, uWSGI's number of them in the first message and the others behind.
    let counts = bed.path("counts");
    let line = format!("command = sh -c 'echo $LISTEN_FDS > {}; exec sleep 1000'\n", text(&counts));
    bed.write("v/counts.ini", format!("[uwsgi]\n{line}zerg = {}\n", text(&door)));
    let counted =
        poll(PATIENCE, || std::fs::read_to_string(&counts).ok().filter(|text| text.ends_with('\n')));
    assert_eq!(counted.as_deref(), Some("600\n"), "{}", emperor.log());
    emperor.stop(&bed);
}

#[test]
fn a_pool_that_cannot_be_is_told_before_anything_starts() {
    let bed = bed();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let at = taken.local_addr().expect("its address");
    for (pool, words) in [
        ("nowhere".to_owned(), "`PATH:ADDRESS,ADDRESS…` is wanted"),
        (format!("{}:127.0.0.1:99999", text(&bed.path("z"))), "no port between 0 and 65535"),
        (format!("{}:{}", "x".repeat(200), text(&bed.path("a"))), "106 bytes at most"),
        (format!("{}:{}", text(&bed.path("no/such/z")), text(&bed.path("a"))), "No such file or directory"),
    ] {
        let mut emperor = emperor(&bed).opt("zerg-pool", &pool).start();
        let status = emperor.end();
        assert_eq!(status.code(), Some(1), "{pool}\n{}", emperor.log());
        assert!(emperor.log().contains(words), "{pool}: {}", emperor.log());
    }
    let pool = format!("{}:{at}", text(&bed.path("z")));
    let mut emperor = emperor(&bed).opt("zerg-pool", pool).start();
    assert_eq!(emperor.end().code(), Some(1));
    assert!(emperor.log().contains("Address already in use"), "{}", emperor.log());
}

#[test]
fn a_vassal_offers_its_sockets_and_those_of_its_pool_to_another() {
    let bed = bed();
    let (all, pool) = (bed.path("all"), bed.path("pool"));
    let (own, pooled) = (free_port(), free_port());
    let lines = format!(
        "http-socket = 127.0.0.1:{own}\nzerg-server = {}\nzerg-pool = {}:127.0.0.1:{pooled},127.0.0.1:{own}\n",
        text(&all),
        text(&pool)
    );
    serve(&bed, "first.ini", &lines);
    let emperor = emperor(&bed).start();
    let got = offered(text(&all));
    assert_eq!(addresses(&got), [format!("127.0.0.1:{own}")]);
    let label = got[0].label.as_ref().expect("a label");
    assert_eq!((label.name(), label.protocol()), ("http-socket", Some("http")));
    assert_eq!(offered(text(&pool)).len(), 2);
    assert_eq!(std::fs::metadata(&all).expect("its file").permissions().mode() & 0o777, 0o600);
    emperor.renew(&bed);
    assert_eq!((offered(text(&all)).len(), offered(text(&pool)).len()), (1, 2));
    // Nobody serves what only the pool has, until somebody takes it.
    serve(&bed, "second.ini", &format!("zerg = {}\n", text(&pool)));
    let answer = poll(PATIENCE, || get(pooled)).expect("an answer");
    assert_eq!(answer, "second pool");
    poll(PATIENCE, || get(own).filter(|answer| answer == "second http-socket"))
        .expect("its share of the others");
    // The sockets outlive who has named them first, for those who have them; the doors do not.
    bed.remove("v/first.ini");
    poll(PATIENCE, || (!all.exists() && !pool.exists()).then_some(())).expect("closed doors");
    assert_eq!(get(own).as_deref(), Some("second http-socket"));
    emperor.stop(&bed);
}

#[test]
fn a_vassal_goes_on_without_a_server_only_if_its_file_says_so() {
    let bed = bed();
    let port = free_port();
    let lines = format!("http-socket = 127.0.0.1:{port}\nzerg = {}\n", text(&bed.path("nobody")));
    serve(&bed, "strict.ini", &lines);
    let emperor = emperor(&bed).start();
    let told = emperor.wait_log("vassal strict.ini cannot be started");
    assert!(told.contains("cannot get the sockets of a zerg server") && told.contains("ENOENT"), "{told}");
    serve(&bed, "strict.ini", &format!("{lines}zerg-fallback = true\n"));
    assert_eq!(poll(PATIENCE, || get(port)).as_deref(), Some("strict http-socket"));
    emperor.wait_log("goes on without a zerg server (zerg-fallback)");
    emperor.stop(&bed);
}

/// How many descriptors another user is given, or what keeps it from them.
fn as_nobody(door: &Path) -> String {
    let script = "import array, socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry: s.connect(sys.argv[1])\n\
                  except PermissionError: print('closed'); sys.exit()\n\
                  data, control, _, _ = s.recvmsg(100, socket.CMSG_SPACE(4))\nprint(len(data[:14]), len(control))";
    let mut python = Command::new("python3");
    let output = python.args(["-S", "-c", script]).arg(door).uid(65534).gid(65534).output().expect("python3");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn root_another_user_gets_sockets_only_where_it_is_named() {
    if !support::root() {
        return;
    }
    let bed = bed();
    std::fs::set_permissions(bed.root(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let pool =
        |name: &str| (bed.path(name), format!("{}:{}", text(&bed.path(name)), text(&bed.path("a.sock"))));
    for (options, expected) in [
        (&[][..], "closed"),
        (&[("zerg-chmod", "666")], "0 0"),
        (&[("zerg-allow", "1,65534")], "14 1"),
        (&[("zerg-allow", "nobody")], "14 1"),
        (&[("zerg-allow", "nobody"), ("zerg-chmod", "600")], "closed"),
        (&[("zerg-allow", "nobody"), ("zerg-chmod", "600"), ("zerg-chown", "nobody")], "14 1"),
    ] {
        let (door, pool) = pool("pool");
        let builder = emperor(&bed).opt("zerg-pool", pool);
        let emperor = options.iter().fold(builder, |builder, (name, value)| builder.opt(name, value)).start();
        assert_eq!(offered(text(&door)).len(), 1, "root may always");
        assert_eq!(as_nobody(&door), expected, "{options:?}");
        if expected == "0 0" {
            emperor.wait_log("user 65534");
        }
        emperor.stop(&bed);
    }
}

#[test]
fn a_renewed_emperor_offers_what_its_configuration_says_now_as_soon_as_it_can_be_had() {
    let bed = bed();
    let (first, second) = (bed.path("first"), bed.path("second"));
    let (a, b) = (bed.path("a.sock"), free_port());
    let write = |pools: &str| {
        bed.write("emperor.ini", format!("[uwsgi]\nemperor = {}\n{pools}", text(&bed.v())));
    };
    let old = format!("zerg-pool = {}:{}\n", text(&first), text(&a));
    write(&old);
    let emperor = Builder::bare(&bed, Kind::Ours).opt("ini", bed.path("emperor.ini")).start();
    offered(text(&first));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, b)).expect("the port");
    write(&format!("zerg-pool = {}:127.0.0.1:{b}\n", text(&second)));
    emperor.renew(&bed);
    let told = emperor.wait_log("cannot offer sockets");
    assert!(told.contains(&b.to_string()) && told.contains("Address already in use"), "{told}");
    assert!(!first.exists() && !a.exists(), "they are named no more");
    drop(taken);
    emperor.nudge();
    emperor.wait_log("all that zerg-server and zerg-pool name is offered now");
    assert_eq!(addresses(&offered(text(&second))), [format!("127.0.0.1:{b}")]);
    emperor.stop(&bed);
}
