//! `stop-signal`, `reload-signal`, `touch-reload-mode`, `stop-timeout`, `start-timeout`, `ready-check`, `watchdog-sec`: how a vassal is told
//! things, and when it is ready.

use serde::{Deserialize, Serialize};

use super::{Asked, TermsError};
use crate::config::options::Kind;
use crate::config::{lossy, words};
use crate::vassal::probe::Probe;

/// What a file says of its vassal's life. The default is nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LifeTerms {
    /// `stop-signal`.
    pub stop_signal: Option<SignalNumber>,
    /// `reload-signal`.
    pub reload: Option<ReloadBy>,
    /// `stop-timeout`, seconds.
    pub stop_timeout: Option<Seconds>,
    /// `start-timeout`, seconds; 0 is no limit.
    pub start_timeout: Option<Seconds>,
    /// `ready-check`.
    pub ready: Option<ReadyBy>,
    /// `watchdog-sec`, seconds.
    pub watchdog: Option<Seconds>,
    /// `touch-reload-mode`.
    pub turns: Turns,
}

/// Whether a vassal reloads by another process beside it, which takes its place.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// It does not.
    #[default]
    Never,
    /// Where it can: so `vassal-touch-reload-mode` has it for all.
    IfItCan,
    /// Its file says so.
    Always,
}

impl Turns {
    /// Whether its processes take turns.
    #[must_use]
    pub fn taken(self) -> bool {
        self != Self::Never
    }
}

/// A signal that there is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct SignalNumber(u8);

/// A number of seconds, a day at most.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Seconds(u32);

/// How a program reloads.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadBy {
    /// It is sent this signal.
    Signal(SignalNumber),
    /// Another process takes its place.
    Restart,
}

/// When a program is ready.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyBy {
    /// At once.
    Nothing,
    /// At its first notification.
    Notification,
    /// When it answers this, a [`Probe`] as text.
    Probe(String),
}

/// Most seconds.
const MOST_SECONDS: u32 = 86_400;
/// Longest text of a check, bytes.
const MOST_TEXT: usize = 4096;

impl LifeTerms {
    /// Reads them.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn read(asked: Asked<'_>) -> Result<Self, TermsError> {
        let seconds = |option, least| -> Result<Option<Seconds>, TermsError> {
            let number = asked.number(option, least..=i64::from(MOST_SECONDS))?;
            Ok(number.and_then(|number| u32::try_from(number).ok()).map(Seconds))
        };
        Ok(Self {
            stop_signal: asked.parsed("stop-signal", SignalNumber::parse)?,
            reload: asked.parsed("reload-signal", |text| match text {
                "restart" => Ok(ReloadBy::Restart),
                name => SignalNumber::parse(name).map(ReloadBy::Signal),
            })?,
            stop_timeout: seconds("stop-timeout", 0)?,
            start_timeout: seconds("start-timeout", 0)?,
            ready: asked.parsed("ready-check", |text| ready(text, asked))?,
            watchdog: seconds("watchdog-sec", 1)?,
            turns: turns(asked)?,
        })
    }

    /// Whether it needs a variable that says where to notify.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.ready == Some(ReadyBy::Notification) || self.watchdog.is_some()
    }

    /// Whether the file says nothing of it.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether the vassal reloads by another process beside it.
pub(super) fn turns(asked: Asked<'_>) -> Result<Turns, TermsError> {
    const OPTION: &str = "touch-reload-mode";
    let of_all = asked.value(OPTION).is_some_and(|got| got.origin.is_argument());
    Ok(match asked.parsed(OPTION, rolls)? {
        Some(true) if of_all => Turns::IfItCan,
        Some(true) => Turns::Always,
        Some(false) | None => Turns::Never,
    })
}

/// What `touch-reload-mode` says: whether it is `rolling`.
///
/// # Errors
/// What is wanted instead.
pub fn rolls(mode: &str) -> Result<bool, String> {
    words::choose(mode, &[("reload", false), ("rolling", true)])
}

fn ready(text: &str, asked: Asked<'_>) -> Result<ReadyBy, String> {
    let probe = match text {
        "none" => return Ok(ReadyBy::Nothing),
        "notify" => return Ok(ReadyBy::Notification),
        "tcp" => {
            format!("tcp:{}", own_socket(asked).ok_or("`tcp` needs a socket in this file, or `tcp:ADDRESS`")?)
        }
        other => other.to_owned(),
    };
    if probe.len() > MOST_TEXT {
        return Err(format!("it is longer than {MOST_TEXT} bytes"));
    }
    Probe::parse(&probe, std::path::Path::new("/"))?;
    Ok(ReadyBy::Probe(probe))
}

/// The address of the first socket of the file.
fn own_socket(asked: Asked<'_>) -> Option<String> {
    let is_socket = |kind| matches!(kind, Kind::Socket | Kind::SocketTls | Kind::SharedSocket);
    let mut sockets = asked.0.applied().filter(|(option, _)| is_socket(option.kind));
    let value = sockets.find_map(|(_, pair)| pair.value().filter(|value| !value.starts_with(b"=")))?;
    value.split(|byte| *byte == b',').next().map(|address| lossy(address.trim_ascii()))
}

