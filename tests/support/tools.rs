//! Compiles the C programs, once for all test programs of a build directory.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The witness, as compiled.
pub(crate) fn witness() -> PathBuf {
    compiled("witness", include_str!("witness.c"), &[])
}

/// The usher, as compiled.
pub(crate) fn usher() -> PathBuf {
    compiled("usher", include_str!("usher.c"), &[])
}

/// The idler, as compiled: a vassal of a few pages.
pub(crate) fn idler() -> PathBuf {
    let options = ["-static", "-nostdlib", "-nostartfiles", "-fno-stack-protector"];
    compiled("idler", include_str!("idler.c"), &options)
}

/// The asker, as compiled: one program without libraries, so that it starts in any view of the system.
pub(crate) fn asker() -> PathBuf {
    compiled("asker", include_str!("asker.c"), &["-static", "-pthread"])
}

/// Compiles under a name that the source decides. Two test programs may do so at the same time: each writes
/// a file of its own, and the rename that comes last wins with the same bytes.
fn compiled(name: &str, source: &str, options: &[&str]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:016x}", hasher.finish()));
    if target.exists() {
        return target;
    }
    let part = target.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name).with_extension("c");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let done =
        Command::new(&cc).args(["-O1", "-Wall"]).args(options).arg("-o").arg(&part).arg(&path).output();
    let done = done.unwrap_or_else(|e| panic!("cannot run the C compiler {}: {e}", cc.display()));
    assert!(done.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&done.stderr));
    std::fs::rename(&part, &target).expect("rename of a fresh program");
    target
}

/// The full path of a program on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}
