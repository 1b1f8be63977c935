//! What the emperor's process does to itself, seen from outside: each case is a process of its own.
//!
//! Needs root, because it changes users; says so and does nothing otherwise. It has a `main` of its own, because
//! the test harness has threads and what is tested here must not.

fn main() -> std::process::ExitCode {
    cases::main()
}

#[cfg(test)]
mod cases {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};
    use std::process::{Command, ExitCode, Output};
    use std::time::{Duration, Instant};

    use emperor::emperor::process::pidfile::PidFile;
    use emperor::emperor::process::{
        Change, Hooks, Limits, Logs, PidFiles, ProcessOptions, TitleOptions, become_emperor,
    };
    use emperor::sys::caps;
    use emperor::vassal::hook::{Awaited, Hook, Who};
    use emperor::vassal::plan::Capabilities;

    /// Set in a process that is a case's subject: the case's name.
    const CASE: &str = "EMPEROR_TEST_CASE";
    /// The case's directory.
    const DIR: &str = "EMPEROR_TEST_DIR";
    const NOBODY: u32 = 65534;
    const DEADLINE: Duration = Duration::from_secs(10);

    struct Case {
        name: &'static str,
        /// What the subject is told to do, in this directory.
        options: fn(&Path) -> ProcessOptions,
        /// What must be seen of it.
        check: fn(&Subject),
    }

    /// A finished subject.
    struct Subject {
        dir: PathBuf,
        output: Output,
    }

    pub(super) fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if let (Some(name), Some(dir)) = (std::env::var_os(CASE), std::env::var_os(DIR)) {
            let case = CASES.iter().find(|case| name == case.name).unwrap();
            return be_subject(&(case.options)(Path::new(&dir)), Path::new(&dir));
        }
        if args.iter().any(|arg| arg == "--list") {
            let ignored = args.iter().any(|arg| arg == "--ignored");
            CASES.iter().filter(|_| !ignored).for_each(|case| println!("{}: test", case.name));
            return ExitCode::SUCCESS;
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can change users");
            return ExitCode::SUCCESS;
        }
        let named = |case: &&Case| args.iter().all(|arg| arg.starts_with('-') || arg == case.name);
        for case in CASES.iter().filter(named) {
            println!("{} ...", case.name);
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
            let mut subject = Command::new(std::env::current_exe().unwrap());
            subject.env(CASE, case.name).env(DIR, dir.path()).current_dir(dir.path());
            let output = subject.output().unwrap();
            (case.check)(&Subject { dir: dir.path().to_owned(), output });
        }
        ExitCode::SUCCESS
    }

    fn be_subject(options: &ProcessOptions, dir: &Path) -> ExitCode {
        let mut standing = match become_emperor(options) {
            Ok(standing) => standing,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                eprintln!("{error}{}", cause.unwrap_or_default());
                return ExitCode::from(error.status());
            }
        };
        standing.ready().unwrap();
        let mut told = fs::read_to_string("/proc/self/status").unwrap();
        let cwd = std::env::current_dir().unwrap();
        told += &format!("cwd: {}\npid: {}\nfiles:", cwd.display(), std::process::id());
        let mut files: Vec<_> =
            fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
        files.sort();
        files.iter().for_each(|file| told += &format!(" {}", file.display()));
        told += &format!("\ncommand: {}\n", fs::read_to_string("/proc/self/cmdline").unwrap());
        let effective = || {
            let of_child = Command::new("grep").args(["CapEff", "/proc/self/status"]).output();
            of_child.map(|child| String::from_utf8_lossy(&child.stdout).into_owned()).unwrap_or_default()
        };
        told += &format!("passed on: {}", caps::passing_on(effective).unwrap());
        told += &format!("kept: {}", effective());
        standing.leave();
        // In one step, so that a waiting case reads all of it.
        fs::write(dir.join("told.new"), told).unwrap();
        fs::rename(dir.join("told.new"), dir.join("told")).unwrap();
        ExitCode::SUCCESS
    }

    impl Subject {
        fn told(&self, name: &str) -> String {
            let end = Instant::now() + DEADLINE; // one that went into the background is still at it
            while !self.dir.join("told").exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            let text =
                fs::read_to_string(self.dir.join("told")).unwrap_or_else(|_| panic!("{:?}", self.output));
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}"));
            line.trim().replace('\t', " ")
        }

        fn err(&self) -> String {
            String::from_utf8_lossy(&self.output.stderr).into_owned()
        }

        fn refused(&self, text: &str) {
            assert_eq!(self.output.status.code(), Some(1));
            assert!(self.err().contains(text), "{}", self.err());
        }

        fn file(&self, name: &str) -> String {
            fs::read_to_string(self.dir.join(name)).unwrap()
        }
    }

    fn hook(text: &str) -> Hook {
        Hook::parse(OsStr::new(text)).unwrap()
    }

    fn nobody() -> ProcessOptions {
        ProcessOptions {
            uid: Some(Who::parse("nobody")),
            gid: Some(Who::parse("nogroup")),
            ..ProcessOptions::default()
        }
    }

    /// Started by somebody else than root.
    fn as_nobody(options: ProcessOptions) -> ProcessOptions {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
        nix::unistd::setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
        options
    }

    const CASES: &[Case] = &[
        Case {
            name: "root_nothing_is_changed_without_options",
            options: |_| ProcessOptions::default(),
            check: |subject| {
                assert_eq!(subject.told("Uid:"), "0 0 0 0");
                assert_eq!(
                    subject.told("cwd:"),
                    fs::canonicalize(&subject.dir).unwrap().display().to_string()
                );
                assert_eq!(subject.err(), "");
            },
        },
        Case {
            name: "root_a_user_and_a_group_bring_the_groups_of_the_user",
            options: |_| nobody(),
            check: |subject| {
                for ids in ["Uid:", "Gid:"] {
                    assert_eq!(subject.told(ids), format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}"));
                }
                assert_eq!(subject.told("Groups:"), NOBODY.to_string());
                assert_eq!(subject.told("CapPrm:"), "0000000000000000");
            },
        },
        Case {
            name: "root_parity_add_gid_replaces_the_groups_of_the_user",
            options: |_| ProcessOptions { add_gid: vec![Who::parse("games"), Who::Id(7)], ..nobody() },
            check: |subject| assert_eq!(subject.told("Groups:"), "7 60"),
        },
        Case {
            name: "root_parity_no_initgroups_leaves_no_group",
            options: |_| ProcessOptions { no_initgroups: true, ..nobody() },
            check: |subject| assert_eq!(subject.told("Groups:"), ""),
        },
        Case {
            name: "root_parity_a_group_alone_empties_the_groups_and_stays_root",
            options: |_| ProcessOptions { uid: None, ..nobody() },
            check: |subject| {
                assert_eq!(subject.told("Uid:"), "0 0 0 0");
                assert_eq!(
                    (subject.told("Gid:"), subject.told("Groups:")),
                    (["65534"; 4].join(" "), String::new())
                );
            },
        },
        Case {
            name: "root_a_user_alone_does_not_keep_the_groups_of_root",
            options: |_| ProcessOptions { gid: None, ..nobody() },
            check: |subject| {
                assert_eq!(subject.told("Gid:"), ["65534"; 4].join(" "));
                assert_eq!(subject.told("Groups:"), NOBODY.to_string());
            },
        },
        Case {
            name: "root_user_0_is_root",
            options: |_| ProcessOptions {
                uid: Some(Who::parse("0")),
                gid: Some(Who::parse("0")),
                ..nobody()
            },
            check: |subject| assert_eq!(subject.told("Uid:"), "0 0 0 0"),
        },
        Case {
            name: "root_parity_an_unknown_user_is_named",
            options: |_| ProcessOptions { uid: Some(Who::parse("no-such-user")), ..nobody() },
            check: |subject| subject.refused("user no-such-user not found."),
        },
        Case {
            name: "root_parity_an_unknown_group_is_named",
            options: |_| ProcessOptions { gid: Some(Who::parse("no-such-group")), ..nobody() },
            check: |subject| subject.refused("group no-such-group not found."),
        },
        Case {
            name: "root_parity_capabilities_of_the_list_outlive_the_change_of_the_user",
            options: |_| ProcessOptions {
                cap: Capabilities::parse("setuid,setgid").ok().map(|c| c.0),
                ..nobody()
            },
            check: |subject| {
                for set in ["CapPrm:", "CapEff:", "CapInh:"] {
                    assert_eq!(subject.told(set), "00000000000000c0", "{set}");
                }
                assert_eq!(subject.told("passed on:"), "CapEff: 00000000000000c0", "a launcher has them");
                assert_eq!(subject.told("kept:"), "CapEff: 0000000000000000", "no vassal has");
            },
        },
        Case {
            name: "root_parity_another_user_than_root_cannot_become_a_third_by_number",
            options: |_| as_nobody(ProcessOptions { uid: Some(Who::Id(4242)), ..ProcessOptions::default() }),
            check: |subject| subject.refused("cannot setuid() as non-root user (uid or gid 4242)"),
        },
        Case {
            name: "root_parity_another_user_than_root_cannot_chroot",
            options: |_| {
                as_nobody(ProcessOptions { chroot: Some("/tmp".into()), ..ProcessOptions::default() })
            },
            check: |subject| subject.refused("cannot chroot() as non-root user"),
        },
        Case {
            name: "root_parity_names_and_hooks_as_root_are_ignored_for_another_user",
            options: |_| {
                let hooks = Hooks { as_root: vec![hook("cd:/nowhere")], ..Hooks::default() };
                as_nobody(ProcessOptions {
                    uid: Some(Who::parse("no-such-user")),
                    hooks,
                    ..ProcessOptions::default()
                })
            },
            check: |subject| assert_eq!(subject.told("Uid:"), ["65534"; 4].join(" ")),
        },
        Case {
            name: "root_hooks_run_once_and_in_the_documented_order",
            options: |dir| {
                let one = |name: &str| vec![hook(&format!("exec:echo {name} $(id -u) $ADDED >> order"))];
                let (asap, pre_jail, in_jail) = (one("asap"), one("pre-jail"), one("in-jail"));
                let (post_jail, as_root) = (one("post-jail"), one("as-root"));
                let (as_user, as_user_atexit) = (one("as-user"), one("atexit"));
                let hooks = Hooks { asap, pre_jail, in_jail, post_jail, as_root, as_user, as_user_atexit };
                fs::write(dir.join("order"), "").unwrap();
                fs::set_permissions(dir.join("order"), PermissionsExt::from_mode(0o666)).unwrap();
                let environment = vec![Change::parse(OsStr::new("ADDED=x"))];
                ProcessOptions { hooks, jailed: true, environment, ..nobody() }
            },
            check: |subject| {
                subject.told("Uid:");
                let expected = "asap 0 x\npre-jail 0 x\nin-jail 0 x\npost-jail 0 x\nas-root 0 x\n\
                    as-user 65534 x\natexit 65534 x\n";
                assert_eq!(subject.file("order"), expected);
                assert!(subject.err().contains(" (as root)...\n"), "{}", subject.err());
            },
        },
        Case {
            name: "root_parity_a_failing_hook_ends_the_start",
            options: |_| {
                let hooks = Hooks { as_root: vec![hook("chdir:/nowhere")], ..Hooks::default() };
                ProcessOptions { hooks, ..ProcessOptions::default() }
            },
            check: |subject| subject.refused("as root hook \"chdir:/nowhere\" failed: No such file"),
        },
        Case {
            name: "root_an_exit_hook_gives_the_status",
            options: |_| {
                let hooks = Hooks { asap: vec![hook("exit:5")], ..Hooks::default() };
                ProcessOptions { hooks, ..ProcessOptions::default() }
            },
            check: |subject| assert_eq!(subject.output.status.code(), Some(5)),
        },
        Case {
            name: "root_pidfiles_are_written_in_their_phase_and_removed_with_vacuum",
            options: |_| {
                let path = |name: &str| Some(PathBuf::from(name));
                let pid_files = PidFiles {
                    before_drop: path("one"),
                    after_drop: path("two"),
                    when_ready: vec!["three".into()],
                    emperor: path("four"),
                    vacuum: true,
                };
                ProcessOptions { pid_files, ..nobody() }
            },
            check: |subject| {
                assert_eq!(subject.told("files:"), "four one three two");
                let left: Vec<_> =
                    fs::read_dir(&subject.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
                assert_eq!(left, ["told"]);
            },
        },
        Case {
            name: "root_a_pidfile_without_vacuum_stays_except_the_emperors",
            options: |_| {
                let (before_drop, emperor) = (Some("one".into()), Some("four".into()));
                let pid_files = PidFiles { before_drop, emperor, ..PidFiles::default() };
                ProcessOptions { pid_files, ..nobody() }
            },
            check: |subject| {
                assert_eq!(subject.told("files:"), "four one");
                assert_eq!(subject.file("one"), format!("{}\n", subject.told("pid:")));
                let meta = fs::metadata(subject.dir.join("one")).unwrap();
                assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o644));
                assert!(!subject.dir.join("four").exists());
            },
        },
        Case {
            name: "root_a_pidfile_that_another_process_holds_is_refused",
            options: |dir| {
                let path = dir.join("held");
                let pid_files = PidFiles { emperor: Some(path.clone()), ..PidFiles::default() };
                std::mem::forget(PidFile::claim(&path).unwrap()); // another open file, another holder
                ProcessOptions { pid_files, ..ProcessOptions::default() }
            },
            check: |subject| subject.refused("held is held by the running process "),
        },
        Case {
            name: "root_daemonize_leaves_to_a_session_of_its_own_and_logs_to_the_file",
            options: |dir| {
                let logs = Logs { daemonize: Some(dir.join("log").display().to_string()), ..Logs::default() };
                let pid_files = PidFiles { before_drop: Some("pid".into()), ..PidFiles::default() };
                let hooks = Hooks { as_root: vec![hook("print:hello")], ..Hooks::default() };
                ProcessOptions { logs, pid_files, hooks, ..ProcessOptions::default() }
            },
            check: |subject| {
                assert_eq!(subject.output.status.code(), Some(0));
                assert!(subject.dir.join("pid").exists(), "it is there when the starter has ended");
                assert_eq!(subject.file("pid"), format!("{}\n", subject.told("pid:")));
                assert_ne!(subject.told("NSsid:"), subject.told("pid:"), "it leads no session");
                assert_eq!(subject.told("Umask:"), "0000");
                assert!(subject.file("log").contains("hello\n"));
                assert_eq!(fs::metadata(subject.dir.join("log")).unwrap().mode() & 0o777, 0o640);
                assert_eq!(subject.err(), "");
            },
        },
        Case {
            name: "root_daemonize_fails_where_the_emperor_cannot_set_itself_up",
            options: |dir| {
                let logs = Logs { daemonize: Some(dir.join("log").display().to_string()), ..Logs::default() };
                ProcessOptions { logs, uid: Some(Who::parse("no-such-user")), ..ProcessOptions::default() }
            },
            check: |subject| assert_eq!(subject.output.status.code(), Some(1)),
        },
        Case {
            name: "root_daemonize2_leaves_last_and_the_pidfile_follows",
            options: |dir| {
                let logs =
                    Logs { daemonize2: Some(dir.join("log").display().to_string()), ..Logs::default() };
                let pid_files = PidFiles { before_drop: Some("pid".into()), ..PidFiles::default() };
                ProcessOptions { logs, pid_files, umask: Some(0o027), ..ProcessOptions::default() }
            },
            check: |subject| {
                assert_eq!(subject.told("Umask:"), "0027");
                assert_eq!(subject.file("pid"), format!("{}\n", subject.told("pid:")));
            },
        },
        Case {
            name: "root_parity_a_vassals_own_emperor_does_not_leave",
            options: |dir| {
                let logs = Logs { daemonize: Some(dir.join("log").display().to_string()), ..Logs::default() };
                let environment = vec![Change::parse(OsStr::new("UWSGI_EMPEROR_FD=3"))];
                ProcessOptions { logs, environment, ..ProcessOptions::default() }
            },
            check: |subject| assert_eq!(subject.told("PPid:"), std::process::id().to_string()),
        },
        Case {
            name: "root_a_log_that_cannot_be_opened_is_named",
            options: |_| {
                let logs = Logs { logto: Some("/nowhere/log".into()), ..Logs::default() };
                ProcessOptions { logs, ..ProcessOptions::default() }
            },
            check: |subject| subject.refused("cannot write the log to /nowhere/log: No such file"),
        },
        Case {
            name: "root_a_log_can_go_to_a_udp_address",
            options: |_| {
                let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                let logs =
                    Logs { logto: Some(listener.local_addr().unwrap().to_string()), ..Logs::default() };
                // Whoever listens is not asked what it got: the case is over before.
                std::mem::forget(listener);
                let hooks = Hooks { as_root: vec![hook("print:hello")], ..Hooks::default() };
                ProcessOptions { logs, hooks, ..ProcessOptions::default() }
            },
            check: |subject| {
                subject.told("Uid:");
                assert_eq!(subject.err(), "", "all of it went over the wire");
            },
        },
        Case {
            name: "root_parity_the_early_emperor_keeps_root_and_its_directory",
            options: |_| ProcessOptions { early: true, chdir: Some("/".into()), ..nobody() },
            check: |subject| {
                assert_eq!(subject.told("Uid:"), "0 0 0 0");
                assert_ne!(subject.told("cwd:"), "/");
            },
        },
        Case {
            name: "root_a_chroot_is_entered_too",
            options: |dir| {
                let chroot = Some(dir.to_owned());
                let hooks = Hooks { as_root: vec![hook("write:/inside x")], ..Hooks::default() };
                let pid_files =
                    PidFiles { before_drop: Some("pid".into()), vacuum: true, ..PidFiles::default() };
                let chdir = Some("/sub".into());
                fs::create_dir(dir.join("sub")).unwrap();
                // Where the rest of this test finds /proc and its directory again.
                let again = dir.join(dir.strip_prefix("/").unwrap());
                fs::create_dir_all(&again).unwrap();
                fs::set_permissions(&again, PermissionsExt::from_mode(0o777)).unwrap();
                fs::create_dir(dir.join("proc")).unwrap();
                let mount = Hook::mount(OsStr::new("proc none proc")).unwrap();
                let unmount = Hook::unmount(OsStr::new("/proc detach")).unwrap();
                let hooks = Hooks { in_jail: vec![mount], as_user_atexit: vec![unmount], ..hooks };
                ProcessOptions { chroot, hooks, pid_files, chdir, ..ProcessOptions::default() }
            },
            check: |subject| {
                let again = subject.dir.join(subject.dir.strip_prefix("/").unwrap());
                let told =
                    fs::read_to_string(again.join("told")).unwrap_or_else(|_| panic!("{}", subject.err()));
                assert!(told.contains("cwd: /sub\n"), "{told}");
                assert_eq!(subject.file("inside"), "x");
                assert!(!subject.dir.join("pid").exists(), "removed by its directory, not by its name");
            },
        },
        Case {
            name: "root_limits_are_set_before_the_right_to_is_lost",
            options: |_| {
                let limits = Limits { descriptors: Some(4321), priority: Some(-3), ..Limits::default() };
                let hooks = Hooks {
                    as_user: vec![hook("exec:echo $(ulimit -Hn) $(nice) > limits")],
                    ..Hooks::default()
                };
                ProcessOptions { limits, hooks, ..nobody() }
            },
            check: |subject| {
                subject.told("Uid:");
                assert_eq!(subject.file("limits"), "4321 -3\n");
            },
        },
        Case {
            name: "root_what_is_waited_for_in_vain_ends_the_start",
            options: |_| {
                let wait_limit = Some(Duration::from_millis(1));
                ProcessOptions { waits: vec![(Awaited::File, "/nowhere".into())], wait_limit, ..nobody() }
            },
            check: |subject| subject.refused("waited in vain for /nowhere"),
        },
        Case {
            name: "root_what_is_there_is_not_waited_for",
            options: |_| {
                let waits = vec![
                    (Awaited::MountPoint, "/proc".into()),
                    (Awaited::Interface, "lo".into()),
                    (Awaited::Dir, "/".into()),
                ];
                ProcessOptions { waits, wait_limit: Some(Duration::from_millis(1)), ..nobody() }
            },
            check: |subject| assert_eq!(subject.told("Uid:"), ["65534"; 4].join(" ")),
        },
        Case {
            name: "root_the_title_stands_in_the_command_line",
            options: |_| {
                let name = Some("the emperor of all vassals");
                let title = TitleOptions { name, prefix: "my ", ..TitleOptions::default() }.title();
                ProcessOptions { title, ..ProcessOptions::default() }
            },
            check: |subject| {
                assert_eq!(subject.told("command:"), "my the emperor of all vassals\0");
                assert_eq!(subject.told("Name:"), "my the emperor");
            },
        },
    ];
}
