//! The units of `packaging/systemd` in a real systemd.

#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};
use support::systemd_box::{SystemdBox, UNITS};
use support::{Bed, PATIENCE, poll};

const EMPEROR: &str = "emperor.uwsgi.service";

fn sleeper(systemd: &SystemdBox, bed: &Bed, path: &str, seconds: u32) {
    systemd.write(bed, path, &format!("[uwsgi]\ncommand = sleep {seconds}\n"));
}

/// The process of a vassal, once it runs.
fn pid_of(systemd: &SystemdBox, seconds: u32) -> String {
    let asked = || {
        let (found, pid) = systemd.try_exec(&["pgrep", "-xf", &format!("sleep {seconds}")]);
        found.then_some(pid)
    };
    poll(PATIENCE, asked).unwrap_or_else(|| panic!("no sleep {seconds}\n{}", systemd.journal()))
}

#[test]
fn root_systemd_has_nothing_to_say_about_the_units() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, EMPEROR) else { return };
    for unit in UNITS.map(|name| name.replace('@', "@x")) {
        let said = systemd.exec(&["sh", "-c", &format!("systemd-analyze --man=no verify {unit} 2>&1")]);
        assert_eq!(said, "", "{unit}");
    }
}

#[test]
fn root_systemd_starts_reloads_and_stops_the_emperor_of_the_unit() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, EMPEROR) else { return };
    sleeper(&systemd, &bed, "/etc/uwsgi/vassals/a.ini", 7001);
    systemd.systemctl(&["enable", EMPEROR]);
    systemd.systemctl(&["start", "uwsgi-emperor"]); // by Debian's name for it
    assert_eq!(systemd.property("StatusText"), "The Emperor is governing 1 vassals");
    let (emperor, first) = (systemd.property("MainPID"), pid_of(&systemd, 7001));
    let status = systemd.exec(&["emperor", "status"]);
    assert!(status.lines().any(|line| line.starts_with("a.ini ") && line.contains(&first)), "{status}");

    // Debian's directory comes into being.
    sleeper(&systemd, &bed, "/etc/uwsgi-emperor/vassals/b.ini", 7002);
    let second = pid_of(&systemd, 7002);
    systemd.until("StatusText", "The Emperor is governing 2 vassals");

    // A changed configuration counts at once, and no vassal is told.
    systemd.exec(&["sh", "-c", "echo 'emperor = /etc/more' >> /etc/uwsgi/emperor.ini"]);
    sleeper(&systemd, &bed, "/etc/more/c.ini", 7003);
    systemd.systemctl(&["reload", EMPEROR]);
    let third = pid_of(&systemd, 7003);
    let all = [(7001, first), (7002, second), (7003, third)];
    let as_before = || {
        assert!(all.iter().all(|(seconds, pid)| pid_of(&systemd, *seconds) == *pid), "{}", systemd.journal());
    };
    as_before();
    assert_eq!(systemd.property("MainPID"), emperor);

    // A broken one does not.
    systemd.exec(&["sh", "-c", "echo 'vassal-sandbox = tight' >> /etc/uwsgi/emperor.ini"]);
    let (reloaded, said) = systemd.try_exec(&["systemctl", "reload", EMPEROR]);
    assert!(!reloaded, "{said}");
    let why = ["everything goes on as before", "/etc/uwsgi/emperor.ini:", "vassal-sandbox: ", "`tight`"];
    let told = systemd.journal().lines().any(|line| why.iter().all(|word| line.contains(word)));
    assert!(told, "it says why: {}", systemd.journal());
    let status = systemd.property("StatusText");
    assert!(
        status.starts_with("The Emperor is governing 3 vassals; the last reload was refused: "),
        "{status}"
    );
    as_before();
    assert_eq!((systemd.property("MainPID"), systemd.property("ActiveState")), (emperor, "active".into()));

    // What only a start can change is named; what touches vassals starts them again.
    let mend = "sed -i 's/^vassal-sandbox = tight/logto = \\/srv\\/log/' /etc/uwsgi/emperor.ini";
    systemd.exec(&["sh", "-c", mend]);
    systemd.systemctl(&["reload", EMPEROR]);
    systemd
        .until_told("needs a restart of the emperor: logto: nothing → `/srv/log` (/etc/uwsgi/emperor.ini:");
    systemd.until("StatusText", "The Emperor is governing 3 vassals; needs a restart: logto");
    as_before();
    systemd.exec(&["sed", "-i", "s/^logto.*/vassal-set = umask=077/", "/etc/uwsgi/emperor.ini"]);
    systemd.systemctl(&["reload", EMPEROR]);
    systemd.until_told("3 of 3 vassals start again");
    systemd.until("StatusText", "The Emperor is governing 3 vassals");
    for (seconds, pid) in &all {
        let other = || (pid_of(&systemd, *seconds) != *pid).then_some(());
        assert!(poll(PATIENCE, other).is_some(), "{}", systemd.journal());
    }

    // A package upgrade puts another file in the program's place; it is taken, and vassals go on.
    let before = [7001, 7002, 7003].map(|seconds| pid_of(&systemd, seconds));
    let program = || systemd.exec(&["readlink", &format!("/proc/{}/exe", systemd.property("MainPID"))]);
    systemd.exec(&[
        "sh",
        "-c",
        "cp /usr/bin/emperor /usr/bin/.next && mv -f /usr/bin/.next /usr/bin/emperor",
    ]);
    assert!(program().ends_with("(deleted)"), "{}", program());
    systemd.systemctl(&["reload", EMPEROR]);
    assert_eq!(program(), "/usr/bin/emperor");
    // One that is gone cannot be: what runs goes on.
    systemd.exec(&["mv", "/usr/bin/emperor", "/usr/bin/away"]);
    assert!(!systemd.try_exec(&["systemctl", "reload", EMPEROR]).0);
    systemd.systemctl(&["kill", "--kill-who=main", "-s", "USR2", EMPEROR]);
    systemd.until_told("/usr/bin/emperor cannot be started");
    assert_eq!(systemd.property("ActiveState"), "active");
    systemd.exec(&["mv", "/usr/bin/away", "/usr/bin/emperor"]);
    systemd.systemctl(&["reload", EMPEROR]);
    assert_eq!([7001, 7002, 7003].map(|seconds| pid_of(&systemd, seconds)), before);

    let begun = Instant::now();
    systemd.systemctl(&["stop", EMPEROR]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert_eq!(systemd.property("Result"), "success");
    let (found, left) = systemd.try_exec(&["pgrep", "-f", "sleep 700"]);
    assert!(!found, "{left}");
}

