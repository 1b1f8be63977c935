//! The launch plan: what the emperor decided about one launch, as data.
//!
//! The emperor builds it ([`VassalOrder::plan`], [`SideOrder::plan`]), seals it into a memory file and hands
//! that to a launcher at [`PLAN_FD`](super::link::PLAN_FD). The launcher runs the operations in the order of
//! the list and decides nothing: order is a property of the list, so it can be printed and tested without root.

use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::hook::Hook;
pub use super::init::Init;
pub use super::jail::become_user::{Become, Extra, Who};
pub use super::jail::capabilities::Privilege;
pub use super::jail::landlock::Trees;
pub use super::jail::limits::{Granted, Limit, Limits, Processors};
pub use super::jail::namespaces::{Isolation, Users};
pub use super::jail::root::NewRoot;
pub use super::jail::scene;
pub use super::jail::seccomp::{CallFilter, CallSet, Families, Listed, NamespaceKinds};
use super::link::CONFIG_FD;
pub use super::passing::Passing;
pub use super::step::Step;
use super::terms::cgroup::NamedGroups;
use super::terms::phases::Phases;
use super::terms::view::{Around, View, Wish};
use super::terms::{Identity, Privileges, Start};
pub use super::text::Text;
pub use super::words::{Capabilities, Namespaces, NoCapability, UnknownNamespace};

mod print;

/// A plan that does not fit is no plan of ours: the environment and argv of an exec are limited to 6 MiB.
const MAX_PLAN_BYTES: u64 = 16 * 1024 * 1024;

/// Ordered operations of one launch.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LaunchPlan {
    /// Name of the vassal, for messages.
    pub vassal: Text,
    /// Whether descriptor [`CONFIG_FD`] is meant and stays open.
    pub config_pipe: bool,
    /// Further descriptors that the engine keeps under their own numbers (`safe-fd`).
    #[serde(default)]
    pub safe_fds: Vec<i32>,
    /// Whether there is no emperor, and so no link to one: a unit of the vassal's own has started it.
    #[serde(default)]
    pub alone: bool,
    /// What to do, first to last. The last is an [`Op::Exec`] or an [`Op::Exit`].
    pub ops: Vec<Op>,
}

