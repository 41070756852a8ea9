//! Tests of named sources: `--exclude` of the source itself, and dangling links.

use super::*;

#[test]
fn named_sources_can_be_excluded() {
    let (_folder, root) = context(
        "home.txt; home.md; hom/home.txt; hom/a; d/home.txt; d/e/home.txt; d/home.md; d/d/x; l -> home.txt; m -> d; bad -> home.txt",
    );
    for (sources, patterns, expected) in [
        // The example of the Dockerfile reference.
        ("hom*", &["*.txt"][..], "n/ 755; n/a 664 0; n/home.md 664 0"),
        ("hom*", &["*.txt", "*.md"], "n/ 755; n/a 664 0"),
        // If nothing is left, nothing is made.
        ("home.txt", &["*.txt"], ""),
        ("/home.txt", &["home.txt"], ""),
        ("home.txt home.md", &["*.txt"], "n/ 755; n/home.md 664 0"),
        ("home.*", &["**"], ""),
        // By its name or by its path.
        ("d/home.*", &["*.txt"], "n/ 755; n/home.md 664 0"),
        ("d/home.*", &["d/*.txt"], "n/ 755; n/home.md 664 0"),
        ("d/home.txt", &["d/home.txt"], ""),
        ("d/home.*", &["hom/*.txt", "d"], "n/ 755; n/home.md 664 0; n/home.txt 664 0"),
        ("*/home.*", &["home.txt"], "n/ 755; n/home.md 664 0"),
        // An exception keeps the file.
        ("home.*", &["*", "!*.md"], "n/ 755; n/home.md 664 0"),
        ("d/home.*", &["**", "!home.md"], "n/ 755; n/home.md 664 0"),
        // A named directory copies its contents; a wildcard match may be left out.
        ("d", &["d"], "n/ 755; n/e/ 755; n/e/home.txt 664 0; n/home.md 664 0; n/home.txt 664 0"),
        ("hom*", &["hom"], "n/ 755; n/home.md 664 0; n/home.txt 664 0"),
        ("hom*", &["hom", "!a"], "n/ 755; n/a 664 0; n/home.md 664 0; n/home.txt 664 0"),
        // A link is matched by its own name.
        ("l", &["home.txt"], "n/ 755; n/l 664 0"),
        ("l", &["l"], ""),
        ("m/home.txt", &["home.txt"], ""),
    ] {
        let mut spec = CopySpec::new(sources.split(' '), "/n/");
        spec.exclude = PatternList::new(patterns).unwrap();
        let plan = plan(&root, &EmptyDestination, &spec).unwrap();
        assert_eq!(show(&plan), expected, "COPY {sources} without {patterns:?}");
    }
    for source in ["d/home.txt", "./d/./home.txt"] {
        for pattern in ["d", "**/*.txt", "home.txt"] {
            let mut spec = CopySpec::new([source], "/n/");
            (spec.parents, spec.exclude) = (true, PatternList::new([pattern]).unwrap());
            let plan = plan(&root, &EmptyDestination, &spec).unwrap();
            let paths = show(&plan);
            // The patterns are relative to the pivot.
            let kept = match (source, pattern) {
                ("d/home.txt", "home.txt") => "n/d/home.txt",
                ("./d/./home.txt", "d") => "n/home.txt",
                _ => "",
            };
            assert_eq!(paths.contains("home.txt"), !kept.is_empty(), "{source} {pattern}: {paths}");
            assert!(paths.contains(kept), "{source} {pattern}: {paths}");
        }
    }
}

#[test]
fn the_error_for_a_dangling_link_names_its_target() {
    let (folder, root) = context("d/ok; badd; bad -> nowhere; dl -> d; up -> ../../x; out -> /etc/shadow");
    for (source, parents, text) in [
        ("bad", false, "`bad` leads to `nowhere` through a link, and that does not exist"),
        ("b?d", false, "`bad` leads to `nowhere` through a link, and that does not exist"),
        ("out", false, "`out` leads to `etc/shadow` through a link, and that does not exist"),
        ("up/y", false, "`up/y` leads to `x/y` through a link, and that does not exist"),
        (
            "dl/okk",
            false,
            "`dl/okk` leads to `d/okk` through a link, and that does not exist: did you mean `d/ok`?",
        ),
        ("dl/ok", true, "`dl/ok` leads to `d/ok` through a link, and `--parents` does not follow links"),
    ] {
        let mut spec = CopySpec::new([source], "/");
        spec.parents = parents;
        let e = plan(&root, &EmptyDestination, &spec).unwrap_err();
        assert!(e.message().starts_with(text), "{e}");
        assert!(!e.message().contains(&format!("did you mean `{source}`")), "{e}");
    }
    let filter = Ignore(PatternList::new(["d"]).unwrap());
    let root = SourceRoot::open(folder.path(), SourceKind::Context, Some(Arc::new(filter))).unwrap();
    let e = plan(&Arc::new(root), &EmptyDestination, &CopySpec::new(["dl/ok"], "/")).unwrap_err();
    assert!(
        e.message().contains("leads to `d/ok` through a link, which is excluded by the ignore file"),
        "{e}"
    );
}
