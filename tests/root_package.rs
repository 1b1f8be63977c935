//! The Debian package: built from the program under test, installed into an empty root and into a real systemd.

#[path = "../packaging/documents/completions.rs"]
mod completions;
#[path = "../packaging/documents/manual.rs"]
mod manual;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::systemd_box::SystemdBox;
use support::{Bed, PATIENCE, poll, skip};

const EMPEROR: &str = "emperor.uwsgi.service";

/// Packages of these versions; `None`, and a line that says so, where nobody can build or install any.
fn packages(bed: &Bed, versions: &[&str]) -> Option<Vec<PathBuf>> {
    if !support::root() {
        return None;
    }
    for tool in ["dpkg-shlibdeps", "dpkg-deb", "dpkg", "strip"] {
        if support::tools::on_path(tool).is_none() {
            skip(&format!("needs {tool}"));
            return None;
        }
    }
    let documents = bed.path("documents");
    fs::create_dir(&documents).expect("a folder");
    for (name, text) in manual::pages("2026-01-02").into_iter().chain(completions::scripts()) {
        bed.write(Path::new("documents").join(name), text);
    }
    Some(versions.iter().map(|version| package(bed, version, &bed.path("packages"))).collect())
}

fn package(bed: &Bed, version: &str, folder: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian/build");
    let output = Command::new(script)
        .arg("--program")
        .arg(env!("CARGO_BIN_EXE_emperor"))
        .arg("--documents")
        .arg(bed.path("documents"))
        .args(["--version", version, "--out"])
        .arg(folder)
        .env("SOURCE_DATE_EPOCH", "1767312000")
        .env("DEBEMAIL", "maintainers@emperor.net")
        .envs([("DPKG_DEB_COMPRESSOR_TYPE", "gzip"), ("DPKG_DEB_COMPRESSOR_LEVEL", "1")])
        .output()
        .expect("the build");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

#[test]
fn root_package_is_the_same_bytes_twice_and_has_what_belongs_into_it() {
    let bed = Bed::new();
    let Some(built) = packages(&bed, &["1.0-1"]) else { return };
    let again = package(&bed, "1.0-1", &bed.path("elsewhere"));
    assert!(fs::read(&built[0]).unwrap() == fs::read(&again).unwrap(), "two builds differ");

    let query = |words: &[&str]| {
        let output = Command::new("dpkg-deb").args(words).arg(&built[0]).output().expect("dpkg-deb");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = query(&["--contents"]);
    let has = |path: &str| listed.lines().any(|line| line.ends_with(&format!(" ./{path}")));
    for path in [
        "usr/bin/emperor",
        "usr/lib/systemd/system/emperor.uwsgi.service",
        "usr/lib/systemd/system/uwsgi-secure@.service",
        "usr/lib/sysusers.d/emperor.conf",
        "usr/lib/tmpfiles.d/emperor.conf",
        "etc/uwsgi/emperor.ini",
        "etc/uwsgi/vassals/",
        "usr/share/man/man1/emperor.1.gz",
        "usr/share/man/man5/emperor.ini.5.gz",
        "usr/share/man/man5/emperor-vassal.5.gz",
        "usr/share/bash-completion/completions/emperor",
        "usr/share/zsh/vendor-completions/_emperor",
        "usr/share/fish/vendor_completions.d/emperor.fish",
        "usr/share/doc/emperor/copyright",
        "usr/share/doc/emperor/changelog.Debian.gz",
        "usr/share/doc/emperor/docs/options.md",
    ] {
        assert!(has(path), "{path} is not in\n{listed}");
    }
    assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
    assert!(query(&["--field"]).contains("Depends: libc6 (>= "), "{}", query(&["--field"]));

    if support::tools::on_path("lintian").is_none() {
        return skip("needs lintian for the rest");
    }
    let output = Command::new("lintian").arg("--allow-root").arg(&built[0]).output().expect("lintian");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.lines().any(|line| line.starts_with("E:")), "{said}");
}

/// Everything below a folder, but dpkg's own notes.
fn files(root: &Path) -> Vec<String> {
    let output = Command::new("find")
        .arg(root)
        .args(["-path", "*/var/lib/dpkg", "-prune", "-o", "-printf", "%P %M %U:%G\n"])
        .output()
        .expect("find");
    let mut all: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn root_package_installs_upgrades_and_goes_away_without_a_trace() {
    let bed = Bed::new();
    let Some(built) = packages(&bed, &["1.0-1", "2.0-1"]) else { return };
    let root = bed.path("root");
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    bed.write("root/var/lib/dpkg/status", "");
    // The scripts see this machine, but can change nothing of it.
    let dpkg = |words: &[&str]| {
        let shut = "mount --bind \"$BED\" \"$BED\" && mount -o remount,bind,ro / && exec dpkg \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", shut, "dpkg", "--root"])
            .arg(&root)
            .args(["--log=/dev/null", "--force-depends", "--force-script-chrootless", "--force-confold"])
            .args(words)
            .env("BED", bed.root())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .expect("dpkg");
        let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
        assert!(output.status.success(), "{words:?}: {said}");
    };
    let [first, second] = [0, 1].map(|at: usize| built[at].display().to_string());
    let before = files(&root);

    dpkg(&["--install", &first]);
    let installed = files(&root);
    assert!(
        installed.iter().any(|line| line.starts_with("usr/bin/emperor -rwxr-xr-x 0:0")),
        "{installed:#?}"
    );
    assert!(
        !installed.iter().any(|line| line.starts_with("etc/systemd")),
        "nothing is enabled: {installed:#?}"
    );

    // What the administrator has changed stays, whatever comes.
    let ini = bed.write("root/etc/uwsgi/emperor.ini", "[uwsgi]\nemperor = /elsewhere\n");
    dpkg(&["--install", &second]);
    assert_eq!(files(&root), installed);
    let kept = || fs::read_to_string(&ini).is_ok_and(|text| text.contains("/elsewhere"));
    assert!(kept());
    let vassal = bed.write("root/etc/uwsgi/vassals/a.ini", "[uwsgi]\n");
    dpkg(&["--remove", "emperor"]);
    assert!(kept() && vassal.exists() && !root.join("usr/bin/emperor").exists());
    dpkg(&["--install", &second]);
    dpkg(&["--purge", "emperor"]);
    assert!(vassal.exists() && !ini.exists(), "{:#?}", files(&root));

    fs::remove_file(&vassal).expect("the vassal");
    fs::remove_dir_all(root.join("etc/uwsgi")).expect("its folder");
    dpkg(&["--install", &first]);
    dpkg(&["--purge", "emperor"]);
    assert_eq!(files(&root), before);
}

