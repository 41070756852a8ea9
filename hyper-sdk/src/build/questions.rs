//! Questions about the Dockerfile of a request, without a build.

use super::check::{Checked, check_dockerfile};
use super::contexts::MainContext;
use super::resolver::BuildResolver;
use super::{BuildRequest, LocalBuilder};
use crate::frontend::dockerfile;
use crate::progress::Progress;
use crate::store::damage::Damage;
use crate::uses::{Use, UseKind};
use crate::{Error, Result};

impl LocalBuilder {
    /// Checks the Dockerfile of a request: its errors, and the findings of the linter. Nothing is built. Base images are
    /// looked up, without their layers. With several platforms, what is found for one of them counts.
    ///
    /// # Errors
    /// Those of fetching the context, [`crate::ErrorKind::NotFound`] when it has no Dockerfile, and those of
    /// [`check_dockerfile`].
    pub async fn check(&self, request: BuildRequest, progress: &Progress) -> Result<Checked> {
        let _use = Use::begin(&self.options.root, UseKind::Work).await?;
        let (request, main, contexts) = self.load_context(request, progress).await?;
        let sources = self.sources(&request, &main, &contexts, &Damage::default(), progress);
        let resolver = BuildResolver { sources, main_time: main.time };
        self.expect_dockerfile(&request, &main)?;
        let name = main.name.display().to_string();
        let mut all: Option<Checked> = None;
        for platform in request.asked_platforms() {
            let options = self.frontend_options(&request, platform);
            let ignore = main.ignore(&request);
            let checked = check_dockerfile(&name, &main.text, &options, ignore, &resolver).await?;
            match &mut all {
                Some(all) => all.join(checked),
                None => all = Some(checked),
            }
        }
        all.ok_or_else(|| Error::internal("a check for no platform"))
    }

    /// The arguments, secrets and caches of the target of a request, for the first of its platforms. Nothing but the context
    /// is fetched.
    ///
    /// # Errors
    /// Those of fetching the context, the errors of the file, and [`crate::ErrorKind::NotFound`] for an unknown target.
    pub async fn outline(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Outline> {
        let _use = Use::begin(&self.options.root, UseKind::Work).await?;
        let (request, main, _) = self.load_context(request, progress).await?;
        self.expect_dockerfile(&request, &main)?;
        let options = self.frontend_options(&request, request.platforms.first().cloned());
        let (file, _) =
            dockerfile::parse(&main.text, &main.name.display().to_string(), &options).into_result()?;
        dockerfile::outline(&file, &options)
    }

    /// The stages of the Dockerfile of a request.
    ///
    /// # Errors
    /// Those of fetching the context, and the errors of the file.
    pub async fn targets(&self, request: BuildRequest, progress: &Progress) -> Result<dockerfile::Targets> {
        let _use = Use::begin(&self.options.root, UseKind::Work).await?;
        let (request, main, _) = self.load_context(request, progress).await?;
        self.expect_dockerfile(&request, &main)?;
        let options = self.frontend_options(&request, request.platforms.first().cloned());
        let (file, _) =
            dockerfile::parse(&main.text, &main.name.display().to_string(), &options).into_result()?;
        Ok(dockerfile::targets(&file))
    }

    /// Rejects a text for another frontend than that of Dockerfiles.
    fn expect_dockerfile(&self, request: &BuildRequest, main: &MainContext) -> Result<()> {
        match self.frontend(request, &main.text)? {
            None => Ok(()),
            Some((name, _)) => {
                let file = main.name.display();
                let message = format!(
                    "{file} is for the frontend `{name}`: only Dockerfiles can be checked and listed"
                );
                Err(Error::unsupported(message))
            }
        }
    }
}
