//! The emperor protocol: single bytes, both ways, over the socket whose number is in `UWSGI_EMPEROR_FD`.
//!
//! Both ends meet here: the emperor's hands and the launcher, and every engine that speaks the protocol.
//! Source: measured behaviour of uWSGI 2.0.21.
//!
//! Before the engine speaks, the launcher does, on the same descriptor: a [`LaunchReport`] starts with a byte that
//! is no vassal's word. The emperor reads reports only while it waits for a launch to end ([`Reports`]).

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::step::Step;

/// Environment variable that tells a vassal the number of its emperor descriptor.
pub const FD_VARIABLE: &str = "UWSGI_EMPEROR_FD";
/// Environment variable that tells a vassal the number of the descriptor its configuration comes from.
pub const CONFIG_FD_VARIABLE: &str = "UWSGI_EMPEROR_FD_CONFIG";
/// What a subreaper is sent in SIGKILL's place: it ends its program, and so all of it. No program and no kernel of today
/// sends it; who is no subreaper yet dies of it.
pub const END_ALL: Signal = Signal::SIGSTKFLT;
/// Descriptor number at which every vassal finds its link.
pub const LINK_FD: i32 = 3;
/// Descriptor number at which a launcher finds its sealed plan.
pub const PLAN_FD: i32 = 4;
/// Descriptor number at which a vassal finds its config pipe, where its source supplies the text.
pub const CONFIG_FD: i32 = 5;

/// Most bytes of a configuration on the config pipe: its length has two bytes there.
pub const MOST_CONFIG_BYTES: usize = u16::MAX as usize;
/// First byte of a configuration on the config pipe.
const CONFIG: u8 = 115;
/// What stands before the text: a byte that says so, the length in two bytes, little endian, and 0.
pub const CONFIG_HEADER_BYTES: usize = 4;

/// A configuration as it goes through the config pipe; `None` if it is too long for that.
#[must_use]
pub fn config_frame(text: &[u8]) -> Option<Vec<u8>> {
    let [low, high] = u16::try_from(text.len()).ok()?.to_le_bytes();
    Some([&[CONFIG, low, high, 0], text].concat())
}

/// How many bytes of text follow this header; `None` if it is none.
#[must_use]
pub fn config_length(header: [u8; CONFIG_HEADER_BYTES]) -> Option<usize> {
    let [kind, low, high, _] = header;
    (kind == CONFIG).then(|| usize::from(u16::from_le_bytes([low, high])))
}

/// What the emperor says to a vassal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Order {
    /// End at once.
    Stop = 0,
    /// Read the configuration again, in place, with the same process id and sockets.
    Reload = 1,
    /// End when the running requests are answered.
    StopGracefully = 2,
}

/// What a vassal says to the emperor. Other bytes are ignored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Word {
    /// 1: configured, and its applications are loaded. Once, never again after a reload.
    Spawned,
    /// 2: wants its configuration again on the config pipe.
    ConfigWanted,
    /// 5: accepts requests; again after each reload.
    Accepting,
    /// 17: has answered its first request.
    Loyal,
    /// 22: idle, asks to be stopped.
    Idle,
    /// 26: alive.
    Heartbeat,
    /// 30: overloaded, asks for reinforcement.
    Sos,
}

impl Word {
    /// The word of a byte; `None` for a byte without meaning.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Spawned,
            2 => Self::ConfigWanted,
            5 => Self::Accepting,
            17 => Self::Loyal,
            22 => Self::Idle,
            26 => Self::Heartbeat,
            30 => Self::Sos,
            _ => return None,
        })
    }
}

/// First byte of a report that everything went well up to the exec.
const LAUNCHED: u8 = 0xf0;
/// First byte of a report that a step failed.
const FAILED: u8 = 0xf1;
/// First byte and length.
const HEADER_BYTES: usize = 3;
/// Most bytes of a report's text. A failure names one step and one object.
const MAX_REPORT_BYTES: usize = 4096;
/// Most bytes of one text in a failure, so that two of them fit even when every byte is escaped in JSON.
const MAX_TEXT_BYTES: usize = 300;

/// What a launcher tells the emperor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LaunchReport {
    /// All is done but the exec, which comes next. What follows on the link is the engine's, except a
    /// [`Failed`](Self::Failed) with [`Step::Exec`] as the very next thing.
    Launched,
    /// A step failed; the launcher ends with that step's status.
    Failed(Failure),
}

/// Which step of a launch failed, on what, and why.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// What it acted on: a path, a user, a command.
    pub object: String,
    /// The system's error number; 0 when the system has no part in it.
    pub errno: i32,
    /// The cause in words.
    pub cause: String,
}

impl Failure {
    /// A failure of our own making or of the system's, with the error's number if it has one.
    #[must_use]
    pub fn new(step: Step, object: &impl ToString, cause: &std::io::Error) -> Self {
        let errno = cause.raw_os_error().unwrap_or(0);
        let cause =
            if errno == 0 { cause.to_string() } else { nix::errno::Errno::from_raw(errno).desc().to_owned() };
        Self { step, object: shortened(object.to_string()), errno, cause: shortened(cause) }
    }
}

impl Failure {
    /// The same, but what it shows fits into a line: a vassal may have written it.
    fn tamed(self) -> Self {
        let tame = |text: String| shortened(text.replace(|c: char| c.is_control(), "?"));
        Self { object: tame(self.object), cause: tame(self.cause), ..self }
    }
}

/// One line: the step, the object, the cause and the errno.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}: {}: {}", self.step.why(), self.object, self.cause)?;
        if self.errno != 0 {
            write!(f, " ({:?})", nix::errno::Errno::from_raw(self.errno))?;
        }
        Ok(())
    }
}

