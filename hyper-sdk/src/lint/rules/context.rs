//! Rules about platforms, and about the files of the context.

use super::PLAIN;
use crate::dockerfile::{AddSource, Instruction, Span, Word, has_wildcard};
use crate::lint::{Found, Rule};
use crate::platform::Platform;

pub(super) static INVALID_BASE_IMAGE_PLATFORM: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    summary: "a base image should be of the platform that is built",
    why: "The image exists, but for another platform than the one asked for, so that its programs cannot run and the result \
          claims another platform than it has.",
    bad: "FROM --platform=linux/arm64 image-for-amd64\n",
    good: "FROM --platform=linux/amd64 image-for-amd64\n",
    check: |subject, found| {
        for (stage, base) in subject.file.stages.iter().zip(&subject.bases) {
            let (Some(base), Some(is)) = (base, subject.context.platforms.get(&stage.index)) else {
                continue;
            };
            let wanted = match &base.platform {
                Some(text) => text.parse::<Platform>().ok(),
                None => Some(subject.context.platform.clone().unwrap_or_else(Platform::host)),
            };
            if let Some(wanted) = wanted.filter(|w| w.os != is.os || w.architecture != is.architecture) {
                let message = format!("the image is for {is}, and {wanted} is built");
                found.push(Found::new(stage.from.image.span, message));
            }
        }
    },
    ..PLAIN
};

pub(super) static REDUNDANT_TARGET_PLATFORM: Rule = Rule {
    name: "RedundantTargetPlatform",
    summary: "`--platform=$TARGETPLATFORM` is what FROM does by itself",
    why: "A FROM without the flag takes the image of the platform that is built. Saying so makes the reader look for a \
          reason.",
    bad: "FROM --platform=$TARGETPLATFORM alpine\n",
    good: "FROM alpine\n",
    fixable: true,
    check: |subject, found| {
        let text = subject.file.source.text();
        for (stage, base) in subject.file.stages.iter().zip(&subject.bases) {
            let (Some(word), Some(base)) = (&stage.from.platform, base) else { continue };
            let used = &base.platform_variables.used;
            let only = used.len() == 1 && used.contains("TARGETPLATFORM");
            if !only || base.platform.as_ref() != subject.scope.values.get("TARGETPLATFORM") {
                continue;
            }
            let finding =
                Found::new(word.span, "FROM uses the target platform by default").help("remove the flag");
            let flag = "--platform=";
            let start = text[..word.span.start].ends_with(flag).then(|| word.span.start - flag.len());
            let start =
                start.or_else(|| text[word.span.start..].starts_with(flag).then_some(word.span.start));
            let blanks = text[word.span.end..].bytes().take_while(|b| matches!(b, b' ' | b'\t')).count();
            found.push(match start {
                Some(start) if blanks > 0 => finding.edit(Span::new(start, word.span.end + blanks), ""),
                _ => finding,
            });
        }
    },
    ..PLAIN
};

pub(super) static FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule = Rule {
    name: "FromPlatformFlagConstDisallowed",
    summary: "the platform of FROM should not be a constant",
    why: "With a constant the file builds for one platform alone, whatever platform is asked for. $BUILDPLATFORM is the machine \
          that builds; a stage for one platform says so in its name.",
    bad: "FROM --platform=linux/amd64 alpine AS base\n",
    good: "FROM --platform=linux/amd64 alpine AS base-amd64\n",
    check: |subject, found| {
        for stage in &subject.file.stages {
            let Some(word) = stage.from.platform.as_ref().filter(|word| !word.value.contains('$')) else {
                continue;
            };
            let name = stage.name().unwrap_or_default();
            let Ok(platform) = word.value.parse::<Platform>() else { continue };
            let named = |part: &str| !part.is_empty() && name.contains(part);
            if named(&platform.architecture) || named(&platform.os) {
                continue;
            }
            let message = format!("the platform of this FROM is always `{}`", word.value);
            let help = "leave the flag out, use $BUILDPLATFORM or $TARGETPLATFORM, or name the stage after the platform";
            found.push(Found::new(word.span, message).help(help));
        }
    },
    ..PLAIN
};

pub(super) static COPY_IGNORED_FILE: Rule = Rule {
    name: "CopyIgnoredFile",
    summary: "COPY and ADD should not name files that the ignore file leaves out",
    why: "The file is not in the build context, so the step fails, although the file is there for everybody to see.",
    bad: "FROM scratch\nCOPY notes.md /\n",
    good: "FROM scratch\nCOPY README.md /\n",
    ignore_file: Some("notes.md\n"),
    check: |subject, found| {
        let Some(ignore) = &subject.context.ignore else { return };
        // A trigger copies from another context.
        for (_, step) in subject.steps().filter(|(_, step)| !step.is_trigger) {
            let sources: Vec<Word> = match &step.expanded {
                Some(Instruction::Copy(copy)) if copy.from.is_none() => copy.sources.clone(),
                Some(Instruction::Add(add)) => {
                    let local = |w: &&Word| matches!(AddSource::parse(&w.value), Ok(AddSource::Local(_)));
                    add.sources.iter().filter(local).cloned().collect()
                }
                _ => continue,
            };
            for source in sources {
                let path = source.value.trim_start_matches("./").trim_matches('/');
                let is_whole = path.is_empty() || path == ".";
                if has_wildcard(path) || source.value.is_empty() {
                    continue;
                }
                let path = if is_whole { source.value.as_str() } else { path };
                let nothing = is_whole && ignore.leaves_nothing();
                if nothing || (!is_whole && ignore.matches(path) && !ignore.may_except_below(path)) {
                    let message = format!("`{path}` is left out of the context by the ignore file");
                    found.push(
                        Found::new(source.span, message)
                            .help("name another file, or take it out of the ignore file"),
                    );
                }
            }
        }
    },
    ..PLAIN
};
