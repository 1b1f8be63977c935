//! What a vassal is started with: the programs to try, their arguments, the environment.
//!
//! Pure: options and a name in, byte strings out. Order and content are those of uWSGI's Emperor
//! (measured on 2.0.21); each deliberate difference is in `docs/migration.md`.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::judge;
use crate::sys::spawn::CStrings;
use crate::vassal::link::{CONFIG_FD, CONFIG_FD_VARIABLE, FD_VARIABLE, LINK_FD};
use crate::vassal::plan::Text;
use crate::vassal::terms::may_ask;

/// The program that runs vassals, and by which rule it was chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Engine {
    /// `emperor-wrapper`.
    Wrapper(PathBuf),
    /// `binary-path`.
    BinaryPath(PathBuf),
    /// The real uWSGI, found in `PATH`.
    Uwsgi(PathBuf),
    /// Our own small server of static files: no uWSGI is installed.
    Builtin(PathBuf),
}

impl Engine {
    /// Chooses: `emperor-wrapper`, else `binary-path`, else uWSGI in `PATH`, else the built-in engine of the
    /// program at `own_path`.
    #[must_use]
    pub fn choose(
        wrapper: Option<&OsStr>,
        binary_path: Option<&OsStr>,
        path: &OsStr,
        own_path: &Path,
    ) -> Self {
        if let Some(wrapper) = wrapper {
            return Self::Wrapper(wrapper.into());
        }
        if let Some(binary) = binary_path {
            return Self::BinaryPath(binary.into());
        }
        let found =
            ["uwsgi", "uwsgi-core"].iter().find_map(|name| search(OsStr::new(name), path).into_iter().next());
        found.map_or_else(
            || Self::Builtin(own_path.into()),
            |found| Self::Uwsgi(found.canonicalize().unwrap_or(found)),
        )
    }

    /// The program's path, or its name to be searched in `PATH`.
    #[must_use]
    pub fn program(&self) -> &Path {
        match self {
            Self::Wrapper(path) | Self::BinaryPath(path) | Self::Uwsgi(path) | Self::Builtin(path) => path,
        }
    }

    /// Whether the engine reads uWSGI's configuration language, so that a file can be judged before it does.
    #[must_use]
    pub fn reads_uwsgi_files(&self) -> bool {
        matches!(self, Self::Uwsgi(_) | Self::Builtin(_))
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.program().display();
        match self {
            Self::Wrapper(_) => write!(f, "{path} (emperor-wrapper)"),
            Self::BinaryPath(_) => write!(f, "{path} (binary-path)"),
            Self::Uwsgi(_) => write!(f, "{path} (uWSGI, found in PATH)"),
            Self::Builtin(_) => {
                write!(f, "{path} (the built-in engine, for static files only: no uWSGI is installed)")
            }
        }
    }
}

/// Executable files of this name in the directories of `path`, a list separated by colons; a name with a `/`
/// is itself. As execvp(3) looks for them.
#[must_use]
pub fn search(name: &OsStr, path: &OsStr) -> Vec<PathBuf> {
    let executable =
        |file: &PathBuf| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file();
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(executable).into_iter().collect();
    }
    std::env::split_paths(path)
        .map(|dir| if dir.as_os_str().is_empty() { Path::new(".").join(name) } else { dir.join(name) })
        .filter(executable)
        .collect()
}

/// The options that shape each vassal's command line.
#[derive(Clone, Debug, Default)]
pub struct Templates {
    /// `vassals-inherit-before`.
    pub inherit_before: Vec<OsString>,
    /// `vassals-include-before`.
    pub include_before: Vec<OsString>,
    /// `vassal-set`.
    pub set: Vec<OsString>,
    /// `vassals-inherit`.
    pub inherit: Vec<OsString>,
    /// `vassals-include`.
    pub include: Vec<OsString>,
    /// `emperor-extra-extension`.
    pub extra_extensions: Vec<Vec<u8>>,
    /// `emperor-wrapper-override`.
    pub overrides: Vec<OsString>,
    /// `emperor-wrapper-fallback`.
    pub fallbacks: Vec<OsString>,
}

