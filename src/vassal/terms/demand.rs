//! `on-demand`, `idle` and what belongs to them: when a vassal starts, and when it is of no use any more.
//!
//! A vassal with `on-demand` has its own sockets bound by the emperor, and starts with the first connection to one of
//! them. A program has all of them. uWSGI has its first one, which it takes over if it is named to it by descriptor
//! before its file names it by address; it then finds that address in use by itself, and only by the very text that the
//! kernel has of it. So an address that reads otherwise is refused here: uWSGI would bind it a second time.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::life::Turns;
use super::sockets::{Names, SocketTerm};
use super::{Asked, TermsError};
use crate::config::Got;
use crate::config::options::Kind;
use crate::vassal::socket::Address;

/// What a file says of when its vassal runs. The default is: always.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Unchecked")]
pub struct DemandTerms {
    on_demand: bool,
    socket: Option<Box<OwnSocket>>,
    dies_idle: bool,
    #[serde(default)]
    idle_seconds: u32,
    #[serde(default)]
    min_uptime_seconds: u32,
}

/// The socket that uWSGI is handed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSocket {
    /// The option that names it, which says the protocol.
    pub option: String,
    /// The socket.
    pub term: SocketTerm,
}

/// As it comes from a process that has read it as a tenant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    on_demand: bool,
    socket: Option<Box<OwnSocket>>,
    dies_idle: bool,
    #[serde(default)]
    idle_seconds: u32,
    #[serde(default)]
    min_uptime_seconds: u32,
}

/// What keeps a uWSGI vassal busy without any client.
const DUTIES: &[&str] = &[
    "attach-daemon",
    "attach-daemon2",
    "cron",
    "cron2",
    "legion-attach-daemon",
    "legion-cron",
    "legion-smart-attach-daemon",
    "legion-smart-attach-daemon2",
    "mule",
    "mules",
    "smart-attach-daemon",
    "smart-attach-daemon2",
    "spooler",
    "spooler-external",
    "unique-cron",
    "unique-legion-cron",
];

/// Most seconds.
const MOST_SECONDS: u32 = 366 * 86_400;

/// What the emperor's own configuration says of all vassals, and each one's file may say otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForAll {
    /// `vassal-on-demand`.
    pub on_demand: bool,
    /// `vassal-touch-reload-mode = rolling`.
    pub rolling: bool,
}

impl ForAll {
    /// The words that say it to whoever reads a vassal's file: before all that the file says.
    pub fn arguments(self) -> impl Iterator<Item = Vec<u8>> {
        let on_demand = self.on_demand.then(|| b"--on-demand".to_vec());
        let rolling = self.rolling.then(|| b"--touch-reload-mode=rolling".to_vec());
        on_demand.into_iter().chain(rolling)
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        !self.on_demand && !self.rolling
    }
}

/// What a file says of when its vassal runs, how its processes follow one another, and what of that nobody does.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) demand: DemandTerms,
    pub(super) turns: Turns,
    pub(super) left_out: Vec<String>,
}

