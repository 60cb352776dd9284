//! Settings that are one of a few words.

/// Reads and writes an enum by the words that stand here.
macro_rules! words {
    ($kind:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl std::str::FromStr for $kind {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok($kind::$variant),)+
                    _ => Err(["allowed are", $(concat!("\"", $word, "\"")),+].join(" ")),
                }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $($kind::$variant => $word),+
                })
            }
        }
    };
}

pub(super) use words;
