//! The launcher as a process: plans are run by the built program, and the engine tells what it was given.
//!
//! Needs root, because it changes users; says so and does nothing otherwise.
#![cfg(test)]

mod bed;
mod sockets;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use bed::{GID, NOBODY, TELL, UID, hook, launch, launch_by, order, root, tyrant, vassals};
use emperor::vassal::hook::Hook;
use emperor::vassal::link::LaunchReport;
use emperor::vassal::plan::{
    Capabilities, Exec, Groups, LaunchPlan, MagicExec, Namespaces, Op, SideOrder, Step, Text, Tyrant,
    VassalOrder,
};
use nix::libc;

#[test]
fn root_an_engine_gets_its_environment_its_descriptors_and_clean_signals_and_nothing_else() {
    if !root() {
        return;
    }
    let dir = vassals();
    let ended = launch(&order(dir.path(), TELL).plan());
    assert_eq!(ended.reports, [LaunchReport::Launched], "{ended:#?}");
    assert!(ended.out.ends_with("fds=\n0\n1\n2\n3\n"), "{}", ended.out);
    assert_eq!(ended.told("cwd="), fs::canonicalize(dir.path()).unwrap().display().to_string());
    assert!(ended.out.contains("\nPATH=/usr/bin:/bin\nUWSGI_EMPEROR_FD=3\n") && !ended.out.contains("LEAK"));
    assert_eq!(ended.told("Uid:"), "0 0 0 0");
    let exec = Exec { programs: vec!["cat".into()], args: vec!["/proc/self/status".into()], magic: None };
    let ended = launch(&VassalOrder { exec, ..order(dir.path(), "") }.plan()); // a shell blocks signals itself
    assert_eq!(ended.told("SigBlk:"), "0000000000000000");
    let ignored = u64::from_str_radix(&ended.told("SigIgn:"), 16).unwrap();
    let of_the_c_library = 0b11 << 31; // 32 and 33, which it sets up itself
    assert_eq!(ignored & !of_the_c_library, 1 << 12, "SIGPIPE alone");
}

#[test]
fn root_the_config_pipe_and_safe_descriptors_stay_open_where_the_plan_says_so() {
    if !root() {
        return;
    }
    let dir = vassals();
    let ended =
        launch(&VassalOrder { config_pipe: true, safe_fds: vec![9, 77], ..order(dir.path(), TELL) }.plan());
    assert!(ended.out.ends_with("fds=\n0\n1\n2\n3\n5\n9\n"), "{}", ended.out);
}

