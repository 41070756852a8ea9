//! Helpers for tests, in this crate and in crates that use it.
//!
//! - [`RandomImage`] and [`RandomIndex`] are random images from a seed, with the content of real layers.
//! - [`FakeExecutor`] records the commands of a build and follows a script, so that tests of builds need no sandbox.
//! - [`PlainSnapshotter`] keeps snapshots in plain folders, for the same tests.
//! - [`fake_builder`] makes a builder from these two, with a store and a registry in memory.
//! - [`busybox_root`] makes a root file system for tests that run commands.
//! - [`copy_program`] and [`write_program`] make programs that the test runs.
//! - [`FrozenClock`] is a clock that a test sets.
//! - [`S3Server`] is a real server of S3.
//! - [`Front`] is a faulty way to it.
//! - [`given`] takes the result of a fixture of a conformance suite.
//! - [`is_caught`] checks whether a case of a conformance suite finds a fault.
//!
//! # Tests that run commands
//! The sandbox starts a program as its helper, whose `main` must begin with `exec::init`. The `main` of a test belongs
//! to the test harness, so the tests need a separate program, such as `src/bin/exec-helper.rs`:
//!
//! ```text
//! fn main() {
//!     hyper_sdk::exec::init();
//! }
//! ```
//!
//! Cargo builds it before the tests in `tests/` and passes them its path:
//! `HelperCommand::with_init(env!("CARGO_BIN_EXE_exec-helper"))`.

#[cfg(feature = "build")]
mod builder;
#[cfg(feature = "build")]
mod executor;
mod front;
mod image;
#[cfg(feature = "store-postgres")]
mod postgres;
mod program;
mod random;
#[cfg(feature = "build")]
mod root;
mod s3_server;
#[cfg(feature = "build")]
mod snapshotter;
mod tar;

pub use crate::clock::FrozenClock;
#[cfg(all(feature = "build", any(test, feature = "conformance")))]
pub(crate) use builder::FakeBuild;
#[cfg(feature = "build")]
pub use builder::fake_builder;
#[cfg(feature = "build")]
pub use executor::{FakeExecutor, FakeRun};
pub use front::{Act, Front};
pub use image::{ImageShape, RandomImage, RandomIndex, RandomLayer, TestContent, TestFile, TestTree};
#[cfg(feature = "store-postgres")]
pub use postgres::PostgresServer;
pub use program::{copy_program, write_program};
pub use random::Random;
#[cfg(feature = "build")]
pub use root::{GROUP, PASSWD, PROGRAMS, busybox_root};
pub use s3_server::S3Server;
#[cfg(feature = "build")]
pub use snapshotter::PlainSnapshotter;

use futures::FutureExt as _;
use std::panic::AssertUnwindSafe;

/// Whether a case of a conformance suite fails, so that a test can show that the suite finds a fault.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert!(hyper_sdk::testing::is_caught(async { panic!("the fault is found") }).await);
/// assert!(!hyper_sdk::testing::is_caught(async {}).await);
/// # }
/// ```
pub async fn is_caught(case: impl Future<Output = ()>) -> bool {
    AssertUnwindSafe(case).catch_unwind().await.is_err()
}

/// Asserts that cases of a conformance suite pass without a fault, and find the given faults.
///
/// `$suite` is the module of the cases, `$fixture` makes the argument of a case for a fault, and `$fault` is the enum of the
/// faults. Its `None` is the right implementation.
#[cfg(test)]
macro_rules! assert_suite_finds {
    ($suite:ident, $fixture:expr, $fault:ident; $($name:ident by $($case:ident),+;)+) => {$($(
        assert!(
            !$crate::testing::is_caught($crate::testing::boxed(|| $suite::$case($fixture($fault::None)))).await,
            "{} fails without a fault", stringify!($case)
        );
        assert!(
            $crate::testing::is_caught($crate::testing::boxed(|| $suite::$case($fixture($fault::$name)))).await,
            "{} does not find the fault {}", stringify!($case), stringify!($name)
        );
    )+)+};
}
#[cfg(test)]
pub(crate) use assert_suite_finds;

/// A future on the heap: a test that has hundreds of cases does not have them all on its stack.
#[cfg(test)]
pub(crate) fn boxed<F: Future>(make: impl FnOnce() -> F) -> std::pin::Pin<Box<F>> {
    Box::pin(make())
}

/// What the fixture of a conformance suite gives: a value, or an `Option` of one that is `None` where this machine cannot
/// run what is tested. For `None` it prints a line that starts with `SKIPPED:` and has the name of the case.
///
/// ```
/// # use hyper_sdk::testing::given;
/// assert_eq!(given::<u8>("a_case", 7), Some(7));
/// assert_eq!(given::<u8>("a_case", Some(7)), Some(7));
/// ```
#[allow(clippy::print_stdout, reason = "a test says that it is skipped")]
pub fn given<T>(case: &str, fixture: impl Into<Option<T>>) -> Option<T> {
    let given = fixture.into();
    if given.is_none() {
        println!("SKIPPED: {case}: the fixture has nothing to test on this machine");
    }
    given
}

/// Appends a file with any name, valid or not, and ends the archive.
#[cfg(feature = "build")]
pub(crate) fn raw_tar_file(archive: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    let member = tar::Member { name, kind: b'0', mode: 0o644, uid: 0, gid: 0, mtime: 0, link: b"", data };
    tar::append(archive, &member);
    tar::finish(archive);
}
