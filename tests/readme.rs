//! Every command in README.md does what is written beside it.

mod support;

use std::path::Path;
use std::process::Command;

use support::page::{Page, Play};

const README: Page = Page {
    text: include_str!("../README.md"),
    also: &[
        ("tests/run", "test -x packaging/install-test-packages"),
        ("http://127.0.0.1:8080", "curl -s http://127.0.0.1:8080 | cmp - vassals.d/welcome/index.html"),
        ("touch vassals.d/second.ini", "grep -q 'reload.* second.ini' $STAYS"),
        (
            "rm vassals.d/second.ini",
            "! curl -s http://127.0.0.1:8081 && curl -sf http://127.0.0.1:8080 > /dev/null",
        ),
        ("ps -C uwsgi-core", "! ps -C uwsgi-core -o args= | grep root.ini && grep -q root.ini $STAYS"),
        ("mkdir -p /srv/shop", "emperor check --plan /etc/uwsgi/vassals/shop.ini"),
        ("kill -HUP", "grep -q 'SIGHUP' $STAYS"),
    ],
};

#[test]
fn root_readme_the_first_page() {
    play(&["", "Add, touch, remove"], &[], &[]);
}

#[test]
fn root_readme_the_first_page_where_uwsgi_is_not_installed() {
    play(&["", "Add, touch, remove"], &[], &["uwsgi", "uwsgi-core"]);
}

#[test]
fn root_readme_python_behind_nginx() {
    play(&["A Python application behind nginx"], &["uwsgi", "nginx"], &[]);
}

#[test]
fn root_readme_tenants() {
    play(&["Tenants"], &["uwsgi", "nginx"], &[]);
}

#[test]
fn root_readme_any_program() {
    play(&["Any program, in a jail, when it is needed"], &["gunicorn"], &[]);
}

#[test]
fn root_readme_service() {
    play(&["As a service"], &["uwsgi", "nginx"], &[]);
}

#[test]
fn every_chapter_with_commands_is_played() {
    let played = [
        "",
        "Add, touch, remove",
        "A Python application behind nginx",
        "Tenants",
        "Any program, in a jail, when it is needed",
        "As a service",
    ]
    .map(String::from);
    assert_eq!(README.chapters(), played);
    README.assert_also_has_places();
}

fn play(chapters: &[&str], needs: &[&str], hidden: &[&str]) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built =
        Command::new(env!("CARGO")).args(["build", "--release", "--locked"]).current_dir(repository).output();
    let built = built.expect("cargo");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    README.play(&Play { chapters, emperor: &repository.join("target/release/emperor"), needs, hidden });
}
