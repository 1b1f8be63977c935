//! Pages of the documentation whose commands are run as they stand.
//!
//! A block marked `sh` is run; a block marked `text` behind it is what its output must contain, line by line.
//! `sh stays` is a command that does not end: the blocks behind it are tried until they succeed. Other blocks are
//! for the reader. What is played together has namespaces of its own, in which the machine's files can be changed
//! without changing the machine, and its processes end with it. That takes root.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::systemd_box::SystemdBox;
use super::{PATIENCE, poll, skip, tools};

/// A page.
pub(crate) struct Page {
    /// Its text.
    pub(crate) text: &'static str,
    /// What it does not say but must be true, in the shell's words, behind the block that contains a text.
    pub(crate) also: &'static [(&'static str, &'static str)],
}

/// What is played.
pub(crate) struct Play<'a> {
    /// The chapters, in this order; the text before the first one is the chapter without a name.
    pub(crate) chapters: &'a [&'a str],
    /// The program that is installed as `emperor`.
    pub(crate) emperor: &'a Path,
    /// Programs, and files, without which there is nothing to play.
    pub(crate) needs: &'a [&'a str],
    /// Programs that are not to be found.
    pub(crate) hidden: &'a [&'a str],
}

/// A block of commands.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) chapter: String,
    pub(crate) code: String,
    stays: bool,
    prints: String,
}

impl Page {
    /// The blocks of commands in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut chapter = String::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                title.clone_into(&mut chapter);
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
                ("text", None) | ("", _) => {
                    panic!("a block that is neither `sh` nor the output of one: {code}")
                }
                _ => {} // for the reader
            }
        }
        blocks
    }

    /// The chapters that have commands, in order.
    pub(crate) fn chapters(&self) -> Vec<String> {
        let mut chapters: Vec<String> = self.blocks().into_iter().map(|block| block.chapter).collect();
        chapters.dedup();
        chapters
    }

    /// Fails if what must also be true belongs to no block.
    pub(crate) fn assert_also_has_places(&self) {
        for (text, _) in self.also {
            assert!(self.blocks().iter().any(|block| block.code.contains(text)), "no block has `{text}`");
        }
    }

    /// Runs the commands of some chapters; says so where that cannot be done.
    pub(crate) fn play(&self, play: &Play<'_>) {
        if let Some(lack) = lack(play.needs) {
            return skip(&lack);
        }
        let stage = tempfile::tempdir().expect("a folder");
        let mut script = PROLOGUE.to_owned();
        for program in play.hidden {
            script +=
                &format!("if command -v {program}; then hide $(command -v {program}); fi > /dev/null\n");
        }
        let mut number = 0;
        for chapter in play.chapters {
            if chapter.contains("nginx") {
                script += "nginx\n";
            }
            for block in self.blocks().iter().filter(|block| block.chapter == *chapter) {
                script += &self.prepare(block, number, stage.path());
                number += 1;
            }
        }
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let played = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", "-euc", &script, "page"])
            .args([stage.path(), repository, play.emperor])
            .env("CARGO_NET_OFFLINE", "true")
            .current_dir(repository)
            .output()
            .expect("unshare");
        let (out, err) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
        assert!(played.status.success(), "{out}\n{err}");
    }

    /// Runs the commands of some chapters in a systemd, each block until it succeeds and prints what it must.
    pub(crate) fn play_in(&self, systemd: &SystemdBox, chapters: &[&str]) {
        let repository = env!("CARGO_MANIFEST_DIR");
        for chapter in chapters {
            let blocks: Vec<Block> =
                self.blocks().into_iter().filter(|block| block.chapter == *chapter).collect();
            assert!(!blocks.is_empty(), "there is no chapter {chapter}");
            for block in blocks {
                assert!(!block.stays, "units stay, commands do not: {}", block.code);
                let code = block.code.replace("target/release/emperor", env!("CARGO_BIN_EXE_emperor"));
                let code = format!("cd '{repository}'\n{code}");
                let mut said = String::new();
                let done = poll(PATIENCE, || {
                    let (succeeded, text) = systemd.try_exec(&["sh", "-ec", &code]);
                    said = text;
                    (succeeded && block.prints.lines().all(|line| said.contains(line))).then_some(())
                });
                assert!(done.is_some(), "{code}\n{said}\n{}", systemd.journal());
            }
        }
    }

    /// Writes down a block; the line that runs it.
    fn prepare(&self, block: &Block, number: usize, stage: &Path) -> String {
        let file = |kind: &str| stage.join(format!("{number}.{kind}"));
        // Running all tests from one of them has no end; everything up to there is run.
        let code = block.code.replace("tests/run\n", "tests/run --no-run\n");
        fs::write(file("sh"), code).expect("a script");
        fs::write(file("prints"), &block.prints).expect("a text");
        let also = self.also.iter().find(|(text, _)| block.code.contains(text));
        fs::write(file("also"), also.map_or("true", |(_, check)| check)).expect("a check");
        format!("{} {number}\n", if block.stays { "stay" } else { "run" })
    }
}

/// What is missing to play.
fn lack(needs: &[&str]) -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("only root can make the namespaces".into());
    }
    let is_there =
        |it: &&str| if it.starts_with('/') { Path::new(it).exists() } else { tools::on_path(it).is_some() };
    let missing = ["unshare", "ip", "curl", "ps"].iter().chain(needs).find(|it| !is_there(it));
    if let Some(missing) = missing {
        return Some(format!("{missing} is not installed"));
    }
    let made =
        Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "sh", "-ec", PROBE]).output();
    (!made.is_ok_and(|it| it.status.success()))
        .then(|| "this system lets nobody make namespaces and overlays".into())
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
install -m 755 "$3" /usr/local/bin/emperor
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
