//! What a person types: uWSGI's options, the subcommands, tables.
#![forbid(unsafe_code)]

/// Runs the role that the command line asks for.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