impl DemandTerms {
    /// Reads them, and what the file says of this that nobody does.
    ///
    /// # Errors
    /// [`TermsError`]: `on-demand` without a socket, or with one that uWSGI would not find again.
    pub(super) fn read(asked: Asked<'_>, is_command: bool, names: &dyn Names) -> Result<Read, TermsError> {
        let wish = asked.0.flag_origin("on-demand");
        let is_of_all = wish.as_ref().is_some_and(|got| got.origin.is_argument());
        let on_demand = wish.is_some_and(|got| got.value);
        let (dies_idle, line) = if is_command { (false, None) } else { dies_idle(asked) };
        let keep = asked.flag("idle-keep").unwrap_or(false);
        let seconds = |option, of_this: bool| -> Result<u32, TermsError> {
            let number = if of_this { asked.number(option, 0..=i64::from(MOST_SECONDS))? } else { None };
            Ok(number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0))
        };
        let idle_seconds = seconds("idle", is_command && !keep)?;
        let min_uptime_seconds = seconds("idle-min-uptime", is_command)?;
        let demand = Self { on_demand, socket: None, dies_idle, idle_seconds, min_uptime_seconds };
        let mut read =
            Read { demand, turns: super::life::turns(asked)?, left_out: line.into_iter().collect() };
        // What all are to do is not done by one that cannot.
        if read.turns.taken() && !is_command {
            match OwnSocket::only(asked, names) {
                Ok(socket) => read.demand.socket = Some(Box::new(socket)),
                Err(error) if read.turns == Turns::Always => return Err(error),
                Err(error) => {
                    read.turns = Turns::Never;
                    read.left_out.push(left_out("vassal-touch-reload-mode", &error));
                }
            }
        }
        if !on_demand || read.demand.socket.is_some() {
            return Ok(read);
        }
        let found = match is_command {
            true if names_socket(asked) => Ok(None),
            true => Err(without(asked)),
            false => OwnSocket::first(asked, names).map(|socket| Some(Box::new(socket))),
        };
        match found {
            Ok(socket) => read.demand.socket = socket,
            Err(error) if !is_of_all => return Err(error),
            Err(error) => {
                read.demand.on_demand = false;
                read.left_out.push(left_out("vassal-on-demand", &error));
            }
        }
        Ok(read)
    }

    /// The socket is not held for its processes to take turns at.
    pub fn take_no_turns(&mut self) {
        if !self.on_demand {
            self.socket = None;
        }
    }

    /// Whether its own sockets start it.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.on_demand
    }

    /// The socket of a vassal that is run by uWSGI.
    #[must_use]
    pub fn socket(&self) -> Option<&OwnSocket> {
        self.socket.as_deref()
    }

    /// What uWSGI is told besides, before its file.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        if self.dies_idle { vec![b"--die-on-idle".to_vec()] } else { Vec::new() }
    }

    /// How long a program may be of no use to anybody before it is stopped.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        (self.idle_seconds > 0).then(|| Duration::from_secs(self.idle_seconds.into()))
    }

    /// How long after its start it is left alone.
    #[must_use]
    pub fn idle_min_uptime(&self) -> Duration {
        Duration::from_secs(self.min_uptime_seconds.into())
    }

    /// Whether the file says nothing of it.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The words by which uWSGI takes its standard input for the socket of this option.
#[must_use]
pub fn inherited(option: &str) -> [Vec<u8>; 2] {
    [format!("--{option}").into_bytes(), b"fd://0".to_vec()]
}

/// An address as uWSGI reads it from the kernel, which is how the file must have it. `None` if that cannot be: for a
/// relative path, and for an abstract name.
#[must_use]
pub fn known_as(address: &Address) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    match address {
        Address::Tcp(tcp) if tcp.is_ipv4() && tcp.ip().is_unspecified() => {
            Some(format!(":{}", tcp.port()).into_bytes())
        }
        Address::Tcp(tcp) => Some(tcp.to_string().into_bytes()),
        Address::Path(path) => path.is_absolute().then(|| path.as_os_str().as_bytes().to_vec()),
        Address::Abstract(_) | Address::BareAbstract(_) => None, // it loses the `@`
    }
}

/// Whether uWSGI is to end when it is idle although its file does not say so in uWSGI's words; and why not.
fn dies_idle(asked: Asked<'_>) -> (bool, Option<String>) {
    let wish = asked.0.flag_origin("kill-on-idle").filter(|got| got.value);
    let Some(wish) = wish.filter(|_| !asked.flag("idle-keep").unwrap_or(false)) else { return (false, None) };
    let Some(duty) = duty(asked) else { return (true, None) };
    let line = format!(
        "{}: kill-on-idle is left out, because of `{duty}`, which is busy without clients; `die-on-idle` ends it all the \
         same",
        wish.origin
    );
    (false, Some(line))
}

