//! Picks the role of this process and turns an error into a report and an exit status.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    emperor::cli::main()
}
