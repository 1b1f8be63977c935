use super::*;
use crate::config::{Config, Limits, Loader, Machine, Mode};
use crate::vassal::plan::Text;

struct Few;

impl Names for Few {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        (name == "here.example").then_some(Ipv4Addr::new(192, 0, 2, 7))
    }
    fn user(&self, name: &str) -> Option<u32> {
        (name == "ann").then_some(1001)
    }
    fn group(&self, name: &str) -> Option<u32> {
        (name == "web").then_some(33)
    }
}

fn config(lines: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.ini"), format!("[uwsgi]\n{lines}")).unwrap();
    let world = Machine::new().in_directory(dir.path());
    let words = ["--ini", "a.ini"].map(std::ffi::OsString::from);
    Loader::new(&world, Limits::default()).load(&words, &[], Mode::Vassal).unwrap()
}

fn read(lines: &str) -> Result<SocketTerms, String> {
    SocketTerms::read(Asked(&config(lines)), &Few).map_err(|error| error.to_string())
}

fn listed(lines: &str) -> String {
    let terms = read(lines).unwrap();
    let shown: Vec<_> = terms.sockets().iter().map(|it| format!("{}={}", it.name, it.address)).collect();
    shown.join(" ")
}

#[test]
fn sockets_come_in_the_order_of_the_file_and_have_names() {
    let lines = "http-socket = 127.0.0.1:80\nuwsgi-socket = a.sock\nhttp-socket = [::1]:81\nsocket = @x\n\
                 shared-socket = :82\nhttp-socket = =0\nraw-socket = 127.0.0.1:80\nhttp11-socket = here.example:83\n";
    let wanted = "http-socket=127.0.0.1:80 uwsgi-socket=a.sock http-socket-2=[::1]:81 socket=@x \
                  shared-socket=0.0.0.0:82 http11-socket=192.0.2.7:83";
    assert_eq!(listed(lines), wanted);
    assert_eq!(listed("socket = 127.0.0.1:\n"), "socket=127.0.0.1:0");
    assert_eq!(read("socket = \\0name\n").unwrap().sockets()[0].address, Address::Abstract(b"name".to_vec()));
    let bare = read("socket = name\nabstract-socket = true\n").unwrap();
    assert_eq!(bare.sockets()[0].address, Address::BareAbstract(b"name".to_vec()));
    assert!(read("master = true\n").unwrap().is_empty());
}

#[test]
fn what_is_no_socket_is_refused_with_its_place_and_a_remedy() {
    for (line, words) in [
        ("http-socket = 127.0.0.1:65536", "no port between 0 and 65535"),
        ("http-socket = nowhere.example:80", "no IPv4 address is known for the host in `nowhere.example:80`"),
        ("http-socket = 127.0.0.*:80", "write the address"),
        ("socket = fd://7", "safe-fd"),
        ("socket = unix:a.sock", "without `unix:`"),
        ("https-socket = :443,a.crt,a.key", "TLS"),
        ("suwsgi-socket = :443,a.crt,a.key", "TLS"),
        ("socket = @", "empty"),
        ("chown-socket = nobody-at-all", "there is no user `nobody-at-all`"),
        ("chown-socket = ann:nothing", "there is no group `nothing`"),
        ("listen = 70000", "from 0 to 65535"),
        ("socket-stdin = 0", "the file names 0 sockets"),
    ] {
        let error = read(&format!("{line}\n")).unwrap_err();
        assert!(error.contains(words) && error.contains("a.ini:2"), "{line}: {error}");
    }
    let long = read(&format!("socket = {}\n", "x".repeat(200))).unwrap_err();
    assert!(long.contains("102 bytes"), "{long}");
    let many: String = (0..65).map(|n| format!("socket = s{n}\n")).collect();
    assert!(read(&many).unwrap_err().contains("64 sockets"));
}

#[test]
fn how_sockets_are_made_is_read_with_them() {
    let lines = "socket = a\nchmod-socket = 660\nchown-socket = ann:web\nlisten = 7\nvacuum = true\nso-keepalive = true\n\
                 reuse-port = true\nfreebind = true\nsocket-sndbuf = 4096\nsocket-stdin = 0\nlisten-fds = no\n";
    let terms = read(lines).unwrap();
    let wanted = Manner {
        backlog: 7,
        mode: Some(0o660),
        owner: (Some(1001), Some(33)),
        reuse_port: true,
        freebind: true,
        keepalive: true,
        send_buffer: Some(4096),
        receive_buffer: None,
    };
    assert_eq!(terms.sockets()[0].manner, wanted);
    let passing = terms.passing(vec![20]);
    assert_eq!((terms.vacuum(), passing.silent, passing.stdin), (true, true, Some(0)));
    let mode = |lines: &str| read(&format!("socket = a\n{lines}")).unwrap().sockets()[0].manner.mode;
    assert_eq!(mode(""), None);
    assert_eq!(mode("umask = 027\n"), Some(0o750));
    assert_eq!(mode("chmod-socket = 1\n"), Some(0o666));
    let owner = |text: &str| owner(text, &Few).unwrap();
    assert_eq!(
        [owner("ann"), owner(":web"), owner("5:6")],
        [(Some(1001), None), (None, Some(33)), (Some(5), Some(6))]
    );
}

