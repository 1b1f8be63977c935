//! Giving memory back that this process will hardly touch again.
//!
//! Caller: process 1 of a pid namespace, which lives as long as its vassal and does nothing but wait.

use std::ffi::c_void;
use std::io;
use std::ptr;

/// Gives back the pages of files that are mapped here and were never written to, such as program text: they come
/// back from the page cache when they are touched. Also what the allocator keeps for later.
///
/// # Errors
/// `/proc/self/smaps` cannot be read. Source: madvise(2), `MADV_DONTNEED`; proc(5).
pub fn give_back() -> io::Result<()> {
    // SAFETY: an integer; the C library gives back only what nothing refers to.
    unsafe { libc::malloc_trim(0) };
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    for (start, end) in clean_file_mappings(&smaps) {
        let start_pointer: *mut c_void = ptr::without_provenance_mut(start);
        // SAFETY: a private mapping of a file without a page of our own: each page reads the same when it comes back.
        unsafe { libc::madvise(start_pointer, end - start, libc::MADV_DONTNEED) };
    }
    Ok(())
}

/// The mappings of files that cannot be written to and hold no page that differs from the file (relocations do).
fn clean_file_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = range(first) {
            let private = words.next().is_some_and(|mode| !mode.contains('w') && mode.ends_with('p'));
            let file = line.split_whitespace().nth(5).is_some_and(|path| path.starts_with('/'));
            current = (private && file).then_some((start, end));
        } else if matches!(first, "Anonymous:" | "Swap:") && words.next() != Some("0") {
            current = None;
        } else if first == "VmFlags:" {
            found.extend(current.take());
        }
    }
    found
}

fn range(word: &str) -> Option<(usize, usize)> {
    let (start, end) = word.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_equals_its_file_is_given_back() {
        let mapping = |range: &str, mode: &str, path: &str, dirty: u32| {
            format!(
                "{range} {mode} 00000000 08:01 7 {path}\nSize: 4 kB\nPrivate_Dirty: 4 kB\nAnonymous: {dirty} kB\nVmFlags: rd\n"
            )
        };
        let smaps = [
            mapping("1000-2000", "r-xp", "/bin/a", 0),
            mapping("2000-3000", "r--p", "/bin/a", 4),
            mapping("3000-4000", "rw-p", "/bin/a", 0),
            mapping("4000-5000", "r--p", "", 0),
            mapping("5000-6000", "r--p", "[vvar]", 0),
            mapping("6000-9000", "r--p", "/lib/b", 0),
        ]
        .concat();
        assert_eq!(clean_file_mappings(&smaps), [(0x1000, 0x2000), (0x6000, 0x9000)]);
    }
}