#[test]
fn root_systemd_ends_an_emperor_that_hangs_and_its_vassals_go_on() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, EMPEROR) else { return };
    let quick = "[Service]\nWatchdogSec=1s\nStartLimitIntervalSec=0\n";
    systemd.write(&bed, "/etc/systemd/system/emperor.uwsgi.service.d/quick.conf", quick);
    systemd.systemctl(&["daemon-reload"]);
    sleeper(&systemd, &bed, "/etc/uwsgi/vassals/a.ini", 7011);
    systemd.systemctl(&["start", EMPEROR]);
    let (emperor, vassal) = (systemd.property("MainPID"), pid_of(&systemd, 7011));
    systemd.systemctl(&["kill", "--kill-who=main", "-s", "STOP", EMPEROR]);
    systemd.until_told("Watchdog timeout");
    systemd.until("NRestarts", "1");
    systemd.until("ActiveState", "active");
    systemd.until("StatusText", "The Emperor is governing 1 vassals");
    assert_ne!(systemd.property("MainPID"), emperor);
    assert_eq!(pid_of(&systemd, 7011), vassal);
    systemd.systemctl(&["kill", "--kill-who=main", "-s", "KILL", EMPEROR]);
    systemd.until("NRestarts", "2");
    systemd.until("StatusText", "The Emperor is governing 1 vassals");
    assert_eq!(pid_of(&systemd, 7011), vassal);
}

/// Serves each connection on its standard input, a listening socket, with its process id.
const SERVER: &str = "\
import os, socket
listening = socket.socket(fileno=0)
while True:
    connection, _ = listening.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
";

/// What the server at a path says.
fn ask(systemd: &SystemdBox, path: &str) -> (bool, String) {
    let client = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(30)\ns.connect('{path}')\n\
         print(s.recv(99).decode())"
    );
    systemd.try_exec(&["python3", "-c", &client])
}

