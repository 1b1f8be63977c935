//! What the emperor tells others: stats, notifications, pid file.

use crate::parity;
use crate::support::emperor::{Builder, Emperor, Kind};
use crate::support::{Bed, PATIENCE, poll};
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

/// `name: type` of each key, in the order of the document.
fn shape(text: &str, path: &[&str]) -> Vec<String> {
    let document: Value = serde_json::from_str(text).expect("JSON");
    let object = path.iter().fold(&document, |v, key| key.parse::<usize>().map_or(&v[*key], |n| &v[n]));
    // The list of this object begins behind its name; the keys of its first row are the first to follow.
    let begin = path.first().map_or(0, |list| text.find(&format!("\"{list}\":")).expect("the list"));
    let mut keys: Vec<(usize, String)> = Vec::new();
    for (key, value) in object.as_object().unwrap_or_else(|| panic!("no object at {path:?} in {document:#}"))
    {
        let kind = match value {
            Value::String(_) => "text",
            Value::Number(n) if n.is_i64() => "integer",
            Value::Array(_) => "list",
            _ => "something else",
        };
        keys.push((
            text[begin..].find(&format!("\"{key}\":")).expect("the key in the text"),
            format!("{key}: {kind}"),
        ));
    }
    keys.sort();
    keys.into_iter().map(|(_, line)| line).collect()
}

/// A loyal vassal, a silent one, and one that is penalised.
fn crowd(kind: Kind, options: impl Fn(Builder) -> Builder) -> (Bed, Emperor) {
    let bed = Bed::new();
    bed.script("b.ini", "linger");
    bed.script("c.ini", "exit=1");
    for name in ["a.ini", "b.ini", "c.ini"] {
        bed.vassal(name);
        bed.set_age(format!("v/{name}"), 3600);
    }
    let emperor = options(Builder::new(&bed, kind).stats().opt("emperor-throttle", "60000")).start();
    bed.started("b.ini", 1);
    emperor.wait_stats("loyal", |_| emperor.stats_of("a.ini").filter(|v| v["loyal"] == 1));
    emperor.wait_stats("a penalty", |s| s["blacklist"][0]["throttle_level"].as_u64().filter(|&l| l > 1000));
    (bed, emperor)
}

fn text(bed: &Bed) -> String {
    let mut text = String::new();
    let mut stream = std::os::unix::net::UnixStream::connect(bed.path("stats")).expect("the stats server");
    std::io::Read::read_to_string(&mut stream, &mut text).expect("the stats");
    text
}

const VASSAL_KEYS: [&str; 20] = [
    "id: text",
    "pid: integer",
    "born: integer",
    "last_mod: integer",
    "last_heartbeat: integer",
    "loyal: integer",
    "ready: integer",
    "accepting: integer",
    "last_loyal: integer",
    "last_ready: integer",
    "last_accepting: integer",
    "first_run: integer",
    "last_run: integer",
    "cursed: integer",
    "zerg: integer",
    "on_demand: text",
    "uid: integer",
    "gid: integer",
    "monitor: text",
    "respawns: integer",
];

parity!(
    /// Source: spec/emperor.md 9.1.
    keys_and_types,
    |kind| {
        let (bed, emperor) = crowd(kind, |e| e);
        let text = text(&bed);
        emperor.stop(&bed);
        [shape(&text, &[]), shape(&text, &["vassals", "0"]), shape(&text, &["blacklist", "0"])]
    },
    [
        [
            "version: text",
            "pid: integer",
            "uid: integer",
            "gid: integer",
            "cwd: text",
            "emperor: list",
            "emperor_tyrant: integer",
            "throttle_level: integer",
            "vassals: list",
            "blacklist: list"
        ]
        .map(str::to_owned)
        .to_vec(),
        VASSAL_KEYS.map(str::to_owned).to_vec(),
        ["id: text", "throttle_level: integer", "attempt: integer", "first_attempt: integer", "last_attempt: integer"]
            .map(str::to_owned)
            .to_vec(),
    ]
);

