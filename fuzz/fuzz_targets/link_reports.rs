#![no_main]

use emperor::vassal::link::{Reports, Word};

// However the bytes of a link are cut, the same reports and the same words come out.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let read = |size: usize| {
        let mut reports = Reports::default();
        let (mut all, mut words) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size.max(1)) {
            let (told, rest) = reports.feed(piece);
            all.extend(told);
            words.extend(rest.iter().filter_map(|byte| Word::from_byte(*byte)));
        }
        (all, words)
    };
    assert_eq!(read(bytes.len()), read(1));
});
