//! A command in the files of a step, in place of a build: the graph up to the step, and the command on its result.

use super::OnError;
use crate::graph::{ExecOp, Graph, Op, VertexId};
use crate::{Error, ErrorKind, Result};

/// Makes the command of a request run in the result of a step, by the name of the step or a part of it. Returns the vertex of
/// the command, which is the new root.
///
/// # Errors
/// [`ErrorKind::NotFound`] when no RUN step that `roots` need has such a name, and [`ErrorKind::Invalid`] when several have.
pub(super) fn exec_in(graph: &mut Graph, roots: &[VertexId], step: &str) -> Result<VertexId> {
    let steps = || {
        let needed = graph.reachable(roots).into_iter();
        needed.filter(|at| matches!(graph.vertex(*at).op, Op::Exec(_)))
    };
    let exact: Vec<VertexId> = steps().filter(|at| graph.vertex(*at).name == step).collect();
    let found = if exact.is_empty() {
        steps().filter(|at| graph.vertex(*at).name.contains(step)).collect()
    } else {
        exact
    };
    let name = |at: &VertexId| format!("`{}`", graph.vertex(*at).name.lines().next().unwrap_or_default());
    let at = match found.as_slice() {
        [one] => *one,
        [] => {
            let all: Vec<String> = steps().map(|at| name(&at)).collect();
            let known = if all.is_empty() { "there is none".to_owned() } else { all.join(", ") };
            let message = format!("no RUN step of the build is called `{step}`: {known}");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        several => {
            let all: Vec<String> = several.iter().map(name).collect();
            return Err(Error::invalid(format!(
                "`{step}` may be {}: give more of the name",
                all.join(" or ")
            )));
        }
    };
    let vertex = graph.vertex(at);
    let Op::Exec(exec) = &vertex.op else { return Err(Error::internal("a step that runs nothing")) };
    let op = ExecOp { args: vec![OnError::PLACE.to_owned()], ..(**exec).clone() };
    let mut inputs = vertex.inputs.clone();
    if let Some(base) = inputs.first_mut() {
        *base = at;
    }
    let name = format!("exec in {}", vertex.name);
    Ok(graph.add(Op::Exec(Box::new(op)), inputs, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::SourceOp;

    #[test]
    fn a_step_is_found_by_its_name_or_a_part_of_it() {
        let mut graph = Graph::new();
        let mut at = graph.add(Op::Source(SourceOp::Scratch), vec![], "base");
        let run = |text: &str| Op::Exec(Box::new(ExecOp::new(vec![text.into()])));
        for name in ["[1/3] RUN make", "[2/3] RUN make install", "[3/3] RUN true"] {
            at = graph.add(run(name), vec![at], name);
        }
        let base_of = |step: &str| {
            let mut graph = graph.clone();
            let made = exec_in(&mut graph, &[at], step)?;
            let vertex = graph.vertex(made);
            assert!(vertex.name.starts_with("exec in "), "{}", vertex.name);
            Ok::<_, Error>(graph.vertex(vertex.inputs[0]).name.clone())
        };
        assert_eq!(base_of("[1/3] RUN make").unwrap(), "[1/3] RUN make");
        assert_eq!(base_of("install").unwrap(), "[2/3] RUN make install");
        assert_eq!(base_of("[3/3]").unwrap(), "[3/3] RUN true");
        let several = base_of("make").unwrap_err();
        assert!(several.message().contains("`[1/3] RUN make` or `[2/3] RUN make install`"), "{several}");
        let none = base_of("COPY").unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        assert!(none.message().contains("`[3/3] RUN true`"), "{none}");
    }
}