/// One operation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// End after so many seconds, whatever is being done then: SIGALRM, which an exec does not forget. The last one
    /// holds; 0 is never.
    EndAfter(u32),
    /// Make and enter the control groups that the administrator names (`cgroup`).
    EnterGroups(NamedGroups),
    /// Become the child of a subreaper, which stays behind: where there are no control groups.
    Reaper(Init),
    /// Enter a working directory.
    ChangeDir(Text),
    /// Confirm to be process 1. The spawner has cloned us with `CLONE_NEWPID`: see [`LaunchPlan::needs_pid_namespace`].
    PidNamespace,
    /// Enter fresh namespaces; a user namespace gets its id map and our id becomes 0 in it.
    Namespaces(Namespaces),
    /// Enter the fresh namespaces of a view; its mounts are cut off from the host's.
    Isolate(Isolation),
    /// Lay out what the vassal sees of the file system. After [`Op::Isolate`] with mounts.
    View(scene::Scene),
    /// Become the child of process 1, which stays behind as a reaper. After everything that process 1 is to see as the
    /// vassal sees it.
    Init(Init),
    /// Enter a user namespace in which only the vassal's own user exists. Before the identity changes.
    OwnUsers(Users),
    /// Join the namespaces that a `setns-socket` offers.
    JoinNamespaces(Text),
    /// Change the root directory: `chroot`, `pivot-root`.
    Root(NewRoot),
    /// Leave only these in the bounding set.
    BoundCapabilities(Capabilities),
    /// Become nobody else's prey while privileges are mixed: no ptrace, no core dump, /proc entries root's.
    Undumpable,
    /// Leave the emperor's session keyring, and whatever keys root has in it.
    OwnKeyring,
    /// Leave the emperor's session if that has a terminal: who has a terminal can type for those behind it.
    LeaveTerminal,
    /// Lead a session of its own: what it starts can be ended with it.
    OwnSession,
    /// Set the real, effective and saved group id.
    SetGroup(u32),
    /// Replace the supplementary groups. After the group, before the user.
    SetGroups(Groups),
    /// Set the real, effective and saved user id, and lose every capability.
    SetUser(u32),
    /// Be killed when the emperor dies, and stop here if it is dead already. After the last change of
    /// identity, which would clear it.
    DieWithEmperor,
    /// Refuse to go on unless the file has this owner, and the owner is not root.
    VerifyOwner(OwnedFile),
    /// Append standard output and standard error to this file, which is made if it is not there.
    Log(Text),
    /// Set what the kernel counts for each process. While root, before the change of identity.
    Limits(Limits),
    /// Become somebody else, whose names are looked up before the first operation.
    Become(Become),
    /// Give up powers.
    Privilege(Privilege),
    /// Reach only these trees from now on.
    Landlock(Trees),
    /// Make only some system calls: prepared here, and in force from right before the exec.
    SystemCalls(CallFilter),
    /// Replace the environment.
    Environment(Vec<(Text, Text)>),
    /// `vassals-start-hook`, `vassals-stop-hook`: run a program, log its status, go on in any case.
    Command {
        /// How the log calls it: `start-hook`, `stop-hook`.
        label: String,
        /// Searched in PATH; not a shell command.
        program: Text,
        /// Its only argument: the vassal's name.
        argument: Text,
    },
    /// Run a hook.
    Hook {
        /// What to run.
        hook: Hook,
        /// How the log calls the moment: `as-vassal`, `as-emperor`.
        phase: String,
        /// Whether a failure ends the launch; otherwise it is only logged.
        fatal: bool,
    },
    /// Put listening sockets where the program looks for them, and say so in its environment. After that.
    Sockets(Passing),
    /// Become the engine.
    Exec(Exec),
    /// End with status 0.
    Exit,
}

/// Supplementary groups.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Groups {
    /// Exactly these; mostly none.
    Exactly(Vec<u32>),
    /// Those of the user with this id, looked up by the launcher (`emperor-tyrant-initgroups`).
    OfUser(u32),
}

/// A file, and who it must belong to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OwnedFile {
    /// Relative to the working directory.
    pub path: Text,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Whether the owner is that of a symbolic link itself (`emperor-tyrant-nofollow`, `emperor-nofollow`).
    pub nofollow: bool,
    /// The emperor's own user, whose links are as good as root's.
    pub emperor: u32,
}

/// The engine.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Exec {
    /// Tried in this order; each searched in PATH. The first that can be executed wins.
    pub programs: Vec<Text>,
    /// Arguments after the zeroth, which is the program as written in `programs`.
    pub args: Vec<Text>,
    /// `emperor-magic-exec`.
    pub magic: Option<MagicExec>,
}

/// If the vassal may read and execute `file`, argument number `argument` becomes `exec://FILE`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MagicExec {
    /// The vassal's file.
    pub file: Text,
    /// Index into [`Exec::args`].
    pub argument: usize,
}

