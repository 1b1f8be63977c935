//! `emperor …` with uWSGI's options: becomes the emperor, or the built-in engine where no emperor is asked for.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tracing::{info, warn};

use super::Failure;
use crate::config::options::Opt;
use crate::config::{self, Config, Limits, Loader, Machine, Mode, Pair, options};
use crate::emperor::cgroup::GroupRules;
use crate::emperor::edicts::Edicts;
use crate::emperor::hands::command::Environment;
use crate::emperor::hands::{Launch, RuntimeDir};
use crate::emperor::log;
use crate::emperor::process::{
    ProcessError, become_emperor, rehearse as rehearse_process, remain_emperor, run_hooks,
};
use crate::emperor::reign::{self, Accession};
use crate::emperor::settings::Settings;
use crate::emperor::source::{SCHEMES, Sources};
use crate::emperor::stats::Itself;
use crate::emperor::survival::{Heritage, Origin, State};
use crate::emperor::systemd;
use crate::sys::process::{self, DescriptorLimit};
use crate::sys::spawn::Spawner;
use crate::sys::{caps, fds};
use crate::vassal::engine;
use crate::vassal::link::FD_VARIABLE;
use crate::vassal::plan::Text;
use crate::vassal::sent::ConfigPipe;

/// Runs with the arguments behind the program's name.
///
/// # Errors
/// Whatever keeps the emperor from reigning; nothing has been started then.
pub(super) fn main(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let origin = Origin::of_this_process().map_err(Failure::of("cannot find out how this was started"))?;
    let heritage = Heritage::claim();
    let arguments = with_directory(arguments);
    let environment: Vec<_> = std::env::vars_os().collect();
    let (world, pipe) = vassals_machine()?;
    let config = read(&world, &arguments, &environment)?;
    if !config.has("emperor") {
        let passed = heritage.sockets.into_iter().map(|(_, socket)| socket).collect();
        return Ok(without_emperor(&arguments, &environment, &world, &config, pipe.as_ref(), passed));
    }
    // An emperor reads its own configuration once; the number is one of those that it needs for its vassals.
    drop(pipe);
    say(&config.output().stdout, &config.output().log);
    if let Some(status) = config.exit() {
        return Ok(status.into());
    }
    govern(&config, origin, heritage).map(ExitCode::from)
}

/// The machine as a process sees it to which an emperor may have sent its configuration.
fn vassals_machine() -> Result<(Machine, Option<ConfigPipe>), Failure> {
    let world = Machine::new().allow_commands(true).allow_network(true);
    let pipe = ConfigPipe::from_environment();
    Ok(match &pipe {
        Some(open) => {
            let text = open.receive().map_err(Failure::of("cannot read what the emperor sends"))?;
            (world.with_sent(text), pipe)
        }
        None => (world, None),
    })
}

/// Reads the emperor's own configuration.
fn read(
    world: &Machine,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
) -> Result<Config, Failure> {
    let loader = Loader::new(world, Limits::default()).called("emperor");
    loader.load(arguments, environment, Mode::Emperor).map_err(|error| {
        say(&error.output.stdout, &error.output.log);
        Failure::new(error)
    })
}

/// Whether these arguments, and the state on standard input, are such that this program could go on with them.
///
/// # Errors
/// Whatever would keep it from that.
pub(super) fn rehearse(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let arguments = with_directory(arguments);
    let environment: Vec<_> = std::env::vars_os().collect();
    let config = read(&Machine::new().allow_commands(true).allow_network(true), &arguments, &environment)?;
    if !config.has("emperor") || config.exit().is_some() {
        return Err(Failure::new(NoEmperor));
    }
    let mut settings = Settings::new(&config).map_err(Failure::new)?;
    let start = std::env::current_dir().map_err(Failure::of("cannot find the current directory"))?;
    rehearse_process(&settings.process).map_err(Failure::new)?;
    let cwd = std::env::current_dir().map_err(Failure::of("cannot find the current directory"))?;
    settings.source_options.pattern_cwd = Some(pattern_directory(&start, &cwd, &settings)?);
    Sources::open(&settings.sources, &cwd, &settings.source_options).map_err(Failure::new)?;
    let state =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(Failure::of("cannot take the state"))?;
    State::read(state).map_err(Failure::of("cannot go on with the state of the running emperor"))?;
    Ok(ExitCode::SUCCESS)
}

