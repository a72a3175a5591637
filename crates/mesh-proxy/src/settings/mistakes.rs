//! Mistakes in the settings, told all at once.

use std::fmt::Display;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<String>);

/// Why the settings cannot be used: every mistake found, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(Vec<String>);

impl Mistakes {
    /// Notes one; the text names the setting as the operator knows it.
    pub fn add(&mut self, mistake: impl Into<String>) {
        self.0.push(mistake.into());
    }

    /// The value, or nothing and a note of why the setting called `name` is wrong.
    pub fn value<T, E: Display>(&mut self, name: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.add(format!("{name}: {error}")))
            .ok()
    }

    /// Whether none was made.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the operator is told.
    pub fn into_error(self) -> SettingsError {
        SettingsError(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_on_a_line_of_its_own() {
        let mut mistakes = Mistakes::default();
        assert_eq!(mistakes.value("A", "1".parse::<u8>()), Some(1));
        assert!(mistakes.is_empty());
        assert_eq!(mistakes.value("B", Err::<u8, _>("no number")), None);
        mistakes.add("C is needed");
        assert!(!mistakes.is_empty());
        let told = mistakes.into_error().to_string();
        assert_eq!(told, "B: no number\nC is needed");
    }
}
