//! `command`: a program of any kind as a vassal, with its environment and its log.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::sockets::{self, SocketTerms, place};
use super::{Asked, TermsError, zerg};
use crate::config::options::{HandledBy, Kind, Opt};
use crate::config::{Got, lossy};
use crate::vassal::plan::Text;

/// The program of a vassal that is not run by the emperor's engine.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its name, searched in PATH, and its arguments.
    pub words: Vec<Text>,
    /// `env`, `unenv`, in their order: a value, or none for a variable that is taken away.
    pub environment: Vec<(Text, Option<Text>)>,
    /// `logto`, `logto2`: where its standard output and standard error go.
    pub log: Option<Text>,
}

/// Most words of a command, and most variables.
const MOST_WORDS: usize = 1024;

/// Options whose loss a person would not expect, and what to do instead.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &[
            "attach-daemon",
            "attach-control-daemon",
            "smart-attach-daemon",
            "smart-attach-daemon2",
            "attach-daemon2",
            "legion-attach-daemon",
            "legion-smart-attach-daemon",
            "legion-smart-attach-daemon2",
        ],
        "a command vassal runs one program: make the daemon a vassal of its own",
    ),
    (
        &["cron", "cron2", "unique-cron", "legion-cron", "cron-harakiri", "unique-legion-cron"],
        "a command vassal has no clock: use cron or a timer of the service manager, or a uWSGI vassal",
    ),
    (&["spooler", "spooler-external", "mule", "mules", "farm"], "only uWSGI itself has it"),
    (&["daemonize", "daemonize2"], "the program must stay where it was started; `logto` names its log"),
    (&["emperor"], "an emperor below this one runs `command = emperor --ini FILE`"),
    (
        &[
            "privileged-binary-patch",
            "privileged-binary-patch-arg",
            "unprivileged-binary-patch",
            "unprivileged-binary-patch-arg",
        ],
        "`command` says already what is run",
    ),
    (
        &["wait-for-fs", "wait-for-mountpoint", "wait-for-interface", "wait-for-socket"],
        "a command vassal waits for nothing: wait in `exec-asap = COMMAND`, or have the emperor's unit wait \
         (RequiresMountsFor=, After=)",
    ),
];

/// What is read for a command vassal, besides sockets, hooks and our own options.
const HONOURED: &[&str] = &[
    "add-gid",
    "cap",
    "cgroup",
    "cgroup-dir-mode",
    "cgroup-opt",
    "chdir",
    "chdir2",
    "chroot",
    "cpu-affinity",
    "env",
    "gid",
    "idle",
    "limit-as",
    "limit-nproc",
    "logto",
    "logto2",
    "max-fd",
    "namespace",
    "namespace-keep-mount",
    "namespace-net",
    "no-initgroups",
    "pivot-root",
    "prio",
    "safe-fd",
    "setns",
    "strict",
    "uid",
    "umask",
    "unenv",
    "unshare",
    "unshare2",
];
/// The moments of a launch whose hooks are run for a command vassal.
const PHASES: &[&str] = &["asap", "pre-jail", "post-jail", "in-jail", "as-root", "as-user"];

impl Program {
    /// The program that `command` names; `None` without it.
    ///
    /// # Errors
    /// [`TermsError`]: words that do not end, too many of them, and options that a command vassal cannot have.
    pub fn read(asked: Asked<'_>) -> Result<Option<Self>, TermsError> {
        let Some(command) = asked.value("command") else { return Ok(None) };
        let words: Vec<Text> = shlex::bytes::split(command.value)
            .map(|words| words.iter().map(|word| text(word)).collect())
            .filter(|words: &Vec<Text>| !words.is_empty() && !words[0].as_bytes().is_empty())
            .ok_or_else(|| TermsError::new(&command, "command", "a quotation mark is not closed"))?;
        if words.len() > MOST_WORDS {
            return Err(TermsError::new(&command, "command", format!("more than {MOST_WORDS} words")));
        }
        for (option, pair) in asked.0.applied() {
            let name = option.canonical().name;
            if let Some((_, instead)) = REFUSED.iter().find(|(names, _)| names.contains(&name)) {
                let got = Got { value: pair.value().unwrap_or_default(), origin: pair.origin() };
                return Err(TermsError::new(&got, option.name, instead));
            }
        }
        Ok(Some(Self { words, environment: environment(asked), log: log(asked) }))
    }

    /// The same with the numbers and addresses of sockets in the places that ask for them.
    ///
    /// # Errors
    /// A place that means nothing.
    pub fn placed(&self, sockets: &SocketTerms) -> Result<Self, String> {
        let value =
            |value: &Text| place(std::slice::from_ref(value), sockets).map(|mut words| words.remove(0));
        let entry =
            |(name, text): &(Text, Option<Text>)| Ok((name.clone(), text.as_ref().map(value).transpose()?));
        let environment = self.environment.iter().map(entry).collect::<Result<_, String>>()?;
        Ok(Self { words: place(&self.words, sockets)?, environment, log: self.log.clone() })
    }