/// What an emperor cannot go on with.
#[derive(Debug, thiserror::Error)]
#[error("the configuration does not ask for an emperor any more")]
struct NoEmperor;

/// The link to the emperor that started this one, which may have been in the way of the reserved numbers.
fn superior(moved: &[(RawFd, RawFd)]) -> Option<OwnedFd> {
    let number: RawFd = std::env::var(FD_VARIABLE).ok()?.parse().ok()?;
    let number = moved.iter().find(|(from, _)| *from == number).map_or(number, |(_, to)| *to);
    fds::adopt(number).ok()
}

/// A directory as the first argument is one of vassals; so is a path that is not there yet, and is no file's by its
/// name.
fn with_directory(arguments: &[OsString]) -> Vec<OsString> {
    match arguments.first() {
        Some(first) if !first.as_encoded_bytes().starts_with(b"-") && is_directory(Path::new(first)) => {
            std::iter::once("--emperor".into()).chain(arguments.iter().cloned()).collect()
        }
        _ => arguments.to_vec(),
    }
}

fn is_directory(path: &Path) -> bool {
    let may_come = || path.is_absolute() && path.extension().is_none() && path.symlink_metadata().is_err();
    path.is_dir() || may_come()
}

/// No `emperor` option: an instance like any other, of which only the reading and static files are ours.
fn without_emperor(
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    world: &Machine,
    config: &Config,
    pipe: Option<&ConfigPipe>,
    passed: Vec<OwnedFd>,
) -> ExitCode {
    let only_reads = ["show-config", "get", "no-server"].iter().any(|option| config.has(option));
    if only_reads || config.exit().is_some() {
        let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
        return config::as_uwsgi(arguments, environment, world, &mut stdout, &mut stderr).into();
    }
    let misspelt = |option: &Opt| option.canonical().name == "emperor";
    for (pair, near) in config.unknown() {
        if near.is_some_and(misspelt) {
            say(
                b"",
                format!(
                    "{}: `{}` is no known option; `emperor` is, and without it this is one application\n",
                    pair.origin(),
                    config::lossy(pair.key())
                )
                .as_bytes(),
            );
        }
    }
    engine::main(arguments, world, pipe, passed, systemd::tell_ready)
}

