//! Parses `WWW-Authenticate` (RFC 9110, section 11.6.1): several challenges, quoted strings, tokens.
//!
//! The input is not trusted. Parts that cannot be parsed are skipped; nothing panics.

/// One challenge: a scheme and its parameters, names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    pub(super) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// The challenges of one header value.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut scanner = Scanner { rest: header };
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        scanner.skip_separators();
        if scanner.rest.is_empty() {
            return challenges;
        }
        let Some(word) = scanner.token() else {
            scanner.skip_one();
            continue;
        };
        if scanner.equals() {
            let value = scanner.value();
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
        } else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip_separators(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
    }

    fn skip_one(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c);
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// Takes an equals sign, with the white space around it, if there is one.
    fn equals(&mut self) -> bool {
        match self.rest.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(rest) => {
                self.rest = rest.trim_start_matches([' ', '\t']);
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.token().unwrap_or_default().to_owned();
        };
        let mut text = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => text.extend(chars.next()),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_of_common_registries() {
        let found = parse(
            r#"Basic realm="a, \"b\"", Bearer realm="https://auth.example/token",service=reg.example, scope="repository:a/b:pull,push registry:catalog:*""#,
        );
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].get("realm"), Some("a, \"b\""));
        assert_eq!(found[1].scheme, "bearer");
        assert_eq!(found[1].get("realm"), Some("https://auth.example/token"));
        assert_eq!(found[1].get("service"), Some("reg.example"));
        assert_eq!(found[1].get("scope"), Some("repository:a/b:pull,push registry:catalog:*"));
    }

    #[test]
    fn malformed_challenges_are_read_in_part() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("BEARER Realm = \"x")[0].get("realm"), Some("x"));
        assert_eq!(parse("=,\"é\",Basic")[0].scheme, "basic");
        assert_eq!(parse("a=b"), []);
        assert_eq!(parse("Negotiate, Basic realm=x").len(), 2);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(s: String) {
            let _ = parse(&s);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~]{0,30}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let found = parse(&format!("Bearer realm=\"{quoted}\", service=\"s\""));
            prop_assert_eq!(found[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(found[0].get("service"), Some("s"));
        }
    }
}