/// What the emperor decided about the launch of a vassal.
#[derive(Clone, Debug, Default)]
pub struct VassalOrder {
    /// Name of the vassal.
    pub name: Text,
    /// Directory it starts in; `None` leaves it where the spawner has put it.
    pub directory: Option<Text>,
    /// The process may live so many seconds; for one that is no vassal.
    pub end_after: Option<u32>,
    /// `emperor-use-clone`.
    pub namespaces: Namespaces,
    /// `emperor-cap`, without the `setpcap` that always stays.
    pub capabilities: Option<Capabilities>,
    /// Tyrant mode.
    pub tyrant: Option<Tyrant>,
    /// Whom a command vassal becomes outside of tyrant mode.
    pub identity: Option<Identity>,
    /// Whether what it leaves behind is ended by a subreaper. One with a pid namespace needs none.
    pub reaper: bool,
    /// Control groups that a command vassal enters, beside the emperor's own.
    pub groups: Option<NamedGroups>,
    /// What it may do.
    pub privileges: Privileges,
    /// What it sees.
    pub view: View,
    /// What the view is laid out around.
    pub around: Around,
    /// What a command vassal asks for by uWSGI's options of jails.
    pub phases: Phases,
    /// `emperor-die-together`.
    pub die_with_emperor: bool,
    /// Its complete environment; nothing is inherited.
    pub environment: Vec<(Text, Text)>,
    /// `vassals-start-hook`.
    pub start_hook: Option<Text>,
    /// `hook-as-vassal`, then `mount-`, `umount-` and `exec-as-vassal`, each in the order of the configuration.
    pub hooks: Vec<Hook>,
    /// The listening sockets that it is given.
    pub sockets: Option<Passing>,
    /// The engine.
    pub exec: Exec,
    /// Where standard output and standard error go, if not to the emperor's log.
    pub log: Option<Text>,
    /// Whether it is the program of a `command`, which becomes nobody else by itself.
    pub is_command: bool,
    /// Whether it leads a session of its own.
    pub own_session: bool,
    /// Whether it gets its configuration through a pipe.
    pub config_pipe: bool,
    /// `safe-fd`: descriptors that it keeps, under the numbers at which the launcher has them, if it has them.
    pub safe_fds: Vec<i32>,
}

/// The identity of a vassal in tyrant mode.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tyrant {
    uid: u32,
    gid: u32,
    initgroups: bool,
    file: Option<(Text, bool)>,
}

impl Tyrant {
    /// The vassal gets this identity; `None` for root's user or group, which tyrant mode refuses.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Option<Self> {
        (uid != 0 && gid != 0).then_some(Self { uid, gid, initgroups: false, file: None })
    }

    /// The user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// With the supplementary groups of the user instead of none.
    #[must_use]
    pub fn with_groups_of_user(self, initgroups: bool) -> Self {
        Self { initgroups, ..self }
    }

    /// The identity is that of this file's owner, and the launcher confirms it. `nofollow`: of the link itself.
    #[must_use]
    pub fn of_file(self, path: Text, nofollow: bool) -> Self {
        Self { file: Some((path, nofollow)), ..self }
    }
}

