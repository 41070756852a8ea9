//! Draws a graph in the DOT language of Graphviz.

use super::Graph;
use std::fmt::Write;

impl Graph {
    /// The graph in the DOT language, for the program `dot`.
    pub fn to_dot(&self) -> String {
        let mut out = String::from("digraph build {\n  rankdir=LR;\n  node [shape=box];\n");
        for (at, vertex) in self.vertices().iter().enumerate() {
            let name = vertex.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(out, "  v{at} [label=\"{name}\"];");
            for input in &vertex.inputs {
                let _ = writeln!(out, "  v{} -> v{at};", input.index());
            }
        }
        out.push_str("}\n");
        out
    }
}
