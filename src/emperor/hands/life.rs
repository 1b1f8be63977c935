//! Vassals that the protocol alone does not govern: what was agreed with them, and how they are told.
//!
//! What is agreed becomes the court's [`Manner`]; what it takes to keep to it is held here, and only for these
//! vassals.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::agree::{Agreement, Answer, legible};
use super::notify::NotifySocket;
use super::{Hands, Token, Verdict};
use crate::emperor::court::{
    Action, Court, Event, Key, Manner, Notice, Ready, Reload, Scale, Signal, State, Vassal, What,
};
use crate::emperor::source::VassalName;
use crate::emperor::story::Kind;
use crate::sys::wait::{self, Ending};
use crate::vassal::plan::{LaunchPlan, Text};
use crate::vassal::terms::{LifeTerms, ReadyBy, ReloadBy, Seconds, SignalNumber, Terms};

/// How long a program may take to be ready, where it is known when it is.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// What is held for one such vassal.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// The terms that its process was started on, as a number; 0 if that is not known.
    terms: u64,
    /// Whether a `command` runs it, and not the engine.
    program: bool,
    /// Where it notifies us.
    notify: Option<NotifySocket>,
    /// What it says of itself.
    status: String,
    /// What asks it whether it is ready.
    pub(super) question: Option<Box<LaunchPlan>>,
    /// The link to the process that asks.
    pub(super) asker: Option<OwnedFd>,
    /// Why it was not ready when it was asked last.
    pub(super) reason: String,
}

/// The same as data, for the program that takes this one's place.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct LifeRecord {
    terms: u64,
    program: bool,
    /// Its socket's number, path and user.
    pub notify: Option<(RawFd, Text, u32)>,
    status: String,
    question: Option<Box<LaunchPlan>>,
    scale: Option<Scale>,
}