/// What a vassal's configuration argument is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject<'a> {
    /// The file of this name.
    File(&'a [u8]),
    /// The section `zerg` of the file of this name.
    Zerg(&'a [u8]),
    /// What comes through the config pipe, under this name.
    Sent(&'a [u8]),
    /// The section `zerg` of that.
    SentZerg(&'a [u8]),
}

impl Subject<'_> {
    /// The same with the whole of what it is a section of.
    pub(super) fn of_base(self) -> Self {
        match self {
            Self::Zerg(name) => Self::File(name),
            Self::SentZerg(name) => Self::Sent(name),
            whole => whole,
        }
    }
}

impl Templates {
    /// The arguments behind the program's name.
    #[must_use]
    pub fn arguments(&self, subject: Subject<'_>) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut add = |option: &[u8], values: &[OsString]| {
            for value in values {
                out.push(option.to_vec());
                out.push(value.as_bytes().to_vec());
            }
        };
        add(b"--inherit", &self.inherit_before);
        add(b"--include", &self.include_before);
        add(b"--set", &self.set);
        let (name, argument) = match subject {
            Subject::File(name) => (name, name.to_vec()),
            Subject::Zerg(name) => (name, [name, b":zerg"].concat()),
            Subject::Sent(name) => (name, [b"emperor://", name].concat()),
            Subject::SentZerg(name) => (name, [b"emperor://", name, b":zerg"].concat()),
        };
        add(self.loader(name), &[OsString::from_vec(argument)]);
        add(b"--inherit", &self.inherit);
        add(b"--include", &self.include);
        out
    }

    /// The option that loads a file of this name.
    fn loader(&self, name: &[u8]) -> &'static [u8] {
        const LOADERS: [(&[u8], &[u8]); 6] = [
            (b".xml", b"--xml"),
            (b".ini", b"--ini"),
            (b".yml", b"--yaml"),
            (b".yaml", b"--yaml"),
            (b".js", b"--json"),
            (b".json", b"--json"),
        ];
        if self.extra_extensions.iter().any(|extension| name.ends_with(extension)) {
            return b"--config";
        }
        LOADERS.iter().find(|(suffix, _)| name.ends_with(suffix)).map_or(b"--inherit", |(_, option)| option)
    }

    /// The programs to try for a vassal, in order, each with the whole of its arguments.
    #[must_use]
    pub fn commands(&self, engine: &Engine, arguments: &[Vec<u8>], path: &OsStr) -> Vec<Command> {
        let command = |program: &OsStr| {
            let all = std::iter::once(program.as_bytes().to_vec()).chain(arguments.iter().cloned());
            Command { files: search(program, path), arguments: all.collect() }
        };
        let overrides = self.overrides.iter().map(OsString::as_os_str);
        let fallbacks = self.fallbacks.iter().map(OsString::as_os_str);
        overrides.chain([engine.program().as_os_str()]).chain(fallbacks).map(command).collect()
    }
}

/// One program to try.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command {
    /// Where it may be; none when it is nowhere in `PATH`.
    pub files: Vec<PathBuf>,
    /// Its arguments, its name first.
    pub arguments: Vec<Vec<u8>>,
}

/// Makes a list of C strings; strings with a NUL, which no argument and no variable can have, are left out.
#[must_use]
pub fn c_strings(strings: impl IntoIterator<Item = Vec<u8>>) -> CStrings {
    CStrings::new(strings.into_iter().filter_map(|bytes| CString::new(bytes).ok()).collect())
}

/// What each vassal's environment is made of.
#[derive(Clone, Debug)]
pub struct Environment {
    base: Vec<Vec<u8>>,
    may_ask: bool,
}

/// Variables of the emperor's own that no vassal gets.
const OURS: [&[u8]; 12] = [
    b"UWSGI_RELOADS",
    b"UWSGI_EMPEROR_FD",
    b"UWSGI_EMPEROR_FD_CONFIG",
    b"UWSGI_BROODLORD_NUM",
    b"NOTIFY_SOCKET",
    b"WATCHDOG_USEC",
    b"WATCHDOG_PID",
    b"LISTEN_FDS",
    b"LISTEN_PID",
    b"LISTEN_FDNAMES",
    b"UWSGI_VASSAL_SET",
    b"UWSGI_VASSAL_CAP",
];

