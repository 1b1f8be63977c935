//! Asking a starting vassal whether it is ready, by a process beside it that has its identity and its environment.
//!
//! It asks until there is an answer, and only while the vassal starts: whoever is ready is asked no more.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use tracing::warn;

use super::Hands;
use super::side::Errand;
use super::start::OWN_PROGRAM;
use crate::emperor::court::{Court, Event, Key, Sign, Vassal};
use crate::sys::wait::Ending;
use crate::vassal::plan::{Exec, LaunchPlan, Text, VassalOrder};
use crate::vassal::terms::Identity;

/// As much of what the process says as is read.
const MOST_TEXT: usize = 4096;
/// As much of a reason as is told.
const MOST_REASON: usize = 300;

impl Hands {
    /// What asks this vassal. `environment` is the vassal's.
    pub(super) fn question(
        &self,
        vassal: &Vassal,
        check: &str,
        identity: Option<Identity>,
        environment: Vec<(Text, Text)>,
    ) -> LaunchPlan {
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let order = VassalOrder {
            name: Text::from(vassal.name.as_path().as_os_str()),
            directory: place.map(|place| Text::from(place.path().as_os_str())),
            tyrant: self.tyrant(vassal),
            identity,
            environment,
            exec: Exec {
                programs: vec![Text::from(OsStr::new(OWN_PROGRAM))],
                args: ["probe", check].map(Text::from).into(),
                magic: None,
            },
            ..VassalOrder::default()
        };
        order.plan()
    }

    /// Has this vassal asked, unless that goes on already.
    pub(super) fn ask_whether_ready(&mut self, key: Key, name: &dyn std::fmt::Display) {
        let Some(life) = self.lives.get_mut(&key) else { return };
        let (Some(question), None) = (life.question.clone(), &life.asker) else { return };
        life.reason.clear();
        let mut begin = || -> Result<OwnedFd, Box<dyn std::error::Error>> {
            let (ours, theirs) =
                socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
            let what = format!("the question whether {name} is ready");
            self.try_beside(&question, None, &what, theirs.as_fd(), Errand::Ready(key))?;
            Ok(ours)
        };
        match (begin(), self.lives.get_mut(&key)) {
            (Ok(link), Some(life)) => life.asker = Some(link),
            (Err(cause), Some(life)) => {
                warn!("[emperor] vassal {name} cannot be asked whether it is ready: {cause}");
                life.reason = format!("it cannot be asked: {cause}");
            }
            (_, None) => {}
        }
    }

    /// Nobody wants to know any more.
    pub(super) fn ask_no_more(&mut self, key: Key) {
        if let Some(life) = self.lives.get_mut(&key)
            && life.asker.take().is_some()
        {
            self.sides.no_answer_wanted(key);
        }
    }

    /// The process that asked has ended.
    pub(super) fn has_asked(&mut self, key: Key, ending: Ending, court: &Court) -> Option<Event> {
        let life = self.lives.get_mut(&key)?;
        life.hear_reasons();
        life.asker = None;
        if ending == Ending::Exited(0) {
            return Some(Event::Shows(key, Sign::Answers));
        }
        if let Some(vassal) = court.get(key) {
            let why = if life.reason.is_empty() { String::new() } else { format!(": {}", life.reason) };
            warn!(
                "[emperor] vassal {}: the process that asks whether it is ready {ending}{why}",
                vassal.name
            );
        }
        None
    }
}

impl super::life::Life {
    /// Takes note of the last reason for which there is no answer. It is another user's text.
    pub(super) fn hear_reasons(&mut self) {
        let Some(link) = &self.asker else { return };
        let mut bytes = vec![0; MOST_TEXT];
        let mut length = 0;
        while let Ok(count @ 1..) = recv(link.as_raw_fd(), &mut bytes[length..], MsgFlags::MSG_DONTWAIT) {
            length += count;
        }
        let (reports, text) = {
            let mut reports = crate::vassal::link::Reports::default();
            let (told, rest) = reports.feed(&bytes[..length]);
            (told, String::from_utf8_lossy(rest).into_owned())
        };
        let failure = reports.into_iter().find_map(|report| match report {
            crate::vassal::link::LaunchReport::Failed(failure) => Some(failure.to_string()),
            crate::vassal::link::LaunchReport::Launched => None,
        });
        let last = text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
        if let Some(reason) = failure.or(last) {
            self.reason = reason.chars().filter(|c| !c.is_control()).take(MOST_REASON).collect();
        }
    }
}
