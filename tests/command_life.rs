//! The life of vassals that are programs of any kind: how they are stopped and reloaded, when they are ready, and what
//! becomes of those that lie about it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, lchown};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, PATIENCE, poll, root};

const TENANT: u32 = 61_556;

/// Says something to the emperor in systemd's words, then goes on as its words say: `ready`, `sleep=S`, `die=STATUS`,
/// `ignore=SIGNAL`, `beat=N` (heartbeats each 0.2 s), `any text` to be sent as it stands.
const SPEAKER: &str = r#"
import os, signal, socket, sys, time
open('pid.part', 'w').write(str(os.getpid())); os.rename('pid.part', 'pid')
open('starts', 'a').write('x')
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])
def on(number, act):
    def handler(n, frame):
        open('signals', 'a').write('%d\n' % n)
        act()
    signal.signal(number, handler)
for word in sys.argv[1:]:
    name, _, value = word.partition('=')
    if name == 'ready': say('READY=1\nSTATUS=well')
    elif name == 'sleep': time.sleep(float(value))
    elif name == 'die': os._exit(int(value))
    elif name == 'ignore': on(int(value), lambda: None)
    elif name == 'exits': on(int(value), lambda: os._exit(0))
    elif name == 'raises':
        n = int(value)
        on(n, lambda: (signal.signal(n, signal.SIG_DFL), os.kill(os.getpid(), n)))
    elif name == 'beat':
        for _ in range(int(value)):
            say('WATCHDOG=1'); time.sleep(0.2)
    elif name == 'leave': os.fork() == 0 and (open('left.part', 'w').write(str(os.getpid())), os.rename('left.part', 'left'), time.sleep(1000))
    elif name == 'flood':
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.connect(os.environ['NOTIFY_SOCKET'])
        r, w = os.pipe()
        for _ in range(int(value)):
            socket.send_fds(s, [b'FDSTORE=1\nREADY=1'], [w] * 200)
    else: say(word)
while True: signal.pause()
"#;

struct Town {
    bed: Bed,
}

impl Town {
    fn new() -> Self {
        let bed = Bed::new();
        bed.write("speaker.py", SPEAKER);
        Self { bed }
    }

    fn emperor(&self) -> Builder {
        Builder::new(&self.bed, Kind::Ours).opt("emperor-runtime-dir", self.bed.path("run"))
    }

    /// A vassal that is the speaker with these words and these lines in its file.
    fn speaks(&self, words: &str, lines: &str) {
        let speaker = self.bed.path("speaker.py");
        let text = format!("[uwsgi]\ncommand = python3 -S {} {words}\n{lines}", speaker.display());
        self.bed.write("fresh", text);
        fs::rename(self.bed.path("fresh"), self.bed.v().join("a.ini")).expect("a rename");
    }

    fn touch(&self) {
        let file = fs::File::options().append(true).open(self.bed.v().join("a.ini")).expect("its file");
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(2)).expect("a time");
    }

    fn gone(&self) {
        fs::remove_file(self.bed.v().join("a.ini")).expect("its file");
    }

    fn number(&self, name: &str) -> i32 {
        let text = poll(PATIENCE, || fs::read_to_string(self.bed.v().join(name)).ok());
        text.unwrap_or_else(|| panic!("no {name}\n{}", self.bed.report())).trim().parse().expect("a number")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.bed.v().join(name)).unwrap_or_default()
    }

    fn wait_text(&self, name: &str, wanted: impl Fn(&str) -> bool) {
        poll(PATIENCE, || wanted(&self.text(name)).then_some(()))
            .unwrap_or_else(|| panic!("{name}: {:?}\n{}", self.text(name), self.bed.report()));
    }
}

fn is_gone(pid: i32) -> bool {
    !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_gone(town: &Town, pid: i32) {
    poll(PATIENCE, || is_gone(pid).then_some(()))
        .unwrap_or_else(|| panic!("{pid} lives\n{}", town.bed.report()));
}

fn count(emperor: &Emperor, text: &str) -> usize {
    emperor.log().matches(text).count()
}

#[test]
fn one_that_says_when_it_is_ready_is_so_then_and_loyal_a_while_later() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("sleep=0.5 ready", "ready-check = notify\n");
    emperor.wait_log("vassal a.ini is ready to accept requests");
    assert_eq!(count(&emperor, "now loyal"), 0);
    emperor.wait_log("vassal a.ini is now loyal");
    let socket =
        fs::read_dir(town.bed.path("run")).expect("the directory").next().expect("a socket").expect("it");
    assert_eq!(socket.metadata().expect("its mode").mode() & 0o777, 0o600);
    emperor.stop(&town.bed);
    assert_eq!(fs::read_dir(town.bed.path("run")).expect("the directory").count(), 0, "its socket is gone");
}

#[test]
fn one_that_dies_right_after_it_said_that_it_is_ready_backs_off() {
    let town = Town::new();
    let emperor = town.emperor().opt("emperor-throttle", "300").start();
    town.speaks("ready sleep=0.1 die=3", "");
    emperor.wait_log("vassal a.ini is started again in 0.3");
    emperor.wait_log("vassal a.ini is started again in 0.6");
    assert_eq!(count(&emperor, "now loyal"), 0);
    emperor.stop(&town.bed);
}

