#![no_main]

use emperor::zerg::pool::Pool;
use emperor::zerg::wire::{Greeting, Label, MOST_DESCRIPTORS, MOST_OFFERED, message, read};

// Whatever a server says, what is taken of it is bounded, and what is said again is heard as it was.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for greeting in [Greeting::Zerg, Greeting::Namespaces, Greeting::Emperor] {
        let Some(said) = read(greeting, bytes) else { continue };
        let count = said.labels.len();
        assert!(count <= MOST_DESCRIPTORS + 1);
        for label in &said.labels {
            assert_eq!(Label::new(label.name(), label.protocol()).as_ref(), Some(label));
        }
        assert_eq!(read(greeting, &message(greeting, count, &said.labels)).map(|said| said.labels), Some(said.labels));
    }
    if let Ok(pool) = Pool::parse(bytes) {
        assert!(!pool.at.is_empty() && (1..=MOST_OFFERED).contains(&pool.sockets.len()));
    }
});
