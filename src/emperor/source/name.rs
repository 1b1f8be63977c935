//! Which names a vassal's file may have.

use super::Oddity;

/// The suffixes uWSGI's Emperor knows. Case matters.
const SUFFIXES: [&[u8]; 6] = [b".xml", b".ini", b".yml", b".yaml", b".js", b".json"];

/// Longest name, in bytes, that uWSGI's Emperor takes.
const LONGEST: usize = 254;

/// The rule for names: the known suffixes and those of `emperor-extra-extension`.
#[derive(Debug)]
pub(super) struct Names {
    extra: Vec<Box<[u8]>>,
}

impl Names {
    pub(super) fn new(extra: &[Vec<u8>]) -> Self {
        Self { extra: extra.iter().filter(|e| !e.is_empty()).map(|e| e.as_slice().into()).collect() }
    }

    /// Whether a file of this name is meant as a vassal.
    pub(super) fn accepts(&self, name: &[u8]) -> bool {
        SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
            || self.extra.iter().any(|suffix| name.ends_with(suffix))
    }

    /// All suffixes, for a message.
    pub(super) fn list(&self) -> String {
        let extra = self.extra.iter().map(|suffix| &**suffix);
        let all: Vec<_> = SUFFIXES.into_iter().chain(extra).map(String::from_utf8_lossy).collect();
        all.join(" ")
    }
}

/// Why this name of a vassal, however good its file, cannot be used.
pub(super) fn oddity(name: &[u8]) -> Option<Oddity> {
    if name.len() > LONGEST {
        Some(Oddity::NameTooLong)
    } else if name.contains(&b':') {
        Some(Oddity::Colon)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_names_are_chosen_by_a_suffix_whose_case_matters() {
        // spec/emperor.md 3.2
        let names = Names::new(&[b"conf".to_vec(), Vec::new()]);
        for good in ["a.ini", ".ini", ".hidden.ini", "a.xml", "a.yml", "a.yaml", "a.js", "a.json", "aconf"] {
            assert!(names.accepts(good.as_bytes()), "{good}");
        }
        for bad in ["x.ini~", "a.ini.swp", "h.INI", "g.txt", "ini", ""] {
            assert!(!names.accepts(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_colon_and_more_than_254_bytes_are_odd() {
        assert_eq!(oddity(&[b'x'; 254]), None);
        assert_eq!(oddity(&[b'x'; 255]), Some(Oddity::NameTooLong));
        assert_eq!(oddity(b"a:b.ini"), Some(Oddity::Colon));
    }
}