impl Environment {
    /// Derives the vassals' environment from the emperor's: without what concerns the emperor alone, and with
    /// `UWSGI_X` for each `UWSGI_VASSAL_X`.
    #[must_use]
    pub fn new(emperor: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut base = Vec::new();
        for (name, value) in emperor {
            let (name, value) = (name.into_vec(), value.into_vec());
            if OURS.contains(&name.as_slice())
                || name == b"UWSGI_EMPEROR"
                || [&b"UWSGI_EMPEROR_"[..], b"UWSGI_VASSALS_"].iter().any(|prefix| name.starts_with(prefix))
            {
                continue;
            }
            let name = match name.strip_prefix(b"UWSGI_VASSAL_") {
                Some(rest) if !rest.starts_with(b"SOS") => [b"UWSGI_", rest].concat(), // vassal-sos is an option
                _ => name,
            };
            base.push([&name[..], b"=", &value].concat());
        }
        let option = |entry: &Vec<u8>| {
            let name = entry.strip_prefix(b"UWSGI_")?.split(|byte| *byte == b'=').next()?;
            Some(
                name.iter()
                    .map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() })
                    .collect(),
            )
        };
        let may_ask = base.iter().filter_map(option).any(|name: Vec<u8>| may_ask(&name));
        base.push(format!("{FD_VARIABLE}={LINK_FD}").into_bytes());
        Self { base, may_ask }
    }

    /// The same, for a plan.
    #[must_use]
    pub fn pairs(&self, config: bool, zerg: Option<u32>) -> Vec<(Text, Text)> {
        let entries = self.of(config, zerg).into_iter().map(|entry| judge::pair(&entry));
        entries.map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// Whether a variable asks the emperor for something on behalf of every vassal.
    #[must_use]
    pub fn may_ask(&self) -> bool {
        self.may_ask
    }

    /// The environment of a vassal: `config` if it gets its configuration through a pipe, `zerg` with its number
    /// if it is a reinforcement.
    #[must_use]
    pub fn of(&self, config: bool, zerg: Option<u32>) -> Vec<Vec<u8>> {
        let config = config.then(|| format!("{CONFIG_FD_VARIABLE}={CONFIG_FD}").into_bytes());
        let zerg = zerg.map(|number| format!("UWSGI_BROODLORD_NUM={number}").into_bytes());
        self.base.iter().cloned().chain(config).chain(zerg).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(arguments: &[Vec<u8>]) -> String {
        arguments
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn all() -> Templates {
        let list = |item: &str| vec![OsString::from(item)];
        Templates {
            inherit_before: list("/b.ini"),
            include_before: list("/c.ini"),
            set: list("a=b"),
            inherit: list("/d.ini"),
            include: list("/e.ini"),
            ..Templates::default()
        }
    }

    #[test]
    fn parity_arguments_come_in_uwsgis_order() {
        assert_eq!(
            text(&all().arguments(Subject::File(b"one.ini"))),
            "--inherit /b.ini --include /c.ini --set a=b --ini one.ini --inherit /d.ini --include /e.ini"
        );
    }

    #[test]
    fn parity_the_loader_follows_the_end_of_the_name() {
        let templates =
            Templates { extra_extensions: vec![b"conf".into(), b"l.json".into()], ..Default::default() };
        let loader = |name: &str| text(&templates.arguments(Subject::File(name.as_bytes())));
        assert_eq!(loader("a.yml"), "--yaml a.yml");
        assert_eq!(loader("a.js"), "--json a.js");
        assert_eq!(loader("a.conf"), "--config a.conf");
        assert_eq!(loader("al.json"), "--config al.json");
        assert_eq!(text(&templates.arguments(Subject::Zerg(b"a.xml"))), "--xml a.xml:zerg");
        assert_eq!(text(&templates.arguments(Subject::Sent(b"a.yml"))), "--yaml emperor://a.yml");
        assert_eq!(text(&templates.arguments(Subject::SentZerg(b"a.ini"))), "--ini emperor://a.ini:zerg");
    }

    #[test]
    fn a_vassals_variable_loses_the_word_vassal_and_the_emperors_own_stay_at_home() {
        let pairs = [
            ("PATH", "/bin"),
            ("UWSGI_VASSAL_PROCESSES", "2"),
            ("UWSGI_VASSAL_SET", "a=b"),
            ("UWSGI_EMPEROR", "/srv"),
            ("UWSGI_FOO", "x"),
            ("NOTIFY_SOCKET", "/run/n"),
        ];
        let environment = Environment::new(pairs.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(
            text(&environment.of(false, None)),
            "PATH=/bin UWSGI_PROCESSES=2 UWSGI_FOO=x UWSGI_EMPEROR_FD=3"
        );
        assert!(
            text(&environment.of(true, Some(4))).ends_with("UWSGI_EMPEROR_FD_CONFIG=5 UWSGI_BROODLORD_NUM=4")
        );
    }

    #[test]
    fn overrides_come_first_and_fallbacks_last_each_under_its_own_name() {
        let templates = Templates { overrides: vec!["/o".into()], fallbacks: vec!["/f".into()], ..all() };
        let commands =
            templates.commands(&Engine::Wrapper("/w".into()), &[b"--ini".to_vec()], OsStr::new(""));
        let names: Vec<_> = commands.iter().map(|command| text(&command.arguments)).collect();
        assert_eq!(names, ["/o --ini", "/w --ini", "/f --ini"]);
    }
}
