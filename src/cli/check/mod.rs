//! `emperor check`: what the emperor sees in a file, what is wrong with it, and what its vassal would be started with.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

mod plan;
mod sockets;

use super::Failure;
use crate::config::check::{self, Checked, Problem, Severity};
use crate::config::options::{Kind, Opt};
use crate::config::{Config, Limits, Loader, Machine, Mode, Origin, lossy, report};
use crate::emperor::forward::wish;
use crate::emperor::hands::agree::{self, Found};
use crate::emperor::hands::command::{Command, Engine, Environment, Subject};
use crate::emperor::hands::{BROKEN, judge};
use crate::emperor::settings::Settings;
use crate::sys::fds;
use crate::vassal::link::LINK_FD;
use crate::vassal::sent::ConfigPipe;
use crate::vassal::socket::Address;
use crate::vassal::terms::shown;
use crate::vassal::terms::sockets::SystemNames;
use plan::{Drawn, Place};

/// Look at configuration files as the emperor would; run and fetch nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The files of vassals, or of an emperor.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the configuration as uWSGI does, and nothing else.
    #[arg(long)]
    show_config: bool,
    /// Print the operations of its launch, one a line, and nothing else.
    #[arg(long, conflicts_with = "show_config")]
    plan: bool,
    /// Print one JSON document.
    #[arg(long, conflicts_with = "show_config")]
    json: bool,
    /// Tell step by step how the value of one option came about.
    #[arg(long, value_name = "KEY")]
    explain: Option<String>,
    /// The configuration of the emperor whose vassals they would be.
    #[arg(long, value_name = "FILE")]
    emperor: Option<PathBuf>,
    /// Take the files for vassals' even if they have an `emperor` of their own.
    #[arg(long)]
    as_vassal: bool,
    /// Read them as this user and group would, as far as the configuration can tell.
    #[arg(long, value_name = "UID[:GID]", value_parser = ids)]
    uid: Option<(u32, u32)>,
    /// Set a variable of the environment that they are read in; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Let the files run commands while they are read (`@(exec://…)`).
    #[arg(long)]
    allow_exec: bool,
    /// Let the files fetch from the network while they are read.
    #[arg(long)]
    allow_net: bool,
}

/// Nothing worse than a note was found.
const FINE: u8 = 0;
/// Something is wrong.
const PROBLEMS: u8 = 1;
/// A file could not be read.
const UNREADABLE: u8 = 2;

/// What was found in one file.
struct Seen {
    file: PathBuf,
    checked: Checked,
    launch: Option<Launch>,
    sockets: Vec<sockets::Named>,
}

/// What a vassal of this file would be started with.
struct Launch {
    engine: String,
    commands: Vec<Command>,
    environment: Vec<Vec<u8>>,
    cwd: PathBuf,
    plan: Result<Drawn, String>,
}

/// Looks at the files.
///
/// # Errors
/// The emperor's own configuration cannot be used.
pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut emperor = match &arguments.emperor {
        Some(file) => Some(emperor_of(file)?),
        None => None,
    };
    let mut status = FINE;
    let mut documents = Vec::new();
    let mut all = Vec::new();
    for file in &arguments.files {
        all.push(look(file, arguments, emperor.as_mut())?);
    }
    sockets::compare(&mut all);
    for seen in all {
        status = status.max(seen.status());
        if arguments.json {
            documents.push(seen.json());
        } else {
            print(&seen.text(arguments))?;
        }
    }
    if arguments.json {
        print(format!("{:#}\n", Value::from(documents)).as_bytes())?;
    }
    Ok(status.into())
}

/// `emperor judge ARGUMENTS…`: the look at a changed file by a process that has become its tenant.
///
/// The arguments are those its vassal was started with, in the vassal's directory and environment.
pub(super) fn judge(arguments: &[OsString]) -> ExitCode {
    use std::io::Write;
    judge::bound_this_process();
    let mut words: Vec<_> = arguments.iter().map(|word| word.as_bytes().to_vec()).collect();
    let terms = words.first().is_some_and(|word| word == b"--terms");
    let environment: Vec<_> =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    // What cannot be had is no fault of the tenant's.
    let sent = ConfigPipe::from_environment().map(|pipe| pipe.receive()).transpose();
    let Ok(sent) = sent else { return ExitCode::SUCCESS };
    if terms {
        let mut said = words.drain(..words.len().min(3)).skip(1);
        let (file, socket) = (said.next().unwrap_or_default(), said.next().unwrap_or_default());
        drop(said);
        let file = (!file.is_empty()).then(|| Path::new(OsStr::from_bytes(&file)));
        let sent = sent.as_deref();
        // Where this is, as root's own look at a file of his has it.
        let here = std::env::current_dir().unwrap_or_default();
        let socket = if socket.is_empty() { None } else { Address::parse(&socket, &here).ok() };
        let bound = socket.and_then(|socket| judge::binds(&here, &words, &environment, sent, &socket));
        let answer = agree::look(Path::new("."), file, &words, &environment, sent, &SystemNames);
        return tell(&Found { answer, bound });
    }
    if words.first().is_some_and(|word| word == b"--stats") {
        return tell(&wish::look(Path::new("."), &words[1..], &environment, sent.as_deref()));
    }
    let Some(problem) = judge::fault(Path::new("."), &words, &environment, sent.as_deref()) else {
        return ExitCode::SUCCESS;
    };
    // The emperor says which vassal; if its log cannot be written to, the status still tells.
    let _ = writeln!(std::io::stderr(), "[emperor] {}", judge::line(&problem));
    BROKEN.into()
}

