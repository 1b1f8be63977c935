//! `emperor vassal OPTIONS…`: one application without an emperor, for a unit of its own.
//!
//! Whoever runs it is the vassal's administrator. uWSGI is executed where it is installed, with these very arguments,
//! descriptors and environment; what the file asks of an emperor (`command`, `sandbox` …) is done by the launcher in
//! this same process, so that the service manager's readiness, watchdog and sockets are the program's.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::Failure;
use crate::config::Machine;
use crate::emperor::hands::agree::{self, Answer};
use crate::emperor::hands::command::Engine;
use crate::emperor::survival::inherited_sockets;
use crate::emperor::systemd;
use crate::sys::fds;
use crate::vassal::engine;
use crate::vassal::keeper;
use crate::vassal::link::PLAN_FD;
use crate::vassal::passing::Passing;
use crate::vassal::plan::scene::Bind;
use crate::vassal::plan::{Exec, LaunchPlan, Text, VassalOrder};
use crate::vassal::socket::Address;
use crate::vassal::terms::sockets::{SocketTerms, SystemNames};
use crate::vassal::terms::view::Around;
use crate::vassal::terms::{self, LifeTerms, Terms, cgroup::ResourceTerms};

/// Becomes the vassal. Returns only with the built-in engine's status, or with what is in the way.
///
/// # Errors
/// What the configuration asks for cannot be had, or no program can be executed.
pub(super) fn main(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    if arguments.is_empty() {
        // Nobody may be there to read it; the status remains.
        let _ = writeln!(
            io::stderr(),
            "emperor: `emperor vassal --ini FILE` is wanted: which file describes the vassal"
        );
        return Ok(ExitCode::from(USAGE));
    }
    let words: Vec<_> = arguments.iter().map(|word| word.as_bytes().to_vec()).collect();
    let environment: Vec<_> =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let here = std::env::current_dir().map_err(Failure::of("cannot find the current directory"))?;
    let terms = match agree::look(&here, None, &words, &environment, None, &SystemNames) {
        Answer::Nothing | Answer::NothingNow => Terms::default(),
        Answer::Terms(terms) => *terms,
        Answer::Refused(why) => return Err(refused(why)),
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let own = std::env::current_exe().map_err(Failure::of("cannot find this program's own file"))?;
    let engine = match Engine::choose(None, None, &path, &own) {
        Engine::Uwsgi(found) if found == own => Engine::Builtin(own), // a link called uwsgi that leads to us
        engine => engine,
    };
    if !terms.is_nothing() {
        return Err(launch(&terms, &engine, arguments, &here));
    }
    match &engine {
        Engine::Builtin(_) => {
            let world = Machine::new().allow_commands(true).allow_network(true);
            let passed = inherited_sockets().into_iter().map(|(_, fd)| fd).collect();
            Ok(engine::main(arguments, &world, None, passed, systemd::tell_ready))
        }
        engine => {
            // Descriptors and LISTEN_PID stay true: it is the same process.
            let error = Command::new(engine.program()).args(arguments).exec();
            Err(refused(format!("cannot execute {engine}: {error}")))
        }
    }
}

/// Status of a command line that says too little.
const USAGE: u8 = 2;

/// As execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(Refused(why.into()))
}

/// Has the launcher, in this process, do what the file asks for. Comes back only if that cannot begin.
fn launch(terms: &Terms, engine: &Engine, arguments: &[OsString], here: &Path) -> Failure {
    let prepared = prepare(terms, engine, arguments, here);
    let (plan, _sockets) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return failure,
    };
    let begin = || -> io::Result<()> {
        let sealed = plan.seal()?;
        let placed = fds::move_to(sealed, PLAN_FD)?;
        if plan.needs_pid_namespace() {
            keeper::leave_behind()?;
        }
        fds::pass_on(placed.as_raw_fd(), true)?;
        Err(Command::new("/proc/self/exe").arg0("emperor").args(["vassal", "--plan"]).exec())
    };
    match begin() {
        Err(error) => Failure::of("cannot execute the launcher")(error),
        Ok(()) => refused("the launcher was not executed"),
    }
}

