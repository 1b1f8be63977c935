//! `emperor status --names`: what completions offer.

use std::path::PathBuf;
use std::process::ExitCode;

use super::client::Client;
use super::{REFUSED, UNREACHABLE, Vassals, print, unescape};

/// Prints the names of the vassals that can be operated. Says nothing about what goes wrong: nobody has asked.
pub(super) fn main(control: Option<PathBuf>) -> ExitCode {
    let Ok(reply) = Client::hasty(control).ask("GET", "/v1/vassals") else { return UNREACHABLE.into() };
    let Ok(all) = reply.read::<Vassals>() else { return REFUSED.into() };
    let bases = all.vassals.iter().filter(|vassal| vassal.reinforces.is_none());
    let text: String = bases.filter_map(|vassal| line(&vassal.id)).collect();
    print(text.as_bytes()).map_or(REFUSED.into(), |()| ExitCode::SUCCESS)
}

/// The name with this id on a line of its own; none if a shell could take it for something else than one word of text.
fn line(id: &str) -> Option<String> {
    let name = String::from_utf8(unescape(id)?).ok()?;
    let legible = !name.is_empty() && !name.starts_with('-') && !name.chars().any(char::is_control);
    legible.then(|| name + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_not_stay_one_line_of_text_is_left_out() {
        assert_eq!(line("a%20b%24%28x%29.ini"), Some("a b$(x).ini\n".into()));
        for id in ["a%0Ab.ini", "%1B%5B1m.ini", "a%09b", "%FF.ini", "--all", "", "%C2%9B1m"] {
            assert_eq!(line(id), None, "{id}");
        }
    }
}
