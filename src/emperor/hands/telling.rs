//! What the hands add to the vassals' story: in the words that a person reads who asks `why`.

use std::borrow::Cow;
use std::os::fd::AsFd;
use std::time::Duration;

use tracing::error;

use super::Hands;
use super::agree::version;
use super::notices::odd;
use crate::emperor::court::{Court, Key, Notice, Vassal, What};
use crate::emperor::source::{Identity, VassalName};
use crate::emperor::story::{Kind, Story};
use crate::sys::wait::Ending;

impl Hands {
    /// What has happened to the vassals.
    #[must_use]
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// One event of a vassal; of one that is gone if somebody has spoken of it before.
    pub(super) fn tell_of(
        &self,
        name: &VassalName,
        vassal: Option<&Vassal>,
        kind: Kind,
        text: impl Into<Cow<'static, str>>,
    ) {
        let owner = vassal.map(|vassal| vassal.identity.uid);
        if let Some(owner) = owner.or_else(|| self.story.owner_of(name)) {
            self.story.note(name, owner, kind, text);
        }
    }

    /// Says why a vassal cannot be started: in the log, and to whoever asks later. Once for each version of its file,
    /// however often it is tried.
    pub(super) fn hinder(&mut self, key: Key, vassal: &Vassal, why: String) {
        let (name, version) = (&vassal.name, version(&vassal.identity));
        let before = self.hindered.insert(key, (version, why.as_str().into()));
        if before.is_some_and(|before| before == (version, why.as_str().into())) {
            return;
        }
        error!(
            "[emperor] vassal {name} cannot be started: {why}. It is tried again by and by, and at once when {name} is \
             touched"
        );
        self.tell_of(name, Some(vassal), Kind::Refused, format!("it cannot be started: {why}"));
    }

    pub(super) fn tell_start(&self, key: Key, place: (i32, u64), court: &Court) {
        let Some(vassal) = court.get(key) else { return };
        let (name, owner) = (&vassal.name, vassal.identity.uid);
        self.story.note_process(name, owner, Kind::Started, "its process was made", place);
    }

    pub(super) fn tell_end(
        &self,
        key: Key,
        vassal: &Vassal,
        ending: Ending,
        clean: bool,
        limits: Option<&str>,
    ) {
        let text = limits.map_or_else(|| self.ending_in_words(key, ending), str::to_owned);
        let kind = if clean && limits.is_none() { Kind::Ended } else { Kind::Failed };
        let place = (vassal.pid, log_length());
        self.story.note_process(
            &vassal.name,
            vassal.identity.uid,
            kind,
            format!("its process {text}"),
            place,
        );
    }

    /// How a process has ended, and what that means where its status has a meaning.
    pub(super) fn ending_in_words(&self, key: Key, ending: Ending) -> String {
        let Ending::Exited(status) = ending else { return ending.to_string() };
        let is_uwsgi = self.is_engines(key) && self.launch.engine.reads_uwsgi_files();
        match status {
            _ if self.failures.contains_key(&key) => format!("{ending}: it could not be launched"),
            _ if !is_uwsgi => ending.to_string(),
            1 => {
                format!("{ending}: uWSGI refuses its configuration, or cannot have a socket or a user of it")
            }
            22 => format!("{ending}: uWSGI cannot load its application"),
            26 => format!("{ending}: uWSGI cannot execute its program, or fetch its configuration"),
            _ => ending.to_string(),
        }
    }

    pub(super) fn tell_story(&self, notice: &Notice, court: &Court) {
        let Some(name) = &notice.name else { return };
        if let Some((kind, text)) = in_words(&notice.what) {
            let vassal = court.find(name).and_then(|key| court.get(key));
            self.tell_of(name, vassal, kind, text);
        }
    }
}

