//! One graph for the platforms of a request: what they share is one vertex, and runs once.

use super::BuildRequest;
use crate::frontend::{HistoryStep, Lowered};
use crate::graph::{Graph, VertexId};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Error, Result};
use std::collections::HashMap;

/// The image of one platform, before its files are made.
#[derive(Clone, Debug)]
pub(super) struct PlatformTarget {
    pub(super) platform: Platform,
    /// The vertex whose result is the root file system.
    pub(super) root: VertexId,
    pub(super) config: ImageConfig,
    pub(super) history: Vec<HistoryStep>,
}

/// The graph of a request, with the images that it makes.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    pub(super) graph: Graph,
    /// One for each platform, in the order of the request.
    pub(super) targets: Vec<PlatformTarget>,
    /// The creation time of the newest base image in use, in seconds since 1970.
    pub(super) newest_base: Option<i64>,
    /// The value of SOURCE_DATE_EPOCH, in seconds since 1970; the newest one when it is the time of a stage that differs
    /// between platforms.
    pub(super) epoch: Option<i64>,
}

impl Merged {
    /// Joins the graphs of all platforms, of which there is at least one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] without a platform.
    pub(super) fn new(lowered: Vec<(Platform, Lowered)>) -> Result<Self> {
        let is_one = lowered.len() == 1;
        let mut lowered = lowered.into_iter();
        let Some((platform, first)) = lowered.next() else {
            return Err(Error::internal("a build without a platform"));
        };
        let Lowered { graph, root, config, history, newest_base, epoch } = first;
        let targets = vec![PlatformTarget { platform, root, config, history }];
        let mut merged = Self { graph, targets, newest_base, epoch };
        for (platform, other) in lowered {
            let root = merged.graph.include(&other.graph, other.root);
            let Lowered { config, history, newest_base, epoch, .. } = other;
            merged.targets.push(PlatformTarget { platform, root, config, history });
            merged.newest_base = merged.newest_base.max(newest_base);
            merged.epoch = merged.epoch.max(epoch);
        }
        if !is_one {
            merged.name_platforms();
        }
        Ok(merged)
    }

    /// The vertices of the results, in the order of the targets.
    pub(super) fn roots(&self) -> Vec<VertexId> {
        self.targets.iter().map(|target| target.root).collect()
    }

    /// Names the platform in the steps of one platform alone: `[linux/arm64 build 2/5] RUN make`.
    fn name_platforms(&mut self) {
        let mut used_by: HashMap<VertexId, Option<usize>> = HashMap::new();
        for (number, target) in self.targets.iter().enumerate() {
            for id in self.graph.reachable(&[target.root]) {
                used_by.entry(id).and_modify(|by| *by = None).or_insert(Some(number));
            }
        }
        for (id, by) in used_by {
            let name = &self.graph.vertex(id).name;
            if let (Some(number), Some(rest)) = (by, name.strip_prefix('[')) {
                let name = format!("[{} {rest}", self.targets[number].platform);
                self.graph.rename(id, name);
            }
        }
    }
}

impl BuildRequest {
    /// The platforms that the build is for, each once: that of this machine when the request names none.
    pub fn built_for(&self) -> Vec<Platform> {
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in &self.platforms {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        if platforms.is_empty() {
            platforms.push(Platform::host());
        }
        platforms
    }

    /// The platforms that the request names, each once; one `None` for that of this machine when it names none.
    pub(super) fn asked_platforms(&self) -> Vec<Option<Platform>> {
        // Without a platform in the request, an image keeps what its base says of its own.
        let is_asked = !self.platforms.is_empty();
        self.built_for().into_iter().map(|platform| is_asked.then_some(platform)).collect()
    }

    /// The one platform of the request, for what is about one image; `None` for that of this machine.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for several, with what needs one.
    pub(super) fn only_platform(&self, what: &str) -> Result<Option<Platform>> {
        let platforms = self.built_for();
        match platforms.as_slice() {
            [_] => Ok(self.platforms.first().cloned()),
            several => Err(Error::invalid(format!(
                "{what} is for one platform, and the request names {}: name one of them",
                several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{ExecOp, Op, SourceOp};

    fn lowered(platform: &str, own: &str) -> (Platform, Lowered) {
        let platform: Platform = platform.parse().unwrap();
        let mut graph = Graph::new();
        let run = |text: &str| Op::Exec(Box::new(ExecOp::new(vec![text.to_owned()])));
        let scratch = graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch");
        let shared = graph.add(run("shared"), vec![scratch], "[build 1/2] RUN shared");
        let root = graph.add(run(own), vec![shared], format!("[build 2/2] RUN {own}"));
        let config = ImageConfig::empty(&platform);
        let mut lowered = Lowered::new(graph, root, config);
        lowered.newest_base = Some(own.len() as i64);
        (platform, lowered)
    }

    #[test]
    fn what_platforms_share_is_one_vertex_and_the_rest_names_its_platform() {
        let one = Merged::new(vec![lowered("linux/amd64", "a")]).unwrap();
        assert_eq!(one.graph.vertex(one.targets[0].root).name, "[build 2/2] RUN a");
        let merged = Merged::new(vec![
            lowered("linux/amd64", "a"),
            lowered("linux/arm/v7", "bb"),
            lowered("linux/arm64", "a"),
        ])
        .unwrap();
        let names: Vec<&str> = merged.graph.vertices().iter().map(|vertex| vertex.name.as_str()).collect();
        assert_eq!(
            names,
            ["scratch", "[build 1/2] RUN shared", "[build 2/2] RUN a", "[linux/arm/v7 build 2/2] RUN bb"]
        );
        let roots = merged.roots();
        assert_eq!(roots[0], roots[2]);
        assert_eq!(merged.newest_base, Some(2));
        assert!(Merged::new(Vec::new()).is_err());
    }

    #[test]
    fn a_platform_counts_once() {
        let mut request = BuildRequest::new("FROM scratch\n", super::super::BuildContext::Empty);
        assert_eq!(request.built_for(), [Platform::host()]);
        assert_eq!(request.only_platform("x").unwrap(), None);
        request.platforms = ["linux/arm64", "linux/amd64", "linux/arm64"].map(|p| p.parse().unwrap()).into();
        let names: Vec<String> = request.built_for().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["linux/arm64", "linux/amd64"]);
        let error = request.only_platform("an outline").unwrap_err().to_string();
        assert!(
            error.contains("an outline is for one platform") && error.contains("linux/arm64, linux/amd64")
        );
        request.platforms.truncate(1);
        assert_eq!(request.only_platform("x").unwrap().unwrap().to_string(), "linux/arm64");
    }
}
