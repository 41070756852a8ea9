//! The Dockerfile frontend: text → stages → graph and image config.
//!
//! Semantics are those of BuildKit's Dockerfile frontend. What is not implemented is an error that names it, with the
//! excerpt of the text.

mod configure;
mod files;
mod lower;
mod run;
mod stage;

use super::{FrontendOptions, Lowered, Resolver};
use crate::Result;
use crate::platform::Platform;
use std::collections::BTreeMap;

/// Lowers a Dockerfile. `name` is what messages call it.
///
/// # Errors
/// Every fault of the text at once, with excerpts; the errors of the resolver, with the place that asked for it.
pub async fn lower(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
) -> Result<Lowered> {
    let (file, findings) = crate::dockerfile::parse(text, name).into_result()?;
    let globals = platform_arguments(options);
    let lowering = lower::Lowering::new(&file, options, resolver);
    let mut lowered =
        lowering.target(&globals).await.map_err(|fault| lower::to_error(fault, &file.source))?;
    lowered.warnings = findings.iter().map(|f| f.render(&file.source).trim_end().to_owned()).collect();
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
