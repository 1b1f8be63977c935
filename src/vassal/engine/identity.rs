//! `uid` and `gid`: the engine gives up root before it binds anything, as uWSGI does.
//!
//! One thread, before the runtime exists. On failure nothing is served.
//! Safer than uWSGI in one point: `uid` alone also takes the user's groups, root's are never kept.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use nix::unistd::{self, Gid, Group, Uid, User};

/// Why the vassal keeps the identity it has.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("no such {kind}: {name}")]
    Unknown { kind: &'static str, name: String },
    #[error("only root can become another {kind}")]
    NotRoot { kind: &'static str },
    #[error("cannot {attempt}")]
    System { attempt: &'static str, source: nix::Error },
}

/// Becomes user `uid` and group `gid`, each a name or a number. 0 and an empty text mean "stay".
///
/// # Errors
/// [`IdentityError`]; some of the changes may have been made.
pub(super) fn become_user(uid: Option<&OsStr>, gid: Option<&OsStr>) -> Result<(), IdentityError> {
    let named = |text: Option<&OsStr>| text.filter(|text| !text.is_empty() && *text != "0").map(lossy);
    let user = named(uid).map(|name| find_user(&name)).transpose()?;
    let group = named(gid).map(|name| find_group(&name)).transpose()?;
    let group = group.or(user.as_ref().map(|user| user.gid));
    if !Uid::effective().is_root() {
        let other_user = user.as_ref().is_some_and(|user| user.uid != Uid::effective());
        let other_group = group.is_some_and(|group| group != Gid::effective()) && gid.is_some();
        return match (other_user, other_group) {
            (true, _) => Err(IdentityError::NotRoot { kind: "user" }),
            (_, true) => Err(IdentityError::NotRoot { kind: "group" }),
            _ => Ok(()),
        };
    }
    let attempt = |attempt| move |source| IdentityError::System { attempt, source };
    if let Some(group) = group {
        unistd::setresgid(group, group, group).map_err(attempt("change the group"))?;
        match &user {
            Some(user) if !user.name.is_empty() => {
                let name = CString::new(user.name.as_bytes()).unwrap_or_default();
                unistd::initgroups(&name, group).map_err(attempt("set the user's groups"))?;
            }
            _ => unistd::setgroups(&[]).map_err(attempt("give up root's groups"))?,
        }
    }
    if let Some(user) = user {
        unistd::setresuid(user.uid, user.uid, user.uid).map_err(attempt("change the user"))?;
    }
    Ok(())
}

/// Who a user is; a number without an account has no name, and the group of the same number.
struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

fn find_user(text: &str) -> Result<Account, IdentityError> {
    let number = text.parse().ok();
    let found = number.map_or_else(|| User::from_name(text), |uid| User::from_uid(Uid::from_raw(uid)));
    match (found, number) {
        (Ok(Some(user)), _) => Ok(Account { name: user.name, uid: user.uid, gid: user.gid }),
        (Ok(None), Some(id)) => {
            Ok(Account { name: String::new(), uid: Uid::from_raw(id), gid: Gid::from_raw(id) })
        }
        (Ok(None), None) => Err(IdentityError::Unknown { kind: "user", name: text.into() }),
        (Err(source), _) => Err(IdentityError::System { attempt: "look up the user", source }),
    }
}

fn find_group(text: &str) -> Result<Gid, IdentityError> {
    if let Ok(id) = text.parse() {
        return Ok(Gid::from_raw(id));
    }
    let found = Group::from_name(text);
    let found = found.map_err(|source| IdentityError::System { attempt: "look up the group", source })?;
    found.map(|group| group.gid).ok_or_else(|| IdentityError::Unknown { kind: "group", name: text.into() })
}

fn lossy(text: &OsStr) -> String {
    String::from_utf8_lossy(text.as_bytes()).into_owned()
}
