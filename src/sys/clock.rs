//! The two clocks, and a moment as the log shows it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since boot, without suspensions; never 0 and never backwards. clock_gettime(2), `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_micros() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid out-pointer; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000 + nanos.unwrap_or(0) / 1000 + 1
}

/// Seconds since the epoch.
#[must_use]
pub fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds since the epoch.
#[must_use]
pub fn epoch_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The present moment in local time, as strftime(3) formats it. Empty when the format does not fit 255 bytes.
#[must_use]
pub fn local_time(format: &std::ffi::CStr) -> String {
    local_time_of(epoch_seconds(), format)
}

/// The same of a moment, in seconds since the epoch.
#[must_use]
pub fn local_time_of(seconds: u64, format: &std::ffi::CStr) -> String {
    let now = libc::time_t::try_from(seconds).unwrap_or(0);
    // SAFETY: all-zero bytes are a valid `tm`.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    let mut text = [0_u8; 256];
    // SAFETY: two valid pointers, one of them an out-pointer.
    unsafe { libc::localtime_r(&raw const now, &raw mut parts) };
    // SAFETY: the buffer's true length, a terminated format and the parts just filled.
    let length =
        unsafe { libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &raw const parts) };
    String::from_utf8_lossy(&text[..length]).into_owned()
}
