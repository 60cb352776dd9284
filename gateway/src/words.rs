//! What is one of a few words, in settings and commands.

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

        impl $kind {
            /// All of them.
            #[allow(dead_code, reason = "not every list of words is listed")]
            pub(crate) const ALL: &[$kind] = &[$($kind::$variant),+];

            /// Its word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($kind::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;