/// What a look at a vassal's file has come to goes to the emperor by the descriptor that is a vassal's link.
fn tell(answer: &impl Serialize) -> ExitCode {
    let told = fds::adopt(LINK_FD).and_then(|link| {
        use std::io::Write;
        // More than there is room for is more than the emperor takes: it ends us then.
        std::fs::File::from(link).write_all(&serde_json::to_vec(answer)?)
    });
    told.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn print(text: &[u8]) -> Result<(), Failure> {
    super::print(text).map_err(Failure::of("cannot print"))
}

fn emperor_of(file: &Path) -> Result<Settings, Failure> {
    let world = Machine::new();
    let arguments = [file.as_os_str().to_owned()];
    let config = Loader::new(&world, Limits::default()).load(&arguments, &[], Mode::Emperor);
    Settings::new(&config.map_err(Failure::new)?).map_err(Failure::new)
}

fn look(file: &Path, arguments: &Arguments, emperor: Option<&mut Settings>) -> Result<Seen, Failure> {
    let (directory, name) = split(file)?;
    let mut world = Machine::new()
        .in_directory(directory.clone())
        .allow_commands(arguments.allow_exec)
        .allow_network(arguments.allow_net);
    if let Some((uid, gid)) = arguments.uid {
        world = world.as_ids(uid, gid);
    }
    let added = arguments.env.iter().map(|(name, value)| (name.into(), value.into()));
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().chain(added).collect();
    let base = Environment::new(variables.clone());
    let environment = base.of(false, None);
    let vassals: Vec<_> = environment.iter().map(|entry| judge::pair(entry)).collect();
    let loader = Loader::new(&world, Limits::default());
    let mut nobody = no_emperor(&world)?;
    let settings = emperor.unwrap_or(&mut nobody);
    let vassal = settings.templates.arguments(Subject::File(name.as_bytes()));
    let words: Vec<OsString> = vassal.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let mut checked = check::check(&loader, &words, &vassals, Mode::Vassal);
    if checked.config.has("emperor") && !arguments.as_vassal {
        let checked = check::check(&loader, std::slice::from_ref(&name), &variables, Mode::Emperor);
        return Ok(Seen { file: file.into(), checked, launch: None, sockets: Vec::new() });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own_path = std::env::current_exe().map_err(Failure::of("cannot find this program's own file"))?;
    let engine = settings.engine(&path, &own_path);
    if let Engine::Builtin(_) = engine {
        checked.problems.extend(crate::vassal::engine::objection(&checked.config));
    }
    let commands = settings.templates.commands(&engine, &vassal, &path);
    let place = Place { directory: &directory, name: &name, owner: arguments.uid };
    let drawn = plan::draw(&checked.config, &place, settings, &base, &commands);
    let sockets = sockets::look(&mut checked, &directory, arguments.uid);
    let left_out = drawn.as_ref().map_or(&[][..], |drawn| &drawn.terms.left_out);
    checked.problems.extend(left_out.iter().map(|line| Problem {
        severity: Severity::Note,
        origin: Origin::default(),
        message: line.clone(),
        remedy: None,
    }));
    let program = match &drawn {
        Ok(drawn) => drawn.terms.program.as_ref().map(|program| shown(&program.words)),
        Err(_) => checked.config.string("command").map(|words| lossy(words.value)),
    };
    let launch = Launch {
        commands: if program.is_some() { Vec::new() } else { commands },
        engine: program.map_or_else(|| engine.to_string(), |program| format!("{program} (command)")),
        plan: drawn,
        environment,
        cwd: directory,
    };
    Ok(Seen { file: file.into(), checked, launch: Some(launch), sockets })
}

fn ids(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |word: &str| word.parse().map_err(|_| format!("`{word}` is no number"));
    Ok((number(uid)?, number(gid)?))
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.into(), value.into()))
}

/// An emperor without options.
fn no_emperor(world: &Machine) -> Result<Settings, Failure> {
    let config = Loader::new(world, Limits::default()).load(&[], &[], Mode::Emperor);
    Settings::new(&config.map_err(Failure::new)?).map_err(Failure::new)
}

/// The directory that its vassal starts in, and its name there.
fn split(file: &Path) -> Result<(PathBuf, OsString), Failure> {
    let absolute = std::path::absolute(file).map_err(Failure::of("cannot find the current directory"))?;
    let directory = absolute.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    Ok((directory, absolute.file_name().map_or_else(OsString::new, OsStr::to_owned)))
}

