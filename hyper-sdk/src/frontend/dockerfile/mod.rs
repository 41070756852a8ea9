//! The Dockerfile frontend: text → stages → graph and image config.
//!
//! Semantics are those of BuildKit's Dockerfile frontend. What is not implemented is an error that names it, with the
//! excerpt of the text.

mod check;
mod configure;
mod epoch;
mod files;
mod lower;
mod outline;
mod run;
mod stage;

pub use check::{Checked, check};
pub use outline::{Argument, CacheMount, Outline, SecretUse, Target, outline, targets};

use super::{FrontendOptions, Lowered, Resolver};
use crate::Result;
use crate::dockerfile::Dockerfile;
use crate::platform::Platform;
use std::collections::BTreeMap;

/// Lowers a Dockerfile. `name` is what messages call it.
///
/// # Errors
/// Every fault of the text at once, with excerpts; the errors of the resolver, with the place that asked for it; what the
/// linter found where the `check` directive asks for an error.
pub async fn lower(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
) -> Result<Lowered> {
    let (mut file, diagnostics) = crate::dockerfile::parse(text, name).into_result()?;
    alias(&mut file, options)?;
    let mut lowered =
        lower_file(&file, options, resolver).await.map_err(|fault| lower::to_error(fault, &file.source))?;
    let check = Checked::new(file, diagnostics, &lowered.bases, options)?;
    check.refuse()?;
    lowered.warnings = check.warnings();
    Ok(lowered)
}

fn alias(file: &mut Dockerfile, options: &FrontendOptions) -> Result<()> {
    options.aliases.iter().try_for_each(|(alias, stage)| file.alias_stage(alias, stage))
}

async fn lower_file(
    file: &Dockerfile,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
) -> lower::Lowers<Lowered> {
    let globals = platform_arguments(options);
    let Some(value) = epoch::argument(file, &globals, options)? else {
        return lower::Lowering::new(file, options, resolver).target(&globals).await;
    };
    let seconds = epoch::resolve(&value, file, &globals, options, resolver).await?;
    let mut options = options.clone();
    // What steps see is the number, whatever it was asked for by.
    let number = seconds.map_or_else(String::new, |seconds| seconds.to_string());
    options.build_args.insert(epoch::SOURCE_DATE_EPOCH.to_owned(), number);
    let mut lowered = lower::Lowering::new(file, &options, resolver).target(&globals).await?;
    lowered.epoch = seconds;
    Ok(lowered)
}

/// The arguments that every Dockerfile knows about platforms.
fn platform_arguments(options: &FrontendOptions) -> BTreeMap<String, String> {
    let host = Platform::host();
    let target = options.platform.clone().unwrap_or_else(Platform::host);
    let mut arguments = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &host), ("TARGET", &target)] {
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
            ("OSVERSION", platform.os_version.clone().unwrap_or_default()),
        ] {
            arguments.insert(format!("{prefix}{suffix}"), value);
        }
    }
    arguments
}

#[cfg(test)]
mod tests;
