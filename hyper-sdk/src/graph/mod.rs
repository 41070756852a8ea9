//! The build graph: vertices, operations and their content addresses.
//!
//! ```text
//!   SourceOp::Image busybox ──▶ Exec "make" ──▶ File copy ──▶ …        each vertex: one operation over its inputs
//!   SourceOp::Folder context ───────────────────▲                      input 0 of Exec and File: the root file system
//! ```
//!
//! # Invariants
//! - A graph is a value: creating one runs no step and reads no file.
//! - The inputs of a vertex come before it, so a graph has no cycle and its order is a topological one.
//! - Equal vertices (same operation, equal inputs) are one vertex: see [`Graph::add`].

mod dot;
mod op;

pub use op::{
    CacheOwner, CopyAction, DeviceRequest, ExecOp, FileAction, FileOp, GitSource, InputIndex, MakeDirectory,
    MakeFile, Mount, MountKind, NetworkMode, Op, Security, Sharing, SourceOp, WebSource,
};

use crate::Digest;
use crate::digest::Hasher;
use crate::platform::Platform;
use std::collections::HashMap;

/// The place of a vertex in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(usize);

impl VertexId {
    /// The position in [`Graph::vertices`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operation over its inputs.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// The operation.
    pub op: Op,
    /// The inputs, in the order of the operation's input numbers.
    pub inputs: Vec<VertexId>,
    /// The name in messages: `[build 2/5] RUN make`. Not part of the address.
    pub name: String,
    /// Whether the result must not come from the cache. Not part of the address.
    pub no_cache: bool,
    /// Its place in the text, such as `Dockerfile:3`, when it is known. Not part of the address.
    pub origin: Option<String>,
    /// The platform of the files that a command runs in, when it is known. Not part of the address.
    pub platform: Option<Platform>,
    /// Whether records may have the paths that its sources find: no value of a variable is in them. Not part of the address.
    pub shows_paths: bool,
    address: Digest,
}

impl Vertex {
    /// The content address: the digest of the operation and of the addresses of its inputs.
    pub fn address(&self) -> &Digest {
        &self.address
    }
}

/// Vertices in topological order.
///
/// ```
/// use hyper_sdk::graph::{ExecOp, Graph, Op, SourceOp};
///
/// let mut graph = Graph::new();
/// let base = graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch");
/// let make = || Op::Exec(Box::new(ExecOp::new(vec!["make".to_owned()])));
/// let step = graph.add(make(), vec![base], "make");
/// // Equal vertices are one.
/// assert_eq!(graph.add(make(), vec![base], "make again"), step);
/// assert_eq!(graph.reachable(&[step]), [base, step]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
    by_address: HashMap<Digest, VertexId>,
}

impl Graph {
    /// A graph without vertices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a vertex and returns its id, or the id of an equal vertex.
    ///
    /// # Panics
    /// When an input is not in this graph.
    pub fn add(&mut self, op: Op, inputs: Vec<VertexId>, name: impl Into<String>) -> VertexId {
        let mut hasher = Hasher::sha256();
        hasher.update_field(op.to_bytes());
        for input in &inputs {
            hasher.update_field(self.vertices[input.0].address.as_str());
        }
        let address = hasher.finish();
        if let Some(id) = self.by_address.get(&address) {
            return *id;
        }
        let id = VertexId(self.vertices.len());
        self.by_address.insert(address.clone(), id);
        let name = name.into();
        self.vertices.push(Vertex {
            op,
            inputs,
            name,
            no_cache: false,
            origin: None,
            platform: None,
            shows_paths: false,
            address,
        });
        id
    }

    /// Adds the vertices of another graph that `root` needs, and returns the place of `root` in this one. Vertices that this
    /// graph has already are not added again: one of them that must not come from the cache stays so.
    pub fn include(&mut self, other: &Graph, root: VertexId) -> VertexId {
        let mut places: HashMap<VertexId, VertexId> = HashMap::new();
        for id in other.reachable(&[root]) {
            let vertex = other.vertex(id);
            let inputs = vertex.inputs.iter().map(|input| places[input]).collect();
            let place = self.add(vertex.op.clone(), inputs, vertex.name.as_str());
            if vertex.no_cache {
                self.set_no_cache(place);
            }
            if let Some(origin) = &vertex.origin {
                self.set_origin(place, origin.clone());
            }
            if let Some(platform) = &vertex.platform {
                self.set_platform(place, platform.clone());
            }
            if vertex.shows_paths {
                self.set_shows_paths(place);
            }
            places.insert(id, place);
        }
        places[&root]
    }

