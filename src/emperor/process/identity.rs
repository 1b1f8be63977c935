//! Becoming the user and the group of the options, for good.

use std::ffi::CString;
use std::io;

use nix::sys::prctl::set_keepcaps;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist, setgroups, setresgid, setresuid};
use tracing::warn;

use super::{ProcessError, ProcessOptions, say};
use crate::sys::caps;
use crate::vassal::hook::Who;

/// Started by root: group, groups, user, capabilities.
///
/// A user without a group brings its own primary group and groups; uWSGI would leave it root's.
pub(super) fn change(options: &ProcessOptions) -> Result<(), ProcessError> {
    let user = options.uid.as_ref().map(find_user).transpose()?;
    let group = options.gid.as_ref().map(find_group).transpose()?;
    let gid = group.or_else(|| user.as_ref().and_then(|user| user.gid));
    if let Some(gid) = gid {
        say(&format!("setgid() to {gid}"));
        setresgid(gid, gid, gid).map_err(|errno| failed(format!("group {gid}"), errno.into()))?;
    }
    if let Some(groups) = groups(options, user.as_ref(), gid)? {
        groups.iter().for_each(|group| say(&format!("set additional group {group}")));
        setgroups(&groups).map_err(|errno| failed("its groups".into(), errno.into()))?;
    }
    // uWSGI reads `uid = 0` as a name and fails; here it says that we stay root.
    if let Some(uid) = user.map(|user| user.uid).filter(|uid| !uid.is_root()) {
        let keep = options.cap.is_some();
        say(&format!("setuid() to {uid}"));
        set_keepcaps(keep).map_err(|errno| failed("keeping capabilities".into(), errno.into()))?;
        setresuid(uid, uid, uid).map_err(|errno| failed(format!("user {uid}"), errno.into()))?;
    }
    match options.cap {
        None => Ok(()),
        Some(wanted) => {
            caps::limit_to(wanted.bits()).map_err(|source| ProcessError::Capabilities { wanted, source })
        }
    }
}

/// Started by somebody else: an id that is not ours is an error, a name is ignored.
pub(super) fn check_own(options: &ProcessOptions) -> Result<(), ProcessError> {
    let ids = [
        (&options.uid, "setuid", Uid::current().as_raw(), "uid"),
        (&options.gid, "setgid", Gid::current().as_raw(), "gid"),
    ];
    for (wanted, call, own, option) in ids {
        match wanted {
            Some(Who::Id(wanted)) if *wanted != own => {
                return Err(ProcessError::NotRoot { call, wanted: *wanted });
            }
            Some(Who::Name(name)) => warn!("{option} = {name} is ignored: only root can change it"),
            _ => {}
        }
    }
    if options.cap.is_some() {
        warn!("cap is ignored: the emperor is not started by root");
    }
    Ok(())
}

struct Wanted {
    uid: Uid,
    /// What initgroups(3) goes by; for a number that is nobody's, the number itself.
    name: String,
    /// Of the password database.
    gid: Option<Gid>,
}

fn find_user(who: &Who) -> Result<Wanted, ProcessError> {
    let found = match who {
        Who::Name(name) => User::from_name(name),
        Who::Id(number) => User::from_uid(Uid::from_raw(*number)),
    };
    let found = found.map_err(|errno| failed(format!("user {who}"), errno.into()))?;
    match (found, who) {
        (Some(user), _) => Ok(Wanted { uid: user.uid, name: user.name, gid: Some(user.gid) }),
        (None, Who::Id(number)) => {
            Ok(Wanted { uid: Uid::from_raw(*number), name: number.to_string(), gid: None })
        }
        (None, Who::Name(name)) => Err(ProcessError::NoUser(name.clone())),
    }
}

fn find_group(who: &Who) -> Result<Gid, ProcessError> {
    match who {
        Who::Id(number) => Ok(Gid::from_raw(*number)),
        Who::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid),
            Ok(None) => Err(ProcessError::NoGroup(name.clone())),
            Err(errno) => Err(failed(format!("group {name}"), errno.into())),
        },
    }
}

/// `None` leaves them as they are. Source: uWSGI, observed, for all cases with a `gid`.
fn groups(
    options: &ProcessOptions,
    user: Option<&Wanted>,
    gid: Option<Gid>,
) -> Result<Option<Vec<Gid>>, ProcessError> {
    if !options.add_gid.is_empty() {
        return options.add_gid.iter().map(find_group).collect::<Result<_, _>>().map(Some);
    }
    let user = user.filter(|user| !user.uid.is_root());
    match (user, gid) {
        (Some(user), Some(gid)) if !options.no_initgroups => {
            let name = CString::new(user.name.as_str())
                .map_err(|error| failed("its groups".into(), error.into()))?;
            let list = getgrouplist(&name, gid).map_err(|errno| failed("its groups".into(), errno.into()))?;
            Ok(Some(list))
        }
        (None, None) => Ok(None),
        _ => Ok(Some(Vec::new())),
    }
}

fn failed(what: String, source: io::Error) -> ProcessError {
    ProcessError::Identity { what, source }
}
