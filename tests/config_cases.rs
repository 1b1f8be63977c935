//! What small configurations mean. Each case is read by us, and by uWSGI where it is installed; both must give the
//! expected status, standard output and dump.

use emperor::config::{Machine, as_uwsgi};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files, arguments behind `--show-config --no-server`, then status, standard output and the lines of the dump behind
/// those of the arguments. A status of 1 stands for any error.
struct Case {
    what: &'static str,
    files: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
    status: u8,
    stdout: &'static str,
    dump: &'static [&'static str],
}

const INI: &[&str] = &["--ini", "shop.ini"];

/// Variables every case is read with.
const ENVIRONMENT: [(&str, &str); 3] = [("HOME", "/home/demo"), ("E", "from %(b)"), ("EMPTY", "")];

const CASES: &[Case] = &[
    Case {
        what: "all pairs are kept in order, the last application wins",
        files: &[("shop.ini", "[uwsgi]\nprint = 1\nb = 2\nprint = 3\nb = 4\nprint = %(b)\n")],
        arguments: INI,
        status: 0,
        stdout: "1\n3\n2\n",
        dump: &["print = 1", "b = 2", "print = 3", "b = 4", "print = 2"],
    },
    Case {
        what: "what was brought in is looked at again from the second byte of the value",
        files: &[(
            "shop.ini",
            "[uwsgi]\na = $(E)\nb = 7\nc = -$(E)\nd = [%(EMPTY)$(EMPTY)]\ne = %(f)\nf = %(b)\n",
        )],
        arguments: INI,
        status: 0,
        stdout: "",
        dump: &["a = from 7", "b = 7", "c = -from 7", "d = [%(EMPTY)]", "e = %(b)", "f = 7"],
    },
    Case {
        what: "an included file lands in place, an inherited one at the end and unexpanded",
        files: &[
            ("shop.ini", "[uwsgi]\ninherit = t.ini\ninclude = i.ini\nx = 1\nprint = own\n"),
            ("t.ini", "[uwsgi]\nprint = t %(x) %n %N\n"),
            ("i.ini", "[uwsgi]\nprint = i %(x) %n %N\n"),
        ],
        arguments: INI,
        status: 0,
        stdout: "i 1 i shop\nown\nt %(x) t shop\n",
        dump: &[
            "inherit = t.ini",
            "include = i.ini",
            "print = i 1 i shop",
            "x = 1",
            "print = own",
            "print = t %(x) t shop",
        ],
    },
    Case {
        what: "the start directory is where included names begin, and a section of the last file needs no name",
        files: &[("sub/shop.ini", "[uwsgi]\nini = :b\n[b]\nk = %x %s %c\n")],
        arguments: &["--ini", "sub/shop.ini"],
        status: 0,
        stdout: "",
        dump: &["ini = :b", "k = b shop.ini sub"],
    },
    Case {
        what: "a skipped block swallows inner blocks up to the first end word",
        files: &[(
            "shop.ini",
            "[uwsgi]\nif-env = NOPE\nif-env = HOME\na = 1\nendif =\nb = 2\nendif =\nc = 3\n",
        )],
        arguments: INI,
        status: 0,
        stdout: "",
        dump: &["if-env = NOPE", "endif = ", "b = 2", "endif = ", "c = 3"],
    },
    Case {
        what: "a loop repeats each line, and may load files",
        files: &[
            ("shop.ini", "[uwsgi]\nfor-glob = d/*.ini\ninclude = %(_)\nn = %(_)\nendfor =\n"),
            ("d/a.ini", "[uwsgi]\nf = %n %(_)\n"),
            ("d/b.ini", "[uwsgi]\nf = %n\n"),
        ],
        arguments: INI,
        status: 0,
        stdout: "",
        dump: &[
            "for-glob = d/*.ini",
            "include = d/a.ini",
            "f = a %(_)",
            "include = d/b.ini",
            "f = b",
            "n = d/a.ini",
            "n = d/b.ini",
            "endfor = ",
        ],
    },
    Case {
        what: "a declared option stands for others, which the dump does not show",
        files: &[(
            "shop.ini",
            "[uwsgi]\ndeclare-option = site=print=$1:$2;set=q=$1\nsite = a b\nprint = %(q)\n",
        )],
        arguments: INI,
        status: 0,
        stdout: "a:b\na\n",
        dump: &["declare-option = site=print=$1:$2;set=q=$1", "site = a b", "q = a", "print = a"],
    },
    Case {
        what: "the four formats load one another",
        files: &[
            ("shop.yml", "uwsgi:\n  a: 0660\n  json: b.json:two\n  z: [1, \"2\"]\n"),
            ("b.json", "{\"two\": {\"n\": 1.50, \"t\": true, \"xml\": \"c.xml\", \"l\": [1, null]}}"),
            ("c.xml", "<uwsgi><k> v </k><flag/><ini>d.ini</ini></uwsgi>"),
            ("d.ini", "[uwsgi]\nmaster\n"),
        ],
        arguments: &["--yaml", "shop.yml"],
        status: 0,
        stdout: "",
        dump: &[
            "a = 0660",
            "json = b.json",
            "n = 1.50",
            "t = 1",
            "xml = c.xml",
            "k =  v ",
            "flag = 1",
            "ini = d.ini",
            "master = ",
            "l = 1",
            "l = 0",
            "z = 1",
            "z = 2",
        ],
    },
    Case {
        what: "@(..) brings in a file without its last newline",
        files: &[("shop.ini", "[uwsgi]\nb = 5\na = <@(t.txt)>\n"), ("t.txt", "x %(b) $(HOME)\n\n")],
        arguments: INI,
        status: 0,
        stdout: "",
        dump: &["b = 5", "a = <x 5 $(HOME)", ">"],
    },
    Case {
        what: "a % at the end of a line joins the next one",
        files: &[("shop.ini", "[uwsgi]\na = 50%\nb = 2\nc = %%(a)\n")],
        arguments: INI,
        status: 0,
        stdout: "",
        dump: &["a = 50b = 2", "c = 50b = 2"],
    },
    Case {
        what: "strict mode knows placeholders only from set-ph",
        files: &[("shop.ini", "[uwsgi]\nstrict = true\nset-ph = a=1\nprint = %(a)\nb = 1\n")],
        arguments: INI,
        status: 1,
        stdout: "",
        dump: &[],
    },
    Case {
        what: "a file that loads itself is an error",
        files: &[("shop.ini", "[uwsgi]\ninclude = shop.ini\n")],
        arguments: INI,
        status: 1,
        stdout: "",
        dump: &[],
    },
    Case {
        what: "a file that inherits itself is an error",
        files: &[("shop.ini", "[uwsgi]\ninherit = shop.ini\n")],
        arguments: INI,
        status: 1,
        stdout: "",
        dump: &[],
    },
    Case {
        what: "a value that grows by itself is an error",
        files: &[("shop.ini", "[uwsgi]\na = x%(b)\nb = y%(a)\n")],
        arguments: INI,
        status: 1,
        stdout: "",
        dump: &[],
    },
    Case {
        what: "exit ends at once with its status",
        files: &[("shop.ini", "[uwsgi]\niprint = a\nexit = 9\niprint = b\n")],
        arguments: INI,
        status: 9,
        stdout: "a\n",
        dump: &[],
    },
    Case {
        what: "a fallback is read when the first configuration ends with status 1",
        files: &[
            ("shop.ini", "[uwsgi]\nfallback-config = b.ini\ninclude = nope.ini\n"),
            ("b.ini", "[uwsgi]\nexit = 5\n"),
        ],
        arguments: INI,
        status: 5,
        stdout: "",
        dump: &[],
    },
];