impl SignalNumber {
    /// A signal by its name or number: `TERM`, `SIGTERM`, `15`, `RTMIN+2`.
    ///
    /// # Errors
    /// What is wanted instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let real_time = |prefix: &str, base: i32, sign: i32| {
            let rest = name.strip_prefix(prefix)?;
            let offset = match rest.strip_prefix(if sign > 0 { '+' } else { '-' }) {
                Some(number) => number.parse::<u8>().ok()?,
                None if rest.is_empty() => 0,
                None => return None,
            };
            Some(base + sign * i32::from(offset)).filter(|number| (first()..=last()).contains(number))
        };
        let named =
            || format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32);
        let number = name.parse::<i32>().ok();
        let number = number.or_else(|| real_time("RTMIN", first(), 1));
        let number = number.or_else(|| real_time("RTMAX", last(), -1)).or_else(named);
        let found = number.and_then(|number| u8::try_from(number).ok()).map(Self::try_from);
        match found {
            Some(Ok(signal)) => Ok(signal),
            _ => Err(format!("`{text}` is no signal; one such as TERM, 15 or RTMIN+1 is wanted")),
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

fn first() -> i32 {
    nix::libc::SIGRTMIN()
}

fn last() -> i32 {
    nix::libc::SIGRTMAX()
}

impl TryFrom<u8> for SignalNumber {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        let known = (1..=31).contains(&number) || (first()..=last()).contains(&i32::from(number));
        if known { Ok(Self(number)) } else { Err("there is no such signal") }
    }
}

impl From<SignalNumber> for u8 {
    fn from(signal: SignalNumber) -> Self {
        signal.0
    }
}

impl Seconds {
    /// As a duration.
    #[must_use]
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0.into())
    }
}

impl TryFrom<u32> for Seconds {
    type Error = &'static str;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        if number <= MOST_SECONDS { Ok(Self(number)) } else { Err("that is more than a day") }
    }
}

impl From<Seconds> for u32 {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn read(lines: &str) -> Result<LifeTerms, String> {
        LifeTerms::read(Asked(&config(lines))).map_err(|error| error.to_string())
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |text: &str| SignalNumber::parse(text).ok().map(SignalNumber::number);
        let found =
            ["TERM", "SIGTERM", "term", "15", "quit", "RTMIN", "RTMIN+2", "SIGRTMAX-1", "HUP"].map(number);
        let [least, most] = [first(), last()].map(|number| u8::try_from(number).unwrap());
        let (min, min2, max1) = (Some(least), Some(least + 2), Some(most - 1));
        assert_eq!(found, [Some(15), Some(15), Some(15), Some(15), Some(3), min, min2, max1, Some(1)]);
        for none in ["0", "65", "32", "-1", "SIG", "FOO", "RTMIN+99", "RTMIN-1", "RTMINX", "RTMAX+1", "15x"] {
            assert_eq!(number(none), None, "{none}");
        }
    }

    #[test]
    fn a_file_says_how_its_vassal_lives() {
        assert!(read("master = true\n").unwrap().is_nothing());
        let life = read(
            "stop-signal = QUIT\nreload-signal = HUP\nstop-timeout = 5\nstart-timeout = 0\nwatchdog-sec = 3\n\
             ready-check = notify\n",
        );
        let life = life.unwrap();
        assert_eq!(life.stop_signal.map(SignalNumber::number), Some(3));
        assert_eq!(life.reload, Some(ReloadBy::Signal(SignalNumber(1))));
        assert_eq!((life.stop_timeout, life.start_timeout), (Some(Seconds(5)), Some(Seconds(0))));
        assert_eq!((life.ready, life.watchdog), (Some(ReadyBy::Notification), Some(Seconds(3))));
        assert_eq!(read("reload-signal = restart\n").unwrap().reload, Some(ReloadBy::Restart));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place_and_the_remedy() {
        for (line, why) in [
            ("stop-signal = TREM", "a.ini:2: stop-signal: `TREM` is no signal; one such as TERM"),
            ("watchdog-sec = 0", "watchdog-sec"),
            ("stop-timeout = 1000000", "stop-timeout"),
            ("ready-check = tcp", "`tcp` needs a socket in this file, or `tcp:ADDRESS`"),
            ("ready-check = tcp:example.org:80", "names are not looked up"),
            ("ready-check = ftp://x", "is wanted"),
        ] {
            let error = read(&format!("{line}\n")).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn tcp_alone_means_the_first_socket_of_the_file() {
        let ready = |lines: &str| read(lines).unwrap().ready;
        let probe = |text: &str| Some(ReadyBy::Probe(text.into()));
        assert_eq!(ready("ready-check = tcp\nhttp-socket = :8080,x\nsocket = /tmp/x\n"), probe("tcp::8080"));
        assert_eq!(ready("socket = run/a.sock\nready-check = tcp\n"), probe("tcp:run/a.sock"));
        assert_eq!(ready("socket = /x\nready-check = tcp:127.0.0.1:1\n"), probe("tcp:127.0.0.1:1"));
    }

    #[test]
    fn what_another_process_says_is_checked_again() {
        let life =
            read("stop-signal = 15\nreload-signal = 1\nstop-timeout = 9\nready-check = exec:true\n").unwrap();
        let text = serde_json::to_string(&life).unwrap();
        assert_eq!(serde_json::from_str::<LifeTerms>(&text).unwrap(), life);
        for forged in [
            r#"{"stop_signal":0}"#,
            r#"{"stop_signal":65}"#,
            r#"{"stop_timeout":4000000}"#,
            r#"{"reload":{"signal":99}}"#,
            r#"{"more":1}"#,
        ] {
            assert!(serde_json::from_str::<LifeTerms>(forged).is_err(), "{forged}");
        }
    }
}