/// Values that do not depend on the moment, one line each.
fn values(row: &Value, keys: &[&str]) -> String {
    keys.iter().map(|k| format!("{k}={} ", row[k])).collect::<String>().trim_end().to_owned()
}

/// Whether a time in the stats is that of now, or of the file (3600 s ago), or never.
fn when(row: &Value, key: &str) -> &'static str {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    match row[key].as_u64().expect("a time") {
        0 => "never",
        t if t + 300 > now && t <= now => "now",
        t if t + 3900 > now && t + 3500 < now => "the file's",
        _ => "odd",
    }
}

parity!(
    values_at_the_top,
    |kind| {
        let (bed, emperor) = crowd(kind, |e| e);
        let stats = emperor.stats();
        assert_eq!(stats["pid"].as_i64(), Some(i64::from(emperor.pid())));
        let line = values(&stats, &["emperor", "emperor_tyrant", "throttle_level", "cwd"]);
        emperor.stop(&bed);
        bed.anonymous(&line)
    },
    real: r#"emperor=["@/v"] emperor_tyrant=0 throttle_level=0 cwd="@/v""#,
    ours: r#"emperor=["@/v"] emperor_tyrant=0 throttle_level=0 cwd="@""#,
    because: "it does not go from directory to directory"
);

parity!(
    values_of_vassals,
    |kind| {
        let (bed, emperor) = crowd(kind, |e| e);
        let line = |name: &str| {
            let row = emperor.stats_of(name).expect("a row");
            assert_eq!(row["pid"].as_i64(), Some(i64::from(bed.started(name, 1))));
            let fixed =
                values(&row, &["loyal", "ready", "accepting", "zerg", "on_demand", "monitor", "respawns"]);
            let times = [
                "born",
                "last_mod",
                "last_heartbeat",
                "last_loyal",
                "last_ready",
                "last_accepting",
                "first_run",
            ];
            let times =
                times.iter().chain(&["last_run", "cursed"]).map(|k| format!(" {k}: {}", when(&row, k)));
            bed.anonymous(&fixed) + &times.collect::<String>()
        };
        let lines = ["a.ini", "b.ini"].map(line);
        emperor.stop(&bed);
        lines
    },
    [
        "loyal=1 ready=1 accepting=1 zerg=0 on_demand=\"\" monitor=\"@/v\" respawns=0 born: the file's \
         last_mod: the file's last_heartbeat: never last_loyal: now last_ready: now last_accepting: now \
         first_run: now last_run: now cursed: never",
        "loyal=0 ready=0 accepting=0 zerg=0 on_demand=\"\" monitor=\"@/v\" respawns=0 born: the file's \
         last_mod: the file's last_heartbeat: never last_loyal: never last_ready: never last_accepting: never \
         first_run: now last_run: now cursed: never"
    ]
);

parity!(
    values_after_a_reload,
    |kind| {
        let (bed, emperor) = crowd(kind, |e| e);
        bed.script("a.ini", "say=5 noreload");
        bed.set_age("v/a.ini", 0);
        emperor.nudge();
        bed.until("told", |log| log.got("a.ini", 1) == 1);
        let row =
            emperor.wait_stats("a reload", |_| emperor.stats_of("a.ini").filter(|v| v["accepting"] == 1));
        let times = ["born", "last_mod"].map(|k| format!("{k}: {}", when(&row, k)));
        emperor.stop(&bed);
        (values(&row, &["loyal", "ready", "accepting", "respawns"]), times)
    },
    (
        "loyal=1 ready=0 accepting=1 respawns=1".to_owned(),
        ["born: the file's", "last_mod: now"].map(str::to_owned)
    )
);

parity!(
    a_vassal_that_is_stopping_is_cursed,
    |kind| {
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 deaf immune linger");
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).stats().start();
        emperor.wait_stats("loyal", |_| emperor.stats_of("a.ini").filter(|v| v["loyal"] == 1));
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("told", |log| log.got("a.ini", 0) == 1);
        let row = emperor.stats_of("a.ini").expect("a row");
        // uWSGI's emperor needs half a minute to get rid of it; it is not asked to.
        (when(&row, "cursed"), values(&row, &["loyal", "respawns"]))
    },
    ("now", "loyal=1 respawns=0".to_owned())
);

