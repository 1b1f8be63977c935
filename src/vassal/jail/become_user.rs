//! Another user, by name or number, perhaps with a few capabilities.

use std::ffi::CString;
use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getresuid, setgroups, setresuid};
use serde::{Deserialize, Serialize};

use super::super::link::Failure;
use super::super::plan::{Capabilities, Step};
use super::{capabilities, identity};
use crate::sys::caps;

/// A user or a group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// By number.
    Id(u32),
    /// By name, looked up by the launcher.
    Name(String),
}

/// Supplementary groups of somebody else.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// Those that the system knows for the user; none for one that it does not know, or without a user.
    #[default]
    OfUser,
    /// Exactly these.
    Exactly(Vec<Who>),
}

/// Become somebody else. Never root.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Become {
    /// The user; without one only the groups change.
    pub user: Option<Who>,
    /// The group; without one the user's primary group.
    pub group: Option<Who>,
    /// The other groups.
    pub groups: Extra,
    /// What it can do beyond its own rights, also after an exec.
    pub keep: Capabilities,
}

impl Become {
    /// Puts numbers in the place of names.
    ///
    /// Before the first operation that changes what the process sees: after it, the files and the libraries that
    /// answer could be a tenant's, and we are root.
    ///
    /// # Errors
    /// A name that the system does not know; a number without a user, where its primary group is wanted.
    pub(in super::super) fn look_up(&mut self) -> Result<(), Failure> {
        let user = match &self.user {
            Some(who) => self.user_of(who)?,
            None => None,
        };
        if let Some(user) = &user {
            self.user = Some(Who::Id(user.uid.as_raw()));
        }
        self.group = match (self.group.take(), &user) {
            (Some(group), _) => Some(Who::Id(group_of(&group)?)),
            (None, Some(user)) => Some(Who::Id(user.gid.as_raw())),
            (None, None) => None,
        };
        let list = match (&self.groups, user, &self.group) {
            (Extra::Exactly(list), ..) => list.iter().map(group_of).collect::<Result<Vec<_>, _>>()?,
            (Extra::OfUser, Some(user), Some(Who::Id(group))) => groups_of(user, *group)
                .map_err(|error| Failure::new(Step::Groups, &format!("groups of {self}"), &error))?,
            (Extra::OfUser, ..) => Vec::new(),
        };
        self.groups = Extra::Exactly(list.into_iter().map(Who::Id).collect());
        Ok(())
    }

    /// The number of the user, once it was looked up.
    pub(in super::super) fn uid(&self) -> Option<u32> {
        match self.user {
            Some(Who::Id(uid)) => Some(uid),
            _ => None,
        }
    }

    fn user_of(&self, who: &Who) -> Result<Option<User>, Failure> {
        let found = match who {
            Who::Id(uid) => User::from_uid(Uid::from_raw(*uid)),
            Who::Name(name) => User::from_name(name),
        };
        let failed = |error: &io::Error| Failure::new(Step::User, &format!("user {who}"), error);
        let unknown = |why: &str| io::Error::new(io::ErrorKind::NotFound, why.to_owned());
        match (found.map_err(|errno| failed(&errno.into()))?, who) {
            (Some(user), _) => Ok(Some(user)),
            (None, Who::Name(_)) => Err(failed(&unknown("the system knows no such user"))),
            (None, Who::Id(_)) if self.group.is_none() => {
                let why = "the system knows no such user, and so no group of it: say gid as well";
                Err(failed(&unknown(why)))
            }
            (None, Who::Id(_)) => Ok(None),
        }
    }

    /// Becomes it: group, groups, user, and nothing is left of root's powers but what is to be kept.
    pub(in super::super) fn perform(&self) -> Result<(), Failure> {
        let Extra::Exactly(groups) = &self.groups else {
            let error = io::Error::other("its groups have not been looked up");
            return Err(Failure::new(Step::Groups, &"groups", &error));
        };
        if let Some(group) = &self.group {
            let done = number(group).and_then(identity::set_group);
            done.map_err(|error| Failure::new(Step::Group, &format!("gid {group}"), &error))?;
        }
        let list =
            groups.iter().map(|group| number(group).map(Gid::from_raw)).collect::<io::Result<Vec<_>>>();
        let done = list.and_then(|list| Ok(setgroups(&list)?));
        done.map_err(|error| Failure::new(Step::Groups, &format!("{} groups", groups.len()), &error))?;
        if let Some(user) = &self.user {
            let done = number(user).and_then(|uid| set_user(uid, self.keep));
            done.map_err(|error| Failure::new(Step::User, &format!("uid {user}"), &error))?;
        }
        Ok(())
    }
}

fn set_user(uid: u32, keep: Capabilities) -> io::Result<()> {
    if keep == Capabilities::default() || uid == 0 {
        return identity::set_user(uid);
    }
    let wanted = Uid::from_raw(uid);
    match caps::keep_over_change_of_user() {
        Err(error) if error.raw_os_error() != Some(Errno::EPERM as i32) => return Err(error),
        _ => {} // locked secure bits keep them anyhow, and what could not be kept is missed below
    }
    setresuid(wanted, wanted, wanted)?;
    capabilities::keep(keep)?;
    let now = getresuid()?;
    if [now.real, now.effective, now.saved] == [wanted; 3] { Ok(()) } else { Err(Errno::EPERM.into()) }
}

fn number(who: &Who) -> io::Result<u32> {
    match who {
        Who::Id(id) => Ok(*id),
        Who::Name(_) => Err(io::Error::other("its name has not been looked up")),
    }
}

fn group_of(who: &Who) -> Result<u32, Failure> {
    let Who::Name(name) = who else {
        return number(who).map_err(|e| Failure::new(Step::Group, &"group", &e));
    };
    let failed = |error: io::Error| Failure::new(Step::Group, &format!("group {name}"), &error);
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(failed(io::Error::new(io::ErrorKind::NotFound, "the system knows no such group"))),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn groups_of(user: User, group: u32) -> io::Result<Vec<u32>> {
    let list = getgrouplist(&CString::new(user.name)?, Gid::from_raw(group))?;
    Ok(list.into_iter().map(Gid::as_raw).collect())
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(&name.escape_debug().to_string()),
        }
    }
}

impl fmt::Display for Become {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "user {user}")?,
            None => f.write_str("the same user")?,
        }
        match &self.group {
            Some(group) => write!(f, ", group {group}")?,
            None => f.write_str(", the user's group")?,
        }
        match &self.groups {
            Extra::OfUser if self.user.is_some() => f.write_str(" and groups")?,
            Extra::Exactly(list) if !list.is_empty() => {
                let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                write!(f, ", groups {}", list.join(","))?;
            }
            _ => f.write_str(", no other group")?,
        }
        if self.keep.bits() == 0 { Ok(()) } else { write!(f, ", capabilities {}", self.keep) }
    }
}
