//! Names of hosts, users and groups in a program that is linked statically.

/// Makes a program that is linked statically with the GNU C library find hosts, users and groups with what it contains: files
/// and DNS, whatever `/etc/nsswitch.conf` says. That library would otherwise load the modules that are named there, which
/// belong to a C library of another version. Does nothing in other programs.
///
/// Must be called before any thread starts.
///
/// ```no_run
/// hyper_sdk::runtime::use_own_name_services(); // the first line of `main`
/// ```
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "functions of the C library that no crate offers")]
pub fn use_own_name_services() {
    use std::ffi::{CStr, c_char, c_int, c_ulong};
    unsafe extern "C" {
        fn getauxval(kind: c_ulong) -> c_ulong;
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    /// Where the loader lies, which a statically linked program does not have (getauxval(3)).
    const AT_BASE: c_ulong = 7;
    // SAFETY: it only reads what the kernel has told the program.
    if unsafe { getauxval(AT_BASE) } != 0 {
        return;
    }
    let all: [(&CStr, &CStr); 3] = [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")];
    for (database, services) in all {
        // SAFETY: both are strings that end with a zero and live as long as the program. A failure leaves the default.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

/// Does nothing: only the GNU C library reads modules.
#[cfg(not(target_env = "gnu"))]
pub fn use_own_name_services() {}