parity!(
    over_tcp,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        // A port of the kernel's choice would not be known: take one that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        drop(listener);
        let emperor = Builder::new(&bed, kind).opt("emperor-stats-server", &address).start();
        let mut stream =
            poll(PATIENCE, || std::net::TcpStream::connect(&address).ok()).expect("the stats server");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).expect("the stats");
        emperor.stop(&bed);
        serde_json::from_str::<Value>(&text).expect("JSON")["emperor_tyrant"].clone()
    },
    0
);

parity!(
    uid_and_gid_are_those_of_the_file,
    |kind| {
        if !crate::support::root() {
            return "uid=4242 gid=4343".to_owned();
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        std::os::unix::fs::chown(bed.path("v/a.ini"), Some(4242), Some(4343)).expect("chown");
        let emperor = Builder::new(&bed, kind).stats().start();
        bed.started("a.ini", 1);
        let line = values(&emperor.stats_of("a.ini").expect("a row"), &["uid", "gid"]);
        emperor.stop(&bed);
        line
    },
    "uid=4242 gid=4343"
);

parity!(
    pid_file,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).opt("emperor-pidfile", bed.path("pid")).start();
        bed.started("a.ini", 1);
        let content = std::fs::read_to_string(bed.path("pid")).expect("the pid file");
        assert_eq!(content, format!("{}\n", emperor.pid()));
        emperor.stop_politely(&bed);
        bed.path("pid").exists()
    },
    real: true,
    ours: false,
    because: "a pid file of a process that is gone may name another one"
);

/// The datagrams of a life with one vassal, equal neighbours once.
fn notifications(kind: Kind, abstract_name: bool) -> Vec<String> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let bed = Bed::new();
    bed.vassal("a.ini");
    let path = bed.path("notify").display().to_string();
    let (socket, name) = if abstract_name {
        let address = SocketAddr::from_abstract_name(&path).expect("a name");
        (UnixDatagram::bind_addr(&address).expect("a socket"), format!("@{path}"))
    } else {
        (UnixDatagram::bind(&path).expect("a socket"), path)
    };
    socket.set_nonblocking(true).expect("a socket that does not block");
    let mut heard: Vec<String> = Vec::new();
    let mut listen = || {
        let mut buffer = [0; 4096];
        while let Ok(n) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            // Whether a count of 0 is heard, before the first start or after the last end, is a matter of chance.
            if heard.last() != Some(&text) && !text.contains("governing 0") {
                heard.push(text);
            }
        }
        heard.clone()
    };
    let mut emperor = Builder::new(&bed, kind).env("NOTIFY_SOCKET", name).start();
    let governs = || listen().iter().any(|m| m.contains("governing 1 vassals")).then_some(());
    poll(PATIENCE, governs).unwrap_or_else(|| panic!("never governing\n{}", bed.report()));
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    emperor.signal(nix::sys::signal::Signal::SIGTERM);
    let end = poll(PATIENCE, || {
        listen();
        emperor.end_within(std::time::Duration::ZERO)
    });
    assert_eq!(end.and_then(|s| s.code()), Some(0));
    listen()
}

parity!(
    /// Source: spec/sockets-and-stats.md 2.4.
    notifications_for_systemd,
    |kind| notifications(kind, false),
    real: [
        "STATUS=initializing uWSGI\n",
        "STATUS=uWSGI is ready\nREADY=1\n",
        "STATUS=The Emperor is governing 1 vassals\n",
        "STATUS=The Emperor is buried.\n",
    ],
    ours: [
        "STATUS=initializing the Emperor\n",
        "STATUS=The Emperor is governing 1 vassals\n",
        "READY=1\n",
        "STOPPING=1\n",
        "STATUS=The Emperor is buried.\n",
    ],
    because: "ready once the vassals that were there have been started, and the stop is announced"
);

parity!(
    notifications_to_an_abstract_socket,
    |kind| notifications(kind, true)
        .iter()
        .any(|m| m.contains("STATUS=The Emperor is governing 1 vassals\n")),
    true
);
