//! Words of which a few are known, and what was meant by one that is none of them.

/// What a word means, where it is one of these.
///
/// # Errors
/// Which are wanted, and which of them was meant.
pub fn choose<T: Copy>(word: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(known, _)| *known == word);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| unknown(word, words.iter().map(|(known, _)| *known)))
}

/// What is said of a word that is none of these: which are wanted, and which of them was meant.
pub fn unknown<'w>(word: &str, known: impl Iterator<Item = &'w str> + Clone) -> String {
    let quoted: Vec<_> = known.clone().map(|word| format!("`{word}`")).collect();
    let wanted = match quoted.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => quoted.concat(),
    };
    let near = Misspelt::new(word.as_bytes()).and_then(|word| {
        let near = known.filter_map(|known| Some((word.distance(known.as_bytes())?, known)));
        near.min_by_key(|(distance, _)| *distance)
    });
    let meant = near.map_or_else(String::new, |(_, near)| format!(": did you mean `{near}`?"));
    format!("{wanted} is wanted; this is `{word}`{meant}")
}

/// A name that is not known.
#[derive(Debug)]
pub(super) struct Misspelt {
    plain: Vec<u8>,
    letters: u32,
    allowed: usize,
}

impl Misspelt {
    /// `None` if it is so short that many names are near.
    pub(super) fn new(name: &[u8]) -> Option<Self> {
        let allowed = match name.len() {
            0..=2 => return None,
            3..=5 => 1,
            _ => 2,
        };
        let plain: Vec<u8> =
            name.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() }).collect();
        Some(Self { letters: letters(&plain), plain, allowed })
    }

    /// As it would be written if its letters were right.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// How far it is from a name that is known; `None` if that is too far to be what was meant.
    pub(super) fn distance(&self, known: &[u8]) -> Option<usize> {
        let is_far = known.len().abs_diff(self.plain.len()) > self.allowed
            || (letters(known) ^ self.letters).count_ones() as usize > 2 * self.allowed;
        if is_far { None } else { distance(known, &self.plain, self.allowed) }
    }
}

/// A bit for each letter that occurs: two names within n edits differ in at most 2n of them.
fn letters(name: &[u8]) -> u32 {
    name.iter().fold(0, |set, byte| set | 1 << (byte & 31))
}

/// Edit distance with neighbours swapped as one edit, or `None` above `most`.
fn distance(a: &[u8], b: &[u8], most: usize) -> Option<usize> {
    if b.len() >= LONGEST_NAME {
        return None;
    }
    let (mut before, mut last, mut row) = ([0; LONGEST_NAME], [0; LONGEST_NAME], [0; LONGEST_NAME]);
    last.iter_mut().enumerate().for_each(|(at, cell)| *cell = at);
    for (i, x) in a.iter().enumerate() {
        row[0] = i + 1;
        let mut least = row[0];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row[j + 1] = best;
            least = least.min(best);
        }
        if least > most {
            return None;
        }
        (before, last, row) = (last, row, before);
    }
    Some(last[b.len()]).filter(|d| *d <= most)
}

/// No name that is known is as long as this.
const LONGEST_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_none_of_a_few_is_told_with_those_and_with_the_one_that_was_meant() {
        const WORDS: [(&str, u8); 3] = [("none", 0), ("standard", 1), ("strict", 2)];
        assert_eq!(choose("strict", &WORDS), Ok(2));
        let told = |word: &str| choose(word, &WORDS).unwrap_err();
        assert_eq!(told("tight"), "`none`, `standard` or `strict` is wanted; this is `tight`");
        for (word, meant) in
            [("strct", "strict"), ("Strict", "strict"), ("standrad", "standard"), ("nnoe", "none")]
        {
            let told = told(word);
            assert!(told.ends_with(&format!("this is `{word}`: did you mean `{meant}`?")), "{told}");
        }
        assert!(!told("no").contains("mean"), "too short to tell");
        assert!(!told(&"x".repeat(200)).contains("mean"));
        assert_eq!(unknown("x", ["a"].into_iter()), "`a` is wanted; this is `x`");
    }
}
