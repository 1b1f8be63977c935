//! What a program finds, and how it looks from outside.

use super::*;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;

#[test]
fn each_kind_of_socket_is_there_under_its_name() {
    let bed = bed();
    let (four, six) = (free_port(), free_port());
    let name = abstract_name(&bed);
    serve(
        &bed,
        "a.ini",
        &format!(
            "http-socket = localhost:{four}\nuwsgi-socket = ../a.sock\nsocket = @{name}\nsocket = [::1]:{six}\n\
             abstract-socket = no\nshared-socket = ../b.sock\nhttp-socket = =0\n"
        ),
    );
    let emperor = emperor(&bed).start();
    let (pid, first) = answer(&bed, || at_port(four));
    let [unix, shared] = ["a.sock", "b.sock"].map(|file| at_path(&bed.path(file)).expect("an answer").1);
    let address = SocketAddr::from_abstract_name(format!("{name}\0")).expect("a name");
    let of_abstract = hear(UnixStream::connect_addr(&address).ok()).expect("an answer").1;
    let of_six = hear(TcpStream::connect(("::1", six)).ok()).expect("an answer");
    assert_eq!(
        [&*first, &unix, &of_abstract, &of_six.1, &shared],
        ["http-socket", "uwsgi-socket", "socket", "socket-2", "shared-socket"]
    );
    assert_eq!(of_six.0, pid);
    emperor.stop(&bed);
}

#[test]
fn words_and_variables_say_where_a_program_finds_its_sockets_and_the_port_that_was_chosen() {
    let bed = bed();
    let tell = "sh -c 'echo \"$0 $1 $FPM_SOCKETS ${LISTEN_FDS-none} ${UWSGI_EMPEROR_FD}\" > ../part; mv ../part ../told; \
                exec sleep 1000'";
    bed.write(
        "v/a.ini",
        format!(
            "[uwsgi]\ncommand = {tell} %(socket.0) tcp://%(socket.1.address)\nsocket = ../a.sock\n\
             http-socket = 127.0.0.1:0\nenv = FPM_SOCKETS=%(socket.0.address)=%(socket.0)\nlisten-fds = no\n"
        ),
    );
    let emperor = emperor(&bed).start();
    let told = poll(PATIENCE, || std::fs::read_to_string(bed.path("told")).ok()).expect("its words");
    let words: Vec<&str> = told.split_whitespace().collect();
    let port: u16 = words[1].strip_prefix("tcp://127.0.0.1:").expect("an address").parse().expect("a port");
    assert!(port > 0 && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    let path = bed.v().join("../a.sock");
    assert_eq!(words, ["3", words[1], &format!("{}=3", path.display()), "none", "5"]);
    emperor.stop(&bed);
}

#[test]
fn a_program_may_have_a_socket_as_its_standard_input() {
    let bed = bed();
    let port = free_port();
    let program = bed.write(
        "stdin.py",
        "import socket, os\nthere = socket.socket(fileno=0)\nwhile True:\n  c, _ = there.accept()\n  \
         c.sendall(f'{os.getpid()} stdin'.encode())\n  c.close()\n",
    );
    bed.write(
        "v/a.ini",
        format!(
            "[uwsgi]\ncommand = python3 -S {}\nhttp-socket = 127.0.0.1:{port}\nsocket-stdin = 0\nlisten-fds = no\n",
            program.display()
        ),
    );
    let emperor = emperor(&bed).start();
    assert_eq!(answer(&bed, || at_port(port)).1, "stdin");
    emperor.stop(&bed);
}

#[test]
fn root_the_file_has_the_mode_and_the_owner_that_were_asked_for_and_goes_only_with_vacuum() {
    if !support::root() {
        return;
    }
    let bed = bed();
    let of_file = |path: &Path| {
        let file = std::fs::symlink_metadata(path).expect("a socket");
        (file.uid(), file.gid(), file.mode() & 0o777)
    };
    for (name, vacuum) in [("a", "no"), ("b", "yes")] {
        let lines = "chmod-socket = 660\nchown-socket = 12345:nogroup\n";
        serve(&bed, &format!("{name}.ini"), &format!("socket = ../{name}.sock\n{lines}vacuum = {vacuum}\n"));
    }
    let emperor = emperor(&bed).start();
    let [a, b] = ["a.sock", "b.sock"].map(|file| bed.path(file));
    let pids = [&a, &b].map(|path| answer(&bed, || at_path(path)).0);
    let nogroup = nix::unistd::Group::from_name("nogroup").ok().flatten().expect("a group").gid.as_raw();
    assert_eq!([of_file(&a), of_file(&b)], [(12345, nogroup, 0o660); 2]);
    let before = [inode(&a), inode(&b)];
    let lines = "chmod-socket = 600\nvacuum = yes\n";
    serve(&bed, "b.ini", &format!("socket = ../b.sock\n{lines}"));
    successor(&bed, pids[1], || at_path(&b));
    assert_eq!([inode(&a), inode(&b)], before, "the socket stays when only its mode changes");
    assert_eq!(of_file(&b).2, 0o600);
    for name in ["a.ini", "b.ini"] {
        bed.remove(format!("v/{name}"));
    }
    emperor.wait_stats("none", |stats| stats["vassals"].as_array()?.is_empty().then_some(()));
    assert!(a.exists() && !b.exists());
    assert!(UnixStream::connect(&a).is_err());
    let hidden = |name: &str| bed.path(name).exists();
    assert!(!hidden(".a.sock.held") && !hidden(".b.sock.held"));
    emperor.stop(&bed);
}
