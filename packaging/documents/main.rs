//! Writes the man pages and the completions of shells into a folder: `cargo run --example documents -- DIR [DATE]`.
//!
//! They are made from the option table and from the command line's own grammar when a package is built, so that
//! nothing can get out of step and the program carries none of it.

mod completions;
mod manual;

use std::path::PathBuf;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map(PathBuf::from).ok_or("usage: documents DIR [YYYY-MM-DD]")?;
    let date = arguments.next().and_then(|date| date.into_string().ok()).unwrap_or_default();
    for (name, text) in manual::pages(&date).into_iter().chain(completions::scripts()) {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}