fn duty(asked: Asked<'_>) -> Option<&'static str> {
    asked.0.applied().map(|(option, _)| option.canonical().name).find(|name| DUTIES.contains(name))
}

/// What all are to do, and this one cannot. Who reads that knows nothing of the arguments by which all are told.
fn left_out(option: &str, error: &TermsError) -> String {
    match error {
        TermsError::Value { place, cause, .. } if place.is_argument() => {
            format!("{option} is left out: {cause}")
        }
        error => format!("{option} is left out: {error}"),
    }
}

fn names_socket(asked: Asked<'_>) -> bool {
    let is_socket = |kind| matches!(kind, Kind::Socket | Kind::SharedSocket);
    asked.0.applied().any(|(option, _)| is_socket(option.kind))
}

/// Two processes of a vassal cannot both have a socket that uWSGI binds itself.
const ONE_SOCKET: &str = "its processes take turns by the socket that the emperor holds for them, the first of this file; \
                          this one uWSGI would bind itself, and two cannot: take one of them out, or say \
                          `touch-reload-mode = reload`";

/// The same of a port that is no socket of the application's.
const ONE_PORT: &str = "its processes take turns, and two cannot have this port: give it the path of a socket, or say \
                        `touch-reload-mode = reload`";

const NO_SOCKET: &str = "there is no socket that the emperor could hold for its processes; name one, like \
                         `socket = /run/NAME.sock`";

/// Where uWSGI binds what is no socket of the application's.
const PORTS: &[&str] =
    &["stats", "http", "https", "http-to-https", "fastrouter", "rawrouter", "sslrouter", "udp"];

fn without(asked: Asked<'_>) -> TermsError {
    const WHY: &str = "there is no socket on which it could wait; name one, like `socket = /run/NAME.sock`";
    match asked.0.flag_origin("on-demand") {
        Some(got) => TermsError::Value { place: got.origin.clone(), option: "on-demand", cause: WHY.into() },
        None => TermsError::Value { place: Default::default(), option: "on-demand", cause: WHY.into() },
    }
}

/// Whether uWSGI would bind a port by this value, and not the path of a socket.
fn is_port(value: &[u8]) -> bool {
    let address = value.split(|byte| *byte == b',').next().unwrap_or_default();
    !address.starts_with(b"/") && !address.starts_with(b"@") && address.contains(&b':')
}

impl OwnSocket {
    /// The one that there is, where there must not be another.
    fn only(asked: Asked<'_>, names: &dyn Names) -> Result<Self, TermsError> {
        let binds = |kind| matches!(kind, Kind::Socket | Kind::SocketTls | Kind::SharedSocket);
        let mut sockets = asked.0.applied().filter(|(option, _)| binds(option.kind)).skip(1);
        if let Some((option, pair)) = sockets.next() {
            let got = Got { value: pair.value().unwrap_or_default(), origin: pair.origin() };
            return Err(TermsError::new(&got, option.name, ONE_SOCKET));
        }
        let mut ports = asked.0.applied().filter(|(option, _)| PORTS.contains(&option.canonical().name));
        if let Some((option, pair)) = ports.find(|(_, pair)| is_port(pair.value().unwrap_or_default())) {
            let got = Got { value: pair.value().unwrap_or_default(), origin: pair.origin() };
            return Err(TermsError::new(&got, option.name, ONE_PORT));
        }
        let is_core = asked
            .0
            .applied()
            .any(|(option, _)| option.kind == Kind::Socket && option.plugin_name() == "core");
        match asked.value("touch-reload-mode").filter(|_| !is_core) {
            Some(got) => Err(TermsError::new(&got, "touch-reload-mode", NO_SOCKET)),
            None => Self::first(asked, names),
        }
    }

    fn first(asked: Asked<'_>, names: &dyn Names) -> Result<Self, TermsError> {
        let mut sockets = asked.0.applied().filter(|(option, _)| option.kind == Kind::Socket);
        let Some((option, pair)) = sockets.find(|(option, _)| option.plugin_name() == "core") else {
            return Err(without(asked));
        };
        let got = Got { value: pair.value().unwrap_or_default(), origin: pair.origin() };
        let wrong = |cause: String| TermsError::new(&got, option.name, cause);
        let address = Address::parse(got.value, Path::new("")).map_err(|bad| wrong(bad.to_string()))?;
        let known = known_as(&address);
        if known.as_deref() != Some(got.value) {
            let instead = match known {
                Some(text) => format!("write `{}`", String::from_utf8_lossy(&text)),
                None => "write a whole path, from the root, or a port".into(),
            };
            return Err(wrong(format!(
                "with on-demand or a rolling reload, uWSGI would not know this socket for the one it is handed, and bind it again: {instead}"
            )));
        }
        if matches!(address, Address::Tcp(tcp) if tcp.port() == 0) {
            return Err(wrong("nobody would know the port on which it waits; choose one".into()));
        }
        let option = option.canonical().name.to_owned();
        let manner = super::sockets::manner(asked, names)?;
        Ok(Self { term: SocketTerm { name: option.clone(), address, manner, pooled: false }, option })
    }

    fn check(&self) -> Result<(), String> {
        let known = crate::config::options::find(self.option.as_bytes());
        if known.is_none_or(|option| option.kind != Kind::Socket || option.plugin_name() != "core") {
            return Err("a socket of no kind".into());
        }
        self.term.check()
    }
}

impl TryFrom<Unchecked> for DemandTerms {
    type Error = String;

    fn try_from(unchecked: Unchecked) -> Result<Self, String> {
        let Unchecked { on_demand, socket, dies_idle, idle_seconds, min_uptime_seconds } = unchecked;
        if idle_seconds.max(min_uptime_seconds) > MOST_SECONDS {
            return Err("more than a year".into());
        }
        socket.iter().try_for_each(|socket| socket.check())?;
        Ok(Self { on_demand, socket, dies_idle, idle_seconds, min_uptime_seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sockets::SystemNames;
    use super::super::tests::{config, config_with};
    use super::*;

    fn read(lines: &str, is_command: bool) -> Result<DemandTerms, String> {
        let read = DemandTerms::read(Asked(&config(lines)), is_command, &SystemNames);
        read.map(|read| read.demand).map_err(|error| error.to_string())
    }

    #[test]
    fn uwsgi_is_handed_its_first_socket_and_a_program_all() {
        let terms =
            read("on-demand = true\nhttp-socket = :8080\nsocket = /run/a\nchmod-socket = 660\n", false);
        let terms = terms.unwrap();
        let socket = terms.socket().unwrap();
        assert_eq!(
            (socket.option.as_str(), socket.term.address.to_string()),
            ("http-socket", "0.0.0.0:8080".into())
        );
        assert_eq!(socket.term.manner.mode, Some(0o660));
        assert_eq!(inherited(&socket.option), [b"--http-socket".to_vec(), b"fd://0".to_vec()]);
        let terms = read("on-demand = true\nsocket = a.sock\n", true).unwrap();
        assert!(terms.waits() && terms.socket().is_none());
        assert!(read("socket = a.sock\n", false).unwrap().is_nothing());
        assert!(read("on-demand = false\n", false).unwrap().is_nothing());
    }

    #[test]
    fn an_address_that_uwsgi_would_not_know_again_is_refused_with_the_one_that_it_would() {
        for (address, instead) in [
            ("a.sock", "write a whole path"),
            ("@a", "write a whole path"),
            ("0.0.0.0:80", "write `:80`"),
            ("127.0.0.1:080", "write `127.0.0.1:80`"),
            ("localhost:80", "names are not looked up here"),
            ("127.0.0.1:99999", "has no port between 0 and 65535"),
            ("127.0.0.1:0", "choose one"),
        ] {
            let error = read(&format!("on-demand = true\nsocket = {address}\n"), false).unwrap_err();
            assert!(error.contains("a.ini:3: socket: ") && error.contains(instead), "{error}");
        }
        for address in ["/run/a.sock", ":80", "127.0.0.1:80", "[::1]:80"] {
            assert!(read(&format!("on-demand = true\nsocket = {address}\n"), false).is_ok(), "{address}");
        }
        let long = format!("on-demand = true\nsocket = /{}\n", "x".repeat(102));
        assert!(read(&long, false).unwrap_err().contains("longer than the 102 bytes"));
    }

    #[test]
    fn without_a_socket_nothing_could_wake_it() {
        for is_command in [true, false] {
            let error = read("on-demand = true\n", is_command).unwrap_err();
            assert!(error.contains("a.ini:2: on-demand: there is no socket"), "{error}");
        }
    }

    #[test]
    fn what_all_are_to_do_is_not_done_by_one_that_cannot_or_will_not() {
        for (lines, waits, left) in [
            ("socket = /run/a\n", true, ""),
            ("socket = /run/a\non-demand = false\n", false, ""),
            ("socket = a\n", false, "vassal-on-demand is left out: "),
            ("mule = true\n", false, "vassal-on-demand is left out: there is no socket"),
        ] {
            let config = config_with(&["--on-demand"], lines);
            let read = DemandTerms::read(Asked(&config), false, &SystemNames).unwrap();
            assert_eq!(read.demand.waits(), waits, "{lines}");
            assert!(read.left_out.concat().contains(left), "{lines}");
        }
    }

    #[test]
    fn all_take_turns_that_can_but_those_that_will_not() {
        let of_all = ForAll { on_demand: false, rolling: true };
        let words: Vec<_> = of_all.arguments().map(|word| String::from_utf8(word).unwrap()).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let read = |lines: &str, is_command| {
            DemandTerms::read(Asked(&config_with(&words, lines)), is_command, &SystemNames).unwrap()
        };
        let own = "socket = /run/a\n";
        assert_eq!((read(own, false).turns, read("", true).turns), (Turns::IfItCan, Turns::IfItCan));
        assert!(read(own, false).demand.socket().is_some() && !read(own, false).demand.waits());
        let no = read(&format!("{own}touch-reload-mode = reload\n"), false);
        assert_eq!((no.turns, no.left_out.len()), (Turns::Never, 0));
        assert!(no.demand.is_nothing());
        assert_eq!(read(&format!("{own}touch-reload-mode = rolling\n"), false).turns, Turns::Always);
        for (lines, why) in [
            ("", "left out: there is no socket"),
            ("socket = /run/a\nhttp-socket = :80\n", "a.ini:3: http-socket: its processes take turns"),
            ("socket = /run/a\nstats = 127.0.0.1:9191\n", "a.ini:3: stats: its processes take turns"),
            ("socket = a.sock\n", "write a whole path"),
        ] {
            let read = read(lines, false);
            assert_eq!(read.turns, Turns::Never, "{lines}");
            assert!(read.demand.socket().is_none(), "{lines}");
            let line = read.left_out.concat();
            assert!(
                line.starts_with("vassal-touch-reload-mode is left out: ") && line.contains(why),
                "{line}"
            );
        }
        // Where the file itself says so, that is a mistake.
        let asks = "touch-reload-mode = rolling\n";
        for lines in ["", "socket = /run/a\nstats = :9191\n", "socket = /run/a\nsocket = /run/b\n"] {
            let lines = config_with(&words, &format!("{asks}{lines}"));
            assert!(DemandTerms::read(Asked(&lines), false, &SystemNames).is_err());
        }
        assert_eq!(read("socket = /run/a\nstats = /run/a.stats\n", false).turns, Turns::IfItCan);
    }

    #[test]
    fn on_demand_and_turns_for_all_are_two_things() {
        let both = ["--on-demand", "--touch-reload-mode=rolling"];
        let read =
            |lines: &str| DemandTerms::read(Asked(&config_with(&both, lines)), false, &SystemNames).unwrap();
        let can = read("socket = /run/a\n");
        assert_eq!((can.demand.waits(), can.turns), (true, Turns::IfItCan));
        let two = read("socket = /run/a\nsocket = /run/b\n");
        assert_eq!((two.demand.waits(), two.turns, two.left_out.len()), (true, Turns::Never, 1));
        let none = read("mule = true\n");
        assert_eq!((none.demand.waits(), none.turns, none.left_out.len()), (false, Turns::Never, 2));
    }

    #[test]
    fn kill_on_idle_is_told_to_uwsgi_in_its_own_words_unless_it_has_other_duties() {
        let told = |lines: &str| read(lines, false).unwrap().arguments();
        assert_eq!(told("kill-on-idle = true\nidle = 3\n"), [b"--die-on-idle".to_vec()]);
        for none in [
            "idle = 3\n",
            "kill-on-idle = true\ncron = 0 0 -1 -1 -1 x\n",
            "kill-on-idle = true\nmule = true\n",
        ] {
            assert_eq!(told(none), Vec::<Vec<u8>>::new(), "{none}");
        }
        assert_eq!(told("kill-on-idle = true\nidle-keep = true\n"), Vec::<Vec<u8>>::new());
        let lines = config("kill-on-idle = true\nspooler = /tmp/s\n");
        let left = DemandTerms::read(Asked(&lines), false, &SystemNames).unwrap().left_out.concat();
        assert!(left.contains("a.ini:2: kill-on-idle is left out, because of `spooler`"), "{left}");
    }

    #[test]
    fn what_another_process_says_is_checked_again() {
        let terms = read("on-demand = true\nsocket = /run/a\n", false).unwrap();
        let text = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<DemandTerms>(&text).unwrap(), terms);
        for forged in [
            text.replace("\"option\":\"socket\"", "\"option\":\"exec-asap\""),
            text.replace("\"option\":\"socket\"", "\"option\":\"https-socket\""),
            text.replace("on_demand", "more"),
        ] {
            assert!(serde_json::from_str::<DemandTerms>(&forged).is_err(), "{forged}");
        }
    }
}