impl VassalOrder {
    /// The operations in the order they must run: the outside view first, identity last, then the hooks that
    /// run as the vassal, then the exec.
    #[must_use]
    pub fn plan(self) -> LaunchPlan {
        // With only another group, root stays root.
        let other_user = self.identity.as_ref().and_then(|identity| identity.user.as_ref());
        let start = match (&self.tyrant, other_user) {
            (None, None) if nix::unistd::geteuid().is_root() && self.is_command => Start::RootForGood,
            (None, None) if nix::unistd::geteuid().is_root() => Start::Root,
            (None, None) => Start::Same,
            _ => Start::Another,
        };
        let privileges = self.privileges;
        let mut ops = Vec::new();
        ops.extend(self.end_after.map(Op::EndAfter));
        ops.extend(self.groups.map(Op::EnterGroups));
        ops.extend(self.own_session.then_some(Op::OwnSession));
        let view = self.phases.onto(self.view);
        let reaped = self.reaper && !self.namespaces.pid && !view.private_pids;
        ops.extend(reaped.then_some(Op::Reaper(Init { die_with_emperor: self.die_with_emperor })));
        ops.extend(self.directory.map(Op::ChangeDir));
        ops.extend(privileges.first_ops());
        // Who is not root is told by the launcher what is not allowed; of the spawner it would be no more than that.
        let cloned = self.namespaces.pid || view.private_pids && start != Start::Same;
        ops.extend(cloned.then_some(Op::PidNamespace));
        let rest = Namespaces { pid: false, ..self.namespaces };
        ops.extend((!rest.is_empty()).then_some(Op::Namespaces(rest)));
        // A tenant opens his log with his own rights, root with root's and where root finds it.
        let (log_first, log_last) = if self.tyrant.is_some() { (None, self.log) } else { (self.log, None) };
        ops.extend(log_first.map(Op::Log));
        if !self.phases.hooks.is_empty() && self.tyrant.is_none() {
            ops.push(Op::Environment(self.environment.clone())); // hooks have it from the first on
        }
        ops.extend(self.phases.ops_before_view());
        ops.extend(view.ops(&self.around));
        ops.extend(self.phases.ops_in_view());
        ops.extend(view.init_ops(self.die_with_emperor));
        ops.extend(self.phases.ops_as_root());
        ops.extend(privileges.limit_ops());
        let users = match (&self.tyrant, start) {
            (Some(tyrant), _) => view.users_ops(Some(tyrant.uid)),
            (None, Start::Another) => view.users_ops(None),
            (None, _) if view.private_users == Wish::Yes => view.users_ops(Some(0)), // an error that says so
            (None, _) => Vec::new(),
        };
        let emperor = nix::unistd::geteuid().as_raw();
        let owner = |tyrant: &Tyrant| {
            let (path, nofollow) = tyrant.file.clone()?;
            Some(Op::VerifyOwner(OwnedFile { path, uid: tyrant.uid, gid: tyrant.gid, nofollow, emperor }))
        };
        let mut verify = self.tyrant.as_ref().and_then(owner);
        if !users.is_empty() {
            ops.extend(verify.take()); // in there, nobody could tell whose links lead to it
        }
        ops.extend(users);
        ops.extend(self.capabilities.map(|keep| Op::BoundCapabilities(keep.with_setpcap())));
        // Who is somebody else than the emperor gets a keyring of its own in any case.
        let powers = privileges.ops_before_identity(start).into_iter();
        ops.extend(powers.filter(|op| start != Start::Another || *op != Op::OwnKeyring));
        if self.tyrant.is_none() && start == Start::Another {
            ops.extend([Op::Undumpable, Op::OwnKeyring]);
        }
        if let Some(tyrant) = self.tyrant {
            let Tyrant { uid, gid, initgroups, file: _ } = tyrant;
            let groups = if initgroups { Groups::OfUser(uid) } else { Groups::Exactly(Vec::new()) };
            ops.extend([Op::Undumpable, Op::OwnKeyring, Op::LeaveTerminal]);
            if privileges.ambient == Capabilities::default() {
                ops.extend([Op::SetGroup(gid), Op::SetGroups(groups), Op::SetUser(uid)]);
            } else {
                // Root's policy grants the tenant what a plain change of user would take.
                let groups = if initgroups { Extra::OfUser } else { Extra::Exactly(Vec::new()) };
                let (user, group) = (Some(Who::Id(uid)), Some(Who::Id(gid)));
                ops.push(Op::Become(Become { user, group, groups, keep: privileges.ambient }));
            }
            ops.extend(verify);
        }
        ops.extend(self.identity.map(|identity| Op::Become(identity.becomes(privileges.ambient))));
        ops.extend(log_last.map(Op::Log));
        // The parent that it dies with is the subreaper, where there is one.
        ops.extend((self.die_with_emperor || reaped).then_some(Op::DieWithEmperor));
        let (read_only, read_write) = view.trees();
        ops.extend(privileges.ops_after_identity(start, &read_only, &read_write));
        ops.push(Op::Environment(self.environment));
        ops.extend(self.phases.ops_as_user());
        ops.extend(self.start_hook.map(|program| Op::Command {
            label: "start-hook".into(),
            program,
            argument: self.name.clone(),
        }));
        let hooks = self.hooks.into_iter();
        ops.extend(hooks.map(|hook| Op::Hook { hook, phase: "as-vassal".into(), fatal: true }));
        ops.extend(self.sockets.map(Op::Sockets));
        ops.extend(privileges.last_ops());
        ops.push(Op::Exec(self.exec));
        let mut safe_fds = self.safe_fds;
        safe_fds.retain(|number| *number > CONFIG_FD); // the others are what the launcher says they are
        safe_fds.sort_unstable();
        safe_fds.dedup();
        LaunchPlan { vassal: self.name, config_pipe: self.config_pipe, safe_fds, alone: false, ops }
    }
}

