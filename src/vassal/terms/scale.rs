//! `scale-max`, `scale-backlog`, `scale-cooldown`: reinforcements for a program that cannot ask for them.

use serde::{Deserialize, Serialize};

use super::{Asked, TermsError};

/// What a file says of it. The default is no reinforcements.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Unchecked")]
pub struct ScaleTerms {
    /// `scale-max`: the most processes on the vassal's sockets, its own included.
    pub max: u32,
    /// `scale-backlog`: connections that wait at one of its sockets, and call for one more.
    pub backlog: u32,
    /// `scale-cooldown`, seconds: how long nobody may have waited before one is taken away.
    pub cooldown: u32,
}

/// As they come from a process that has read them as a tenant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    max: u32,
    backlog: u32,
    cooldown: u32,
}

/// Most processes.
const MOST: u32 = 64;
const MOST_BACKLOG: u32 = 65_535;
/// Most seconds.
const MOST_SECONDS: u32 = 86_400;

impl Default for ScaleTerms {
    fn default() -> Self {
        Self { max: 1, backlog: 10, cooldown: 60 }
    }
}

impl ScaleTerms {
    /// Reads them.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn read(asked: Asked<'_>) -> Result<Self, TermsError> {
        let number = |option: &str, most: u32, default: u32| -> Result<u32, TermsError> {
            let number = asked.number(option, 1..=i64::from(most))?;
            Ok(number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default))
        };
        let Self { max, backlog, cooldown } = Self::default();
        Ok(Self {
            max: number("scale-max", MOST, max)?,
            backlog: number("scale-backlog", MOST_BACKLOG, backlog)?,
            cooldown: number("scale-cooldown", MOST_SECONDS, cooldown)?,
        })
    }
}

impl TryFrom<Unchecked> for ScaleTerms {
    type Error = &'static str;

    fn try_from(Unchecked { max, backlog, cooldown }: Unchecked) -> Result<Self, &'static str> {
        let good = (1..=MOST).contains(&max)
            && (1..=MOST_BACKLOG).contains(&backlog)
            && (1..=MOST_SECONDS).contains(&cooldown);
        if good { Ok(Self { max, backlog, cooldown }) } else { Err("a zerg that cannot be") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn numbers_are_bounded_here_and_when_they_come_from_a_tenant() {
        let read = |lines: &str| ScaleTerms::read(Asked(&config(lines)));
        let terms = read("scale-max = 4\nscale-cooldown = 5\n").unwrap();
        assert_eq!(terms, ScaleTerms { max: 4, backlog: 10, cooldown: 5 });
        for wrong in
            ["scale-max = 65\n", "scale-max = 0\n", "scale-backlog = 0\n", "scale-cooldown = 86401\n"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let text = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<ScaleTerms>(&text).unwrap(), terms);
        assert!(serde_json::from_str::<ScaleTerms>(&text.replace('4', "400")).is_err());
    }
}
