//! The ini reader: lines over bytes. No quoting, no escapes, no continuation, no trailing comments.

/// Hands every pair of the asked section to `each`, with the offset of its line; returns how many there were.
pub(super) fn read<E>(
    text: &[u8],
    section: &[u8],
    mut each: impl FnMut(usize, &[u8], &[u8]) -> Result<(), E>,
) -> Result<usize, E> {
    let mut inside = false;
    let mut count = 0;
    let mut start = 0;
    for line in text.split(|b| *b == b'\n') {
        let at = start;
        start += line.len() + 1;
        match classify(line) {
            Line::Nothing => {}
            Line::Header(name) => inside = name == section,
            Line::Pair(key, value) if inside => {
                count += 1;
                each(at, key, value)?;
            }
            Line::Pair(..) => {}
        }
    }
    Ok(count)
}

/// What one line is.
pub(super) enum Line<'t> {
    /// Blank or a comment.
    Nothing,
    /// A section header: everything between its first and its last byte.
    Header(&'t [u8]),
    /// A key, and what stands behind the first `=`.
    Pair(&'t [u8], &'t [u8]),
}

pub(super) fn classify(line: &[u8]) -> Line<'_> {
    let line = trim(line.split(|b| *b == 0).next().unwrap_or_default());
    match line.first() {
        None | Some(b';' | b'#') => Line::Nothing,
        Some(b'[') => Line::Header(if line.len() < 2 { b"" } else { &line[1..line.len() - 1] }),
        Some(_) => match line.iter().position(|b| *b == b'=') {
            Some(at) => Line::Pair(trim(&line[..at]), trim(&line[at + 1..])),
            None => Line::Pair(line, b""),
        },
    }
}

/// Blanks are exactly space, TAB and CR.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &[u8]) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let text_of = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let _: Result<usize, ()> = read(text, b"uwsgi", |_, k, v| {
            out.push((text_of(k), text_of(v)));
            Ok(())
        });
        out
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let text = b"[uwsgi]\r\nmaster\r\n a = b=c ; x\r\n = v\n;a = 1\n # b\nd = \"q\\\nnul = a\0b\nlast=1";
        let wanted =
            [("master", ""), ("a", "b=c ; x"), ("", "v"), ("d", "\"q\\"), ("nul", "a"), ("last", "1")];
        assert_eq!(pairs(text), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_header_is_its_line_without_first_and_last_byte() {
        assert_eq!(
            pairs(b"[uwsgiX\na\n[uwsgi] ; x\nb\n  [uwsgi] \nc\n[ uwsgi ]\nd\n[uwsgi\ne\n[\nf").len(),
            2
        );
    }

    #[test]
    fn keys_above_every_header_do_not_count() {
        assert_eq!(pairs(b"a = 1\n[x]\nb\n").len(), 0);
    }
}
