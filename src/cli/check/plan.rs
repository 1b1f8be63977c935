//! What the launch of a vassal comes down to, drawn from its file alone: nothing is opened, bound or started.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::stat::stat;

use crate::config::Config;
use crate::emperor::hands::TyrantRules;
use crate::emperor::hands::command::{Command, Environment};
use crate::emperor::hands::draft::{Draft, Ground};
use crate::emperor::settings::Settings;
use crate::emperor::source::Identity;
use crate::vassal::plan::{LaunchPlan, Op, Text, Tyrant};
use crate::vassal::terms::Terms;

/// A vassal as it would be launched.
pub(super) struct Drawn {
    /// What its file asks for and the emperor's policy imposes.
    pub(super) terms: Terms,
    /// The operations, the last of which is the exec.
    pub(super) plan: LaunchPlan,
    /// Whether there is nothing to do before the exec, so that the emperor makes it without a launcher.
    pub(super) direct: bool,
}

/// Where a vassal's file is, and what is known of it.
pub(super) struct Place<'p> {
    pub(super) directory: &'p Path,
    pub(super) name: &'p OsStr,
    /// Who owns the file, if it is to be taken for somebody else's.
    pub(super) owner: Option<(u32, u32)>,
}

/// Draws the launch of the vassal that this configuration is.
///
/// # Errors
/// What its file asks for and cannot have, in a sentence.
pub(super) fn draw(
    config: &Config,
    place: &Place<'_>,
    settings: &mut Settings,
    environment: &Environment,
    commands: &[Command],
) -> Result<Drawn, String> {
    let identity = identity(place)?;
    let asked = Terms::read(config).map_err(|error| error.to_string())?;
    let tyrant = settings.confinement.tyrant.map(|rules| tyrant(rules, &identity, place.name)).transpose()?;
    let asked = match tyrant {
        Some(_) => asked.of_tenant(identity.uid, identity.gid)?,
        None => asked,
    };
    let policy = settings.jail_policy.of(place.name.as_bytes(), &identity);
    let terms = asked.under(&*policy.map_err(|error| error.to_string())?);
    if let Some(why) = terms.contradiction() {
        return Err(why);
    }
    let ground = Ground {
        confinement: &settings.confinement,
        environment,
        die_together: settings.die_together.unwrap_or(true),
        safe_fds: &settings.safe_fds,
        tells_directory: settings.confinement.start_hook.is_some() || settings.beside.stopped.is_some(),
        vassals_dir: &Text::from(place.directory.as_os_str()),
    };
    let program = terms.program.as_ref().map(|program| program.placed(&terms.sockets)).transpose()?;
    let any_sockets = !terms.sockets.own().is_empty() || !terms.sockets.zerg().servers.is_empty();
    let draft = Draft {
        name: Text::from(place.name),
        file: place.name.as_bytes(),
        place: Some(place.directory),
        tyrant,
        commands,
        terms: (!terms.is_nothing()).then_some(&terms),
        program,
        sockets: any_sockets.then(|| terms.sockets.passing(Vec::new())),
        ..Draft::default()
    };
    let direct = settings.confinement.is_none() && terms.ask_for_a_share_only();
    Ok(Drawn { plan: ground.plan(draft), direct, terms })
}

impl Drawn {
    /// The operations, one a line; of the environment what is not simply the emperor's.
    pub(super) fn listed(&self) -> String {
        let mut out = String::new();
        for (number, op) in (1..).zip(&self.plan.ops) {
            let Op::Environment(entries) = op else {
                let _ = writeln!(out, "{number:2}  {op}");
                continue;
            };
            let inherited = |(name, value): &&(Text, Text)| {
                let name: &OsStr = name.as_ref();
                std::env::var_os(name).is_some_and(|known| known.as_bytes() == value.as_bytes())
            };
            let (old, new): (Vec<_>, Vec<_>) = entries.iter().partition(inherited);
            let new: Vec<_> = new.into_iter().cloned().collect();
            let _ = writeln!(out, "{number:2}  {}", Op::Environment(new));
            let _ = writeln!(out, "      and {} variables of the emperor's", old.len());
        }
        out
    }
}

fn tyrant(rules: TyrantRules, identity: &Identity, name: &OsStr) -> Result<Tyrant, String> {
    let (uid, gid) = (identity.uid, identity.gid);
    let tyrant = Tyrant::new(uid, gid).ok_or_else(|| {
        format!("tyrant mode refuses a file of uid {uid}, gid {gid}: chown it to its tenant")
    })?;
    Ok(tyrant.with_groups_of_user(rules.initgroups).of_file(Text::from(name), rules.nofollow))
}

fn identity(place: &Place<'_>) -> Result<Identity, String> {
    let file = place.directory.join(place.name);
    let there = stat(&file).map_err(|errno| format!("{}: {}", file.display(), errno.desc()))?;
    let (uid, gid) = place.owner.unwrap_or((there.st_uid, there.st_gid));
    Ok(Identity { mtime_ns: 0, ctime_ns: 0, device: 0, inode: 0, size: 0, uid, gid })
}
