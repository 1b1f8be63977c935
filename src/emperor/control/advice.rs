//! What a person can do about a vassal that is not well, from what is known of it. Plain texts.

/// What is known.
pub(super) struct Case<'a> {
    pub(super) name: &'a str,
    pub(super) file: Option<&'a str>,
    pub(super) state: &'a str,
    pub(super) is_well: bool,
    pub(super) cause: &'a str,
    /// The newest troubles first.
    pub(super) troubles: &'a [&'a str],
    pub(super) output: &'a [String],
}

/// A sign that tells a usual failure, and what to do. Where it is looked for: in what the emperor says, or also in what
/// the vassal has written.
struct Sign {
    words: &'static [&'static str],
    also_output: bool,
    advice: &'static str,
}

/// The most usual failures. The first that fits counts; what is more special stands before what is more general.
const SIGNS: &[Sign] = &[
    Sign {
        words: &["out of memory"],
        also_output: false,
        advice: "it needs more memory than it may have: raise memory-max in its file (or in emperor-policy), or have it \
                 run fewer processes",
    },
    Sign {
        words: &["refused a process", "leave no room for it"],
        also_output: false,
        advice: "it may not have so many processes: raise tasks-max in its file, or have it run fewer",
    },
    Sign {
        words: &["was not ready within"],
        also_output: false,
        advice: "it hangs while it starts, or is slow: see what it waits for (a database, a lock, the network); if it is \
                 only slow, raise start-timeout in its file",
    },
    Sign {
        words: &[
            "No module named",
            "ModuleNotFoundError",
            "ImportError",
            "Cannot find module",
            "cannot load such file",
        ],
        also_output: true,
        advice: "a module of the application is missing: install it where the application looks for it (virtualenv, \
                 pythonpath, chdir in its file)",
    },
    Sign {
        words: &["not an executable file", "cannot execute its program"],
        also_output: false,
        advice: "the program that is to run it is missing or may not be executed: install it, or mend its name in the file \
                 (command), or in the emperor's options (binary-path, emperor-wrapper)",
    },
    Sign {
        words: &["has it, choose another address"],
        also_output: false,
        advice: "two vassals name the same address: choose another one in this file or in the other",
    },
    Sign {
        words: &["Address already in use", "EADDRINUSE", "address already in use", "Errno 98"],
        also_output: true,
        advice: "another process serves this address: find it by `ss -lptn` (or `ss -lpx` for a socket's file), end it, or \
                 choose another address in the file",
    },
    Sign {
        words: &["make its directory"],
        also_output: false,
        advice: "the directory of its socket is missing: make it, which is noticed at once, or name another path",
    },
    Sign {
        words: &["a file that is no socket is in the way"],
        also_output: false,
        advice: "a file is where its socket is to be: remove it, which is noticed at once, or name another path",
    },
    Sign {
        words: &[
            "the address is empty",
            "holds a NUL byte",
            "no port between 0 and 65535",
            "stands in brackets",
            "no IPv6 address",
            "is no IP address",
            "no IPv4 address is known",
            "choose a shorter one",
            "no interface of this machine has it",
            "may not have a port below",
        ],
        also_output: false,
        advice: "the address of its socket cannot be had: mend it in the line named above, and look at it by `emperor check FILE`",
    },
    Sign {
        words: &["must not belong to root", "neither may be 0", "belongs to root"],
        also_output: false,
        advice: "in tyrant mode a vassal runs as the owner of its file: `chown USER:GROUP` the file",
    },
    Sign {
        words: &[
            "is not in /etc/passwd",
            "is not in /etc/group",
            "change its user",
            "change its group",
            "find user",
            "find group",
            "unknown user",
            "no such user",
        ],
        also_output: true,
        advice: "the user or group it shall run as does not exist, or the emperor may not become it: mend uid and gid in \
                 its file, or create the user",
    },
    Sign {
        words: &["bind(): Permission denied", "bind(): No such file", "EACCES", "Permission denied"],
        also_output: true,
        advice: "a path is closed to the user it runs as: see who may enter and write its directory (`namei -l PATH`), \
                 give the directory to that user, or name another path",
    },
    Sign {
        words: &["perhaps for this:", "its new file is broken", "its new file is refused"],
        also_output: false,
        advice: "its file is broken at the line named above: mend it and look at it by `emperor check FILE`",
    },
    Sign {
        words: &[
            "EPERM",
            "ENOSYS",
            "cannot enter its namespaces",
            "cannot enter its control group",
            "cannot limit",
        ],
        also_output: false,
        advice: "a step of its jail is refused by the kernel: see which by `emperor check --plan FILE`, and leave that line \
                 out or give the emperor what it takes (docs/security.md)",
    },
    Sign {
        words: &["no app loaded", "exited with status 22"],
        also_output: true,
        advice: "its application could not be loaded: the lines above say why; mend the application or its name in the file",
    },
    Sign {
        words: &["no heartbeat", "it hangs"],
        also_output: false,
        advice: "it hangs: look at its processes before they are killed (`py-spy dump`, `strace -p`), or allow more time \
                 (emperor-required-heartbeat, watchdog)",
    },
];

