//! Every command in docs/setups does what is written beside it.

mod support;

use std::path::Path;

use support::Bed;
use support::page::{Page, Play};
use support::systemd_box::SystemdBox;

const PYTHON: Page = Page { text: include_str!("../docs/setups/python.md"), also: &[] };
const PHP: Page = Page { text: include_str!("../docs/setups/php.md"), also: &[] };
const NGINX: Page = Page { text: include_str!("../docs/setups/nginx.md"), also: &[] };
const CHROOT: Page = Page { text: include_str!("../docs/setups/chroot.md"), also: &[] };
const ON_DEMAND: Page = Page { text: include_str!("../docs/setups/on-demand.md"), also: &[] };
const HARDENED: Page = Page { text: include_str!("../docs/setups/hardened.md"), also: &[] };
const SYSTEMD: Page = Page { text: include_str!("../docs/setups/systemd.md"), also: &[] };

const PYTHON_PLUGIN: &str = "/usr/lib/uwsgi/plugins/python3_plugin.so";
const PHP_PLUGIN: &str = "/usr/lib/uwsgi/plugins/php_plugin.so";

fn play(page: &Page, chapters: &[&str], needs: &[&str]) {
    let emperor = Path::new(env!("CARGO_BIN_EXE_emperor"));
    page.play(&Play { chapters, emperor, needs: &[&["uwsgi"], needs].concat(), hidden: &[] });
}

/// The same in a real systemd, with the units installed.
fn play_in_systemd(page: &Page, unit: &str, chapters: &[&str], needs: &[&str]) {
    let missing = needs.iter().find(|path| !Path::new(path).exists());
    if let Some(missing) = missing {
        return support::skip(&format!("{missing} is not installed"));
    }
    let bed = Bed::new();
    let Some(systemd) = SystemdBox::installed(&bed, unit) else { return };
    page.play_in(&systemd, chapters);
}

#[test]
fn root_python_from_the_command_line() {
    play(&PYTHON, &["", "From the command line"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_python_as_a_vassal() {
    play(&PYTHON, &["", "As a vassal"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_systemd_python_alone() {
    play_in_systemd(&PYTHON, "uwsgi@example", &["", "Alone, under systemd"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_php_behind_nginx() {
    play(&PHP, &["PHP behind nginx"], &["nginx", PHP_PLUGIN]);
}

#[test]
fn root_nginx_by_a_path_and_by_a_port() {
    play(&NGINX, &["The application behind nginx"], &["nginx"]);
}

#[test]
fn root_nginx_and_the_application_in_one_chroot() {
    play(&CHROOT, &["What both need", "Under an emperor"], &["nginx", PYTHON_PLUGIN]);
}

#[test]
fn root_systemd_nginx_and_the_application_in_one_chroot() {
    let chapters = ["What both need", "Alone, under systemd"];
    play_in_systemd(&CHROOT, "uwsgi@app", &chapters, &["/usr/sbin/nginx", PYTHON_PLUGIN]);
}

#[test]
fn root_on_demand_under_an_emperor() {
    play(&ON_DEMAND, &["", "Under an emperor"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_systemd_on_demand() {
    play_in_systemd(&ON_DEMAND, "uwsgi@example", &["", "Under systemd alone"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_shut_in_by_sandbox() {
    play(&HARDENED, &["", "By sandbox"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_systemd_shut_in_by_the_unit() {
    play_in_systemd(&HARDENED, "uwsgi-secure@example", &["", "By the unit"], &[PYTHON_PLUGIN]);
}

#[test]
fn root_systemd_an_emperor_as_a_service_and_by_its_socket() {
    let chapters = ["", "A first vassal", "Sockets that systemd binds"];
    play_in_systemd(&SYSTEMD, "emperor.uwsgi.service", &chapters, &["/usr/bin/uwsgi"]);
}

#[test]
fn every_chapter_with_commands_is_played() {
    let played: [(&Page, &[&str]); 7] = [
        (&PYTHON, &["", "From the command line", "As a vassal", "Alone, under systemd"]),
        (&PHP, &["PHP behind nginx"]),
        (&NGINX, &["The application behind nginx"]),
        (&CHROOT, &["What both need", "Under an emperor", "Alone, under systemd"]),
        (&ON_DEMAND, &["", "Under an emperor", "Under systemd alone"]),
        (&HARDENED, &["", "By sandbox", "By the unit"]),
        (&SYSTEMD, &["", "A first vassal", "Sockets that systemd binds"]),
    ];
    for (page, chapters) in played {
        assert_eq!(page.chapters(), chapters);
    }
}

/// The figures of the hostile vassal are those of docs/security.md, which its own test keeps.
#[test]
fn the_table_of_the_hardened_page_has_the_figures_of_the_page_on_security() {
    let sums = include_str!("../docs/security.md").lines().find(|line| line.starts_with("| **all** |"));
    let sums: Vec<&str> = sums.expect("the row of sums").split('|').map(str::trim).collect();
    // An empty word, the title, and from there uWSGI, the unit, and a tenant in none, standard and strict.
    let [unit, none, standard, strict] = sums[3..7] else { panic!("{sums:?}") };
    for (place, figure) in [
        ("a unit hardened", unit),
        ("a vassal without", none),
        ("`sandbox = standard`, tyrant", standard),
        ("`sandbox = strict`, tyrant", strict),
    ] {
        let row = HARDENED.text.lines().find(|line| line.starts_with(&format!("| {place}")));
        let held = figure.split(' ').next().expect("a number");
        assert!(row.expect(place).contains(&format!("| {held} |")), "{place}: {figure}");
    }
}
