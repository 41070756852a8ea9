//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"`, several on a line, with an optional file descriptor before them.

use super::expand::{EmptyEnvironment, Expander};
use super::span::Span;

/// A heredoc of a RUN, COPY or ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The name that ends it: for COPY and ADD also the name of the file.
    pub name: String,
    /// Whether variables in the body are expanded: no part of the name was quoted.
    pub expand: bool,
    /// Whether leading tabs are removed (`<<-`).
    pub chomp: bool,
    /// The file descriptor before `<<`, zero when there is none.
    pub file_descriptor: u32,
    /// The lines as written, line endings included. [`Heredoc::body`] gives what they mean.
    pub content: String,
    /// Where the body was written.
    pub span: Span,
}

impl Heredoc {
    /// The body: the content, without leading tabs for `<<-`.
    pub fn body(&self) -> String {
        if self.chomp { chomp(&self.content) } else { self.content.clone() }
    }

    /// The first line of the body for progress messages, with `...` when more follows.
    pub fn summary(&self) -> String {
        let mut lines = self.content.trim().lines();
        let first = lines.next().unwrap_or_default();
        if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
    }

    /// Parses a word such as `3<<-"NAME"`; nothing when it is no heredoc.
    ///
    /// # Errors
    /// A sentence that says why the name is not well formed.
    pub fn parse(word: &str) -> Result<Option<Self>, String> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Some(rest) = word[digits..].strip_prefix("<<") else { return Ok(None) };
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start();
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let lexer = Expander::new('\\').keep_undefined();
        let bad = |e: super::expand::ExpandError| format!("invalid heredoc name: {e}");
        let words = lexer.words(rest, &EmptyEnvironment).map_err(bad)?;
        let [name] = words.as_slice() else { return Ok(None) };
        let quoted = lexer.keep_quotes().words(rest, &EmptyEnvironment).map_err(bad)?;
        let quotes = |word: &str| word.matches(['\'', '"']).count();
        // A quote that is gone without quotes being kept was one that quoted a part of the name.
        let expand = quoted.first().is_some_and(|with| quotes(with) == quotes(name));
        Ok(Some(Self {
            name: name.clone(),
            expand,
            chomp,
            file_descriptor: word[..digits].parse().unwrap_or(0),
            ..Self::default()
        }))
    }

    /// Whether a line ends this heredoc.
    pub(crate) fn is_end(&self, line: &str) -> bool {
        let line = super::lines::trim_newline(line);
        let line = if self.chomp { line.trim_start_matches('\t') } else { line };
        line == self.name
    }
}

/// The heredocs that a line starts.
///
/// # Errors
/// Those of [`Heredoc::parse`].
pub(crate) fn of_line(line: &str) -> Result<Vec<Heredoc>, String> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    let lexer = Expander::new('\\').keep_quotes().keep_escapes().keep_undefined();
    // A line whose quotes do not balance has none: it is left to the shell to complain.
    let words = lexer.words(line, &EmptyEnvironment).unwrap_or_default();
    let mut found = Vec::new();
    for word in words {
        found.extend(Heredoc::parse(&word)?);
    }
    Ok(found)
}

fn chomp(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_heredocs() {
        for word in ["<<EOF", "<<'EOF'", "<<\"EOF\"", "<<-EOF", "<<-'EOF'", "<<EO\"F\"", "<< EOF", "<<- EOF"]
        {
            assert_eq!(Heredoc::parse(word).unwrap().unwrap().name, "EOF", "{word}");
        }
        for word in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh"] {
            assert_eq!(Heredoc::parse(word).unwrap(), None, "{word}");
        }
        for word in ["<<'EOF", "<<\"EOF", "<<EOF'", "<<EOF\""] {
            assert!(Heredoc::parse(word).is_err(), "{word}");
        }
    }

    #[test]
    fn quotes_decide_about_expansion() {
        let expands = |word: &str| Heredoc::parse(word).unwrap().unwrap().expand;
        assert!(expands("<<EOF") && expands("<<eo\\'f") && expands("<<$EOF"));
        assert!(!expands("<<'EOF'") && !expands("<<eo'f'") && !expands("<<'e'o\\'f"));
        assert_eq!(Heredoc::parse("3<<EOF").unwrap().unwrap().file_descriptor, 3);
    }

    #[test]
    fn a_line_may_start_several() {
        let names = |line: &str| of_line(line).unwrap().into_iter().map(|h| h.name).collect::<Vec<_>>();
        assert_eq!(names("COPY <<A <<-\"B\" /x"), ["A", "B"]);
        assert_eq!(names("RUN <<'one two'"), ["one two"]);
        assert_eq!(names("RUN <<  EOF  > foo"), ["EOF"]);
        assert_eq!(names("RUN \"<<EOF\""), Vec::<String>::new());
        assert_eq!(names("RUN echo it's <<EOF"), Vec::<String>::new());
        assert_eq!(names("RUN cat <<EOF>out"), ["EOF>out"]);
    }

    #[test]
    fn bodies_lose_tabs_when_asked() {
        let doc = Heredoc { chomp: true, content: "\t\ta\n\tb\tc\n".into(), ..Heredoc::default() };
        assert_eq!(doc.body(), "a\nb\tc\n");
        assert_eq!(doc.summary(), "a...");
    }
}
