use super::super::tests::config;
use super::*;

const TENANT: (u32, u32) = (1000, 1001);

fn read(lines: &str, level: Level) -> Result<View, String> {
    View::read(Asked(&config(lines)), level).map_err(|error| error.to_string())
}

fn around() -> Around {
    Around {
        directory: "/srv/vassals".into(),
        file: "/srv/vassals/a.ini".into(),
        uid: Some(1000),
        needs: vec![Bind { source: "/run/emperor/a.notify".into(), ..Bind::default() }],
    }
}

fn printed(view: &View) -> Vec<String> {
    let ops =
        [view.first_ops(), view.ops(&around()), view.init_ops(true), view.users_ops(Some(1000))].concat();
    ops.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_asked_for_is_nothing_done() {
    assert_eq!(printed(&View::level(Level::None)), Vec::<String>::new());
    assert!(read("master = true\n", Level::None).unwrap().is_none());
}

#[test]
fn standard_is_the_host_without_its_secrets() {
    let view = "view of the host, no set-id programs, home of uid 1000: -/bin system; -/boot system; /dev devices; \
        -/efi system; -/etc ro; -/home tmpfs 64 KiB ro; -/lib system; -/lib32 system; -/lib64 system; -/libx32 \
        system; /proc proc hidepid=invisible; -/proc/acpi ro; -/proc/apm ro; -/proc/asound ro; -/proc/bus ro; \
        -/proc/fs ro; -/proc/irq ro; -/proc/kallsyms inaccessible; -/proc/kcore inaccessible; -/proc/keys \
        inaccessible; -/proc/mtrr ro; -/proc/sys ro; -/proc/sysrq-trigger ro; -/proc/timer_list inaccessible; \
        -/root tmpfs 64 KiB ro; -/run/user tmpfs 64 KiB ro; -/sbin system; -/sys ro; -/sys/fs/cgroup cgroup ro; \
        -/tmp tmpfs 262144 KiB; -/usr system; -/var/tmp tmpfs 262144 KiB";
    let expected = [
        "pid-namespace",
        "namespaces of its own: mount,ipc,uts,cgroup",
        view,
        "init stays as process 1, and dies with the emperor",
    ];
    assert_eq!(printed(&View::level(Level::Standard)), expected);
}

#[test]
fn strict_is_a_root_of_its_own_with_what_every_program_needs() {
    let lines =
        "bind = /srv/data\nbind-read-only = /srv/app:/app -/opt/none\nread-write-paths = /app/cache\n";
    let printed = printed(&read(lines, Level::Strict).unwrap());
    assert_eq!(printed[1], "namespaces of its own: mount,ipc,uts,cgroup,net");
    let parts: Vec<&str> = printed[2].split("; ").collect();
    assert!(
        printed[2]
            .starts_with("view of its own, no set-id programs: /app bind /srv/app ro; /app/cache bind;")
    );
    for part in [
        "-/usr system",
        "-/etc/resolv.conf bind ro",
        "-/run/emperor/a.notify bind",
        "-/srv/vassals bind ro",
        "/srv/data bind",
        "-/opt/none bind ro",
    ] {
        assert!(parts.contains(&part), "{part} in {parts:#?}");
    }
    for path in ["/sys", "/home", "/root", "/var/lib", "/run/user", "/etc ", "/boot"] {
        assert!(
            !parts.iter().any(|part| part.trim_start_matches('-').starts_with(path)),
            "{path} in {parts:#?}"
        );
    }
    assert_eq!(printed[4], "user-namespace of uid 1000 alone, if possible");
}

#[test]
fn a_file_may_change_its_own_level_and_says_what_is_wrong() {
    let view = read("private-tmp = false\nprotect-system = strict\nprivate-tmp-size = 1G\n", Level::Standard);
    let view = view.unwrap();
    assert!(!view.private_tmp && view.protect_system == System::Strict && view.tmp_bytes == 1 << 30);
    assert_eq!(read("protect-home = tmpfs\n", Level::None).unwrap().protect_home, Home::Yes);
    assert_eq!(read("protect-home = no\n", Level::Strict).unwrap().protect_home, Home::No);
    for (line, wanted) in [
        ("protect-system = some", "`no`, `yes`, `full` or `strict` is wanted; this is `some`"),
        ("protect-proc = maybe", "`invisible` or `ptraceable` is wanted"),
        ("proc-subset = none", "`all` or `pid` is wanted"),
        ("private-tmp-size = 1X", "a size from 64K to 1T"),
        ("private-tmp-size = 1K", "a size from 64K to 1T"),
        ("bind = relative", "an absolute path without `..` is wanted; this is `relative`"),
        ("bind = /a:/../b", "an absolute path without `..`"),
        ("bind = /a:/", "`/` can only be made read-only"),
        ("read-only-paths = /a:/b", "one path is wanted"),
        ("temporary-file-system = /a:mode=0", "`PATH:size=256M` is wanted"),
    ] {
        let refused = read(&format!("{line}\n"), Level::None).unwrap_err();
        assert!(refused.contains("a.ini:2: ") && refused.contains(wanted), "{line}: {refused}");
    }
    let many = "bind = /a\n".repeat(MOST_PATHS + 1);
    assert!(read(&many, Level::None).unwrap_err().contains("more than 128 paths"));
}

#[test]
fn a_wish_can_tighten_a_policy_and_never_loosen_it() {
    let levels = [Level::None, Level::Standard, Level::Strict].map(View::level);
    let loosest = read(
        "private-tmp = no\nprivate-devices = no\nprotect-system = no\nprotect-home = no\nprivate-users = no\n\
         protect-proc = default\nproc-subset = all\nprivate-pids = no\nprivate-root = no\nprivate-network = no\n\
         protect-kernel-tunables = no\nprotect-control-groups = no\nprivate-ipc = no\nprotect-hostname = no\n",
        Level::None,
    )
    .unwrap();
    for policy in &levels {
        assert_eq!(policy.clone().joined(&loosest), *policy);
        assert_eq!(loosest.clone().joined(policy), *policy);
        for other in &levels {
            let (one, two) = (policy.clone().joined(other), other.clone().joined(policy));
            assert_eq!(one, two);
            assert_eq!(one.clone().joined(policy), one);
        }
    }
    let small = View { tmp_bytes: 1 << 20, ..View::default() };
    assert_eq!(small.clone().joined(&View { tmp_bytes: 1 << 30, ..View::default() }), small);
    assert_eq!(small.clone().joined(&View::default()), small);
}

#[test]
fn a_tenants_openings_are_opened_as_the_tenant_and_covered_by_the_emperors_word() {
    let policy = read("read-only-paths = /srv/t\ninaccessible-paths = /srv/x\n", Level::None).unwrap();
    let wish = read(
        "bind = /srv/t/data\nread-write-paths = /srv/x/y\ntemporary-file-system = /srv/t/z:size=1G\n",
        Level::None,
    );
    let wish = wish.unwrap().of_tenant(TENANT.0, TENANT.1).unwrap();
    assert!(wish.no_suid && wish.has_tenants_word());
    let scene = policy.joined(&wish).scene(&Around::default());
    let expected = "of the host, no set-id programs: /srv/t/data bind as 1000:1001; /srv/t/z tmpfs 262144 KiB; \
        /srv/x/y bind as 1000:1001; /srv/t ro; /srv/x inaccessible";
    assert_eq!(scene.to_string(), expected);
}

#[test]
fn what_the_terms_of_a_tenant_say_is_checked_again() {
    let honest = read("bind = /srv/a\n", Level::None).unwrap();
    let json = serde_json::to_string(&honest).unwrap();
    assert_eq!(serde_json::from_str::<View>(&json).unwrap(), honest);
    let of = |json: &str| serde_json::from_str::<View>(json).map_err(|e| e.to_string())?.of_tenant(1, 1);
    assert!(of(&json).is_ok());
    let forged = json.replace("\"optional\":false", "\"optional\":false,\"tenant\":[0,0]");
    assert!(of(&forged).unwrap_err().contains("unknown field"), "a tenant is not the emperor");
    assert!(of(&json.replace("/srv/a", "srv/a")).unwrap_err().contains("absolute path"));
    assert!(of(&json.replacen("/srv/a", "/srv/b/../../etc", 1)).unwrap_err().contains("without `..`"));
    assert!(of(&json.replace("\"tmp-bytes\":0", "")).is_err() || !json.contains("tmp-bytes"));
    assert!(of(&json.replace("\"tmp_bytes\":0", "\"tmp_bytes\":9223372036854775807")).is_err());
    assert!(of("{\"private_tmp\":true,\"magic\":1}").unwrap_err().contains("unknown field"));
    let many = View { paths: vec![honest.paths[0].clone(); MOST_PATHS + 1], ..View::default() };
    assert!(many.of_tenant(1, 1).unwrap_err().contains("129 paths"));
}

#[test]
fn the_directory_of_the_file_stays_and_nothing_beside_it() {
    let kept = |directory: &str, file: &str| {
        let around = Around { directory: directory.into(), file: file.into(), ..Around::default() };
        let scene = View { protect_home: Home::Yes, private_tmp: true, ..View::default() }.scene(&around);
        let binds = scene.entries.iter().filter(|entry| matches!(entry.what, What::Bind(_)));
        binds.map(|entry| entry.target.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kept("/srv/vassals", "/srv/vassals/a.ini"), Vec::<String>::new(), "nothing hides it");
    assert_eq!(kept("/home/ann/v", "/home/ann/v/a.ini"), ["/home/ann/v"]);
    assert_eq!(kept("/home", "/home/a.ini"), ["/home/a.ini"], "not all homes");
    assert_eq!(kept("/", "/a.ini"), Vec::<String>::new());
    assert_eq!(kept("/run", "/run/user/a.ini"), ["/run/user/a.ini"]);
    assert_eq!(kept("/homes/ann", "/homes/ann/a.ini"), Vec::<String>::new(), "not below /home");
}