#[test]
fn root_package_is_upgraded_while_vassals_run() {
    let bed = Bed::new();
    if std::env::var_os("SYSTEMD_BOX").is_none() {
        return skip("SYSTEMD_BOX names no program that boots systemd");
    }
    let Some(built) = packages(&bed, &["1.0-1", "2.0-1"]) else { return };
    let Some(systemd) = SystemdBox::start(&bed, EMPEROR) else { return };
    // A machine on which no policy forbids services, and manuals are not indexed.
    systemd.exec(&["rm", "-f", "/usr/sbin/policy-rc.d"]);
    let [first, second] = [0, 1].map(|at: usize| built[at].display().to_string());
    let install = |package: &str| systemd.exec(&["dpkg", "--no-triggers", "--install", package]);
    let trace = || {
        systemd.try_exec(&["sh", "-c", "find /etc/systemd /etc/uwsgi /usr/bin/emperor /run/uwsgi | sort"]).1
    };
    let before = trace();

    install(&first);
    assert_eq!(systemd.property("ActiveState"), "inactive");
    assert_eq!(systemd.property("UnitFileState"), "disabled");
    for unit in [EMPEROR, "uwsgi@x.service", "uwsgi-secure@x.service"] {
        let said = systemd.exec(&["sh", "-c", &format!("systemd-analyze verify {unit} 2>&1")]);
        assert_eq!(said, "", "{unit}");
    }

    for (name, seconds) in [("a", 7101), ("b", 7102)] {
        let text = format!("[uwsgi]\ncommand = sleep {seconds}\n");
        systemd.write(&bed, &format!("/etc/uwsgi/vassals/{name}.ini"), &text);
    }
    systemd.systemctl(&["enable", "--now", EMPEROR]);
    let running = || {
        let (found, pids) = systemd.try_exec(&["pgrep", "-f", "^sleep 710"]);
        (found && pids.lines().count() == 2).then_some(pids)
    };
    let vassals = poll(PATIENCE, running).unwrap_or_else(|| panic!("no vassals\n{}", systemd.journal()));
    let emperor = systemd.property("MainPID");
    let program = || systemd.exec(&["readlink", &format!("/proc/{emperor}/exe")]);
    let inode = || systemd.exec(&["stat", "-Lc", "%i", &format!("/proc/{emperor}/exe")]);
    let old = inode();

    let said = install(&second);
    assert!(!said.contains("old program"), "{said}\n{}", systemd.journal());
    let renewed = poll(PATIENCE, || (inode() != old).then_some(()));
    assert!(renewed.is_some(), "{}\n{}", program(), systemd.journal());
    assert_eq!(program(), "/usr/bin/emperor");
    systemd.until("StatusText", "The Emperor is governing 2 vassals");
    assert_eq!(running().as_ref(), Some(&vassals), "{}", systemd.journal());
    assert_eq!((systemd.property("MainPID"), systemd.property("NRestarts")), (emperor.clone(), "0".into()));

    systemd.exec(&["dpkg", "--no-triggers", "--remove", "emperor"]);
    let (left, pids) = systemd.try_exec(&["pgrep", "-f", "^sleep 710"]);
    assert!(!left, "{pids}");
    systemd.exec(&["rm", "-r", "/etc/uwsgi/vassals"]);
    systemd.exec(&["dpkg", "--no-triggers", "--purge", "emperor"]);
    assert_eq!(trace(), before);
}
