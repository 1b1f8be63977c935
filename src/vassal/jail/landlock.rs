//! A second wall around the file system, which the vassal's own user can neither see nor lower.

use std::fmt;
use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

use super::super::plan::Text;

/// The newest interface whose rights we have tried: Linux 6.15. An older kernel enforces those that it knows.
const NEWEST: ABI = ABI::V7;

/// What can be reached; nothing else can.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Trees {
    /// To be read, listed and executed. What does not exist is passed over, since nothing below it can be reached.
    pub read_only: Vec<Text>,
    /// The same and to be changed; ioctl(2) on devices only here.
    pub read_write: Vec<Text>,
    /// Whether a kernel without Landlock ends the launch; otherwise the log says so.
    pub required: bool,
}

/// How much of it the kernel has put in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Wall {
    Whole,
    /// An older kernel: some rights are not distinguished.
    Partial,
    None,
}

/// From here on only these trees can be reached, and no process or abstract socket outside of this vassal. Sets
/// `no_new_privs`.
///
/// After the last change of root: what belongs to a tree is the file that is there now, and mounts end here.
///
/// # Errors
/// Where it is required and not there (before Linux 5.13, or not among the `lsm=` of the kernel's command line).
pub(in super::super) fn enclose(trees: &Trees) -> io::Result<Wall> {
    let restricted = || -> Result<RulesetStatus, RulesetError> {
        let rules = Ruleset::default();
        let rules = match trees.required {
            true => rules
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::from_all(ABI::V1))?,
            false => rules,
        };
        let rules = rules.set_compatibility(CompatLevel::BestEffort);
        let rules = rules.handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))?;
        let created =
            rules.create()?.add_rules(path_beneath_rules(&trees.read_only, AccessFs::from_read(NEWEST)))?;
        let created = created.add_rules(path_beneath_rules(&trees.read_write, AccessFs::from_all(NEWEST)))?;
        Ok(created.restrict_self()?.ruleset)
    };
    match restricted().map_err(as_io)? {
        RulesetStatus::FullyEnforced => Ok(Wall::Whole),
        RulesetStatus::PartiallyEnforced => Ok(Wall::Partial),
        RulesetStatus::NotEnforced => Ok(Wall::None),
    }
}

fn as_io(error: RulesetError) -> io::Error {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(it) = cause {
        if let Some(errno) = it.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(errno);
        }
        cause = it.source();
    }
    io::Error::other(format!(
        "{error}: `landlock = yes` needs Linux 5.13 with landlock among its lsm=; `best-effort` goes on without"
    ))
}

impl fmt::Display for Trees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[Text]| paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "read {}; write {}", list(&self.read_only), list(&self.read_write))?;
        f.write_str(if self.required { "" } else { " (best effort)" })
    }
}