/// Hooks that the emperor runs beside its loop: `hook-as-emperor` and kin, `vassals-stop-hook`.
///
/// They keep the emperor's identity. A failure is logged and harms nobody.
#[derive(Clone, Debug, Default)]
pub struct SideOrder {
    /// Name of the vassal they are about.
    pub name: Text,
    /// Directory they run in.
    pub directory: Option<Text>,
    /// Their complete environment, with `UWSGI_VASSAL_CONFIG`, `_PID`, `_UID` and `_GID`.
    pub environment: Vec<(Text, Text)>,
    /// `hook-as-emperor`, then `mount-`, `umount-` and `exec-as-emperor`.
    pub hooks: Vec<Hook>,
    /// `vassals-stop-hook`.
    pub stop_hook: Option<Text>,
    /// Seconds after which each of these is ended, and with it those that follow.
    pub each_ends_after: Option<u32>,
}

impl SideOrder {
    /// The hooks in their order, then the end.
    #[must_use]
    pub fn plan(self) -> LaunchPlan {
        let mut ops = Vec::new();
        ops.extend(self.directory.map(Op::ChangeDir));
        ops.push(Op::Environment(self.environment));
        let hooks = self.hooks.into_iter();
        let hooks = hooks.map(|hook| Op::Hook { hook, phase: "as-emperor".into(), fatal: false });
        let stop_hook = self.stop_hook.map(|program| Op::Command {
            label: "stop-hook".into(),
            program,
            argument: self.name.clone(),
        });
        for op in hooks.chain(stop_hook) {
            ops.extend(self.each_ends_after.map(Op::EndAfter));
            ops.push(op);
        }
        ops.push(Op::Exit);
        LaunchPlan { vassal: self.name, config_pipe: false, safe_fds: Vec::new(), alone: false, ops }
    }
}

impl LaunchPlan {
    /// Whether the launcher must be cloned with `CLONE_NEWPID`, to be process 1 of a pid namespace.
    #[must_use]
    pub fn needs_pid_namespace(&self) -> bool {
        self.ops.contains(&Op::PidNamespace)
    }

