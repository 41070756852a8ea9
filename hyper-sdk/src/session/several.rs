//! Several builds as one: each begins when what it needs is there, and work that they share is done once.

use super::Session;
use crate::build::{
    BuildContext, BuildOutput, BuildRequest, Builder as _, Destination, NamedContext, OutputKind,
};
use crate::layout::ImageLayout;
use crate::progress::{Event, Progress};
use crate::solve::blocking;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// One of several builds.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name, which messages and other jobs use.
    pub name: String,
    /// What to build.
    pub request: BuildRequest,
    /// Named contexts that are the results of other jobs: the name of the context, and that of the job.
    pub needs: BTreeMap<String, String>,
    /// Whether only other jobs need it: the outputs of its request do not count.
    pub is_internal: bool,
}

impl Session {
    /// Builds several images, and returns the outputs by the names of the jobs.
    ///
    /// A job whose context is the result of another waits for it. Jobs of one context and Dockerfile are built one after the
    /// other, so that a step that they share runs once and is found in the cache by the others. All other jobs are built at the
    /// same time. The first failure cancels the rest. Dropping the future cancels: see [`crate::build::Builder`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for jobs with the same name, an unknown job and jobs that need each other; those of
    /// [`Session::build`], with the name of the job.
    pub async fn build_all(
        &self,
        jobs: Vec<Job>,
        progress: &Progress,
    ) -> Result<BTreeMap<String, BuildOutput>> {
        check(&jobs)?;
        let builder = self.local_builder().await?;
        let scratch = self.scratch()?;
        let layouts = crate::private_folder::temporary("jobs-", Some(&scratch))?;
        let needed: Vec<&String> = jobs.iter().flat_map(|job| job.needs.values()).collect();
        let layout = |job: &Job| layouts.path().join(&job.name);
        let mut done: BTreeMap<String, watch::Sender<bool>> =
            jobs.iter().map(|job| (job.name.clone(), watch::Sender::new(false))).collect();
        let waits: BTreeMap<String, (watch::Receiver<bool>, PathBuf)> =
            jobs.iter().map(|job| (job.name.clone(), (done[&job.name].subscribe(), layout(job)))).collect();
        let mut lanes: BTreeMap<(String, String), Arc<Mutex<()>>> = BTreeMap::new();
        let is_alone = jobs.len() == 1;
        let mut runs = Vec::new();
        for job in &jobs {
            let mut request = job.request.clone();
            if job.is_internal {
                request.outputs.clear();
            }
            if needed.contains(&&job.name) {
                request.outputs.push(OutputKind::Oci(Destination::Folder(layout(job))).into());
            }
            let inputs: Vec<_> =
                job.needs.iter().map(|(context, other)| (context.clone(), waits[other].clone())).collect();
            let lane = Arc::clone(lanes.entry(lane(&job.request)).or_default());
            let finished = done.remove(&job.name);
            let progress = if is_alone { progress.clone() } else { named(progress, &job.name) };
            let (builder, needed, layout) = (&builder, &needed, &layout);
            runs.push(async move {
                for (context, (mut is_done, path)) in inputs {
                    let ended = is_done.wait_for(|done| *done).await.map(|_| ());
                    ended.map_err(|e| Error::internal("a build that another needs ended").with_source(e))?;
                    let layout = NamedContext::OciLayout { path, tag: None, digest: None };
                    request.named_contexts.insert(context.to_ascii_lowercase(), layout);
                }
                let _lane = lane.lock().await;
                let is_for_one = request.built_for().len() == 1;
                let output = builder.build(request, &progress).await;
                let output =
                    output.map_err(|e| if is_alone { e } else { e.with_context("target", &job.name) })?;
                if needed.contains(&&job.name) && is_for_one {
                    // The only image that there is serves each platform of those who need it.
                    let layout = ImageLayout::in_folder(layout(job));
                    blocking(move || layout.forget_platforms()).await?;
                }
                if let Some(finished) = finished {
                    finished.send_replace(true);
                }
                Ok::<_, Error>((job.name.clone(), output))
            });
        }
        let outputs: Vec<(String, BuildOutput)> = futures::future::try_join_all(runs).await?;
        Ok(outputs.into_iter().collect())
    }
}

/// What jobs that share work have in common.
fn lane(request: &BuildRequest) -> (String, String) {
    let context = match &request.context {
        // A folder may be named in several ways.
        BuildContext::Folder(folder) => folder.canonicalize().unwrap_or(folder.clone()).display().to_string(),
        other => format!("{other:?}"),
    };
    (context, request.dockerfile.clone().unwrap_or_else(|| request.dockerfile_name.display().to_string()))
}

/// Progress whose tasks and warnings name the job.
fn named(progress: &Progress, job: &str) -> Progress {
    let job = job.to_owned();
    progress.map(move |event| match event {
        Event::Started { task, name, total } => {
            let name = match name.strip_prefix('[') {
                Some(rest) => format!("[{job} {rest}"),
                None => format!("[{job}] {name}"),
            };
            Event::Started { task, name, total }
        }
        Event::Warning { task, message } => Event::Warning { task, message: format!("{job}: {message}") },
        other => other,
    })
}

/// Refuses jobs that could not end.
fn check(jobs: &[Job]) -> Result<()> {
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for job in jobs {
        let needs = job.needs.values().map(String::as_str).collect();
        if open.insert(&job.name, needs).is_some() {
            return Err(Error::invalid(format!("two builds have the name `{}`", job.name)));
        }
    }
    for (name, needs) in &open {
        if let Some(other) = needs.iter().find(|other| !open.contains_key(*other)) {
            return Err(Error::invalid(format!("`{name}` needs `{other}`, which is not built")));
        }
    }
    while !open.is_empty() {
        let ready: Vec<&str> = open
            .iter()
            .filter(|(_, needs)| !needs.iter().any(|other| open.contains_key(other)))
            .map(|(name, _)| *name)
            .collect();
        if ready.is_empty() {
            let names: Vec<&str> = open.keys().copied().collect();
            return Err(Error::invalid(format!("these builds need each other: {}", names.join(", "))));
        }
        for name in ready {
            open.remove(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, needs: &[&str]) -> Job {
        Job {
            name: name.to_owned(),
            request: BuildRequest::new("FROM scratch\n", BuildContext::Empty),
            needs: needs.iter().map(|other| (format!("c-{other}"), (*other).to_owned())).collect(),
            is_internal: false,
        }
    }

    #[test]
    fn jobs_that_could_not_end_are_refused() {
        check(&[job("a", &["b", "c"]), job("b", &["c"]), job("c", &[])]).unwrap();
        for (jobs, why) in [
            (vec![job("a", &[]), job("a", &[])], "two builds"),
            (vec![job("a", &["x"])], "`a` needs `x`"),
            (vec![job("a", &["b"]), job("b", &["a"]), job("c", &[])], "need each other: a, b"),
            (vec![job("a", &["a"])], "need each other: a"),
        ] {
            assert!(check(&jobs).unwrap_err().to_string().contains(why), "{why}");
        }
    }
}
