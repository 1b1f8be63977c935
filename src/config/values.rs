//! How the text of a value is read: the C library's rules, because that is what files were written for.

/// `false`, `off`, `no` in any case and `0` are false; everything else, also nothing, is true.
#[must_use]
pub fn truth(value: Option<&[u8]>) -> bool {
    !value.is_some_and(|v| {
        v == b"0" || [&b"false"[..], b"off", b"no"].iter().any(|word| v.eq_ignore_ascii_case(word))
    })
}

/// Leading blanks, a sign and digits as a 64-bit number; the rest is ignored, too large a number saturates.
/// The second value tells whether anything else than such a number is there.
#[must_use]
pub fn leading_integer(text: &[u8]) -> (i64, bool) {
    let rest = text.trim_ascii_start();
    let (negative, digits) = match rest.first() {
        Some(b'-') => (true, &rest[1..]),
        Some(b'+') => (false, &rest[1..]),
        _ => (false, rest),
    };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut number = 0_i64;
    for digit in &digits[..count] {
        let digit = i64::from(digit - b'0');
        number = number.saturating_mul(10);
        number = if negative { number.saturating_sub(digit) } else { number.saturating_add(digit) };
    }
    (number, count == 0 || count != digits.trim_ascii_end().len())
}

/// `atoi`: the low 32 bits of the leading integer. No value at all (a flag) is 1.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "that is how the old server reads 99999999999")]
pub fn atoi(value: Option<&[u8]>) -> i32 {
    value.map_or(1, |v| leading_integer(v).0 as i32)
}

/// `strtoul`: a negative number wraps, too large a one saturates. No value at all is 1.
#[must_use]
pub fn strtoul(value: Option<&[u8]>) -> u64 {
    let Some(value) = value else { return 1 };
    let rest = value.trim_ascii_start();
    let (negative, digits) = match rest.first() {
        Some(b'-') => (true, &rest[1..]),
        Some(b'+') => (false, &rest[1..]),
        _ => (false, rest),
    };
    let mut number = 0_u64;
    for digit in digits.iter().take_while(|b| b.is_ascii_digit()) {
        let Some(next) = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0'))) else {
            return u64::MAX;
        };
        number = next;
    }
    if negative { number.wrapping_neg() } else { number }
}

/// A mode of exactly three octal digits; `1` and no value at all mean 0666.
#[must_use]
pub fn mode3(value: Option<&[u8]>) -> Option<u32> {
    match value {
        None | Some(b"1") => Some(0o666),
        Some(digits) if digits.len() == 3 => octal(digits),
        Some(_) => None,
    }
}

/// The mode that `umask` makes of its value: three or four octal digits, of four the first is ignored, else 0.
#[must_use]
pub fn umask(value: &[u8]) -> Option<u32> {
    match value.len() {
        3 => octal(value),
        4 => octal(&value[1..]),
        _ => None,
    }
}

fn octal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |mode, d| matches!(d, b'0'..=b'7').then(|| mode * 8 + u32::from(d - b'0')))
}

/// Splits at a byte and drops empty pieces, as the old server's lists inside one value are read.
pub fn words(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    value.split(move |b| *b == separator).filter(|w| !w.is_empty())
}

/// Splits at the first occurrence of a byte.
#[must_use]
pub fn split_first(value: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = value.iter().position(|b| *b == at)?;
    Some((&value[..i], &value[i + 1..]))
}

/// Whether a value of kind user or group is taken as a number: digits only, and not 0.
#[must_use]
pub fn numeric_id(value: &[u8]) -> Option<u32> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    u32::try_from(leading_integer(value).0).ok().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_words_are_false() {
        for no in ["false", "Off", "NO", "0"] {
            assert!(!truth(Some(no.as_bytes())), "{no}");
        }
        for yes in ["", "n", "00", "disabled", "-1", "false ; really"] {
            assert!(truth(Some(yes.as_bytes())), "{yes}");
        }
        assert!(truth(None));
    }

    #[test]
    fn integers_are_read_like_atoi() {
        for (text, number) in [
            ("5s", 5),
            ("1.9", 1),
            ("0x10", 0),
            ("text", 0),
            ("", 0),
            (" \t-7 ", -7),
            ("99999999999", 1_215_752_191),
        ] {
            assert_eq!(atoi(Some(text.as_bytes())), number, "{text}");
        }
        assert_eq!(atoi(None), 1);
        assert_eq!(strtoul(Some(b"-1")), u64::MAX);
    }

    #[test]
    fn socket_modes_are_three_octal_digits() {
        assert_eq!(mode3(Some(b"660")), Some(0o660));
        assert_eq!(mode3(Some(b"1")), Some(0o666));
        for bad in ["0660", "true", "", "66", "888"] {
            assert_eq!(mode3(Some(bad.as_bytes())), None, "{bad}");
        }
    }

    #[test]
    fn a_user_of_digits_is_an_id_unless_it_is_zero() {
        assert_eq!(numeric_id(b"33"), Some(33));
        assert_eq!(numeric_id(b"0"), None);
        assert_eq!(numeric_id(b"www-data"), None);
    }
}