#[test]
fn small_configurations_mean_what_they_meant() {
    let uwsgi = Path::new("/usr/bin/uwsgi").exists();
    for case in CASES {
        let desk = tempfile::tempdir().expect("a directory");
        for (name, text) in case.files {
            let path = desk.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        let head = [&["--show-config", "--no-server"][..], case.arguments].concat();
        let arguments: Vec<OsString> = head.iter().map(OsString::from).collect();
        let environment = ENVIRONMENT.map(|(name, value)| (name.into(), value.into()));
        let ours = read_here(&arguments, &environment, desk.path());
        let loader = format!("{} = {}", &case.arguments[0][2..], case.arguments[1]);
        let shown: Vec<&str> = ["show-config = true", "no-server = true", &loader]
            .into_iter()
            .chain(case.dump.iter().copied())
            .collect();
        let dump = if case.status == 0 { shown.join("\n") + "\n" } else { String::new() };
        assert_eq!(ours, (case.status, case.stdout.to_owned(), dump), "{}", case.what);
        if uwsgi {
            let real = read_there(&arguments, &environment, desk.path());
            // Where it crashes, ours is an error.
            let same = real == ours || (ours.0 == 1 && real.0 != 0 && real.2.is_empty());
            assert!(same, "uwsgi differs: {}\n{real:?}", case.what);
        }
    }
}

/// Status, standard output, and the dump without its frame.
type Result = (u8, String, String);

fn read_here(arguments: &[OsString], environment: &[(OsString, OsString)], directory: &Path) -> Result {
    let world = Machine::new().in_directory(directory).allow_commands(true);
    let (mut stdout, mut log) = (Vec::new(), Vec::new());
    let status = as_uwsgi(arguments, environment, &world, &mut stdout, &mut log);
    (status, String::from_utf8_lossy(&stdout).into_owned(), dump_of(&log, status))
}

fn read_there(arguments: &[OsString], environment: &[(OsString, OsString)], directory: &Path) -> Result {
    // A limit on memory ends the cases that eat it all.
    let out = Command::new("/bin/sh")
        .args(["-c", "ulimit -v 786432; exec timeout -s KILL 2 uwsgi \"$@\"", "sh"])
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("uwsgi runs");
    let status = out.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255);
    (status, String::from_utf8_lossy(&out.stdout).into_owned(), dump_of(&out.stderr, status))
}

