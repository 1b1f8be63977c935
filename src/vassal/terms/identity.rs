//! `uid`, `gid`, `add-gid`, `no-initgroups`: as whom a command vassal runs. uWSGI reads them itself.

use serde::{Deserialize, Serialize};

use super::{Asked, TermsError};
use crate::vassal::plan::{Become, Capabilities, Extra, Who};

/// Most names of groups; the kernel would take 65,536.
const MOST_GROUPS: usize = 256;
/// Longer names are nobody's. Source: useradd(8) allows 32, NSS modules more.
const LONGEST_NAME: usize = 256;

/// As whom.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Identity {
    /// `uid`.
    pub user: Option<Who>,
    /// `gid`.
    pub group: Option<Who>,
    /// `add-gid`; where there are any, they are all there are.
    pub groups: Vec<Who>,
    /// `no-initgroups`: not those of the user.
    pub no_initgroups: bool,
}

impl Identity {
    /// What the file of a command vassal says; `None` where it names neither user nor group.
    ///
    /// # Errors
    /// [`TermsError`] for root, and for what is no name.
    pub fn read(asked: Asked<'_>) -> Result<Option<Self>, TermsError> {
        let user = asked.parsed("uid", who)?;
        let group = asked.parsed("gid", who)?;
        let mut groups = Vec::new();
        for got in asked.words("add-gid") {
            let text = String::from_utf8_lossy(got.value);
            groups.push(who(&text).map_err(|cause| TermsError::new(&got, "add-gid", cause))?);
            if groups.len() > MOST_GROUPS {
                return Err(TermsError::new(&got, "add-gid", format!("more than {MOST_GROUPS} groups")));
            }
        }
        let no_initgroups = asked.flag("no-initgroups").unwrap_or_default();
        let named = user.is_some() || group.is_some();
        match asked.value("add-gid").filter(|_| !named) {
            Some(got) => Err(TermsError::new(&got, "add-gid", "it needs uid or gid beside it")),
            None => Ok(named.then_some(Self { user, group, groups, no_initgroups })),
        }
    }

    /// The operation. `keep`: [`Privileges::ambient`](super::Privileges::ambient).
    #[must_use]
    pub fn becomes(&self, keep: Capabilities) -> Become {
        let groups = match (&self.user, self.groups.is_empty()) {
            (Some(_), true) if !self.no_initgroups => Extra::OfUser,
            _ => Extra::Exactly(self.groups.clone()),
        };
        Become { user: self.user.clone(), group: self.group.clone(), groups, keep }
    }

    /// In tyrant mode the owner of the file is the vassal's user: whether the file says something else. Names are left
    /// to the launcher: one that is not looked up does not agree.
    #[must_use]
    pub fn differs_from(&self, uid: u32, gid: u32) -> Option<String> {
        let differs = |said: &Option<Who>, is: u32| said.as_ref().is_some_and(|said| *said != Who::Id(is));
        let said = match (differs(&self.user, uid), differs(&self.group, gid), self.groups.is_empty()) {
            (true, ..) => format!("uid {}", self.user.as_ref()?),
            (_, true, _) => format!("gid {}", self.group.as_ref()?),
            (.., false) => format!("add-gid {}", self.groups.first()?),
            _ => return None,
        };
        Some(format!("{said}: in tyrant mode a vassal is the owner of its file, {uid}:{gid}; leave it out"))
    }
}

fn who(text: &str) -> Result<Who, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_NAME || text.contains(['\0', ':', '/']) {
        return Err("the name or the number of a user or a group is wanted".into());
    }
    match text.parse::<u32>() {
        Ok(0) => Err("root is what the vassal starts as: leave it out".into()),
        Ok(u32::MAX) => Err("4294967295 is nobody's number".into()),
        Ok(id) => Ok(Who::Id(id)),
        Err(_) => Ok(Who::Name(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn read(lines: &str) -> Result<Option<Identity>, String> {
        Identity::read(Asked(&config(lines))).map_err(|error| error.to_string())
    }

    fn shown(lines: &str) -> String {
        read(lines).unwrap().unwrap().becomes(Capabilities::default()).to_string()
    }

    #[test]
    fn parity_groups_are_those_of_the_user_or_none_or_the_list() {
        assert_eq!(shown("uid = www-data\ngid = 33\n"), "user www-data, group 33 and groups");
        assert_eq!(
            shown("uid = 1000\ngid = 33\nno-initgroups = true\n"),
            "user 1000, group 33, no other group"
        );
        let list = "uid = 1000\ngid = 33\nadd-gid = 44\nadd-gid = audio\n";
        assert_eq!(shown(list), "user 1000, group 33, groups 44,audio");
        assert_eq!(shown("gid = 33\n"), "the same user, group 33, no other group");
        assert_eq!(shown("uid = 1000\n"), "user 1000, the user's group and groups");
        assert_eq!(read("processes = 1\n").unwrap(), None);
    }

    #[test]
    fn root_is_no_identity_and_groups_alone_are_none() {
        assert!(read("uid = 0\n").unwrap_err().contains("uid: root is what"));
        assert!(read("gid = 0\nuid = 1\n").unwrap_err().contains("gid: root"));
        assert!(read("uid = 4294967295\n").unwrap_err().contains("nobody's"));
        assert!(read("add-gid = 5\n").unwrap_err().contains("needs uid"));
    }

    #[test]
    fn in_tyrant_mode_only_the_owner_agrees() {
        let of = |lines: &str| read(lines).unwrap().unwrap().differs_from(1000, 1001);
        assert_eq!(of("uid = 1000\ngid = 1001\n"), None);
        assert!(of("uid = 1002\n").unwrap().starts_with("uid 1002: in tyrant mode"));
        assert!(of("gid = www-data\n").unwrap().starts_with("gid www-data"));
        assert!(of("uid = 1000\nadd-gid = 4\n").unwrap().starts_with("add-gid 4"));
    }
}
