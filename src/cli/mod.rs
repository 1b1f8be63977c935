//! What a person types: uWSGI's options, the subcommands, tables.
#![forbid(unsafe_code)]

/// Runs the role that the command line asks for.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((role, rest)) if role == "vassal" => crate::vassal::launch::main(rest),
        _ => std::process::ExitCode::SUCCESS,
    }
}