fn dump_of(log: &[u8], status: u8) -> String {
    let log = String::from_utf8_lossy(log).into_owned();
    let behind = log.split_once(";uWSGI instance configuration\n[uwsgi]\n").map(|(_, rest)| rest);
    let dump = behind.and_then(|rest| rest.split_once(";end of configuration\n")).map(|(dump, _)| dump);
    if status == 0 { dump.unwrap_or("no dump").to_owned() } else { String::new() }
}

/// The collection of 207 cases that this was written against, where it lies beside the sources: status, standard
/// output and dump must be those of uWSGI; an error stands for a crash. `EMPEROR_CONFIG_CASES` names another folder. Cases with a supervisor are read as their vassal.
#[test]
fn the_collected_cases_give_what_uwsgi_gave() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/spec/config-cases");
    let folder = std::env::var_os("EMPEROR_CONFIG_CASES").map_or_else(beside, PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: there is no {}", folder.display());
        return;
    };
    let mut cases: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    let differ: Vec<String> = cases.iter().filter_map(|case| collected(case).err()).collect();
    println!("{} cases", cases.len());
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), cases.len(), differ.join("\n"));
}

fn collected(case: &Path) -> std::result::Result<(), String> {
    let text = |name: &str| std::fs::read(case.join(name)).unwrap_or_default();
    let expected = String::from_utf8_lossy(&text("expected.txt")).into_owned();
    let name = case.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.contains("bad-uid") && std::fs::read("/root").is_err() && !is_root() {
        return Ok(());
    }
    let desk = tempfile::tempdir().expect("a directory");
    let root = desk.path().canonicalize().expect("a path").join(&name);
    copy(case, &root);
    let mut environment: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), "/usr/bin:/bin".into()),
        ("HOME".into(), "/home/demo".into()),
        ("LANG".into(), "C".into()),
    ];
    for line in text("env").split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let at = line.iter().position(|b| *b == b'=').expect("NAME=VALUE");
        environment.push((OsStr::from_bytes(&line[..at]).into(), OsStr::from_bytes(&line[at + 1..]).into()));
    }
    let mut cwd = root.join(String::from_utf8_lossy(&text("cwd")).trim());
    let mut arguments = shell_words(&String::from_utf8_lossy(&text("cmd")));
    if !text("mode").is_empty() {
        (arguments, cwd) = as_vassal(&arguments, &cwd);
    }
    let world =
        Machine::new().in_directory(&cwd).allow_commands(true).allow_network(true).with_stdin(text("stdin"));
    let (mut stdout, mut log) = (Vec::new(), Vec::new());
    let status = as_uwsgi(&arguments, &environment, &world, &mut stdout, &mut log);
    let wanted_status =
        expected.lines().next().and_then(|line| line.strip_prefix("# exit: ")).unwrap_or_default();
    let fits = match wanted_status {
        "crash" => return if status == 0 { Err(format!("{name}: no error")) } else { Ok(()) },
        "supervisor" => status == 0,
        number => number.parse() == Ok(status),
    };
    if !fits {
        return Err(format!("{name}: status {status} instead of {wanted_status}"));
    }
    let stdout = clean(&stdout, &root);
    let stdout: Vec<&str> =
        stdout.trim_end_matches('\n').split('\n').filter(|_| !stdout.is_empty()).collect();
    let wanted: Vec<&str> = expected.lines().filter_map(|line| line.strip_prefix("# stdout: ")).collect();
    if stdout != wanted {
        return Err(format!("{name}: {stdout:?} instead of {wanted:?}"));
    }
    let log = clean(&log, &root);
    let dump: Vec<&str> = log.lines().skip_while(|line| *line != ";uWSGI instance configuration").collect();
    let end = dump.iter().position(|line| *line == ";end of configuration").map_or(0, |at| at + 1);
    let wanted = expected.lines().filter(|line| !line.starts_with("# "));
    for (ours, wanted) in dump[..end].iter().copied().chain(std::iter::repeat("")).zip(wanted.clone()) {
        // What depends on the machine, and the path of the program, is compared by the collection's own runner.
        let depends = wanted.starts_with("nv-") || wanted.contains("@BIN@");
        if ours != wanted && !depends {
            return Err(format!("{name}: `{ours}` instead of `{wanted}`"));
        }
    }
    if end == wanted.count() { Ok(()) } else { Err(format!("{name}: another number of lines")) }
}

