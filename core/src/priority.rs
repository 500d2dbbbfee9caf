//! How much a call matters: who is turned away first when a server has too much to do.

use std::fmt;
use std::str::FromStr;

use crate::metadata::Metadata;

/// The metadata key of a call's priority.
pub const PRIORITY_KEY: &str = "sinew-priority";

/// How much a call matters, next to others at the same server: when it has too much to do, the lowest are turned away first, and the higher get their turn
/// before the lower. Calls that a handler makes have the priority of its own.
///
/// A server takes [`Critical`](Self::Critical) for [`Normal`](Self::Normal) from clients that did not prove who they are, unless it is told to trust them
/// (`ServerBuilder::trust_priorities`).
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::priority::Priority; }
/// use sinew::Priority;
///
/// assert!(Priority::Critical > Priority::Normal && Priority::Low > Priority::Background);
/// assert_eq!("low".parse(), Ok(Priority::Low));
/// assert_eq!(Priority::default().to_string(), "normal");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Nobody waits for it: batch jobs, warm-ups, prefetches.
    Background,
    /// Somebody may notice: suggestions, previews, what can be shown later or left out.
    Low,
    /// What is not said to be anything else.
    #[default]
    Normal,
    /// The business stops without it: log-in, payment. At most a third of a server's load, or nobody is left to be turned away for it.
    Critical,
}

/// How many there are.
pub const PRIORITIES: usize = 4;

impl Priority {
    /// All of them, the lowest first.
    pub const ALL: [Self; PRIORITIES] = [Self::Background, Self::Low, Self::Normal, Self::Critical];

    /// The word that travels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::Critical => "critical",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What a request's metadata say; [`Normal`](Self::Normal) if that is nothing, or cannot be read.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        metadata.get(PRIORITY_KEY).and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    /// Writes it into a request's metadata.
    pub fn write_to(self, metadata: &mut Metadata) {
        if self == Self::Normal {
            metadata.remove(PRIORITY_KEY);
        } else {
            // Key and value keep the rules.
            let _valid = metadata.insert(PRIORITY_KEY, self.as_str());
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no priority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no priority; there are \"critical\", \"normal\", \"low\" and \"background\"")]
pub struct PriorityError(String);

impl FromStr for Priority {
    type Err = PriorityError;

    fn from_str(text: &str) -> Result<Self, PriorityError> {
        let found = Self::ALL.into_iter().find(|priority| priority.as_str() == text);
        found.ok_or_else(|| PriorityError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::{PRIORITY_KEY, Priority};
    use crate::metadata::Metadata;

    #[test]
    fn priorities_travel_as_words_and_the_default_as_nothing() {
        let mut metadata = Metadata::new();
        for priority in Priority::ALL {
            priority.write_to(&mut metadata);
            assert_eq!(Priority::of(&metadata), priority);
            assert_eq!(priority.as_str().parse(), Ok(priority));
        }
        Priority::Normal.write_to(&mut metadata);
        assert!(metadata.is_empty());
        for strange in ["Critical", "7", ""] {
            metadata.insert(PRIORITY_KEY, strange).unwrap();
            assert_eq!(Priority::of(&metadata), Priority::Normal);
        }
        let error = "high".parse::<Priority>().unwrap_err().to_string();
        assert!(
            error.contains("\"high\" is no priority; there are \"critical\""),
            "{error}"
        );
    }
}
