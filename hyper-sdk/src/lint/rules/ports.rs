//! Rules about EXPOSE.

use super::PLAIN;
use crate::dockerfile::{Instruction, Word, ports};
use crate::lint::subject::Subject;
use crate::lint::{Found, Rule};

pub(super) static EXPOSE_PROTO_CASING: Rule = Rule {
    name: "ExposeProtoCasing",
    summary: "the protocol of EXPOSE should be in lower case",
    why: "The config of an image names protocols in lower case. Other builders have kept the capitals, and runtimes then \
          did not find the port.",
    bad: "FROM alpine\nEXPOSE 80/TCP\n",
    good: "FROM alpine\nEXPOSE 80/tcp\n",
    fixable: true,
    check: |subject, found| {
        for (word, ports) in exposed(subject) {
            if ports.odd_case.is_empty() {
                continue;
            }
            let message = format!("the protocol of `{}` should be in lower case", word.value);
            let lower = word.value.to_lowercase();
            let written = subject.file.source.slice(word.span);
            let finding = Found::new(word.span, message).help(format!("write `{lower}`"));
            // An edit would replace a variable by its value.
            found.push(match written == word.value && !written.contains('$') {
                true => finding.edit(word.span, lower),
                false => finding,
            });
        }
    },
    ..PLAIN
};

pub(super) static EXPOSE_INVALID_FORMAT: Rule = Rule {
    name: "ExposeInvalidFormat",
    summary: "EXPOSE should name ports of the container alone",
    why: "An image cannot choose the address or port of the host: its user does. The part before the port is \
          ignored.",
    bad: "FROM alpine\nEXPOSE 127.0.0.1:8080:80\n",
    good: "FROM alpine\nEXPOSE 80\n",
    fixable: true,
    check: |subject, found| {
        for (word, ports) in exposed(subject) {
            let (false, Some((_, port))) = (ports.with_host.is_empty(), word.value.rsplit_once(':')) else {
                continue;
            };
            let message = format!("`{}` has a part for the host, which an image cannot decide", word.value);
            let written = subject.file.source.slice(word.span);
            let finding = Found::new(word.span, message).help(format!("write `{port}`"));
            found.push(match written == word.value && !written.contains('$') {
                true => finding.edit(word.span, port),
                false => finding,
            });
        }
    },
    ..PLAIN
};

/// The words of every EXPOSE with what they mean.
fn exposed<'a>(subject: &'a Subject<'_>) -> impl Iterator<Item = (&'a Word, ports::Ports)> {
    subject
        .steps()
        .filter_map(|(_, step)| match &step.expanded {
            Some(Instruction::Expose(expose)) => Some(expose.ports.iter()),
            _ => None,
        })
        .flatten()
        .filter_map(|word| Some((word, ports::parse([word.value.as_str()]).ok()?)))
}