fn is_root() -> bool {
    emperor::config::World::ids(&Machine::new()).0 == 0
}

/// Copies a case; three of them hold symbolic links, which some copies of the collection have lost.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if from.join("cmd").exists() && CONTROL.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let link = match path.strip_prefix(from.ancestors().find(|a| a.join("cmd").exists()).unwrap_or(from))
        {
            Ok(name) if name == Path::new("links/app.ini") => Some("../target.ini"),
            Ok(name) if name == Path::new("ln") => Some("real"),
            Ok(name) if name == Path::new("dangling") => Some("nowhere"),
            _ => None,
        };
        match link {
            Some(link) => std::os::unix::fs::symlink(link, target).expect("a link"),
            None if path.is_dir() => copy(&path, &target),
            None => std::fs::write(target, std::fs::read(path).expect("a file")).expect("a file"),
        }
    }
}

/// Files that describe a case and are no part of it.
const CONTROL: [&str; 6] = ["cmd", "env", "cwd", "stdin", "mode", "expected.txt"];

/// The arguments and the directory of the first vassal of an emperor.
fn as_vassal(arguments: &[OsString], cwd: &Path) -> (Vec<OsString>, PathBuf) {
    let word = |at: usize| arguments[at].to_string_lossy().into_owned();
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    let (mut includes_before, mut includes, mut sets) = (Vec::new(), Vec::new(), Vec::new());
    let mut source = String::new();
    for at in (0..arguments.len()).step_by(2) {
        let list = match &word(at)[2..] {
            "emperor" => {
                source = word(at + 1);
                continue;
            }
            "vassals-inherit-before" => &mut before,
            "vassals-inherit" => &mut behind,
            "vassals-include-before" => &mut includes_before,
            "vassals-include" => &mut includes,
            _ => &mut sets,
        };
        list.push(word(at + 1));
    }
    let folder = cwd.join(source.trim_end_matches("/*.ini"));
    let file = std::fs::read_dir(&folder).expect("vassals").flatten().next().expect("a vassal").file_name();
    let file = file.to_string_lossy().into_owned();
    let glob = source.ends_with("/*.ini");
    let named = if glob { source.replace("*.ini", &file) } else { file };
    let loader = if named.ends_with(".yml") { "--yaml" } else { "--ini" };
    let mut out = Vec::new();
    for (option, values) in [
        ("--inherit", before),
        ("--include", includes_before),
        ("--set", sets),
        (loader, vec![named]),
        ("--inherit", behind),
        ("--include", includes),
    ] {
        out.extend(values.into_iter().flat_map(|value| [option.into(), value.into()]));
    }
    (out, if glob { cwd.to_owned() } else { folder })
}

/// Words of a command line with single and double quotes.
fn shell_words(line: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match quote {
            Some(open) if open == letter => quote = None,
            None if letter == '\'' || letter == '"' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            None if letter.is_whitespace() => words.extend(word.take().map(OsString::from)),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word.map(OsString::from));
    words
}

/// The collection's normal form.
fn clean(bytes: &[u8], root: &Path) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    let text = text.replace(&root.display().to_string(), "@CASE@");
    let visible = |letter: char| match letter {
        '\t' | '\n' => letter.to_string(),
        control if control.is_ascii_control() => format!("\\x{:02x}", u32::from(control)),
        other => other.to_string(),
    };
    text.chars().map(visible).collect()
}
