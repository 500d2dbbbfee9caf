//! Collects mistakes, so that one build reports all of them.
//!
//! Each fault is one `compile_error!` on the token that caused it. Rules push and go on; nothing here stops an
//! expansion, because items that are missing cause errors that hide the real one.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Error, Ident};

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    errors: Vec<Error>,
}

impl Faults {
    /// Reports `message` on all of `tokens`.
    pub(crate) fn on(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.errors.push(Error::new_spanned(tokens, message));
    }

    /// Reports `message` on what reaches from `first` to `second`, so that the compiler shows both.
    pub(crate) fn between(&mut self, first: impl ToTokens, second: impl ToTokens, message: impl std::fmt::Display) {
        self.on(quote!(#first #second), message);
    }

    /// Reports `message` on one span.
    pub(crate) fn at(&mut self, span: Span, message: impl std::fmt::Display) {
        self.errors.push(Error::new(span, message));
    }

    /// Takes the value, or records the error.
    pub(crate) fn check<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// Reports a word that is none of `known`, and guesses which one was meant.
    pub(crate) fn unknown(&mut self, what: &str, word: &Ident, known: &[&str]) {
        let hint = match nearest(&word.to_string(), known) {
            Some(guess) => format!("; did you mean `{guess}`?"),
            None => ";".to_owned(),
        };
        let expected = known.join(", ");
        self.on(word, format!("unknown {what} `{word}`{hint} expected: {expected}"));
    }

    /// How many mistakes there are; two calls tell whether a rule between them failed.
    pub(crate) fn count(&self) -> usize {
        self.errors.len()
    }

    /// One `compile_error!` per mistake.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.errors.iter().map(Error::to_compile_error).collect()
    }
}

/// The word of `known` that `word` is most likely a misspelling of.
///
/// A third of the letters may differ; beyond that a guess misleads.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let bound = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), *candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which a swap of two neighbours counts once (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits_and_swaps() {
        assert_eq!(distance("timeout", "timeout"), 0);
        assert_eq!(distance("timout", "timeout"), 1);
        assert_eq!(distance("tiemout", "timeout"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_guesses_close_words_only() {
        let known = ["timeout", "idempotent", "meta"];
        assert_eq!(nearest("timout", &known), Some("timeout"));
        assert_eq!(nearest("idempotnet", &known), Some("idempotent"));
        assert_eq!(nearest("Meta", &known), Some("meta"));
        assert_eq!(nearest("colour", &known), None);
    }
}