#[test]
fn root_a_tyrants_vassal_is_its_owner_without_groups_and_without_a_way_back() {
    if !root() {
        return;
    }
    let dir = vassals();
    let ended = launch(&VassalOrder { tyrant: tyrant(), ..order(dir.path(), TELL) }.plan());
    assert_eq!(ended.told("Uid:"), format!("{UID} {UID} {UID} {UID}"));
    assert_eq!(ended.told("Gid:"), format!("{GID} {GID} {GID} {GID}"));
    assert_eq!(ended.told("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(ended.told(set), "0000000000000000", "{set}");
    }
}

#[test]
fn root_a_vassal_that_dies_with_its_emperor_does_so_as_another_user_too() {
    if !root() {
        return;
    }
    let dir = vassals();
    let tell = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print('signal=%d' % n.value)";
    for die_with_emperor in [true, false] {
        let exec =
            Exec { programs: vec!["python3".into()], args: vec!["-c".into(), tell.into()], magic: None };
        let order = order(dir.path(), "");
        let ended = launch(&VassalOrder { tyrant: tyrant(), die_with_emperor, exec, ..order }.plan());
        assert_eq!(ended.told("signal="), if die_with_emperor { "9" } else { "0" });
    }
}

#[test]
fn root_groups_of_the_user_are_looked_up_where_the_plan_says_so() {
    if !root() {
        return;
    }
    let dir = vassals();
    let nobody = Tyrant::new(NOBODY, NOBODY).map(|tyrant| tyrant.with_groups_of_user(true));
    let ended = launch(&VassalOrder { tyrant: nobody, ..order(dir.path(), TELL) }.plan());
    assert_eq!(ended.told("Groups:"), NOBODY.to_string());
    let unknown = Tyrant::new(UID, GID).map(|tyrant| tyrant.with_groups_of_user(true));
    let ended = launch(&VassalOrder { tyrant: unknown, ..order(dir.path(), TELL) }.plan());
    assert_eq!(ended.failure(), (Step::Groups, format!("groups of uid {UID}"), 0));
}

#[test]
fn root_an_owner_that_has_changed_since_the_decision_is_refused() {
    if !root() {
        return;
    }
    let dir = vassals();
    let plan = VassalOrder { tyrant: tyrant(), ..order(dir.path(), "echo started") }.plan();
    chown(dir.path().join("a.ini"), Some(UID + 1), Some(GID)).unwrap();
    let ended = launch(&plan);
    assert_eq!(ended.failure(), (Step::Owner, "a.ini".into(), 0));
    assert!(format!("{:?}", ended.reports).contains("owned by 12346:12346 now"), "{ended:#?}");
    assert_eq!(ended.out, "");
    chown(dir.path().join("a.ini"), Some(0), Some(0)).unwrap();
    assert_eq!(launch(&plan).failure().0, Step::Owner);
}

#[test]
fn root_a_link_swapped_in_since_the_decision_is_refused() {
    if !root() {
        return;
    }
    let dir = vassals();
    let file = dir.path().join("a.ini");
    let of = |nofollow| Tyrant::new(UID, GID).map(|tyrant| tyrant.of_file("a.ini".into(), nofollow));
    for nofollow in [false, true] {
        let plan = VassalOrder { tyrant: of(nofollow), ..order(dir.path(), "echo started") }.plan();
        fs::remove_file(&file).unwrap();
        symlink("/etc/hostname", &file).unwrap();
        assert_eq!(launch(&plan).failure().0, Step::Owner, "root's link to root's file");
        nix::unistd::fchownat(
            nix::fcntl::AT_FDCWD,
            &file,
            Some(UID.into()),
            Some(GID.into()),
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .unwrap();
        let ended = launch(&plan);
        if nofollow {
            assert_eq!(ended.out, "started\n", "the link itself is the tenant's: {ended:#?}");
        } else {
            assert_eq!(ended.failure().0, Step::Owner, "the target is not the tenant's");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(launch(&plan).failure(), (Step::Owner, "a.ini".into(), libc::ENOENT));
    }
}

#[test]
fn root_the_identity_of_root_is_refused_whatever_the_plan_says() {
    if !root() {
        return;
    }
    for (op, step) in [(Op::SetUser(0), Step::User), (Op::SetGroup(0), Step::Group)] {
        let ops = vec![op, Op::Exec(Exec { programs: vec!["/bin/true".into()], ..Exec::default() })];
        let ended = launch(&LaunchPlan {
            vassal: "a.ini".into(),
            config_pipe: false,
            safe_fds: Vec::new(),
            alone: false,
            ops,
        });
        assert_eq!(ended.failure().0, step);
    }
}

#[test]
fn root_a_failing_step_ends_the_launch_with_its_name_its_object_and_its_errno() {
    if !root() {
        return;
    }
    let dir = vassals();
    let nowhere = dir.path().join("nowhere");
    let program = |name: &str| Exec { programs: vec![name.into()], ..Exec::default() };
    let plain = |exec| VassalOrder { exec, ..order(dir.path(), "") };
    let elf = dir.path().join("foreign");
    fs::write(&elf, b"\x7fELF\x02\x01\x01 not for this machine").unwrap();
    fs::set_permissions(&elf, PermissionsExt::from_mode(0o755)).unwrap();
    let orphan = dir.path().join("orphan");
    fs::write(&orphan, "#!/nowhere/python\n").unwrap();
    fs::set_permissions(&orphan, PermissionsExt::from_mode(0o755)).unwrap();
    let text = |path: &Path| path.display().to_string();
    let cases = [
        (
            VassalOrder { directory: Some(nowhere.as_os_str().into()), ..order(dir.path(), "") },
            Step::ChangeDir,
            text(&nowhere),
            libc::ENOENT,
        ),
        (plain(program("no-such-program")), Step::Exec, "no-such-program".into(), libc::ENOENT),
        (plain(program("/etc/passwd")), Step::Exec, "/etc/passwd".into(), libc::EACCES),
        (plain(program(&text(&orphan))), Step::Exec, text(&orphan), 0),
        (plain(program(&text(&elf))), Step::Exec, text(&elf), libc::ENOEXEC),
        (plain(program(&text(dir.path()))), Step::Exec, text(dir.path()), libc::EACCES),
        (
            VassalOrder { hooks: vec![hook("cd:/nowhere")], ..order(dir.path(), "") },
            Step::Hook,
            "\"cd:/nowhere\" (as-vassal)".into(),
            libc::ENOENT,
        ),
        (
            VassalOrder {
                tyrant: tyrant(),
                hooks: vec![Hook::mount(OsStr::new("tmpfs none /mnt")).unwrap()],
                ..order(dir.path(), "")
            },
            Step::Mount,
            "\"tmpfs none /mnt\" (as-vassal)".into(),
            libc::EPERM,
        ),
        (
            VassalOrder { hooks: vec![Hook::exec(OsStr::new("exit 3"))], ..order(dir.path(), "") },
            Step::Command,
            "\"exit 3\" (as-vassal)".into(),
            0,
        ),
        (
            VassalOrder { environment: vec![("A=B".into(), "".into())], ..order(dir.path(), "") },
            Step::Environment,
            "A=B".into(),
            0,
        ),
        (
            VassalOrder {
                namespaces: Namespaces { pid: true, ..Namespaces::default() },
                ..order(dir.path(), "")
            },
            Step::PidNamespace,
            String::new(),
            0,
        ),
    ];
    for (order, step, object, errno) in cases {
        let ended = launch(&order.plan());
        let (is_step, is_object, is_errno) = ended.failure();
        let is_object = if step == Step::PidNamespace { String::new() } else { is_object };
        assert_eq!((is_step, is_object, is_errno), (step, object, errno), "{ended:#?}");
        assert_eq!(ended.out, "");
    }
}

#[test]
fn root_a_launcher_without_a_plan_says_so() {
    if !root() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_emperor")).args(["vassal", "--plan"]).output().unwrap();
    assert_eq!(output.status.code(), Some(180));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read its launch plan: descriptor 4"));
    let output = Command::new(env!("CARGO_BIN_EXE_emperor")).arg("vassal").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn root_hooks_run_as_the_vassal_before_its_engine_and_change_what_it_gets() {
    if !root() {
        return;
    }
    let dir = vassals();
    let order = VassalOrder {
        tyrant: tyrant(),
        start_hook: Some("/bin/echo".into()),
        hooks: vec![
            hook("putenv:ADDED=yes"),
            hook("cd:/tmp"),
            Hook::exec(OsStr::new("echo hook $(id -u) $ADDED; ls /proc/$$/fd")),
        ],
        ..order(dir.path(), TELL)
    };
    let ended = launch(&order.plan());
    assert!(ended.out.starts_with("a.ini\nhook 12345 yes\n0\n1\n2\n"), "{}", ended.out);
    assert_eq!((ended.told("cwd="), ended.told("ADDED=")), ("/tmp".into(), "yes".into()));
    let told =
        ["[emperor] running vassal start-hook: /bin/echo a.ini", "[emperor] a.ini start-hook returned 0"];
    assert!(told.iter().all(|line| ended.err.contains(line)), "{}", ended.err);
}

#[test]
fn root_a_launcher_that_has_changed_its_user_is_closed_to_that_user() {
    if !root() {
        return;
    }
    let dir = vassals();
    let peep = "ls /proc/$PPID/fd 2>&1; cat /proc/$PPID/maps 2>&1; true";
    let hooks = vec![Hook::exec(OsStr::new(peep))];
    let ended = launch(&VassalOrder { tyrant: tyrant(), hooks, ..order(dir.path(), "true") }.plan());
    assert_eq!(ended.out.matches("Permission denied").count(), 2, "{}", ended.out);
}

#[test]
fn root_a_start_hook_that_fails_is_told_and_the_launch_goes_on() {
    if !root() {
        return;
    }
    let dir = vassals();
    for (program, told) in
        [("/bin/false", "a.ini start-hook returned 1"), ("/nowhere", "cannot run the command: /nowhere: ")]
    {
        let ended = launch(
            &VassalOrder { start_hook: Some(program.into()), ..order(dir.path(), "echo started") }.plan(),
        );
        assert_eq!(ended.out, "started\n");
        assert!(ended.err.contains(told), "{}", ended.err);
    }
}

#[test]
fn root_the_first_program_that_can_be_executed_wins() {
    if !root() {
        return;
    }
    let dir = vassals();
    let script = dir.path().join("wrapper");
    fs::write(&script, "echo wrapped $0 $*\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let programs: Vec<Text> = ["/nowhere/override", "wrapper", "/bin/false"].map(Text::from).into();
    let exec = Exec { programs, args: vec!["--ini".into(), "a.ini".into()], magic: None };
    let path = format!("/nowhere:{}:/bin", dir.path().display());
    let order = VassalOrder {
        exec,
        environment: vec![("PATH".into(), path.as_str().into())],
        ..order(dir.path(), "")
    };
    let ended = launch(&order.plan());
    assert_eq!(ended.out, format!("wrapped {} --ini a.ini\n", script.display()));
}

#[test]
fn root_an_executable_file_becomes_a_magic_argument_if_the_vassal_itself_may_execute_it() {
    if !root() {
        return;
    }
    let dir = vassals();
    for (mode, argument) in
        [(0o644, "a.ini"), (0o755, "exec://a.ini"), (0o711, "exec://a.ini"), (0o077, "a.ini")]
    {
        let magic = Some(MagicExec { file: "a.ini".into(), argument: 1 });
        let exec = Exec { programs: vec!["echo".into()], args: vec!["--ini".into(), "a.ini".into()], magic };
        let order = VassalOrder { tyrant: tyrant(), exec, ..order(dir.path(), "") };
        fs::set_permissions(dir.path().join("a.ini"), PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(launch(&order.plan()).out, format!("--ini {argument}\n"), "{mode:o}");
    }
}

#[test]
fn root_parity_emperor_cap_leaves_its_list_and_setpcap_in_the_bounding_set() {
    if !root() {
        return;
    }
    let dir = vassals();
    let capabilities = Some(Capabilities::parse("setuid,net_bind_service,13").unwrap().0);
    let ended = launch(&VassalOrder { capabilities, ..order(dir.path(), TELL) }.plan());
    for set in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(ended.told(set), "0000000000002580", "{set}");
    }
}

#[test]
fn root_an_emperor_with_two_capabilities_is_tyrant_enough_and_passes_neither_on() {
    if !root() {
        return;
    }
    let dir = vassals();
    let emperor = [
        "--reuid",
        "4242",
        "--clear-groups",
        "--inh-caps",
        "+setuid,+setgid",
        "--ambient-caps",
        "+setuid,+setgid",
    ];
    let program = [&emperor[..], &[env!("CARGO_BIN_EXE_emperor")]].concat();
    let ended =
        launch_by("setpriv", &program, &VassalOrder { tyrant: tyrant(), ..order(dir.path(), TELL) }.plan());
    assert_eq!(ended.told("Uid:"), format!("{UID} {UID} {UID} {UID}"), "{ended:#?}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(ended.told(set), "0000000000000000", "{set}");
    }
}

#[test]
fn root_namespaces_are_fresh_and_mounts_in_them_stay_in_them() {
    if !root() {
        return;
    }
    let dir = vassals();
    let here = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    let script =
        "for n in ipc net mnt uts user; do echo $n=$(readlink /proc/self/ns/$n); done; hostname; ls mnt";
    fs::create_dir(dir.path().join("mnt")).unwrap();
    let namespaces = Namespaces { ipc: true, net: true, mount: true, uts: true, ..Namespaces::default() };
    let target = dir.path().join("mnt").display().to_string();
    let hooks = vec![
        hook("hostname:tenant"),
        Hook::mount(OsStr::new(&format!("tmpfs none {target} nosuid"))).unwrap(),
        hook(&format!("write:{target}/inside x")),
    ];
    let ended = launch(&VassalOrder { namespaces, hooks, ..order(dir.path(), script) }.plan());
    for name in ["ipc", "net", "mnt", "uts"] {
        assert_ne!(ended.told(&format!("{name}=")), here(name), "{name}");
    }
    assert_eq!(ended.told("user="), here("user"));
    assert!(ended.out.ends_with("tenant\ninside\n"), "{ended:#?}");
    assert_eq!(fs::read_dir(dir.path().join("mnt")).unwrap().count(), 0, "the host sees nothing of it");
}

#[test]
fn root_a_user_namespace_keeps_every_id_and_its_root_has_no_power_outside() {
    if !root() {
        return;
    }
    let dir = vassals();
    let script = "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user";
    let namespaces = Namespaces { user: true, ..Namespaces::default() };
    let ended = launch(&VassalOrder { namespaces, ..order(dir.path(), script) }.plan());
    assert!(ended.out.starts_with("0\n") && ended.out.contains("4294967295"), "{ended:#?}");
    assert!(!ended.out.contains(fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap()));
    let ended =
        launch(&VassalOrder { namespaces, tyrant: tyrant(), ..order(dir.path(), "id -u; id -g") }.plan());
    assert_eq!(ended.out, format!("{UID}\n{GID}\n"), "{ended:#?}");
}

#[test]
fn root_parity_in_a_pid_namespace_the_vassal_is_process_1_without_parent() {
    if !root() {
        return;
    }
    let dir = vassals();
    let namespaces = Namespaces { pid: true, ..Namespaces::default() };
    let order = VassalOrder {
        namespaces,
        tyrant: tyrant(),
        die_with_emperor: true,
        ..order(dir.path(), "echo $$ $PPID")
    };
    let plan = order.plan();
    assert!(plan.needs_pid_namespace());
    let cloned = ["--pid", "--fork", env!("CARGO_BIN_EXE_emperor")];
    assert_eq!(launch_by("unshare", &cloned, &plan).out, "1 0\n");
}

#[test]
fn root_hooks_beside_the_loop_go_on_after_a_failure_and_end_well() {
    if !root() {
        return;
    }
    let dir = vassals();
    let order = SideOrder {
        name: "a.ini".into(),
        directory: Some(dir.path().as_os_str().into()),
        environment: vec![("PATH".into(), "/bin:/usr/bin".into()), ("UWSGI_VASSAL_PID".into(), "7".into())],
        hooks: vec![hook("unlink:nowhere"), Hook::exec(OsStr::new("echo $UWSGI_VASSAL_PID"))],
        stop_hook: Some("echo".into()),
        each_ends_after: None,
    };
    let ended = launch(&order.plan());
    assert_eq!((ended.status, ended.out.as_str()), (Some(0), "7\na.ini\n"), "{ended:#?}");
    assert_eq!(ended.reports, []);
    let told = [
        "cannot run the hook: \"unlink:nowhere\" (as-emperor): No such file",
        "[emperor] a.ini stop-hook returned 0",
    ];
    assert!(told.iter().all(|line| ended.err.contains(line)), "{}", ended.err);
}

#[test]
fn root_a_hook_may_end_the_launch_with_its_own_status() {
    if !root() {
        return;
    }
    let dir = vassals();
    let ended =
        launch(&VassalOrder { hooks: vec![hook("exit:9")], ..order(dir.path(), "echo started") }.plan());
    assert_eq!((ended.status, ended.out.as_str(), ended.reports.len()), (Some(9), "", 0));
}

#[test]
fn root_supplementary_groups_can_be_a_list() {
    if !root() {
        return;
    }
    let dir = vassals();
    let mut plan = VassalOrder { tyrant: tyrant(), ..order(dir.path(), TELL) }.plan();
    for op in &mut plan.ops {
        if let Op::SetGroups(groups) = op {
            *groups = Groups::Exactly(vec![7, 8]);
        }
    }
    assert_eq!(launch(&plan).told("Groups:"), "7 8");
}

#[test]
fn root_a_process_that_is_no_vassal_ends_after_its_time_whatever_it_has_become() {
    if !root() {
        return;
    }
    let dir = vassals();
    let order = VassalOrder { end_after: Some(1), ..order(dir.path(), "exec sleep 60") };
    let began = std::time::Instant::now();
    let ended = launch(&order.plan());
    assert_eq!(ended.status, None, "{ended:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
}