#[test]
fn root_systemd_passes_sockets_to_the_vassals_of_their_names() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, EMPEROR) else { return };
    if !systemd.try_exec(&["python3", "--version"]).0 {
        return support::skip("needs python3");
    }
    systemd.write(&bed, "/srv/server.py", SERVER);
    systemd.write(&bed, "/etc/uwsgi/vassals/example.ini", "[uwsgi]\ncommand = python3 /srv/server.py\n");
    let nobodys = "[Socket]\nListenStream=/run/uwsgi/nobody.sock\nService=emperor.uwsgi.service\n";
    systemd.write(&bed, "/etc/systemd/system/nobody.socket", nobodys);
    systemd.systemctl(&["daemon-reload"]);
    systemd.systemctl(&["start", "emperor.uwsgi.socket", "nobody.socket"]);
    assert_eq!(systemd.property("ActiveState"), "inactive");

    let (answered, first) = ask(&systemd, "/run/uwsgi/example.sock");
    assert!(answered, "{first}\n{}", systemd.journal());
    systemd.until("ActiveState", "active");
    systemd.until_told("passed as `nobody.socket`, belongs to no vassal");
    assert!(!systemd.journal().contains("passed as `example`, belongs"), "{}", systemd.journal());

    // The socket outlives the vassal, the emperor's program, its crash, and its end.
    systemd.systemctl(&["reload", EMPEROR]);
    assert_eq!(ask(&systemd, "/run/uwsgi/example.sock"), (true, first.clone()));
    systemd.systemctl(&["kill", "--kill-who=main", "-s", "KILL", EMPEROR]);
    systemd.until("NRestarts", "1");
    systemd.until("ActiveState", "active");
    assert_eq!(ask(&systemd, "/run/uwsgi/example.sock"), (true, first.clone()));
    systemd.exec(&["kill", "-KILL", &first]);
    let (answered, second) = ask(&systemd, "/run/uwsgi/example.sock");
    assert!(answered && second != first, "{second}\n{}", systemd.journal());
    systemd.systemctl(&["stop", EMPEROR]);
    let (answered, third) = ask(&systemd, "/run/uwsgi/example.sock");
    assert!(answered && third != second, "{third}\n{}", systemd.journal());
    systemd.systemctl(&["stop", "emperor.uwsgi.socket", EMPEROR]);
    assert_eq!(systemd.property("Result"), "success");
}

/// An application of uWSGI that needs no plugin, with its socket bound by itself or by systemd.
const STATIC: &str = "[uwsgi]\nmaster = true\nprotocol = http\nprocesses = 1\nneed-app = false\n\
    plugin = 0:notfound\ncheck-static = /srv/www\n";

#[test]
fn root_systemd_runs_one_application_without_an_emperor() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, "uwsgi@example") else { return };
    if !systemd.try_exec(&["uwsgi", "--version"]).0 {
        return support::skip("needs uwsgi");
    }
    systemd.write(&bed, "/srv/www/page", "a page\n");
    systemd.write(&bed, "/etc/uwsgi/example.ini", &format!("{STATIC}socket = /run/uwsgi/example.sock\n"));
    systemd.systemctl(&["start", "uwsgi@example"]);
    let main = systemd.property("MainPID");
    let program = systemd.exec(&["readlink", &format!("/proc/{main}/exe")]);
    assert!(program.contains("uwsgi"), "{program}");
    let get = || {
        let url = ["curl", "-s", "--unix-socket", "/run/uwsgi/example.sock", "http://localhost/page"];
        systemd.exec(&url)
    };
    assert_eq!(get(), "a page");
    systemd.systemctl(&["reload", "uwsgi@example"]);
    assert_eq!((get().as_str(), systemd.property("MainPID")), ("a page", main));
    systemd.systemctl(&["stop", "uwsgi@example"]);
    assert_eq!(systemd.property("Result"), "success");

    // On demand, and away again when nobody asks any more.
    let idle = format!("{STATIC}idle = 1\ndie-on-idle = true\n");
    systemd.write(&bed, "/etc/uwsgi/example.ini", &idle);
    systemd.systemctl(&["start", "uwsgi@example.socket"]);
    assert_eq!(systemd.property("ActiveState"), "inactive");
    for _ in 0..2 {
        assert_eq!(get(), "a page");
        systemd.until("ActiveState", "inactive");
        assert_eq!(
            (systemd.property("Result"), systemd.property("NRestarts")),
            ("success".into(), "0".into())
        );
    }
}