    /// What the file says and nobody does, in one line each.
    #[must_use]
    pub fn left_out(asked: Asked<'_>) -> Vec<String> {
        let ignored = asked.0.applied().filter(|(option, _)| !is_honoured(option.canonical()));
        let line = |(option, pair): (&Opt, &crate::config::Pair)| {
            let instead = match option.canonical().name {
                "udp" => ": what is held here are listening streams; let the program bind it",
                _ => "",
            };
            format!("{}: {} means nothing to `command`, and is left out{instead}", pair.origin(), option.name)
        };
        ignored.map(line).collect()
    }
}

fn is_honoured(option: &Opt) -> bool {
    let in_phase =
        |prefix: &str| option.name.strip_prefix(prefix).is_some_and(|phase| PHASES.contains(&phase));
    option.is_ours()
        || option.handled_by == HandledBy::Language
        || matches!(option.kind, Kind::Socket | Kind::SocketTls | Kind::SharedSocket)
        || HONOURED.contains(&option.name)
        || sockets::HONOURED.contains(&option.name)
        || zerg::HONOURED.contains(&option.name)
        || ["hook-", "mount-", "umount-", "exec-"].iter().any(|prefix| in_phase(prefix))
}

/// As uWSGI sets and unsets them, in the order of the configuration.
fn environment(asked: Asked<'_>) -> Vec<(Text, Option<Text>)> {
    let mut changes = Vec::new();
    for (option, pair) in asked.0.applied() {
        let Some(value) = pair.value() else { continue };
        match option.canonical().name {
            "env" => {
                let at = value.iter().position(|byte| *byte == b'=').unwrap_or(value.len());
                changes.push((text(&value[..at]), Some(text(value.get(at + 1..).unwrap_or_default()))));
            }
            "unenv" => changes.push((text(value), None)),
            _ => {}
        }
    }
    changes.truncate(MOST_WORDS);
    changes
}

fn log(asked: Asked<'_>) -> Option<Text> {
    asked.text("logto2").or_else(|| asked.text("logto"))
}

fn text(bytes: &[u8]) -> Text {
    Text::from(OsStr::from_bytes(bytes))
}

/// The changes of `env` and `unenv` made to an environment.
#[must_use]
pub fn changed(mut variables: Vec<(Text, Text)>, changes: &[(Text, Option<Text>)]) -> Vec<(Text, Text)> {
    for (name, value) in changes {
        variables.retain(|(known, _)| known != name);
        variables.extend(value.clone().map(|value| (name.clone(), value)));
    }
    variables
}

/// How a command is shown.
#[must_use]
pub fn shown(words: &[Text]) -> String {
    let quoted = shlex::bytes::Quoter::new().allow_nul(true);
    let words = words.iter().map(Text::as_bytes);
    quoted.join(words).map_or_else(|_| String::new(), |line| lossy(&line))
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn read(lines: &str) -> Result<Option<Program>, String> {
        Program::read(Asked(&config(lines))).map_err(|error| error.to_string())
    }

    #[test]
    fn words_are_split_as_a_shell_does_and_none_is_run() {
        let program = read("command = gunicorn -b 'a b' \"c d\" $(x); e\\ f\n").unwrap().unwrap();
        assert_eq!(program.words, ["gunicorn", "-b", "a b", "c d", "$(x);", "e f"].map(Text::from));
        assert!(read("command = a 'b\n").unwrap_err().ends_with("command: a quotation mark is not closed"));
        assert_eq!(read("master = true\n").unwrap(), None);
    }

    #[test]
    fn what_a_command_cannot_have_is_refused_by_name_and_the_rest_is_told() {
        let refused = read("command = a\ncron = -1 -1 -1 -1 -1 /bin/true\n").unwrap_err();
        assert!(refused.contains(":3: cron: a command vassal has no clock"), "{refused}");
        for wait in
            ["wait-for-fs = /x", "wait-for-dir = /x", "wait-for-interface = eth0", "wait-for-socket = :1"]
        {
            let refused = read(&format!("command = a\n{wait}\n")).unwrap_err();
            let name = wait.split_once(' ').unwrap().0;
            assert!(
                refused.contains(&format!(":3: {name}: a command vassal waits for nothing")),
                "{refused}"
            );
        }
        let lines = "command = a\nprocesses = 2\nchdir = /\nhttp-socket = :80\nhook-as-user = print:x\n";
        let told = Program::left_out(Asked(&config(lines)));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].ends_with(":3: processes means nothing to `command`, and is left out"), "{told:?}");
    }

    #[test]
    fn variables_are_set_and_taken_away_in_the_order_of_the_file() {
        let program = read("command = a\nenv = A=1\nunenv = B\nenv = A=2=3\n").unwrap().unwrap();
        let before = vec![("B".into(), "x".into()), ("C".into(), "y".into())];
        let after = changed(before, &program.environment);
        assert_eq!(after, [("C", "y"), ("A", "2=3")].map(|(n, v)| (Text::from(n), Text::from(v))));
    }
}
