//! The court's notices as log lines. Tools match on uWSGI's words, so these are kept to the letter; what uWSGI
//! never said is said in the same style.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::emperor::court::{Notice, What};
use crate::emperor::source::{Oddity, VassalName};
use crate::vassal::link::MOST_CONFIG_BYTES;

/// How many lines speak of names that cannot be vassals'. Whoever may write to a directory makes such names as fast as
/// he likes, and again after he has removed them.
#[derive(Debug, Default)]
pub(super) struct Quota {
    since: Option<Instant>,
    told: u32,
    left_out: u32,
}

/// So many such lines may come in [`WINDOW`].
const MOST_ODD: u32 = 100;
/// The time after which the counting begins anew.
const WINDOW: Duration = Duration::from_secs(60);

impl Quota {
    fn has_room(&mut self) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            if self.left_out > 0 {
                warn!("[emperor] {} more names that are no vassals' were left out here", self.left_out);
            }
            *self = Self { since: Some(now), told: 0, left_out: 0 };
        }
        if self.told < MOST_ODD {
            self.told += 1;
            return true;
        }
        if self.left_out == 0 {
            warn!(
                "[emperor] more than {MOST_ODD} names within a minute are no vassals': the others are counted only"
            );
        }
        self.left_out += 1;
        false
    }
}

/// Writes one notice to the log.
pub(super) fn log(notice: &Notice, quota: &mut Quota) {
    if matches!(notice.what, What::Odd(_)) && !quota.has_room() {
        return;
    }
    match &notice.name {
        Some(name) => of_vassal(name, &notice.what),
        None => of_empire(&notice.what),
    }
}

fn of_vassal(name: &VassalName, what: &What) {
    match what {
        What::Spawned => info!("[emperor] vassal {name} has been spawned"),
        What::Accepting => info!("[emperor] vassal {name} is ready to accept requests"),
        What::Loyal => info!("[emperor] vassal {name} is now loyal"),
        What::Reload => info!("[emperor] reload the uwsgi instance {name}"),
        What::Stop => info!("[emperor] stop the uwsgi instance {name}"),
        What::Curse { pid } => info!("[emperor] curse the uwsgi instance {name} (pid: {pid})"),
        What::Removed | What::Dismissed => info!("[emperor] removed uwsgi instance {name}"),
        What::BackToOnDemand => info!("[emperor] bringing back instance {name} to on-demand mode"),
        What::Thawed => info!("[emperor] vassal {name} is thawed"),
        What::OnDemandUpdated => info!("[emperor] updated configuration for \"on demand\" instance {name}"),
        What::Throttled => warn!("[emperor] unloyal bad behaving vassal found: {name} throttling it..."),
        What::MaxThrottle => warn!("[emperor] maximum throttle level for vassal {name} reached !!!"),
        What::Restarting { after, loyal } => {
            let (kind, when) = (if *loyal { "loyal " } else { "" }, pause(*after));
            info!("[emperor] {kind}vassal {name} is started again {when}");
        }
        What::Abandoned { failures } => error!(
            "[emperor] vassal {name} failed {failures} times in a row and is given up: mend its file, or send \
             SIGURG to the emperor, to have it started again"
        ),
        What::Reinforced => info!("[emperor] going in broodlord mode: launching zergs for {name}"),
        What::Rolling => info!("[emperor] another process starts beside vassal {name} to take its place"),
        What::Replaced => info!("[emperor] another process has taken the place of vassal {name}"),
        What::NoHeartbeat { seconds } => {
            warn!("[emperor] vassal {name} sent no heartbeat in last {seconds} seconds, killing it");
        }
        What::InvalidPermissions { uid, gid } => error!(
            "[emperor-tyrant] invalid permissions for vassal {name}: its file belongs to uid {uid}, gid {gid}, and \
             neither may be 0; chown it to the user it shall run as"
        ),
        What::OwnerChanged => {
            warn!("[emperor-tyrant] !!! permissions of file {name} changed. stopping the instance... !!!");
        }
        What::Rests => info!(
            "[emperor] vassal {name} is idle and asked to be stopped; it stays so until its file is touched"
        ),
        What::StoppedByHand => info!(
            "[emperor] vassal {name} is stopped by hand; it stays so until it is started or its file changes"
        ),
        What::Odd(oddity @ (Oddity::NoText | Oddity::TextTooLong(_) | Oddity::Twice)) => error!(
            "[emperor] vassal {name} cannot be started, and goes on as it is if it runs: {}",
            odd(oddity)
        ),
        What::Odd(oddity) => warn!("[emperor] {name} is no vassal: {}", odd(oddity)),
        What::TwoSources => {
            warn!("[emperor] vassal {name} is in two sources; the file that was found first is used");
        }
        What::NotYetGone { seconds } => {
            warn!("[emperor] vassal {name} has not ended within {seconds} seconds, killing it");
        }
        What::ReloadUnread => warn!(
            "[emperor] vassal {name} has not read the message to reload: it is stopped and started again"
        ),
        What::EndsItself => info!("[emperor] vassal {name} says that it is about to end"),
        What::Hangs => warn!("[emperor] vassal {name} says that it hangs (WATCHDOG=trigger), killing it"),
        What::NoMercy => warn!("[emperor] NO MERCY for vassal {name} !!!"),
        other => info!("[emperor] vassal {name}: {other:?}"),
    }
}

fn of_empire(what: &What) {
    match what {
        What::BlacklistCleared => info!("[emperor] cleaning up blacklist ..."),
        What::Ragnarok { vassals } => info!("[emperor] *** RAGNAROK EVOKED *** ({vassals} vassals to stop)"),
        What::RagnarokAgain { seconds } => {
            warn!(
                "[emperor] *** RAGNAROK ALREADY EVOKED *** ({seconds} seconds were left): killing what is left"
            );
        }
        What::ShortOfProcesses => error!(
            "[emperor] the machine cannot make another process or descriptor: starts are tried again each second; \
             look at the limits of processes (pids.max, RLIMIT_NPROC), descriptors (RLIMIT_NOFILE) and memory"
        ),
        other => info!("[emperor] {other:?}"),
    }
}

fn pause(after: Duration) -> String {
    if after < Duration::from_millis(10) { "at once".into() } else { format!("in {} s", after.as_secs_f32()) }
}

/// Why a name is no vassal, and what to do about it.
pub(super) fn odd(oddity: &Oddity) -> String {
    match oddity {
        Oddity::NotAFile(kind) => format!("it is a {kind}, not a file; remove it or give it another name"),
        Oddity::DanglingLink => {
            "it is a symbolic link to a file that does not exist; it starts when that appears".into()
        }
        Oddity::LinkLoop => "it is a symbolic link that leads back to itself; mend the link".into(),
        Oddity::NameTooLong => "its name is longer than 254 bytes; shorten it".into(),
        Oddity::Colon => {
            "its name holds a `:`, which would be read as the start of a section's name; rename it".into()
        }
        Oddity::Unreadable(errno) => {
            format!("it cannot be examined: {}", std::io::Error::from_raw_os_error(*errno))
        }
        Oddity::NoText => "its configuration is empty; its source must supply one".into(),
        Oddity::TextTooLong(bytes) => format!(
            "its configuration has {bytes} bytes, and no more than {MOST_CONFIG_BYTES} can be sent to a vassal; shorten \
             it, or have it include a file"
        ),
        Oddity::NoOwner => {
            "in tyrant mode its source must say as which uid and gid it runs, each as a number".into()
        }
        Oddity::Twice => "its source has it more than once; leave one of them".into(),
    }
}
