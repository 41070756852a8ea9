//! The memory allocator of a program.
#![allow(unsafe_code, reason = "the settings of the allocator of the C library have no safe wrapper")]

/// Makes the allocator of this process keep little memory that nothing uses.
///
/// glibc gives each thread memory of its own and keeps what was freed there for the next request of the same thread. A
/// build works through its large tables in one thread after another, so its peak was up to 80 MiB higher than what it used.
/// Programs with another C library are left as they are.
///
/// Call it at the start of `main`, before any thread starts, and only in a program: the allocator of a host belongs to the
/// host, so nothing else in this library calls it.
///
/// ```
/// hyper_sdk::runtime::keep_little_memory();
/// assert_eq!(vec![1, 2].len(), 2);
/// ```
pub fn keep_little_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Where the processors cannot be counted there are more than a thousand.
        let affinity = rustix::thread::sched_getaffinity(None).ok();
        let arenas = affinity.map(|processors| (libc::M_ARENA_MAX, areas(processors.count())));
        for (setting, value) in arenas.into_iter().chain(THRESHOLDS) {
            // SAFETY: it sets a number. An unknown setting or value is refused and changes nothing.
            unsafe { libc::mallopt(setting, value) };
        }
    }
}

/// How many areas of memory threads share: one for four processors. Threads that wait for one another in one area would cost
/// more on a large machine than the memory does.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn areas(processors: u32) -> std::ffi::c_int {
    std::ffi::c_int::try_from((processors / 4).max(1)).unwrap_or(1)
}

/// Large blocks go back to the system at once; those that compression and archives work with, up to 2 MiB, are used again. Without a fixed threshold glibc raises it with each large block that is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLDS: [(std::ffi::c_int, std::ffi::c_int); 2] =
    [(libc::M_MMAP_THRESHOLD, 4 << 20), (libc::M_TRIM_THRESHOLD, 8 << 20)];

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn small_machines_have_one_area_and_large_ones_several() {
        assert_eq!([1, 2, 4, 7, 8, 64].map(areas), [1, 1, 1, 1, 2, 16]);
    }
}