/// What these terms come to.
#[must_use]
pub(super) fn manner(terms: &Terms) -> Manner {
    let LifeTerms { stop_signal, reload, stop_timeout, start_timeout, ready, watchdog, turns } = &terms.life;
    let is_command = terms.program.is_some();
    let number = |signal: SignalNumber| signal.number();
    let ready = match ready {
        None if !is_command => Ready::Says,
        None | Some(ReadyBy::Nothing) => Ready::AtOnce,
        Some(ReadyBy::Notification) => Ready::Notified,
        Some(ReadyBy::Probe(_)) => Ready::Checked,
    };
    let start_timeout = match start_timeout.map(Seconds::duration) {
        None => matches!(ready, Ready::Notified | Ready::Checked).then_some(START_TIMEOUT),
        Some(timeout) => (!timeout.is_zero()).then_some(timeout),
    };
    Manner {
        linked: !is_command,
        stop: stop_signal.map(number).or(is_command.then_some(SIGTERM)),
        reload: match reload {
            Some(ReloadBy::Signal(signal)) => Reload::Signal(signal.number()),
            Some(ReloadBy::Restart) => Reload::Restart,
            None if is_command => Reload::Restart,
            None => Reload::Told,
        },
        ready,
        stop_timeout: stop_timeout.map(Seconds::duration),
        start_timeout,
        watchdog: watchdog.map(Seconds::duration),
        idle: terms.demand.idle(),
        idle_min_uptime: terms.demand.idle_min_uptime(),
        rolling: turns.taken(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is 15")]
const SIGTERM: u8 = nix::libc::SIGTERM as u8;

impl Hands {
    /// Holds what a vassal on these terms needs, before its process is made. Whatever was held for its last life is
    /// not: but for its socket, which those know that have it.
    ///
    /// # Errors
    /// Why it cannot be started, for a person.
    pub(super) fn begin_life(
        &mut self,
        key: Key,
        terms: Option<&Terms>,
        uid: Option<u32>,
    ) -> Result<(), String> {
        let before = self.end_life(key);
        let Some(terms) = terms.filter(|terms| manner(terms) != Manner::default()) else { return Ok(()) };
        let mut life =
            Life { terms: fingerprint(terms), program: terms.program.is_some(), ..Life::default() };
        if self.hears(terms) {
            let kept = before.and_then(|life| life.notify).filter(|socket| Some(socket.uid()) == uid);
            let wanted = terms.life.notifies();
            let nobody = || io::Error::other("its user is not in /etc/passwd: give `uid` a number");
            let bound = match kept {
                Some(socket) => Ok(socket),
                None => uid.ok_or_else(nobody).and_then(|uid| self.launch.runtime.bind(uid)),
            };
            match bound.and_then(|socket| self.watch_notify(key, socket)) {
                Ok(mut socket) => {
                    socket.drain();
                    life.notify = Some(socket);
                }
                Err(error) if wanted => return Err(format!("there is no NOTIFY_SOCKET for it: {error}")),
                Err(error) => {
                    if !std::mem::replace(&mut self.told_deaf, true) {
                        warn!(
                            "[emperor] programs have no NOTIFY_SOCKET, and what they say of themselves is not heard: {error}"
                        );
                    }
                }
            }
        }
        self.lives.insert(key, life);
        Ok(())
    }

    /// Whether it is listened to in systemd's words.
    fn hears(&self, terms: &Terms) -> bool {
        terms.program.is_some() || terms.life.notifies()
    }

    fn watch_notify(&self, key: Key, socket: NotifySocket) -> io::Result<NotifySocket> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Notify(key).to_bits());
        match self.epoll.add(socket.fd(), event) {
            Err(nix::errno::Errno::EEXIST) | Ok(()) => Ok(socket),
            Err(errno) => Err(errno.into()),
        }
    }

    /// `NOTIFY_SOCKET` and `WATCHDOG_USEC`, for the environment of a vassal whose life has begun.
    pub(super) fn notify_variables(&self, key: Key, terms: &Terms) -> Vec<(Text, Text)> {
        let Some(path) = self.notify_path(key) else { return Vec::new() };
        let watchdog = terms.life.watchdog.map(|seconds| seconds.duration().as_micros().to_string());
        let watchdog = watchdog.map(|micros| ("WATCHDOG_USEC".into(), Text::from(micros.as_str())));
        std::iter::once(("NOTIFY_SOCKET".into(), Text::from(path.as_os_str()))).chain(watchdog).collect()
    }

    /// The file of a vassal's NOTIFY_SOCKET: what a jail must have in it.
    pub(super) fn notify_path(&self, key: Key) -> Option<&Path> {
        self.lives.get(&key)?.notify.as_ref().map(NotifySocket::path)
    }

    /// Its socket.
    pub(super) fn notify_fd(&self, key: Key) -> Option<BorrowedFd<'_>> {
        self.lives.get(&key)?.notify.as_ref().map(NotifySocket::fd)
    }

    /// What a vassal says of itself (`STATUS=`).
    #[must_use]
    pub fn status_text(&self, key: Key) -> &str {
        self.lives.get(&key).map_or("", |life| &life.status)
    }

    /// Its process runs: what the court is to know before that, and what begins with it. `environment` is the vassal's.
    pub(super) fn life_has_begun(
        &mut self,
        key: Key,
        vassal: &Vassal,
        terms: &Terms,
        environment: Vec<(Text, Text)>,
    ) {
        if !self.lives.contains_key(&key) {
            return;
        }
        self.agreed = Some(Event::Agreed(key, manner(terms)));
        if let Some(ReadyBy::Probe(check)) = &terms.life.ready {
            let question = self.question(vassal, check, terms.identity.clone(), environment);
            if let Some(life) = self.lives.get_mut(&key) {
                life.question = Some(Box::new(question));
            }
            self.ask_whether_ready(key, &vassal.name);
        }
    }

    /// What is to be told to the court before anything else that an action has come to.
    pub fn take_agreed(&mut self) -> Option<Event> {
        self.agreed.take()
    }

    /// Whether the engine has run it.
    pub(super) fn is_engines(&self, key: Key) -> bool {
        self.lives.get(&key).is_none_or(|life| !life.program)
    }

    /// Holds nothing for it any more.
    pub(super) fn end_life(&mut self, key: Key) -> Option<Life> {
        self.ask_no_more(key);
        self.lives.remove(&key)
    }

    /// Its process is gone. The socket stays for the next one.
    pub(super) fn life_has_ended(&mut self, key: Key, court: &Court, events: &mut Vec<Event>) {
        self.hear_notifications(key, court, events);
        self.ask_no_more(key);
        if let Some(life) = self.lives.get_mut(&key) {
            (life.question, life.status) = (None, String::new());
        }
    }

    /// Reads what a vassal notifies.
    pub(super) fn hear_notifications(&mut self, key: Key, court: &Court, events: &mut Vec<Event>) {
        let (Some(life), Some(vassal)) = (self.lives.get_mut(&key), court.get(key)) else { return };
        let Some(socket) = &mut life.notify else { return };
        let heard = socket.hear(&vassal.name);
        if let Some(status) = heard.status {
            life.status = status;
        }
        events.extend(heard.signs.into_iter().map(|sign| Event::Shows(key, sign)));
    }

    /// What is due when something was told to the court or by it.
    pub(super) fn attend(&mut self, action: &Action, court: &Court) {
        match action {
            Action::Tell(Notice { name: Some(name), what: What::NotReady { seconds } }) => {
                let Some(key) = named(court, name) else { return };
                if let Some(life) = self.lives.get_mut(&key) {
                    life.hear_reasons();
                }
                let reason = self.lives.get(&key).map_or("", |life| life.reason.as_str());
                let why = match reason {
                    "" if self.notify_path(key).is_some() => "it has not sent READY=1",
                    "" => "it has not said so",
                    reason => reason,
                };
                error!("[emperor] vassal {name} was not ready within {seconds} s: {why}");
                let told = format!("it was not ready within {seconds} s: {why}");
                self.tell_of(name, court.get(key), Kind::Failed, told);
                if court.get(key).is_some_and(Vassal::is_successor) {
                    let why = format!("it was not ready within {seconds} s: {why}").into();
                    self.refusals.insert(key, why);
                }
                self.ask_no_more(key);
            }
            // Of one that is killed for it nothing else would say why it did not take the vassal's place.
            Action::Tell(Notice {
                name: Some(name),
                what: what @ (What::NoHeartbeat { .. } | What::Hangs),
            }) => {
                let successor =
                    named(court, name).filter(|key| court.get(*key).is_some_and(Vassal::is_successor));
                if let Some((key, (_, why))) = successor.zip(super::telling::in_words(what)) {
                    self.refusals.insert(key, why.into());
                }
            }
            Action::Tell(Notice { name: Some(name), what: What::NotReplaced(successor) }) => {
                let why = self.cause(*successor).unwrap_or_else(|| "it ended by itself".into());
                error!(
                    "[emperor] the rolling reload of vassal {name} has failed, and it goes on as it was: the process that \
                     was to take its place: {why}"
                );
                if let Some(key) = court.find(name) {
                    let told = format!("its rolling reload has failed, and it goes on as it was: {why}");
                    self.tell_of(name, court.get(key), Kind::Failed, told);
                    self.not_replaced.insert(key, why.into());
                }
            }
            Action::Signal(key, _) | Action::Stop(key, _) => self.ask_no_more(*key),
            _ => {}
        }
    }

    /// Tells a vassal to reload that is not told so over its link.
    pub(super) fn reload_program(&mut self, key: Key, changed: bool, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        if changed {
            match self.look_again(key, vassal, court) {
                Verdict::Fine => {}
                Verdict::Broken => return Some(Event::ReloadRefused(key)),
                Verdict::Later => return None,
                Verdict::Other => return Some(Event::MustRestart(key)),
            }
        }
        self.signal_to_reload(key, vassal)
    }

    fn signal_to_reload(&mut self, key: Key, vassal: &Vassal) -> Option<Event> {
        let reload = vassal.course.as_ref().map(|course| course.manner.reload);
        info!("[emperor] reload the instance {}", vassal.name);
        self.tell_of(&vassal.name, Some(vassal), Kind::Told, "it is told to reload");
        match reload {
            Some(Reload::Signal(number)) => {
                self.signal(key, Signal::Agreed(number), vassal);
                None
            }
            _ => Some(Event::MustRestart(key)),
        }
    }

    /// What a process that has become the tenant has found in the changed file.
    pub(super) fn looked_again(&mut self, key: Key, answer: Answer, court: &Court) -> Option<Event> {
        let vassal = court.get(key).filter(|vassal| vassal.state == State::Up && vassal.pid > 0)?;
        match self.compare(key, vassal, answer, court) {
            Verdict::Broken => Some(Event::ReloadRefused(key)),
            Verdict::Other => Some(Event::MustRestart(key)),
            Verdict::Fine | Verdict::Later => self.signal_to_reload(key, vassal),
        }
    }

    /// What has become of the terms on which a vassal was started.
    fn look_again(&mut self, key: Key, vassal: &Vassal, court: &Court) -> Verdict {
        match self.look_at_file(key, vassal, true) {
            Ok(answer) => self.compare(key, vassal, answer, court),
            Err(Agreement::Later) => Verdict::Later,
            Err(_) => Verdict::Broken,
        }
    }

    fn compare(&mut self, key: Key, vassal: &Vassal, answer: Answer, court: &Court) -> Verdict {
        let before = self.lives.get(&key).map_or(0, |life| life.terms);
        match answer {
            Answer::Terms(terms) => match self.imposed(key, court, *terms) {
                Some(terms) if fingerprint(&terms) == before => Verdict::Fine,
                Some(_) => Verdict::Other,
                None => Verdict::Broken,
            },
            Answer::Refused(why) => {
                let (name, why) = (&vassal.name, legible(&why));
                error!("[emperor] vassal {name} is not told to reload, and goes on as before: {why}");
                let told = format!("its new file is refused, and it goes on as before: {why}");
                self.tell_of(name, Some(vassal), Kind::Refused, told);
                Verdict::Broken
            }
            Answer::Nothing | Answer::NothingNow => Verdict::Other,
        }
    }

    /// Says how it ended, where that is worth a word; whether it ended as it was asked to, or by its own will.
    pub(super) fn is_clean_end(vassal: &Vassal, ending: Ending) -> bool {
        let manner = vassal.course.as_ref().map(|course| course.manner);
        let asked = manner.and_then(|manner| manner.stop);
        let is_asked = |number: u8| asked == Some(number);
        let clean = match ending {
            Ending::Exited(0) => true,
            Ending::Killed(number) => is_asked(number),
            Ending::Exited(status) => status > 128 && is_asked(status - 128),
            Ending::Unknown => false,
        };
        if let (State::Up, Some(Reload::Signal(number))) = (vassal.state, manner.map(|manner| manner.reload))
            && (ending == Ending::Killed(number) || ending == Ending::Exited(number.saturating_add(128)))
        {
            error!(
                "[emperor] vassal {} has died of the signal that was to make it reload: set reload-signal = restart, or \
                 another signal",
                vassal.name
            );
        }
        clean
    }

    /// What is held for such a vassal, as data.
    #[must_use]
    pub fn life_record(&self, key: Key) -> Option<LifeRecord> {
        use std::os::fd::AsRawFd;
        let life = self.lives.get(&key)?;
        let notify = life.notify.as_ref();
        Some(LifeRecord {
            terms: life.terms,
            program: life.program,
            notify: notify
                .map(|socket| (socket.fd().as_raw_fd(), Text::from(socket.path().as_os_str()), socket.uid())),
            status: life.status.clone(),
            question: life.question.clone(),
            scale: self.scale_of(key),
        })
    }

    /// Goes on with a vassal that another program of ours has started.
    pub(super) fn adopt_life(&mut self, key: Key, record: LifeRecord, socket: Option<OwnedFd>, alive: bool) {
        let LifeRecord { terms, program, notify, status, question, scale } = record;
        if let Some(scale) = scale {
            self.scale_again(key, scale);
        }
        let mut life =
            Life { terms, program, status, question: question.filter(|_| alive), ..Life::default() };
        if let Some((_, path, uid)) = notify {
            let path = PathBuf::from(path.as_path());
            let socket = socket.map(|socket| NotifySocket::adopt(socket, path, uid));
            // Without it the program is not heard any more before it starts again.
            life.notify = socket.and_then(|socket| self.watch_notify(key, socket).ok());
        }
        self.lives.insert(key, life);
    }

    /// Asks again those that were being asked by the program before this one.
    pub fn resume_questions(&mut self, court: &Court) {
        let waiting: Vec<_> =
            self.lives.iter().filter(|(_, life)| life.question.is_some()).map(|(key, _)| *key).collect();
        for key in waiting {
            if let Some(vassal) = court.get(key)
                && vassal.course.as_ref().is_some_and(|course| course.is_awaited())
            {
                self.ask_whether_ready(key, &vassal.name);
            }
        }
    }
}