    /// Sets the platform of the files that a command runs in, unless it is set.
    pub fn set_platform(&mut self, id: VertexId, platform: Platform) {
        self.vertices[id.0].platform.get_or_insert(platform);
    }

    /// Lets records have the paths of files that a vertex copies. For sources that have no value of a variable in them: such
    /// a value may be a secret, and is a part of the paths then.
    pub fn set_shows_paths(&mut self, id: VertexId) {
        self.vertices[id.0].shows_paths = true;
    }

    /// Gives a vertex another name.
    pub fn rename(&mut self, id: VertexId, name: String) {
        self.vertices[id.0].name = name;
    }

    /// Makes the solver run this vertex even when its result is cached.
    pub fn set_no_cache(&mut self, id: VertexId) {
        self.vertices[id.0].no_cache = true;
    }

    /// Sets the place of a vertex in the text, unless it has one.
    pub fn set_origin(&mut self, id: VertexId, origin: String) {
        self.vertices[id.0].origin.get_or_insert(origin);
    }

    /// A vertex of this graph.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// Every vertex, inputs before those that use them.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The vertices that `roots` need, themselves included, in topological order.
    pub fn reachable(&self, roots: &[VertexId]) -> Vec<VertexId> {
        let mut needed = vec![false; self.vertices.len()];
        for root in roots {
            needed[root.0] = true;
        }
        for at in (0..needed.len()).rev() {
            if needed[at] {
                for input in &self.vertices[at].inputs {
                    needed[input.0] = true;
                }
            }
        }
        (0..needed.len()).filter(|at| needed[*at]).map(VertexId).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Op {
        Op::Source(SourceOp::Image { reference: name.into(), manifest: Digest::sha256(name) })
    }

    fn run(command: &str) -> Op {
        Op::Exec(Box::new(ExecOp::new(vec!["sh".into(), "-c".into(), command.into()])))
    }

    #[test]
    fn equal_vertices_are_one_whatever_their_names() {
        let mut graph = Graph::new();
        let base = graph.add(image("a"), vec![], "base");
        let one = graph.add(run("x"), vec![base], "one");
        assert_eq!(graph.add(run("x"), vec![base], "two"), one);
        let other = graph.add(image("b"), vec![], "other");
        assert_ne!(graph.add(run("x"), vec![other], "one"), one);
    }

    #[test]
    fn only_needed_vertices_are_reachable() {
        let mut graph = Graph::new();
        let a = graph.add(image("a"), vec![], "");
        let b = graph.add(image("b"), vec![], "");
        let c = graph.add(run("x"), vec![a], "");
        graph.add(run("y"), vec![b], "");
        assert_eq!(graph.reachable(&[c]), [a, c]);
        assert_eq!(graph.reachable(&[c, b]), [a, b, c]);
    }

    #[test]
    fn the_vertices_of_another_graph_are_added_once() {
        let mut graph = Graph::new();
        let a = graph.add(image("a"), vec![], "a");
        let x = graph.add(run("x"), vec![a], "x");
        let mut other = Graph::new();
        other.add(image("unused"), vec![], "unused");
        let b = other.add(image("b"), vec![], "b");
        let a = other.add(image("a"), vec![], "a");
        let again = other.add(run("x"), vec![a], "x");
        other.set_no_cache(again);
        other.set_origin(again, "Dockerfile:2".into());
        let y = other.add(run("y"), vec![b, again], "y");
        let place = graph.include(&other, y);
        assert_eq!(graph.vertices().len(), 4);
        assert_eq!(graph.vertex(place).address(), other.vertex(y).address());
        assert_eq!(graph.vertex(place).inputs[1], x);
        assert!(graph.vertex(x).no_cache);
        assert_eq!(graph.vertex(x).origin.as_deref(), Some("Dockerfile:2"));
    }

    #[test]
    fn the_drawing_names_every_vertex() {
        let mut graph = Graph::new();
        let a = graph.add(image("a"), vec![], "say \"a\"");
        graph.add(run("x"), vec![a], "run x");
        let dot = graph.to_dot();
        assert!(dot.contains(r#"say \"a\""#) && dot.contains("v0 -> v1"));
    }
}