/// Becomes the emperor and reigns; gives the status to end with.
fn govern(config: &Config, origin: Origin, heritage: Heritage) -> Result<u8, Failure> {
    let mut moved = Vec::new();
    let reserved = fds::reserve(|from, to| moved.push((from, to)));
    let reserved = reserved.map_err(Failure::of("cannot reserve descriptors"))?;
    let superior = superior(&moved);
    let mut settings = Settings::new(config).map_err(Failure::new)?;
    log::start(settings.log_form, settings.log_level);
    warn_of_strange_options(config);
    let former = heritage.header.as_ref().and_then(|header| header.process.clone());
    let mut standing = match &former {
        // Signals are held back until the loop is there to obey them.
        Some(former) => remain_emperor(&settings.process, &former.pid_files).map_err(Failure::new)?,
        None => {
            process::reset_signals().map_err(Failure::of("cannot reset signals"))?;
            match become_emperor(&settings.process) {
                Err(ProcessError::Ended(status)) => return Ok(status),
                standing => standing.map_err(Failure::new)?,
            }
        }
    };
    fds::null_stdin(&reserved).map_err(Failure::of("cannot put /dev/null in place of standard input"))?;
    let limit = match &former {
        Some(former) => former.descriptor_limit.map(|(soft, hard)| DescriptorLimit { soft, hard }),
        None => raise_descriptor_limit(),
    };
    if let Some(former) = &former {
        caps::set_ambient(former.ambient).map_err(Failure::of("cannot reset capabilities"))?;
    }
    if settings.policy.tyrant {
        if let Err(error) = fds::no_reading_of_output() {
            warn!("vassals may be able to read the log: it cannot be opened for writing only: {error}");
        }
        // Our own groups must not open to the emperor what it does in a tenant's name. Who may not give them up may
        // not become a tenant either.
        let given_up = nix::unistd::setgroups(&[]);
        if nix::unistd::geteuid().is_root() {
            given_up.map_err(Failure::of("cannot give up supplementary groups"))?;
        }
    }
    let spawner = Spawner::new(reserved, limit).map_err(Failure::of("cannot prepare to make processes"))?;
    let cwd = std::env::current_dir().map_err(Failure::of("cannot find the current directory"))?;
    settings.source_options.pattern_cwd = Some(pattern_directory(origin.directory(), &cwd, &settings)?);
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let own_path = std::env::current_exe().map_err(Failure::of("cannot find this program's own file"))?;
    let engine = settings.engine(&path, &own_path);
    info!(
        "*** {} *** (emperor {}, pid {})",
        if former.is_some() { "uWSGI Emperor goes on" } else { "starting uWSGI Emperor" },
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    info!("[emperor] engine of the vassals: {engine}");
    if settings.list_monitors {
        let schemes: Vec<_> = SCHEMES.iter().map(|scheme| format!("{scheme}://")).collect();
        info!("imperial monitors: {}", schemes.join(" "));
    }
    let itself = Itself {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        cwd: cwd.display().to_string(),
        tyrant: settings.policy.tyrant,
        minified: settings.stats_minified,
    };
    let keeps = is_kept(&settings);
    let launch = Launch {
        engine,
        templates: settings.templates,
        environment: Environment::new(std::env::vars_os()),
        path,
        places: Vec::new(),
        vassals_dir: Text::from(cwd.as_os_str()),
        safe_fds: settings.safe_fds,
        die_together: settings.die_together.unwrap_or(!keeps),
        check_reload: settings.check_reload,
        confinement: settings.confinement,
        policy: settings.jail_policy,
        beside: settings.beside,
        on_demand: settings.on_demand,
        offered: settings.offered,
        groups: GroupRules {
            policy: settings.resources,
            families: settings.policy.broodlord > 0,
            freezes: settings.policy.idle_freeze.is_some(),
            tree: GroupRules::tree_of(&settings.sources, &cwd),
        },
        runtime: RuntimeDir::choose(
            settings.runtime_dir.map(|dir| cwd.join(dir)),
            |name| std::env::var_os(name),
            nix::unistd::geteuid().is_root(),
        ),
    };
    let here = std::env::current_dir().map_err(Failure::of("cannot find the current directory"))?;
    let accession = Accession {
        sources: settings.sources,
        cwd,
        source_options: settings.source_options,
        policy: settings.policy,
        launch,
        spawner,
        stats: settings.stats,
        stats_full: settings.stats_full,
        stats_posts: settings.stats_posts,
        control: settings.control.within(&here),
        itself,
        first_process: std::process::id() == 1,
        superior,
        origin,
        keeps,
        edicts: Edicts::of(config),
        descriptor_limit: limit.map(|limit| (limit.soft, limit.hard)),
        heritage,
    };
    let at_start = settings.at_start;
    let begun = |last_source: &Path| {
        if former.is_none() {
            standing.ready()?;
            // As in uWSGI, in the directory of the last source; one that is not there yet is no reason to stop.
            let _ = std::env::set_current_dir(last_source);
            run_hooks(&at_start, "emperor-start")?;
            let _ = std::env::set_current_dir(&here);
        }
        Ok(standing.record())
    };
    let ended = reign::reign(accession, begun);
    if ended.is_ok() {
        info!("The Emperor is buried.");
    }
    standing.leave();
    ended.map(|()| 0).map_err(Failure::new)
}

/// Where programs are searched when the environment does not say. As execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Where patterns are meant from, and their vassals start: as in uWSGI where the emperor was started, whatever
/// `chdir` says, or where `force-cwd` says. Never a place that nothing could start in.
fn pattern_directory(start: &Path, cwd: &Path, settings: &Settings) -> Result<PathBuf, Failure> {
    let wanted = match &settings.source_options.pattern_cwd {
        Some(forced) => start.join(forced),
        None => start.to_owned(),
    };
    if wanted == cwd {
        return Ok(wanted);
    }
    // Whether it can be entered depends on more than its mode, so it is entered.
    let entered = std::env::set_current_dir(&wanted);
    std::env::set_current_dir(cwd).map_err(Failure::of("cannot go back to the current directory"))?;
    let Err(error) = entered else { return Ok(wanted) };
    let is_directory =
        |source: &OsString| source.as_encoded_bytes().starts_with(b"dir://") || cwd.join(source).is_dir();
    if settings.process.chroot.is_none() && !settings.sources.iter().all(is_directory) {
        warn!(
            "[emperor] patterns are meant from {} and not from {}, which cannot be entered ({error}): set \
             force-cwd, or start the emperor where its user may be",
            cwd.display(),
            wanted.display()
        );
    }
    Ok(cwd.to_owned())
}

/// Whether the service manager is to keep what the next emperor needs to govern our vassals.
fn is_kept(settings: &Settings) -> bool {
    let (listens, room) = systemd::keeps();
    let in_vain = match settings.die_together {
        Some(true) => Some("emperor-die-together has vassals killed"),
        _ if !listens => Some("there is no service manager (NOTIFY_SOCKET)"),
        _ => None,
    };
    match (settings.fd_store, in_vain) {
        (Some(true), Some(why)) => {
            warn!("emperor-fd-store is ignored: {why}");
            false
        }
        (_, Some(_)) => false,
        (wanted, None) => wanted.unwrap_or(room.is_some_and(|room| room > 0)),
    }
}

/// Raises our limit of descriptors as far as it goes; vassals get the one that was in force.
fn raise_descriptor_limit() -> Option<DescriptorLimit> {
    let before = DescriptorLimit::get().ok()?;
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let raised = most.unwrap_or(before.hard).min(MANY_DESCRIPTORS).max(before.hard);
    [raised, before.hard]
        .into_iter()
        .filter(|limit| *limit > before.soft)
        .find(|limit| DescriptorLimit { soft: *limit, hard: *limit }.set().is_ok())
        .map(|_| before)
}

/// Enough for half a million vassals.
const MANY_DESCRIPTORS: u64 = 1 << 20;

fn warn_of_strange_options(config: &Config) {
    let vassals_own = |pair: &Pair, name: &str| {
        warn!(
            "{}: `{name}` means nothing to the emperor itself; it belongs into a vassal's file",
            pair.origin()
        );
    };
    for (option, pair) in config.not_handled() {
        vassals_own(pair, option.name);
    }
    for (pair, nearest) in config.unknown() {
        let key = config::lossy(pair.key());
        match nearest {
            _ if options::find(pair.key()).is_some() => vassals_own(pair, &key), // of a plugin that is not loaded
            Some(option) => warn!("{}: `{key}` is no known option; `{}` is", pair.origin(), option.name),
            None => warn!("{}: `{key}` is no known option", pair.origin()),
        }
    }
}

/// What the reading said. A reader that has gone wants none of it.
fn say(stdout: &[u8], log: &[u8]) {
    let _ = std::io::stdout().write_all(stdout);
    let _ = std::io::stderr().write_all(log);
}