/// Ends all of a program, and what it has left behind, before it is reaped: its group has its number until then.
pub(super) fn end_group(pidfd: BorrowedFd<'_>, vassal: &Vassal) {
    if wait::is_our_child(pidfd) {
        wait::kill_group(vassal.pid);
    }
}

/// The key of a name, also of one that belongs to another.
fn named(court: &Court, name: &VassalName) -> Option<Key> {
    let by_name = || court.vassals().find(|(_, vassal)| vassal.name == *name).map(|(key, _)| key);
    court.find(name).or_else(by_name)
}

/// Whether a notice is told with more than the court knows.
pub(super) fn is_told_better(notice: &Notice) -> bool {
    matches!(notice.what, What::NotReady { .. } | What::NotReplaced(_))
}

/// Whether a vassal is run by a `command`.
pub(super) fn is_program(vassal: &Vassal) -> bool {
    vassal.course.as_ref().is_some_and(|course| !course.manner.linked)
}

/// A number for terms, never 0. It need not last: other terms only mean a restart in place of a signal.
fn fingerprint(terms: &Terms) -> u64 {
    let mut hasher = DefaultHasher::new();
    let terms = Terms { left_out: Vec::new(), ..terms.clone() }; // it is told with its line, which may be another
    serde_json::to_vec(&terms).unwrap_or_default().hash(&mut hasher);
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vassal::terms::Program;

    fn terms(life: LifeTerms, command: bool) -> Terms {
        Terms { life, program: command.then(Program::default), ..Terms::default() }
    }

    #[test]
    fn a_vassal_of_uwsgis_keeps_to_the_protocol_but_for_what_its_file_says() {
        assert_eq!(manner(&terms(LifeTerms::default(), false)), Manner::default());
        let slow = LifeTerms { stop_timeout: Seconds::try_from(90).ok(), ..LifeTerms::default() };
        let slow = manner(&terms(slow, false));
        assert_eq!(slow, Manner { stop_timeout: Some(Duration::from_secs(90)), ..Manner::default() });
    }

    #[test]
    fn a_command_is_told_by_signals_and_ready_at_once_unless_its_file_says_otherwise() {
        let plain = manner(&terms(LifeTerms::default(), true));
        let expected = Manner {
            linked: false,
            stop: Some(15),
            reload: Reload::Restart,
            ready: Ready::AtOnce,
            ..Manner::default()
        };
        assert_eq!(plain, expected);
        let asked = |ready, seconds| {
            let start_timeout = Seconds::try_from(seconds).ok().filter(|_| seconds < 1000);
            let life = LifeTerms { ready: Some(ready), start_timeout, ..LifeTerms::default() };
            let manner = manner(&terms(life, true));
            (manner.ready, manner.start_timeout.map(|time| time.as_secs()))
        };
        assert_eq!(asked(ReadyBy::Notification, 1000), (Ready::Notified, Some(90)));
        assert_eq!(asked(ReadyBy::Notification, 0), (Ready::Notified, None));
        assert_eq!(asked(ReadyBy::Probe("tcp::80".into()), 5), (Ready::Checked, Some(5)));
        assert_eq!(asked(ReadyBy::Nothing, 1000), (Ready::AtOnce, None));
    }
}
