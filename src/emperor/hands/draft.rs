//! From what is known of a vassal to the plan of its launch.
//!
//! Nothing here opens, binds or asks for anything: `emperor check --plan` draws the same plan from a file alone.

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::command::{Command, Environment};
use super::start::{Confinement, Launch};

use crate::vassal::plan::scene::Bind;
use crate::vassal::plan::{Exec, LaunchPlan, MagicExec, Passing, Text, Tyrant, VassalOrder};
use crate::vassal::terms::view::Around;
use crate::vassal::terms::{self, Program, Terms};

/// What is known of a vassal that is to be launched.
#[derive(Debug, Default)]
pub struct Draft<'d> {
    /// Its name.
    pub name: Text,
    /// The name of the file that it, or the vassal that it reinforces, stands for.
    pub file: &'d [u8],
    /// The directory that it starts in.
    pub place: Option<&'d Path>,
    /// Its number, if it is a reinforcement.
    pub zerg: Option<u32>,
    /// Whether it gets its configuration through a pipe.
    pub carried: bool,
    /// Who it is in tyrant mode.
    pub tyrant: Option<Tyrant>,
    /// The engine's command lines, in the order in which they are tried.
    pub commands: &'d [Command],
    /// What its file asks for and its policy imposes.
    pub terms: Option<&'d Terms>,
    /// Its own program, with the numbers of its sockets in place.
    pub program: Option<Program>,
    /// Its sockets.
    pub sockets: Option<Passing>,
    /// Whether it was to have a control group, and there are none.
    pub reaper: bool,
    /// Variables that tell it where it is listened to, and the socket they mean.
    pub notify: (Vec<(Text, Text)>, Option<&'d Path>),
}

/// What is the same for all vassals of an emperor.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'g> {
    /// What changes their identity or their view.
    pub confinement: &'g Confinement,
    /// What their environment is made of.
    pub environment: &'g Environment,
    /// Whether they are killed when the emperor dies.
    pub die_together: bool,
    /// `safe-fd`.
    pub safe_fds: &'g [RawFd],
    /// Whether they are told the directory of their source.
    pub tells_directory: bool,
    /// That directory, where a source has none.
    pub vassals_dir: &'g Text,
}

impl Launch {
    pub(super) fn ground(&self) -> Ground<'_> {
        Ground {
            confinement: &self.confinement,
            environment: &self.environment,
            die_together: self.die_together,
            safe_fds: &self.safe_fds,
            tells_directory: self.confinement.start_hook.is_some() || self.beside.stopped.is_some(),
            vassals_dir: &self.vassals_dir,
        }
    }
}

impl Ground<'_> {
    /// The plan.
    #[must_use]
    pub fn plan(&self, draft: Draft<'_>) -> LaunchPlan {
        let confinement = self.confinement;
        let environment = self.environment_of(&draft);
        let around = draft.terms.map(|_| around(&draft)).unwrap_or_default();
        let exec = match &draft.program {
            Some(program) => Exec {
                programs: program.words.first().cloned().into_iter().collect(),
                args: program.words.iter().skip(1).cloned().collect(),
                magic: None,
            },
            None => exec(draft.commands, confinement.magic_exec.then(|| draft.name.clone())),
        };
        let terms = draft.terms.cloned().unwrap_or_default();
        let order = VassalOrder {
            end_after: None,
            name: draft.name,
            directory: None, // the spawner puts it there
            namespaces: confinement.namespaces,
            capabilities: confinement.capabilities,
            tyrant: draft.tyrant,
            die_with_emperor: self.die_together,
            environment,
            start_hook: confinement.start_hook.clone(),
            hooks: confinement.hooks.clone(),
            sockets: draft.sockets,
            exec,
            identity: terms.identity,
            reaper: draft.reaper,
            groups: terms.groups,
            privileges: terms.privileges,
            view: terms.view,
            around,
            phases: terms.phases,
            is_command: draft.program.is_some(),
            own_session: draft.program.is_some(),
            log: draft.program.and_then(|program| program.log),
            config_pipe: draft.carried,
            safe_fds: self.safe_fds.to_vec(),
        };
        order.plan()
    }

    /// The environment of a vassal.
    pub(super) fn environment_of(&self, draft: &Draft<'_>) -> Vec<(Text, Text)> {
        let mut environment = self.environment.pairs(draft.carried, draft.zerg);
        if self.tells_directory {
            let place = draft.place.map(|place| Text::from(place.as_os_str()));
            environment.push(("UWSGI_VASSALS_DIR".into(), place.unwrap_or_else(|| self.vassals_dir.clone())));
        }
        if let Some(program) = &draft.program {
            environment = terms::changed(environment, &program.environment);
        }
        let notify = &draft.notify.0;
        environment.retain(|(known, _)| notify.iter().all(|(name, _)| name != known));
        environment.extend(notify.iter().cloned());
        environment
    }
}

/// What the view of a vassal is laid out around.
fn around(draft: &Draft<'_>) -> Around {
    let place = draft.place.unwrap_or(Path::new("/"));
    let file = place.join(OsStr::from_bytes(draft.file));
    // The engine is the emperor's choice, and has to be there; a program is the file's.
    let engine = draft.commands.iter().flat_map(|command| &command.files);
    let engine =
        engine.filter(|file| draft.program.is_none() && file.is_absolute() && !file.starts_with("/usr"));
    let needs = engine.map(PathBuf::as_path).chain(draft.notify.1).map(|file| Bind {
        source: file.as_os_str().into(),
        read_only: true,
        opened_as: None,
    });
    // A tenant's is found with his rights, and must be his.
    let opened_as = draft.tyrant.as_ref().map(|tyrant| (tyrant.uid(), tyrant.gid()));
    let own = draft.sockets.iter().flat_map(|passing| &passing.files);
    let own = own.map(|file| place.join(file.as_path()));
    let own = own.map(|file| Bind { source: file.as_os_str().into(), read_only: true, opened_as });
    let needs = needs.chain(own);
    Around {
        directory: file.parent().unwrap_or(place).as_os_str().into(),
        file: file.as_os_str().into(),
        uid: draft.tyrant.as_ref().map(Tyrant::uid),
        needs: needs.collect(),
    }
}

fn exec(commands: &[Command], magic: Option<Text>) -> Exec {
    let text = |bytes: &Vec<u8>| Text::from(OsStr::from_bytes(bytes));
    let programs = commands.iter().filter_map(|command| command.arguments.first().map(text)).collect();
    let args: Vec<_> =
        commands.first().map_or(Vec::new(), |command| command.arguments.iter().skip(1).map(text).collect());
    let magic = magic.and_then(|file| {
        let argument = args.iter().position(|argument| *argument == file)?;
        Some(MagicExec { file, argument })
    });
    Exec { programs, args, magic }
}