impl Seen {
    /// Whether it cannot be started, whatever the findings say.
    fn is_refused(&self) -> bool {
        self.launch.as_ref().is_some_and(|launch| launch.plan.is_err())
    }

    fn status(&self) -> u8 {
        let refused = self.is_refused();
        let unreadable = self.checked.problems.iter().any(|problem| problem.severity == Severity::Fatal)
            && self.checked.config.pairs().len() <= 1;
        match self.checked.worst() {
            _ if unreadable => UNREADABLE,
            _ if refused => PROBLEMS,
            Some(Severity::Warning | Severity::Fatal) => PROBLEMS,
            Some(Severity::Note) | None => FINE,
        }
    }

    fn text(&self, arguments: &Arguments) -> Vec<u8> {
        if arguments.show_config {
            return self.checked.config.show();
        }
        if let Some(key) = &arguments.explain {
            return report::explanation(key, &self.checked.config.explain(key.as_bytes())).into_bytes();
        }
        if let (true, Some(launch)) = (arguments.plan, &self.launch) {
            return launch.planned(&self.file).into_bytes();
        }
        let mut out = String::new();
        let kind = if self.launch.is_some() { "vassal" } else { "emperor" };
        let _ = writeln!(out, "{}: {kind}", self.file.display());
        for (setting, place) in settings(&self.checked.config) {
            let _ = writeln!(out, "  {setting:<50}  {place}");
        }
        if let Some(launch) = &self.launch {
            launch.describe(&mut out);
        }
        match self.checked.problems.len() {
            0 if self.is_refused() => {}
            0 => out.push_str("no problems\n"),
            _ => out.push_str(&report::text(&self.checked.problems)),
        }
        out.into_bytes()
    }

    fn json(&self) -> Value {
        let options: Vec<_> = settings(&self.checked.config)
            .map(|(setting, place)| json!({"setting": setting, "place": place}))
            .collect();
        json!({
            "file": self.file.display().to_string(),
            "options": options,
            "problems": report::json(&self.checked.problems),
            "launch": self.launch.as_ref().map(Launch::json),
        })
    }
}

/// `KEY = VALUE` of each option, as it is applied, and where it stands.
fn settings(config: &Config) -> impl Iterator<Item = (String, String)> {
    config.applied().filter(|(option, _)| is_setting(option)).map(|(option, pair)| {
        let setting = match pair.value() {
            Some(value) if !value.is_empty() => format!("{} = {}", option.name, lossy(value)),
            _ => option.name.to_owned(),
        };
        (setting, pair.origin().to_string())
    })
}

/// Most of what is obeyed while the file is read, such as a loop, says how to read it and sets nothing.
fn is_setting(option: &Opt) -> bool {
    use Kind::{Group, Int, PluginList, Umask, User};
    !option.immediate || matches!(option.kind, Group | Int | PluginList | Umask | User)
}

impl Launch {
    fn planned(&self, file: &Path) -> String {
        match &self.plan {
            Ok(drawn) => {
                let by = if drawn.direct { "the emperor itself" } else { "a launcher" };
                format!("{}: {by} performs\n{}", file.display(), drawn.listed())
            }
            Err(why) => format!("{}: cannot be started: {why}\n", file.display()),
        }
    }

    fn describe(&self, out: &mut String) {
        let _ = writeln!(out, "engine  {}", self.engine);
        match &self.plan {
            Ok(drawn) if drawn.direct => {}
            Ok(drawn) => {
                let count = drawn.plan.ops.len();
                let _ = writeln!(out, "launch  {count} operations (--plan prints them)");
            }
            Err(why) => {
                let _ = writeln!(out, "launch  cannot be started: {why}");
            }
        }
        for command in &self.commands {
            let words: Vec<_> = command.arguments.iter().map(|word| quoted(&lossy(word))).collect();
            let missing = if command.files.is_empty() { "  (not found)" } else { "" };
            let _ = writeln!(out, "argv    {}{missing}", words.join(" "));
        }
        let _ = writeln!(out, "cwd     {}", self.cwd.display());
        let (own, inherited): (Vec<_>, Vec<_>) =
            self.environment.iter().partition(|entry| entry.starts_with(b"UWSGI_"));
        let own: Vec<_> = own.into_iter().map(|entry| lossy(entry)).collect();
        let _ = writeln!(out, "env     {} and {} variables of the emperor's", own.join(" "), inherited.len());
    }

    fn json(&self) -> Value {
        let text = |words: &Vec<Vec<u8>>| words.iter().map(|word| lossy(word)).collect::<Vec<_>>();
        json!({
            "engine": self.engine,
            "argv": self.commands.iter().map(|command| text(&command.arguments)).collect::<Vec<_>>(),
            "env": text(&self.environment),
            "cwd": self.cwd.display().to_string(),
            "refused": self.plan.as_ref().err(),
            "plan": self.plan.as_ref().map(|drawn| drawn.plan.ops.iter().map(ToString::to_string).collect::<Vec<_>>()).ok(),
        })
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