#[test]
fn root_systemd_runs_a_program_without_an_emperor() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, "uwsgi-secure@example") else { return };
    let script = "[uwsgi]\ncommand = sh -c 'systemd-notify --ready; exec sleep 7021'\nenv = A=b\n\
        umask = 077\n";
    systemd.write(&bed, "/etc/uwsgi/example.ini", script);
    systemd.systemctl(&["start", "uwsgi-secure@example"]);
    let main = systemd.property("MainPID");
    assert_eq!(pid_of(&systemd, 7021), main);
    let environment = systemd.exec(&["cat", &format!("/proc/{main}/environ")]);
    assert!(environment.split('\0').any(|entry| entry == "A=b"), "{environment}");
    systemd.systemctl(&["stop", "uwsgi-secure@example"]);

    systemd.write(&bed, "/etc/uwsgi/example.ini", "[uwsgi]\ncommand = sleep 1\ncron = 1 2 3 4 5 true\n");
    assert!(!systemd.try_exec(&["systemctl", "start", "uwsgi-secure@example"]).0);
    systemd.until_told("cron: a command vassal has no clock");
}

#[test]
fn root_systemd_starts_the_built_in_engine_at_its_socket_where_no_uwsgi_is_installed() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, "uwsgi@example") else { return };
    let hidden = "[Service]\nEnvironment=PATH=/nonexistent\n";
    systemd.write(&bed, "/etc/systemd/system/uwsgi@.service.d/hidden.conf", hidden);
    systemd.systemctl(&["daemon-reload"]);
    systemd.write(&bed, "/srv/www/page", "a page\n");
    let lines = "protocol = http\ncheck-static = /srv/www\nidle = 1\ndie-on-idle = true\n";
    systemd.write(&bed, "/etc/uwsgi/example.ini", &format!("[uwsgi]\n{lines}"));
    systemd.systemctl(&["start", "uwsgi@example.socket"]);
    for _ in 0..2 {
        assert_eq!(systemd.property("ActiveState"), "inactive");
        let url = ["curl", "-s", "--unix-socket", "/run/uwsgi/example.sock", "http://localhost/page"];
        assert_eq!(systemd.exec(&url), "a page");
        systemd.until("ActiveState", "inactive");
        assert_eq!(
            (systemd.property("Result"), systemd.property("NRestarts")),
            ("success".into(), "0".into())
        );
    }
}

#[test]
fn root_systemd_takes_uwsgis_ends_for_success_and_starts_what_failed_again() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, "uwsgi@example") else { return };
    let ends = |status: u32| {
        let line = format!("command = sh -c 'systemd-notify --ready; exit {status}'");
        systemd.write(&bed, "/etc/uwsgi/example.ini", &format!("[uwsgi]\n{line}\n"));
        systemd.systemctl(&["start", "uwsgi@example"]);
    };
    for (times, status) in (1..).zip([0, 15, 17, 29, 30]) {
        ends(status);
        // A unit that has ended well is forgotten, and its properties with it: the journal is not.
        let well = || systemd.journal().matches("Deactivated successfully").count() == times;
        assert!(poll(PATIENCE, || well().then_some(())).is_some(), "{status}: {}", systemd.journal());
        assert_eq!(systemd.property("ActiveState"), "inactive");
    }
    ends(1);
    let again = || (systemd.property("NRestarts") != "0").then_some(());
    assert!(poll(PATIENCE, again).is_some(), "{}", systemd.journal());
}

#[test]
fn root_systemd_runs_a_program_with_process_ids_of_its_own() {
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, "uwsgi@example") else { return };
    let lines = "sandbox = standard\ncommand = sh -c 'systemd-notify --ready; exec sleep 7031'\n";
    systemd.write(&bed, "/etc/uwsgi/example.ini", &format!("[uwsgi]\n{lines}"));
    systemd.systemctl(&["start", "uwsgi@example"]);
    let (keeper, program) = (systemd.property("MainPID"), pid_of(&systemd, 7031));
    assert_ne!(keeper, program);
    let inside = systemd.exec(&["grep", "NSpid", &format!("/proc/{program}/status")]);
    assert_eq!(inside.split_whitespace().count(), 3, "a number outside, and one inside: {inside}");
    systemd.systemctl(&["stop", "uwsgi@example"]);
    assert!(!systemd.try_exec(&["pgrep", "-xf", "sleep 7031"]).0);
    systemd.systemctl(&["start", "uwsgi@example"]);
    let (keeper, program) = (systemd.property("MainPID"), pid_of(&systemd, 7031));
    systemd.exec(&["kill", "-KILL", &keeper]);
    let other = || (pid_of(&systemd, 7031) != program).then_some(());
    assert!(poll(PATIENCE, other).is_some(), "its namespace ends with it, and it is started again");
    systemd.systemctl(&["stop", "uwsgi@example"]);
}