#[test]
fn a_tenants_terms_are_bounded() {
    let terms = read("socket = 127.0.0.1:80\nsocket = @a\nsocket = b\nsocket-stdin = 1\n").unwrap();
    let json = serde_json::to_string(&terms).unwrap();
    assert_eq!(serde_json::from_str::<SocketTerms>(&json).unwrap(), terms);
    let broken = |from: &str, to: &str| {
        assert!(json.contains(from), "{json}");
        serde_json::from_str::<SocketTerms>(&json.replacen(from, to, 1)).map(drop).unwrap_err().to_string()
    };
    for (from, to) in [
        ("\"stdin\":1", "\"stdin\":3"),
        ("\"vacuum\"", "\"root\":1,\"vacuum\""),
        ("\"backlog\":100", "\"backlog\":100000"),
        ("\"mode\":null", "\"mode\":2541"),
        ("\"name\":\"socket\"", "\"name\":\"a:b\""),
        ("\"name\":\"socket\"", "\"name\":\"\""),
        ("\"path\":\"b\"", "\"path\":\"\""),
        ("\"path\":\"b\"", "\"path\":\"b\\u0000\""),
        ("\"abstract\":[97]", "\"abstract\":[]"),
        ("\"send_buffer\":null", "\"send_buffer\":4294967295"),
        ("127.0.0.1:80", "127.0.0.1:65536"),
    ] {
        broken(from, to);
    }
    let twice = json.replacen("\"path\":\"b\"", "\"tcp\":\"127.0.0.1:80\"", 1);
    assert!(serde_json::from_str::<SocketTerms>(&twice).is_err());
    let one = &terms.sockets()[0];
    let many = SocketTerms { sockets: vec![one.clone(); 65], ..terms.clone() };
    assert!(serde_json::from_str::<SocketTerms>(&serde_json::to_string(&many).unwrap()).is_err());
}

#[test]
fn a_place_in_a_word_is_filled_and_comes_through_the_configuration_language() {
    let lines = "http-socket = 127.0.0.1:8000\nsocket = /run/a.sock\nsocket = @b\nsocket = [::1]:81\n\
                 command = x --fd %(socket.0) -b tcp://%(socket.0.address) %(socket.1.address)=%(socket.1)\n";
    let config = config(lines);
    let terms = SocketTerms::read(Asked(&config), &Few).unwrap();
    let command = config.string("command").unwrap().value;
    let at = |word: &str| place(&[Text::from(word)], &terms).map(|words| words[0].to_string());
    assert_eq!(
        at(std::str::from_utf8(command).unwrap()).unwrap(),
        "x --fd 3 -b tcp://127.0.0.1:8000 /run/a.sock=4"
    );
    assert_eq!(at("%(socket.3.host)|%(socket.3.port)|%(socket.2.address)").unwrap(), "::1|81|@b");
    assert_eq!(at("no %(place) at all, 5 %").unwrap(), "no %(place) at all, 5 %");
    for (word, words) in [
        ("%(socket.4)", "4 sockets, and they are counted from 0"),
        ("%(socket.-1)", "4 sockets"),
        ("%(socket.x)", "4 sockets"),
        ("%(socket.1.port)", "/run/a.sock has no port"),
        ("%(socket.0.name)", "`address`, `host`, `port` or nothing"),
        ("%(socket.0", "not closed"),
    ] {
        let error = at(word).unwrap_err();
        assert!(error.contains(words), "{word}: {error}");
    }
    let chosen = terms.bound_at([Some("127.0.0.1:4711".parse().unwrap())]);
    assert_eq!(place(&["%(socket.0.port)".into()], &chosen).unwrap()[0].to_string(), "4711");
}

#[test]
fn who_has_no_time_asks_nobody_and_knows_whether_he_would_have_to() {
    for (lines, wanted) in [
        ("socket = localhost:80\nchown-socket = 5:6\n", false),
        ("socket = here.example:80\n", true),
        ("socket = a\nchown-socket = ann\n", true),
        ("socket = a\nchown-socket = :web\n", true),
    ] {
        let names = NoNames::default();
        let read = SocketTerms::read(Asked(&config(lines)), &names);
        assert_eq!((names.were_wanted(), read.is_err()), (wanted, wanted), "{lines}");
    }
}