    /// Whether the launcher's process stays as a subreaper, which is ended by [`END_ALL`](super::link::END_ALL).
    #[must_use]
    pub fn leaves_reaper(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Reaper(_)))
    }

    /// Writes the plan into a memory file that nobody can change any more.
    ///
    /// The descriptor is close-on-exec. Needs Linux 3.17.
    ///
    /// # Errors
    /// Of memfd_create(2) or of writing, where memory is short.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create(c"launch-plan", flags)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        let seals =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(file.into())
    }

    /// Reads a plan from the descriptor that [`seal`](Self::seal) made, and closes it.
    ///
    /// # Errors
    /// When it cannot be read, or is not a plan of this version of the program.
    pub fn read(fd: OwnedFd) -> io::Result<Self> {
        let mut text = Vec::new();
        std::fs::File::from(fd).take(MAX_PLAN_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

impl Op {
    /// What the launcher is doing while it runs this operation.
    #[must_use]
    pub fn step(&self) -> Step {
        use super::hook::Kind;
        match self {
            Self::EndAfter(_) => Step::Signals,
            Self::EnterGroups(_) => Step::ControlGroup,
            Self::Reaper(_) => Step::Reaper,
            Self::ChangeDir(_) => Step::ChangeDir,
            Self::PidNamespace => Step::PidNamespace,
            Self::Namespaces(_) => Step::Namespaces,
            Self::Isolate(_) => Step::Namespaces,
            Self::View(_) => Step::View,
            Self::Init(_) => Step::Init,
            Self::OwnUsers(_) => Step::UserNamespace,
            Self::JoinNamespaces(_) => Step::JoinNamespaces,
            Self::Root(_) => Step::Root,
            Self::BoundCapabilities(_) | Self::Undumpable => Step::Capabilities,
            Self::OwnKeyring => Step::Keyring,
            Self::LeaveTerminal | Self::OwnSession => Step::Session,
            Self::SetGroup(_) => Step::Group,
            Self::SetGroups(_) => Step::Groups,
            Self::SetUser(_) => Step::User,
            Self::DieWithEmperor => Step::Emperor,
            Self::VerifyOwner(_) => Step::Owner,
            Self::Log(_) => Step::Log,
            Self::Limits(_) => Step::Limits,
            Self::Become(_) => Step::User,
            Self::Privilege(Privilege::LockSecureBits) => Step::SecureBits,
            Self::Privilege(Privilege::NoNewPrivileges) => Step::NoNewPrivileges,
            Self::Privilege(_) => Step::Capabilities,
            Self::Landlock(_) => Step::Landlock,
            Self::SystemCalls(_) => Step::SystemCalls,
            Self::Environment(_) => Step::Environment,
            Self::Sockets(_) => Step::Descriptors,
            Self::Command { .. } => Step::Command,
            Self::Hook { hook, .. } => match hook.kind {
                Kind::Hook => Step::Hook,
                Kind::Mount => Step::Mount,
                Kind::Unmount => Step::Unmount,
                Kind::Exec => Step::Command,
            },
            Self::Exec(_) | Self::Exit => Step::Exec,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn full_order() -> VassalOrder {
        let hook = |text: &str| Hook::parse(OsStr::new(text)).unwrap();
        VassalOrder {
            reaper: false,
            name: "a.ini".into(),
            directory: Some("/srv/vassals".into()),
            end_after: None,
            is_command: false,
            own_session: true,
            namespaces: Namespaces::parse("uts,pid,fs").unwrap().0,
            capabilities: Some(Capabilities::parse("net_bind_service").unwrap().0),
            tyrant: Tyrant::new(1000, 1001)
                .map(|t| t.with_groups_of_user(true).of_file("a.ini".into(), true)),
            die_with_emperor: true,
            environment: vec![("UWSGI_EMPEROR_FD".into(), "3".into())],
            start_hook: Some("/bin/start".into()),
            hooks: vec![hook("!putenv:KEY=1"), Hook::exec(OsStr::new("true"))],
            sockets: Some(Passing {
                numbers: vec![20, 21],
                names: vec!["http-socket".into(), "socket".into()],
                addresses: vec!["127.0.0.1:80".into(), "/run/a.sock".into()],
                stdin: Some(1),
                silent: true,
                ..Passing::default()
            }),
            exec: Exec {
                programs: vec!["mine".into(), "/usr/bin/uwsgi".into()],
                args: vec!["--ini".into(), "a.ini".into()],
                magic: Some(MagicExec { file: "a.ini".into(), argument: 1 }),
            },
            config_pipe: false,
            log: None,
            identity: None,
            groups: None,
            privileges: Privileges::default(),
            view: View::default(),
            around: Around::default(),
            phases: Phases::default(),
            safe_fds: vec![7, 9, 3, 7],
        }
    }

    #[test]
    fn a_plan_lists_the_outside_view_first_identity_next_and_the_exec_last() {
        let expected = " 1  session of its own
 2  chdir /srv/vassals
 3  pid-namespace
 4  namespaces mount,uts
 5  capabilities keep setpcap,net_bind_service in the bounding set
 6  capabilities not dumpable, not traceable
 7  keyring of its own
 8  session of its own if this one has a terminal
 9  group 1001
10  groups of uid 1000
11  user 1000
12  owner a.ini is 1000:1001, the link itself
13  emperor die with it
14  environment
      UWSGI_EMPEROR_FD=3
15  command /bin/start a.ini
16  hook --- PRIVATE HOOK --- (as-vassal)
17  command \"true\" (as-vassal)
18  descriptors 3 is http-socket 127.0.0.1:80, 4 is socket /run/a.sock, standard input is socket 1, no LISTEN_FDS
19  exec mine or /usr/bin/uwsgi
      --ini
      a.ini
      (exec://a.ini if executable)
";
        assert_eq!(full_order().plan().to_string(), expected);
    }

    #[test]
    fn named_groups_come_before_everything_that_counts() {
        let groups = NamedGroups {
            directories: vec!["/sys/fs/cgroup/a".into()],
            mode: 0o700,
            options: vec![("memory.max".into(), "64M".into())],
        };
        let order = VassalOrder { groups: Some(groups), ..full_order() };
        let plan = order.plan().to_string();
        assert!(plan.starts_with(" 1  cgroup /sys/fs/cgroup/a memory.max=64M\n 2  session"), "{plan}");
    }

    #[test]
    fn whoever_becomes_somebody_else_leaves_the_emperors_keys_behind() {
        let identity = Identity { user: Some(Who::Id(1000)), ..Identity::default() };
        let order = VassalOrder { identity: Some(identity), is_command: true, ..VassalOrder::default() };
        let plan = order.plan().to_string();
        let expected =
            " 1  capabilities not dumpable, not traceable\n 2  keyring of its own\n 3  become user 1000";
        assert!(plan.starts_with(expected), "{plan}");
    }

    #[test]
    fn a_safe_descriptor_is_none_of_the_launchers_own() {
        assert_eq!(full_order().plan().safe_fds, [7, 9]);
    }

    #[test]
    fn an_ordinary_vassal_needs_no_more_than_its_environment_and_an_exec() {
        let order = VassalOrder { name: "a.ini".into(), ..VassalOrder::default() };
        assert_eq!(order.plan().to_string(), " 1  environment\n 2  exec\n");
    }

    #[test]
    fn hooks_beside_the_loop_may_fail_and_end_without_an_exec() {
        let hooks = vec![Hook::exec(OsStr::new("logger hello"))];
        let order =
            SideOrder { name: "a.ini".into(), hooks, stop_hook: Some("stop".into()), ..SideOrder::default() };
        let expected = " 1  environment\n 2  command \"logger hello\" (as-emperor, may fail)\n 3  command stop a.ini\n 4  exit\n";
        assert_eq!(order.clone().plan().to_string(), expected);
        let limited = SideOrder { each_ends_after: Some(9), ..order }.plan();
        let limits = limited.ops.iter().enumerate().filter(|(_, op)| **op == Op::EndAfter(9));
        assert_eq!(limits.map(|(place, _)| place).collect::<Vec<_>>(), [1, 3], "each has its own");
    }

    #[test]
    fn root_is_no_tyrant_identity() {
        assert_eq!(Tyrant::new(0, 1000), None);
        assert_eq!(Tyrant::new(1000, 0), None);
    }

    #[test]
    fn a_sealed_plan_is_read_back_and_cannot_be_changed() {
        let plan = full_order().plan();
        let fd = plan.seal().unwrap();
        let mut other = std::fs::File::from(fd.try_clone().unwrap());
        assert!(other.write_all(b"x").is_err());
        assert!(other.set_len(0).is_err());
        assert_eq!(LaunchPlan::read(fd).unwrap(), plan);
    }
}
