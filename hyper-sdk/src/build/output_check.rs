//! Checks the outputs of a request, and collects the options that concern the whole build.

use super::{AnnotatedPart, BuildRequest, EpochPolicy, Output, OutputKind, PlacedAnnotations};
use crate::platform::Platform;
use crate::reference::{Reference, Tag};
use crate::{Error, MissingInput, Result};

impl Output {
    /// The names of the image in this output of a request.
    pub(super) fn names<'a>(&'a self, request: &'a BuildRequest) -> &'a [Reference] {
        match self.image.names.as_slice() {
            [] => &request.tags,
            own => own,
        }
    }
}

/// The platforms, for people.
fn shown(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The build argument that asks for an index.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

impl BuildRequest {
    /// Rejects outputs whose options cannot be satisfied, before the build starts.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when options exclude each other or a name is missing, and
    /// [`crate::ErrorKind::Unsupported`] for different times in one build.
    pub fn check_outputs(&self) -> Result<()> {
        if let Some(name) = self.tags.iter().find(|name| name.digest().is_some()) {
            return Err(Error::invalid(format!("the name `{name}` of a build cannot have a digest")));
        }
        if self.outputs.iter().filter(|output| output.is_stdout()).count() > 1 {
            return Err(Error::invalid("only one output can go to standard output"));
        }
        self.check_caches()?;
        let (platforms, wants_index) = (self.built_for(), self.wants_index()?);
        self.check_platforms(&platforms)?;
        for output in self.outputs.iter().filter(|output| output.has_image()) {
            let names = output.names(self);
            if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
                return Err(Error::invalid(format!("the name `{name}` of an output cannot have a digest")));
            }
            if let OutputKind::Image(store) = &output.kind {
                if store.push && names.is_empty() {
                    return Err(Error::invalid("an image needs a name to be pushed")
                        .with_missing(MissingInput::ImageName));
                }
                if store.push_only && store.nameless.is_some() {
                    return Err(Error::invalid(
                        "`dangling-name-prefix` names an image of the local store, and `store=false` keeps none there",
                    ));
                }
                let tagged = |name: &&Reference| name.tag().is_some_and(|tag| *tag != Tag::latest());
                if let Some(name) = names.iter().find(tagged).filter(|_| store.by_digest) {
                    return Err(Error::invalid(format!(
                        "`push-by-digest` pushes no tag, and `{name}` has one: leave the tag out"
                    )));
                }
            }
            let (image, annotations) = (&output.image, self.annotations_of(output));
            if let Some(place) = annotations.other_platform(&platforms) {
                return Err(Error::invalid(format!(
                    "an annotation for `{place}` is for a platform that is not built: the build is for {}",
                    shown(&platforms)
                )));
            }
            if annotations.need_index() && matches!(output.kind, OutputKind::Docker(_)) {
                return Err(Error::invalid(
                    "annotations of an index are not for type=docker, whose archive has none: use type=oci",
                ));
            }
            if wants_index && matches!(output.kind, OutputKind::Docker(_)) {
                return Err(Error::invalid(format!(
                    "{MULTI_PLATFORM} asks for an index, and the archive of type=docker has none: use type=oci"
                )));
            }
            if image.docker_types {
                let why = if image.compression.docker_layer().is_none() {
                    "layers that are compressed with zstd"
                } else if image.estargz {
                    "annotations of layers, which estargz needs"
                } else if wants_index && platforms.len() == 1 {
                    "index here"
                } else if !annotations.is_empty() {
                    "annotations"
                } else {
                    continue;
                };
                return Err(Error::invalid(format!(
                    "Docker's media types have no {why}: leave `oci-mediatypes=false` out"
                )));
            }
        }
        self.epoch_policy().map(drop)
    }

    /// Rejects outputs of a build for several platforms that can hold only one.
    fn check_platforms(&self, platforms: &[Platform]) -> Result<()> {
        if platforms.len() < 2 {
            return Ok(());
        }
        let value = self.build_args.get(MULTI_PLATFORM).filter(|value| !value.is_empty());
        if value.is_some() && !self.wants_index()? {
            return Err(Error::invalid(format!(
                "the build argument {MULTI_PLATFORM} asks for no index, and a build for several platforms makes one: \
                 leave it out, or build for one platform"
            )));
        }
        let folder = |platform: &Platform| platform.to_string().replace('/', "_");
        for output in &self.outputs {
            let one = match &output.kind {
                OutputKind::Docker(_) => "the archive of type=docker holds the image of one platform",
                OutputKind::Load(_) => "an engine takes the image of one platform",
                _ if output.has_files() && output.files.split == Some(false) => {
                    "`platform-split=false` writes the files of one platform"
                }
                _ => "",
            };
            let instead = match &output.kind {
                OutputKind::Docker(_) => "use type=oci",
                OutputKind::Load(_) => "keep the index in the local store",
                _ => "leave it out, so that each platform has its own folder",
            };
            if !one.is_empty() {
                return Err(Error::invalid(format!(
                    "{one}, and the build is for {}: build for one platform, or {instead}",
                    shown(platforms)
                )));
            }
            let mut folders: Vec<String> = platforms.iter().map(folder).collect();
            folders.sort();
            folders.dedup();
            if output.has_files() && folders.len() < platforms.len() {
                return Err(Error::invalid("the files of two platforms would be in a folder of one name"));
            }
        }
        Ok(())
    }

    /// Whether a build argument asks for an index over the image, as a build for several platforms has it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a value that is neither true nor false.
    pub(super) fn wants_index(&self) -> Result<bool> {
        match self.build_args.get(MULTI_PLATFORM).filter(|value| !value.is_empty()) {
            None => Ok(false),
            Some(value) => crate::dockerfile::parse_bool(value).ok_or_else(|| {
                Error::invalid(format!(
                    "the build argument {MULTI_PLATFORM} is neither true nor false: `{value}`"
                ))
            }),
        }
    }

    /// The annotations of the image of an output: those of the request, overridden by those of the output. An exporter
    /// that the builder was given gets those of the manifest alone.
    pub(super) fn annotations_of(&self, output: &Output) -> PlacedAnnotations {
        let mut all = self.annotations.clone();
        if !output.has_image() {
            all.keep(AnnotatedPart::Manifest);
        }
        all.extend(output.image.annotations.clone());
        all
    }

    /// The epoch policy of the request and its outputs.
    pub(super) fn epoch_policy(&self) -> Result<EpochPolicy> {
        let mut times: Vec<Option<i64>> =
            self.outputs.iter().filter(|o| o.kind != OutputKind::CacheOnly).map(|o| o.epoch).collect();
        times.dedup();
        match (times.as_slice(), self.epoch) {
            ([] | [None], policy) => Ok(policy),
            ([Some(time)], EpochPolicy::Auto) => Ok(EpochPolicy::At(*time)),
            ([Some(time)], EpochPolicy::At(asked)) if asked == *time => Ok(self.epoch),
            _ => Err(Error::unsupported(
                "outputs with different `source-date-epoch` in one build are not supported",
            )
            .with_missing(MissingInput::Epoch)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::BuildContext;

    fn request(outputs: &[&str]) -> BuildRequest {
        let mut request = BuildRequest::new("FROM scratch\n", BuildContext::Empty);
        request.outputs = outputs.iter().map(|text| Output::parse(text).unwrap()).collect();
        request
    }

    #[test]
    fn an_output_overrides_the_names_of_the_request() {
        let mut request = request(&[
            "type=image,name=r.example/a:1,push=true",
            "type=oci,dest=o",
            "type=oci,dest=p,name=b",
        ]);
        request.tags = vec![Reference::parse("t:1").unwrap()];
        let names = |at: usize| -> Vec<String> {
            request.outputs[at].names(&request).iter().map(Reference::familiar).collect()
        };
        assert_eq!(
            (names(0), names(1), names(2)),
            (vec!["r.example/a:1".to_owned()], vec!["t:1".to_owned()], vec!["b:latest".to_owned()])
        );
    }

    #[test]
    fn impossible_outputs_are_rejected_before_the_build() {
        for (outputs, text) in [
            (&["type=image,push=true", "type=oci,dest=a,name=b"][..], "needs a name to be pushed"),
            (&["type=registry"], "needs a name to be pushed"),
            (&["type=image,push-by-digest=true,name=r.example/a:1"], "`r.example/a:1` has one"),
            (&["type=oci,dest=a,compression=zstd,oci-mediatypes=false"], "zstd"),
            (&["type=oci,dest=a,compression=estargz,oci-mediatypes=false"], "which estargz needs"),
            (&["type=oci,dest=a,annotation.a=b,oci-mediatypes=false"], "no annotations"),
            (&["type=oci,dest=a,annotation-index.a=b,oci-mediatypes=false"], "no annotations"),
            (&["type=docker,dest=a,annotation-index.a=b"], "use type=oci"),
            (
                &["type=oci,dest=a,annotation[plan9/386].a=b"],
                "`manifest[plan9/386]` is for a platform that is not",
            ),
            (&["type=image,store=false,dangling-name-prefix=a"], "keeps none there"),
            (&["type=image,store=false,push=true"], "needs a name to be pushed"),
            (&["type=oci,dest=a,source-date-epoch=1", "type=tar,dest=b"], "different `source-date-epoch`"),
            (&["type=oci", "type=tar"], "only one output can go to standard output"),
            (&["-", "type=docker,dest=-"], "only one output can go to standard output"),
        ] {
            let error = request(outputs).check_outputs().unwrap_err().to_string();
            assert!(error.contains(text), "{outputs:?}: {error}");
        }
        for (output, value, text) in [
            ("type=docker,dest=a", "1", Some("use type=oci")),
            ("type=oci,dest=a,oci-mediatypes=false", "true", Some("no index here")),
            ("type=oci,dest=a", "maybe", Some("neither true nor false: `maybe`")),
            ("type=docker,dest=a", "0", None),
            ("type=docker,dest=a", "", None),
            ("type=oci,dest=a", "1", None),
        ] {
            let mut request = request(&[output]);
            request.build_args.insert(MULTI_PLATFORM.to_owned(), value.to_owned());
            let told = request.check_outputs().err().map(|e| e.to_string());
            assert_eq!(told.is_some(), text.is_some(), "{output} {value}: {told:?}");
            assert!(told.unwrap_or_default().contains(text.unwrap_or_default()), "{output} {value}");
        }
        for (output, text) in [
            (
                "type=docker,dest=a",
                Some(
                    "type=docker holds the image of one platform, and the build is for linux/amd64, linux/arm64: build for one platform, or use type=oci",
                ),
            ),
            (
                "type=local,dest=a,platform-split=false",
                Some("`platform-split=false` writes the files of one"),
            ),
            ("type=tar,dest=a,platform-split=false", Some("`platform-split=false` writes the files of one")),
            ("type=oci,dest=a,annotation[linux/arm64].a=b", None),
            (
                "type=oci,dest=a,annotation[linux/s390x].a=b",
                Some("the build is for linux/amd64, linux/arm64"),
            ),
            ("type=oci,dest=a,oci-mediatypes=false", None),
            ("type=local,dest=a,mode=delete", None),
        ] {
            let mut request = request(&[output]);
            request.platforms = ["linux/amd64", "linux/arm64"].map(|name| name.parse().unwrap()).into();
            let told = request.check_outputs().err().map(|e| e.to_string());
            assert_eq!(told.is_some(), text.is_some(), "{output}: {told:?}");
            assert!(told.unwrap_or_default().contains(text.unwrap_or_default()), "{output}");
            request.build_args.insert(MULTI_PLATFORM.to_owned(), "0".to_owned());
            assert!(request.check_outputs().is_err(), "{output}");
            // What it asks for, several platforms have anyway.
            request.build_args.insert(MULTI_PLATFORM.to_owned(), "1".to_owned());
            assert_eq!(request.check_outputs().is_err(), text.is_some(), "{output}");
        }
        let mut named = request(&["type=cacheonly"]);
        named.tags = vec![format!("a@sha256:{}", "0".repeat(64)).parse().unwrap()];
        assert!(named.check_outputs().unwrap_err().to_string().contains("cannot have a digest"));
        let mut request = request(&["type=oci,dest=a,source-date-epoch=1", "type=cacheonly"]);
        assert_eq!(request.epoch_policy().unwrap(), EpochPolicy::At(1));
        request.epoch = EpochPolicy::Now;
        assert!(request.check_outputs().is_err());
    }
}