/// A notice for a person who wants to know how it came to this; `None` for what others tell better.
pub(super) fn in_words(what: &What) -> Option<(Kind, Cow<'static, str>)> {
    let fixed = |kind, text: &'static str| Some((kind, Cow::Borrowed(text)));
    let made = |kind, text: String| Some((kind, Cow::Owned(text)));
    match what {
        What::Accepting => fixed(Kind::Ready, "it is ready to accept requests"),
        What::Loyal => fixed(Kind::Ready, "it has shown that it works: it is loyal"),
        What::Stop => fixed(Kind::Told, "it is told to stop"),
        What::Removed => fixed(Kind::File, "its file is gone, and so is the vassal"),
        What::Dismissed => {
            fixed(Kind::Ended, "it is no more: it belonged to a vassal, and is not started again")
        }
        What::BackToOnDemand => fixed(Kind::Ended, "it is not needed now: its socket waits for a connection"),
        What::OnDemandUpdated => fixed(Kind::File, "its file has changed while its socket waits"),
        What::Restarting { after, .. } if *after < Duration::from_millis(10) => {
            fixed(Kind::Next, "it is started again at once")
        }
        What::Restarting { after, .. } => {
            made(Kind::Next, format!("it is started again in {} s", after.as_secs_f32()))
        }
        What::Abandoned { failures } => made(
            Kind::Next,
            format!("it has failed {failures} times in a row and is given up (emperor-abandon-after)"),
        ),
        What::Reinforced => fixed(Kind::Started, "it is reinforced"),
        What::Rolling => fixed(Kind::Told, "another process starts beside it, to take its place"),
        What::Replaced => fixed(Kind::Ready, "another process has taken its place"),
        What::NoHeartbeat { seconds } => {
            made(Kind::Failed, format!("it sent no heartbeat for {seconds} s, and is killed"))
        }
        What::InvalidPermissions { uid, gid } => made(
            Kind::Refused,
            format!("its file belongs to uid {uid}, gid {gid}: in tyrant mode neither may be 0"),
        ),
        What::OwnerChanged => fixed(Kind::File, "its file belongs to somebody else now: it is stopped"),
        What::Rests => fixed(Kind::Ended, "it was idle and asked to be stopped: it stays so"),
        What::StoppedByHand => fixed(Kind::Ended, "it is stopped by hand"),
        What::Odd(oddity) => made(Kind::Refused, format!("it is no vassal: {}", odd(oddity))),
        What::TwoSources => {
            fixed(Kind::Warning, "it is in two sources; the file that was found first is used")
        }
        What::NotYetGone { seconds } => {
            made(Kind::Failed, format!("it has not ended within {seconds} s, and is killed"))
        }
        What::ReloadUnread => {
            fixed(Kind::Failed, "it has not read the message to reload: it is stopped and started again")
        }
        What::EndsItself => fixed(Kind::Told, "it says that it is about to end"),
        What::Hangs => fixed(Kind::Failed, "it says that it hangs (WATCHDOG=trigger), and is killed"),
        What::NoMercy => fixed(Kind::Failed, "it has not ended in time with the emperor, and is killed"),
        _ => None,
    }
}

/// What has changed of a file, for a person.
#[must_use]
pub fn changes(before: &Identity, after: &Identity) -> String {
    let mut parts = Vec::new();
    if (before.device, before.inode) != (after.device, after.inode) {
        parts.push("it is another file".to_owned());
    }
    if before.size != after.size {
        parts.push(format!("{} bytes, before {}", after.size, before.size));
    }
    if (before.uid, before.gid) != (after.uid, after.gid) {
        let (uid, gid) = (after.uid, after.gid);
        parts.push(format!("owner {uid}:{gid}, before {}:{}", before.uid, before.gid));
    }
    if before.mtime_ns != after.mtime_ns {
        parts.push("written or touched".into());
    }
    if parts.is_empty() {
        parts.push("its permissions or links".into());
    }
    format!("its file has changed: {}", parts.join(", "))
}

/// How long the emperor's log is, if it is a file.
pub(super) fn log_length() -> u64 {
    let there = nix::sys::stat::fstat(std::io::stderr().as_fd());
    there
        .ok()
        .filter(|there| there.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG)
        .and_then(|there| u64::try_from(there.st_size).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_told_part_by_part() {
        let before = Identity { mtime_ns: 1, ctime_ns: 1, device: 1, inode: 1, size: 10, uid: 7, gid: 7 };
        let told = |after| changes(&before, &after);
        assert_eq!(
            told(Identity { mtime_ns: 2, size: 12, inode: 2, ..before }),
            "its file has changed: it is another file, 12 bytes, before 10, written or touched"
        );
        assert_eq!(told(Identity { uid: 8, ..before }), "its file has changed: owner 8:7, before 7:7");
        assert_eq!(
            told(Identity { ctime_ns: 2, ..before }),
            "its file has changed: its permissions or links"
        );
    }
}