#[test]
fn one_that_never_is_ready_is_stopped_and_the_log_says_why() {
    let town = Town::new();
    let emperor = town.emperor().opt("emperor-throttle", "100").start();
    town.speaks("sleep=1000", "ready-check = notify\nstart-timeout = 1\n");
    emperor.wait_log("vassal a.ini was not ready within 1 s: it has not sent READY=1");
    emperor.wait_log("vassal a.ini is started again in 0.1");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    town.speaks("", &format!("ready-check = tcp:127.0.0.1:{port}\nstart-timeout = 1\n"));
    emperor.wait_log(&format!(
        "a.ini was not ready within 1 s: nobody answers at 127.0.0.1:{port}: Connection refused"
    ));
    town.speaks("", "ready-check = exec:sh -c 'exit 7'\nstart-timeout = 1\n");
    emperor.wait_log("a.ini was not ready within 1 s: sh ends with exit status: 7");
    emperor.stop(&town.bed);
}

#[test]
fn an_http_check_makes_it_ready_when_the_answer_is_good() {
    let town = Town::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it").port();
    let served = std::thread::spawn(move || {
        for answer in
            ["HTTP/1.0 503 Starting\r\n\r\n", "HTTP/1.0 503 Starting\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"]
        {
            let (mut stream, _): (TcpStream, _) = listener.accept().expect("the check");
            let mut request = [0; 16];
            stream.read_exact(&mut request).expect("a request");
            assert_eq!(&request, b"GET /up HTTP/1.0");
            stream.write_all(answer.as_bytes()).expect("an answer");
        }
    });
    let emperor = town.emperor().start();
    town.speaks("ready", &format!("ready-check = http://127.0.0.1:{port}/up\n"));
    emperor.wait_log("vassal a.ini is ready to accept requests");
    served.join().expect("three questions, and no more");
    emperor.wait_log("vassal a.ini is now loyal");
    emperor.stop(&town.bed);
}

#[test]
fn its_stop_signal_ends_it_and_death_by_that_very_signal_is_clean() {
    for (words, signal) in [("exits=3", "QUIT"), ("raises=15", "TERM"), ("", "INT")] {
        let town = Town::new();
        let emperor = town.emperor().start();
        town.speaks(&format!("{words} ready"), &format!("stop-signal = {signal}\n"));
        let pid = town.number("pid");
        emperor.wait_log("vassal a.ini is ready to accept requests");
        town.gone();
        emperor.wait_log("removed uwsgi instance a.ini");
        assert!(is_gone(pid));
        let log = emperor.log();
        assert!(
            !log.contains("killed by") && !log.contains("exited with") && !log.contains("killing"),
            "{log}"
        );
        emperor.stop(&town.bed);
    }
}

#[test]
fn one_that_ignores_its_signal_is_killed_with_all_that_it_has_started() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("ignore=15 leave ready", "stop-timeout = 1\n");
    let (pid, left) = (town.number("pid"), town.number("left"));
    emperor.wait_log("vassal a.ini is ready to accept requests");
    town.gone();
    emperor.wait_log("vassal a.ini has not ended within 1 seconds, killing it");
    wait_gone(&town, pid);
    wait_gone(&town, left);
    town.wait_text("signals", |text| text == "15\n");
    emperor.stop(&town.bed);
}

#[test]
fn what_it_leaves_behind_ends_with_it() {
    let town = Town::new();
    let emperor = town.emperor().opt("emperor-throttle", "60000").start();
    town.speaks("leave sleep=0.3 die=0", "");
    wait_gone(&town, town.number("left"));
    emperor.stop(&town.bed);
}

#[test]
fn a_change_restarts_it_and_a_bad_one_does_not() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("ready", "");
    let first = town.number("pid");
    emperor.wait_log("vassal a.ini is ready to accept requests");
    town.speaks("ready", "stop-signal = NONSENSE\n");
    emperor.wait_log(
        "a.ini is not told to reload, and goes on as before: a.ini:3: stop-signal: `NONSENSE` is no signal",
    );
    assert!(!is_gone(first));
    town.speaks("ready other", "");
    poll(PATIENCE, || (town.number("pid") != first).then_some(())).expect("another process");
    wait_gone(&town, first);
    assert_eq!(count(&emperor, "is started again"), 0, "nobody is blamed");
    emperor.stop(&town.bed);
}

#[test]
fn a_touch_is_its_reload_signal_and_another_command_is_a_restart() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("ignore=1 ready", "reload-signal = HUP\n");
    let first = town.number("pid");
    emperor.wait_log("vassal a.ini is ready to accept requests");
    town.touch();
    town.wait_text("signals", |text| text == "1\n");
    emperor.signal(Signal::SIGHUP);
    town.wait_text("signals", |text| text == "1\n1\n");
    assert_eq!(town.number("pid"), first);
    town.speaks("ignore=1 ready more", "reload-signal = HUP\n");
    poll(PATIENCE, || (town.number("pid") != first).then_some(())).expect("another process");
    assert_eq!(town.text("signals"), "1\n1\n", "the old one was not told");
    emperor.stop(&town.bed);
}

