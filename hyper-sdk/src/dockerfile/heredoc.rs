//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"`. A line can have several, each with an optional file descriptor.

use super::expand::{EmptyEnvironment, Expander};
use super::span::Span;

/// A heredoc of a RUN, COPY or ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter. For COPY and ADD it is also the name of the file.
    pub name: String,
    /// Whether variables in the body are expanded: no part of the name is quoted.
    pub expand: bool,
    /// Whether leading tabs are removed (`<<-`).
    pub chomp: bool,
    /// The file descriptor before `<<`, or zero.
    pub file_descriptor: u32,
    /// The lines as written, with line endings: see [`Heredoc::body`].
    pub content: String,
    /// The place of the body.
    pub span: Span,
}

impl Heredoc {
    /// The body: the content, without leading tabs for `<<-`.
    pub fn body(&self) -> String {
        if self.chomp { chomp(&self.content) } else { self.content.clone() }
    }

    /// The first line of the body for progress messages, with `...` when more lines follow.
    pub fn summary(&self) -> String {
        let mut lines = self.content.trim().lines();
        let first = lines.next().unwrap_or_default();
        if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
    }

    /// Parses a word such as `3<<-"NAME"`; `None` when it is not a heredoc.
    ///
    /// # Errors
    /// A sentence about a malformed name.
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
        // A quote that the expansion removed has quoted a part of the name.
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

/// The heredocs of a line.
///
/// # Errors
/// Those of [`Heredoc::parse`].
pub(crate) fn in_line(line: &str) -> Result<Vec<Heredoc>, String> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    let lexer = Expander::new('\\').keep_quotes().keep_escapes().keep_undefined();
    // A line with unbalanced quotes has no heredocs: the shell reports the error.
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
    fn heredocs_are_recognized() {
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
    fn quoted_names_prevent_expansion() {
        let expands = |word: &str| Heredoc::parse(word).unwrap().unwrap().expand;
        assert!(expands("<<EOF") && expands("<<eo\\'f") && expands("<<$EOF"));
        assert!(!expands("<<'EOF'") && !expands("<<eo'f'") && !expands("<<'e'o\\'f"));
        assert_eq!(Heredoc::parse("3<<EOF").unwrap().unwrap().file_descriptor, 3);
    }

    #[test]
    fn a_line_can_have_several_heredocs() {
        let names = |line: &str| in_line(line).unwrap().into_iter().map(|h| h.name).collect::<Vec<_>>();
        assert_eq!(names("COPY <<A <<-\"B\" /x"), ["A", "B"]);
        assert_eq!(names("RUN <<'one two'"), ["one two"]);
        assert_eq!(names("RUN <<  EOF  > foo"), ["EOF"]);
        assert_eq!(names("RUN \"<<EOF\""), Vec::<String>::new());
        assert_eq!(names("RUN echo it's <<EOF"), Vec::<String>::new());
        assert_eq!(names("RUN cat <<EOF>out"), ["EOF>out"]);
    }

    #[test]
    fn leading_tabs_are_removed() {
        let doc = Heredoc { chomp: true, content: "\t\ta\n\tb\tc\n".into(), ..Heredoc::default() };
        assert_eq!(doc.body(), "a\nb\tc\n");
        assert_eq!(doc.summary(), "a...");
    }
}