/// What to do, the most likely first. Nothing for a vassal that is well.
pub(super) fn of(case: &Case<'_>) -> Vec<String> {
    let name = shell_word(case.name);
    let mut advice = Vec::new();
    if case.state == "stopped" {
        return vec![format!("start it: emperor start {name}")];
    }
    if case.is_well {
        return advice;
    }
    let file = case.file.map_or_else(|| "FILE".into(), shell_word);
    let said = std::iter::once(case.cause).chain(case.troubles.iter().copied());
    let said: Vec<&str> = said.collect();
    let tells = |sign: &&Sign, texts: &[&str]| {
        texts.iter().any(|text| sign.words.iter().any(|word| text.contains(word)))
    };
    let output: Vec<&str> = case.output.iter().map(String::as_str).collect();
    let sign = SIGNS.iter().find(|sign| tells(sign, &said) || (sign.also_output && tells(sign, &output)));
    match sign {
        Some(sign) => advice.push(sign.advice.replace("FILE", &file)),
        None if case.output.is_empty() => {
            advice.push(format!(
                "see what it writes to its log, and whether its file is sound: emperor check {file}"
            ));
        }
        None => advice.push("read its last lines above: they say most likely what it ended for".into()),
    }
    match case.state {
        "backing-off" => advice.push(format!(
            "it is tried again by itself, and at once when its file changes or by: emperor start {name}"
        )),
        "failed" => advice.push(format!("then start it: emperor start {name}")),
        _ => {}
    }
    advice
}

/// A word for a shell, quoted if it must be.
fn shell_word(text: &str) -> String {
    shlex::try_quote(text).map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advised(cause: &str, troubles: &[&str], output: &[&str]) -> String {
        let output: Vec<String> = output.iter().map(|line| (*line).to_owned()).collect();
        let case = Case {
            name: "a b.ini",
            file: Some("/v/a b.ini"),
            state: "backing-off",
            is_well: false,
            cause,
            troubles,
            output: &output,
        };
        of(&case).join("\n")
    }

    #[test]
    fn each_usual_failure_is_told_from_the_others() {
        let ended = "exited with status 1; starts again in 1.0 s";
        let module = ["Traceback", "ModuleNotFoundError: No module named 'flask'"];
        assert!(advised(ended, &[], &module).contains("a module of the application is missing"));
        let port = ["bind(): Address already in use [core/socket.c line 769]"];
        assert!(advised(ended, &[], &port).contains("another process serves this address"));
        let denied = ["bind(): Permission denied [core/socket.c line 230]"];
        assert!(advised(ended, &[], &denied).contains("namei -l"));
        let memory = "killed by the kernel: out of memory (memory-max 64M); starts again in 1.0 s";
        assert!(advised(memory, &[], &module).contains("raise memory-max"));
        for (cause, wanted) in [
            (
                "a.ini:3: socket: `::1:80`: an IPv6 address stands in brackets; write `[::1]:80`",
                "mend it in the line",
            ),
            (
                "socket = /no/a: No such file or directory (os error 2); make its directory",
                "make it, which is noticed",
            ),
            (
                "socket = /a: a file that is no socket is in the way; remove that file",
                "remove it, which is noticed",
            ),
            ("socket = /a: Permission denied (os error 13); user 7 must be allowed to make it", "namei -l"),
        ] {
            assert!(advised(cause, &[], &[]).contains(wanted), "{cause}: {}", advised(cause, &[], &[]));
        }
        let broken = ["perhaps for this: a.ini:3: unknown option"];
        assert!(advised(ended, &broken, &[]).contains("emperor check '/v/a b.ini'"));
        assert!(advised(ended, &[], &["hm"]).contains("read its last lines"));
        let silent = advised(ended, &[], &[]);
        assert!(silent.contains("emperor check '/v/a b.ini'") && silent.contains("emperor start 'a b.ini'"));
    }

    #[test]
    fn one_that_is_well_needs_nothing() {
        let output = [String::from("No module named 'x'")];
        let case = Case {
            name: "a",
            file: None,
            state: "running",
            is_well: true,
            cause: "",
            troubles: &["EPERM"],
            output: &output,
        };
        assert!(of(&case).is_empty());
        assert_eq!(of(&Case { state: "stopped", is_well: false, ..case }), ["start it: emperor start a"]);
    }
}