#[test]
fn one_that_dies_of_its_reload_signal_says_so_with_the_remedy() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("ready", "reload-signal = HUP\n");
    emperor.wait_log("vassal a.ini is now loyal");
    town.touch();
    emperor.wait_log("a.ini has died of the signal that was to make it reload: set reload-signal = restart");
    town.wait_text("starts", |text| text == "xx");
    emperor.stop(&town.bed);
}

#[test]
fn one_whose_watchdog_is_silent_is_killed_and_started_again() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("ready beat=10", "watchdog-sec = 1\nready-check = notify\n");
    let began = Instant::now();
    emperor.wait_log("vassal a.ini sent no heartbeat in last 1 seconds, killing it");
    assert!(began.elapsed() > Duration::from_secs(2), "it was alive for so long");
    town.wait_text("starts", |text| text.len() >= 2);
    emperor.stop(&town.bed);
}

#[test]
fn a_flood_of_descriptors_costs_the_emperor_none() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("flood=2000 ready sleep=1000", "");
    emperor.wait_log("vassal a.ini is ready to accept requests");
    let open = fs::read_dir(format!("/proc/{}/fd", emperor.pid())).expect("its descriptors").count();
    assert!(open < 100, "{open}");
    town.bed.write("v/b.ini", "[uwsgi]\ncommand = sleep 1000\n");
    emperor.wait_log("vassal b.ini has been spawned");
    emperor.stop(&town.bed);
}

#[test]
fn one_that_is_starting_is_heard_by_the_program_that_takes_the_emperors_place() {
    let town = Town::new();
    let emperor = town.emperor().start();
    town.speaks("sleep=3 ready", "ready-check = notify\nstart-timeout = 6000\n");
    let pid = town.number("pid");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    town.bed.write(
        "v/b.ini",
        format!("[uwsgi]\ncommand = sleep 1000\nready-check = tcp:127.0.0.1:{port}\nstart-timeout = 6000\n"),
    );
    let asks = |pid: i32| {
        let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text.windows(5).any(|word| word == b"probe")
    };
    let children = || {
        let text =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", emperor.pid())).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    };
    poll(PATIENCE, || children().into_iter().any(asks).then_some(())).expect("b.ini is asked");
    emperor.signal(Signal::SIGUSR2);
    emperor.wait_log("vassals taken over");
    emperor.wait_log("vassal a.ini is ready to accept requests");
    assert_eq!(town.number("pid"), pid);
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    listener.accept().expect("the question is asked again");
    emperor.wait_log("vassal b.ini is ready to accept requests");
    town.gone();
    emperor.wait_log("removed uwsgi instance a.ini");
    wait_gone(&town, pid);
    emperor.stop(&town.bed);
    assert_eq!(fs::read_dir(town.bed.path("run")).expect("the directory").count(), 0);
}

#[test]
fn root_a_tenants_program_notifies_by_a_socket_of_his_own_and_is_asked_with_his_rights() {
    if !root() {
        return;
    }
    let town = Town::new();
    let emperor = town.emperor().flag("emperor-tyrant").start();
    let home = town.bed.path("home");
    fs::create_dir(&home).expect("a directory");
    lchown(&home, Some(TENANT), Some(TENANT)).expect("chown");
    let speaker = town.bed.path("speaker.py");
    let tenants = |name: &str, lines: &str| {
        let text = format!(
            "[uwsgi]\ncommand = sh -c 'cd ../home && exec python3 -S {} ready'\n{lines}",
            speaker.display()
        );
        let fresh = town.bed.write("fresh", text);
        lchown(&fresh, Some(TENANT), Some(TENANT)).expect("chown");
        fs::rename(fresh, town.bed.v().join(name)).expect("a rename");
    };
    tenants("a.ini", "ready-check = notify\n");
    emperor.wait_log("vassal a.ini is ready to accept requests");
    let socket =
        fs::read_dir(town.bed.path("run")).expect("the directory").next().expect("a socket").expect("it");
    let found = socket.metadata().expect("it");
    assert_eq!((found.uid(), found.mode() & 0o777), (TENANT, 0o600));
    tenants("b.ini", &format!("ready-check = exec:sh -c 'id -u > {}/who'\n", home.display()));
    emperor.wait_log("vassal b.ini is ready to accept requests");
    assert_eq!(fs::read_to_string(home.join("who")).expect("it ran"), format!("{TENANT}\n"));
    tenants("c.ini", "ready-check = exec:test -r /etc/shadow\nstart-timeout = 1\n");
    emperor.wait_log("c.ini was not ready within 1 s: test ends with exit status: 1");
    tenants("a.ini", "ready-check = notify\nstop-timeout = 3\n");
    emperor.wait_log("stop the uwsgi instance a.ini");
    let ready = || (count(&emperor, "vassal a.ini is ready to accept requests") == 2).then_some(());
    poll(PATIENCE, ready).unwrap_or_else(|| panic!("it starts again\n{}", town.bed.report()));
    emperor.stop(&town.bed);
}