impl LaunchReport {
    /// The report as it goes over the link, in one write.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Launched => (LAUNCHED, Vec::new()),
            Self::Failed(failure) => (FAILED, serde_json::to_vec(failure).unwrap_or_default()),
        };
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut frame = vec![kind];
        frame.extend(length.to_le_bytes());
        frame.extend(text);
        frame
    }
}

/// Reads a launcher's reports from the first bytes of a link, however they are cut into pieces.
///
/// ```
/// use emperor::vassal::link::{LaunchReport, Reports};
/// let mut reports = Reports::default();
/// assert_eq!(reports.feed(&[0xf0, 0]), (vec![], &[][..]));
/// assert_eq!(reports.feed(&[0, 1, 5]), (vec![LaunchReport::Launched], &[1, 5][..]));
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Reports {
    pending: Vec<u8>,
    launched: bool,
    over: bool,
}

impl Reports {
    /// Takes the next bytes of the link. Gives the reports that are complete, and the bytes that are not part of
    /// a report but the engine's own words.
    ///
    /// A vassal could write a report of its own only as its first bytes, and only one that says that its exec has
    /// failed; it fools nobody but itself.
    pub fn feed<'a>(&mut self, mut bytes: &'a [u8]) -> (Vec<LaunchReport>, &'a [u8]) {
        let mut reports = Vec::new();
        while let (false, [first, rest @ ..]) = (self.over, bytes) {
            if self.pending.is_empty() && !self.may_begin_with(*first) {
                self.over = true;
                break;
            }
            self.pending.push(*first);
            bytes = rest;
            let Some(wanted) = self.wanted() else { continue };
            if wanted > MAX_REPORT_BYTES {
                self.over = true;
            } else if self.pending.len() == HEADER_BYTES + wanted {
                self.take(&mut reports);
            }
        }
        (reports, bytes)
    }

    /// Whether the launch is settled: what comes now is the engine's.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn may_begin_with(&self, byte: u8) -> bool {
        byte == FAILED || (byte == LAUNCHED && !self.launched)
    }

    fn wanted(&self) -> Option<usize> {
        let header = self.pending.get(1..HEADER_BYTES)?;
        Some(usize::from(u16::from_le_bytes([header[0], header[1]])))
    }

    fn take(&mut self, reports: &mut Vec<LaunchReport>) {
        let frame = std::mem::take(&mut self.pending);
        if frame[0] == LAUNCHED {
            self.launched = true;
            reports.push(LaunchReport::Launched);
            return;
        }
        self.over = true;
        let failure = serde_json::from_slice::<Failure>(&frame[HEADER_BYTES..]).ok().map(Failure::tamed);
        reports.extend(failure.filter(|f| !self.launched || f.step == Step::Exec).map(LaunchReport::Failed));
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let cut = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(step: Step) -> LaunchReport {
        let cause = std::io::Error::from_raw_os_error(2);
        LaunchReport::Failed(Failure::new(step, &"/usr/bin/uwsgi", &cause))
    }

    #[test]
    fn reports_are_read_however_they_are_cut() {
        let mut bytes = LaunchReport::Launched.encode();
        bytes.extend(failure(Step::Exec).encode());
        for piece in 1..=bytes.len() {
            let mut reports = Reports::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(piece) {
                let (some, rest) = reports.feed(chunk);
                seen.extend(some);
                assert!(rest.is_empty());
            }
            assert_eq!(seen, [LaunchReport::Launched, failure(Step::Exec)], "in pieces of {piece}");
            assert!(reports.is_over());
        }
    }

    #[test]
    fn the_engines_words_come_out_untouched() {
        let mut reports = Reports::default();
        let bytes = [LaunchReport::Launched.encode(), vec![1, 5, 0xf0, 17]].concat();
        assert_eq!(reports.feed(&bytes), (vec![LaunchReport::Launched], &[1, 5, 0xf0, 17][..]));
        assert_eq!(reports.feed(&[0xf1, 2]), (vec![], &[0xf1, 2][..]));
    }

    #[test]
    fn a_vassal_cannot_report_another_failure_than_that_of_its_own_exec() {
        let mut reports = Reports::default();
        reports.feed(&LaunchReport::Launched.encode());
        assert_eq!(reports.feed(&failure(Step::User).encode()).0, []);
    }

    #[test]
    fn a_report_that_is_too_long_or_garbage_ends_the_reading() {
        let mut reports = Reports::default();
        assert_eq!(reports.feed(&[0xf1, 0xff, 0xff, 7]), (vec![], &[7][..]));
        let mut reports = Reports::default();
        assert_eq!(reports.feed(&[0xf1, 2, 0, b'{', b'[', 9]), (vec![], &[9][..]));
    }

    #[test]
    fn what_a_vassal_writes_as_a_failure_stays_on_its_line() {
        let mut reports = Reports::default();
        let LaunchReport::Failed(mut forged) = failure(Step::Exec) else { panic!() };
        forged.object = "x\n[emperor] all is well\u{1b}[2J".into();
        let told = reports.feed(&LaunchReport::Failed(forged).encode()).0;
        let [LaunchReport::Failed(told)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(told.object, "x?[emperor] all is well?[2J");
    }

    #[test]
    fn a_failure_reads_as_one_sentence_and_is_bounded() {
        let LaunchReport::Failed(told) = failure(Step::Exec) else { panic!() };
        let text = "cannot execute its program: /usr/bin/uwsgi: No such file or directory (ENOENT)";
        assert_eq!(told.to_string(), text);
        let long = Failure::new(Step::Owner, &"\u{1}".repeat(5000), &std::io::Error::other("é".repeat(5000)));
        assert!(LaunchReport::Failed(long).encode().len() <= MAX_REPORT_BYTES);
    }
}
