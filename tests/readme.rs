//! Every command in README.md does what is written beside it.
//!
//! A block marked `sh` is run as it stands; a block marked `text` behind it is what its output must contain, line by
//! line. `sh stays` is a command that does not end: the blocks behind it are tried until they succeed. Each chapter
//! has namespaces of its own, in which the machine's files can be changed without changing the machine, and its
//! processes end with it. That takes root.

#![expect(clippy::print_stdout, reason = "a test that cannot run here says so")]

use std::fs;
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../README.md");

/// What the page does not say but must be true, in the shell's words, behind the block that contains a text.
const ALSO: &[(&str, &str)] = &[
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
];

#[test]
fn root_readme_the_first_page() {
    play(&["", "Add, touch, remove"], Uwsgi::AsItIs);
}

#[test]
fn root_readme_the_first_page_where_uwsgi_is_not_installed() {
    play(&["", "Add, touch, remove"], Uwsgi::Hidden);
}

#[test]
fn root_readme_python_behind_nginx() {
    play(&["A Python application behind nginx"], Uwsgi::Needed);
}

#[test]
fn root_readme_tenants() {
    play(&["Tenants"], Uwsgi::Needed);
}

#[test]
fn root_readme_any_program() {
    play(&["Any program, in a jail, when it is needed"], Uwsgi::AsItIs);
}

#[test]
fn root_readme_service() {
    play(&["As a service"], Uwsgi::Needed);
}

#[test]
fn every_chapter_with_commands_is_played() {
    let mut chapters: Vec<String> = blocks().into_iter().map(|block| block.chapter).collect();
    chapters.dedup();
    let played = [
        "",
        "Add, touch, remove",
        "A Python application behind nginx",
        "Tenants",
        "Any program, in a jail, when it is needed",
        "As a service",
    ]
    .map(String::from);
    assert_eq!(chapters, played);
    for (text, _) in ALSO {
        assert!(blocks().iter().any(|block| block.code.contains(text)), "no block has `{text}`");
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Uwsgi {
    AsItIs,
    Hidden,
    Needed,
}

#[derive(Debug)]
struct Block {
    chapter: String,
    code: String,
    stays: bool,
    prints: String,
}

/// The blocks of the page in order.
fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut chapter = String::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            chapter = title.to_owned();
        }
        let Some(mark) = line.strip_prefix("```") else { continue };
        let code: String =
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        match (mark, blocks.last_mut()) {
            ("sh" | "sh stays", _) => blocks.push(Block {
                chapter: chapter.clone(),
                code,
                stays: mark == "sh stays",
                prints: String::new(),
            }),
            ("text", Some(block)) => block.prints = code,
            _ => panic!("a block that is neither `sh` nor the output of one: {mark}"),
        }
    }
    blocks
}

fn play(chapters: &[&str], uwsgi: Uwsgi) {
    if let Some(lack) = lack(uwsgi) {
        println!("skipped: {lack}");
        return;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built =
        Command::new(env!("CARGO")).args(["build", "--release", "--locked"]).current_dir(repository).output();
    let built = built.expect("cargo");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let stage = tempfile::tempdir().expect("a folder");
    let mut script = PROLOGUE.to_owned();
    if uwsgi == Uwsgi::Hidden {
        script += "for name in uwsgi uwsgi-core; do hide $(command -v $name); done\n";
    }
    if chapters.iter().any(|title| title.contains("nginx")) {
        script += "nginx\n";
    }
    for (number, block) in
        blocks().iter().filter(|block| chapters.contains(&block.chapter.as_str())).enumerate()
    {
        let file = |kind: &str| stage.path().join(format!("{number}.{kind}"));
        // Running all tests from one of them has no end; everything up to there is run.
        let code = block.code.replace("tests/run\n", "tests/run --no-run\n");
        fs::write(file("sh"), code).expect("a script");
        fs::write(file("prints"), &block.prints).expect("a text");
        let also = ALSO.iter().find(|(text, _)| block.code.contains(text)).map_or("true", |(_, check)| check);
        fs::write(file("also"), also).expect("a check");
        let verb = if block.stays { "stay" } else { "run" };
        script += &format!("{verb} {number}\n");
    }
    let played = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-euc", &script, "readme"])
        .args([stage.path(), repository])
        .env("CARGO_NET_OFFLINE", "true")
        .current_dir(repository)
        .output()
        .expect("unshare");
    let (out, err) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{out}\n{err}");
}

/// What is missing for a chapter to be played.
fn lack(uwsgi: Uwsgi) -> Option<&'static str> {
    let has = |program: &str| {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output()
            .is_ok_and(|it| it.status.success())
    };
    if !nix::unistd::Uid::effective().is_root() {
        return Some("only root can make the namespaces");
    }
    if !["unshare", "ip", "curl", "ps"].into_iter().all(has) {
        return Some("a package of packaging/debian-packages.txt is not installed");
    }
    if uwsgi == Uwsgi::Needed && !["uwsgi", "nginx"].into_iter().all(has) {
        return Some("uWSGI or nginx is not installed");
    }
    let made =
        Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "sh", "-ec", PROBE]).output();
    (!made.is_ok_and(|it| it.status.success()))
        .then_some("this system lets nobody make namespaces and overlays")
}

/// What the prologue needs to be allowed.
const PROBE: &str = "mount -t tmpfs tmpfs /run && mkdir /run/new /run/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/new,workdir=/run/work /etc";

/// Makes the folders that the page writes to private, and explains `run` and `stay`.
const PROLOGUE: &str = r#"
stage=$1 repository=$2
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir -p "$stage/over"
mount -t tmpfs tmpfs "$stage/over"
for folder in /etc /srv /usr/local /var "$repository/vassals.d"; do
    mkdir -p "$stage/over$folder.new" "$stage/over$folder.work"
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=$stage/over$folder.new,workdir=$stage/over$folder.work" "$folder"
done
install -m 755 target/release/emperor /usr/local/bin/
hide() {
    : > "$stage/hidden"
    mount --bind "$stage/hidden" "$(readlink -f "$1")"
}
STAYS=/dev/null
stay() {
    STAYS=$stage/$1.out
    export STAYS
    sh -e "$stage/$1.sh" > "$STAYS" 2>&1 &
}
attempt() {
    sh -e "$stage/$1.sh" > "$stage/$1.out" 2>&1 || return 1
    while read -r line; do grep -qF -- "$line" "$stage/$1.out" || return 1; done < "$stage/$1.prints"
}
also() { bash -c "$(cat "$stage/$1.also")" > /dev/null 2>&1; }
patiently() {
    for try in $(seq 200); do
        if "$@"; then return; fi
        sleep 0.1
    done
    echo "failed: $*"
    tail -n 40 "$stage/$2.sh" "$stage/$2.out" "$stage/$2.also" "$STAYS"
    exit 1
}
run() {
    if [ "$STAYS" = /dev/null ]; then attempt "$1" || patiently false "$1"; else patiently attempt "$1"; fi
    patiently also "$1"
}
"#;
