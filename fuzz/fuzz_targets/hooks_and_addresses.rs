#![no_main]

use emperor::vassal::hook::Hook;
use emperor::vassal::socket::Address;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// Any text is a hook or an address, or is refused in words that fit a line.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = OsStr::from_bytes(bytes);
    for hook in [Hook::parse(text), Hook::mount(text), Hook::unmount(text)] {
        let line = hook.map_or_else(|bad| bad.to_string(), |hook| hook.to_string());
        assert!(!line.contains('\n'), "{line:?}");
    }
    let _ = Address::parse(bytes, Path::new("/srv")).map(|address| address.to_string());
});