fn prepare(
    terms: &Terms,
    engine: &Engine,
    arguments: &[OsString],
    here: &Path,
) -> Result<(LaunchPlan, Vec<OwnedFd>), Failure> {
    let tell = |line: &str| {
        // Nobody may be there to read it.
        let _ = writeln!(io::stderr(), "emperor: {line}");
    };
    terms.left_out.iter().for_each(|line| tell(line));
    if terms.resources != ResourceTerms::default() {
        tell("memory-max, tasks-max and their like need an emperor: in a unit, say MemoryMax=, TasksMax= …");
    }
    if terms.life != LifeTerms::default() {
        tell("stop-signal, ready-check and their like need an emperor: in a unit, say KillSignal=, Type= …");
    }
    let (sockets, kept) = sockets(&terms.sockets.in_directory(here))?;
    let text = |word: &OsString| Text::from(word.as_os_str());
    let mut environment: Vec<(Text, Text)> = std::env::vars_os()
        .filter(|(name, _)| !LISTEN_VARIABLES.iter().any(|it| name == it))
        .map(|(name, value)| (Text::from(name.as_os_str()), Text::from(value.as_os_str())))
        .collect();
    let exec = match &terms.program {
        Some(program) => {
            let program = program.placed(&sockets.0).map_err(refused)?;
            environment = terms::changed(environment, &program.environment);
            let mut words = program.words.into_iter();
            Exec { programs: words.next().into_iter().collect(), args: words.collect(), magic: None }
        }
        None => Exec {
            programs: vec![Text::from(engine.program().as_os_str())],
            args: arguments.iter().map(text).collect(),
            magic: None,
        },
    };
    let file = described_by(arguments).map(|file| here.join(file)).unwrap_or_default();
    let directory = file.parent().unwrap_or(here);
    let order = VassalOrder {
        reaper: false, // the service manager ends what is left
        end_after: None,
        name: Text::from(file.file_name().unwrap_or(OsStr::new("vassal"))),
        directory: None,
        namespaces: Default::default(),
        capabilities: None,
        tyrant: None,
        die_with_emperor: false,
        environment,
        start_hook: None,
        hooks: Vec::new(),
        sockets: sockets.1,
        exec,
        identity: terms.identity.clone(),
        groups: terms.groups.clone(),
        privileges: terms.privileges.clone(),
        view: terms.view.clone(),
        around: Around {
            directory: Text::from(directory.as_os_str()),
            file: Text::from(file.as_os_str()),
            needs: needs(terms, engine),
            ..Around::default()
        },
        phases: terms.phases.clone(),
        is_command: terms.program.is_some(),
        own_session: false,
        log: terms.program.as_ref().and_then(|program| program.log.clone()),
        config_pipe: false,
        safe_fds: Vec::new(),
    };
    Ok((LaunchPlan { alone: true, ..order.plan() }, kept))
}

/// What must be there in any view: the engine, and where the service manager is told that it is ready.
fn needs(terms: &Terms, engine: &Engine) -> Vec<Bind> {
    let engine = Some(engine.program()).filter(|path| terms.program.is_none() && path.is_absolute());
    let engine = engine.filter(|path| !path.starts_with("/usr")).map(Path::to_owned);
    let manager = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from).filter(|path| path.is_absolute());
    let bind = |path: PathBuf| Bind { source: Text::from(path), read_only: true, opened_as: None };
    engine.into_iter().chain(manager).map(bind).collect()
}

/// The file that the arguments name, for people.
fn described_by(arguments: &[OsString]) -> Option<PathBuf> {
    arguments.iter().map(PathBuf::from).find(|word| word.extension().is_some() && word.is_file())
}

const LISTEN_VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The sockets of the file, in its order: bound here, or the service manager's where it has bound the address; then
/// what the manager passes besides.
type Sockets = ((SocketTerms, Option<Passing>), Vec<OwnedFd>);

fn sockets(terms: &SocketTerms) -> Result<Sockets, Failure> {
    let mut passed = inherited_sockets();
    let (mut kept, mut numbers, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    let number = |fd: OwnedFd, kept: &mut Vec<OwnedFd>| -> Result<RawFd, Failure> {
        let fd = fds::move_above(fd, FREE).map_err(Failure::of("cannot pass a socket on"))?;
        fds::pass_on(fd.as_raw_fd(), true).map_err(Failure::of("cannot pass a socket on"))?;
        let number = fd.as_raw_fd();
        kept.push(fd);
        Ok(number)
    };
    for term in terms.sockets() {
        let there = passed.iter().position(|(_, fd)| Address::of(fd).as_ref() == Some(&term.address));
        let (fd, address) = match there {
            Some(at) => (passed.remove(at).1, None),
            None => {
                let listener = term.address.bind_in(&term.manner, None);
                let listener = listener
                    .map_err(|error| refused(format!("{} = {}: {error}", term.name, term.address)))?;
                let address = listener.tcp_address();
                if let Some(file) = listener.file {
                    // It stays for the program that is to be executed.
                    std::mem::forget(file);
                }
                (listener.socket, address)
            }
        };
        numbers.push(number(fd, &mut kept)?);
        addresses.push(address);
    }
    let terms = terms.clone().bound_at(addresses);
    let mut passing = terms.passing(numbers);
    for (name, fd) in passed {
        passing.addresses.push(Address::of(&fd).map_or_else(|| "?".into(), |address| address.to_string()));
        passing.names.push(name);
        passing.numbers.push(number(fd, &mut kept)?);
    }
    let passing = (!passing.numbers.is_empty()).then_some(passing);
    Ok(((terms, passing), kept))
}

/// Above the numbers that the launcher knows.
const FREE: RawFd = 16;
