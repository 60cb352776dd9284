//! The settings that docs/brokers.md gives, for tests that run with exactly these.
//!
//! ````text
//! ## HiveMQ Cloud                  the title
//! ```toml gateway.toml             the file, after the language
//! [broker]
//! ````

use anyhow::Context as _;

use crate::mosquitto::checkout;

/// A line of a configuration: its section and itself.
pub type Line = (&'static str, String);

/// The sections in which docs/brokers.md sets something.
const SECTIONS: [&str; 4] = ["bridge", "broker", "device", "publish"];

/// The page.
///
/// # Errors
/// When it cannot be read.
pub fn page() -> anyhow::Result<String> {
    std::fs::read_to_string(checkout().join("docs/brokers.md")).context("reading docs/brokers.md")
}

/// Every block of settings: title, file, text.
///
/// # Errors
/// A block without an end.
pub fn blocks(page: &str) -> anyhow::Result<Vec<(&str, &str, &str)>> {
    let mut found = Vec::new();
    for chapter in page.split("\n## ").skip(1) {
        let title = chapter.lines().next().unwrap_or_default();
        for block in chapter.split("\n```toml ").skip(1) {
            let (file, rest) = block.split_once('\n').context("an empty block")?;
            let (text, _) =
                rest.split_once("\n```").with_context(|| format!("{title}, {file}: no end"))?;
            found.push((title, file, text));
        }
    }
    Ok(found)
}

/// The lines for one file at one broker, without host and port, which are a test's own.
///
/// # Errors
/// When the page does not hold them, or sets something in a section that is not expected.
pub fn settings(title: &str, file: &str) -> anyhow::Result<Vec<Line>> {
    let page = page()?;
    let block = blocks(&page)?.into_iter().find(|block| (block.0, block.1) == (title, file));
    let (.., text) = block.with_context(|| format!("docs/brokers.md: no {file} of {title:?}"))?;
    let (mut section, mut lines) = ("", Vec::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let known = SECTIONS.into_iter().find(|known| *known == name);
            section = known.with_context(|| format!("docs/brokers.md sets something in {line}"))?;
        } else if !line.starts_with("host =") && !line.starts_with("port =") {
            lines.push((section, line.to_owned()));
        }
    }
    Ok(lines)
}

/// The value of a key in lines that [`settings`] has returned, without its quotes.
pub fn value<'l>(lines: &'l [Line], key: &str) -> Option<&'l str> {
    let start = format!("{key} = ");
    let value = lines.iter().find_map(|(_, line)| line.strip_prefix(&start))?;
    Some(value.trim_matches('"'))
}

/// Gives a key that is there another value.
///
/// # Errors
/// When it is not there.
pub fn set(lines: &mut [Line], key: &str, value: &str) -> anyhow::Result<()> {
    let start = format!("{key} = ");
    let line = lines.iter_mut().find(|(_, line)| line.starts_with(&start));
    line.with_context(|| format!("docs/brokers.md sets no {key}"))?.1 =
        format!("{start}\"{value}\"");
    Ok(())
}
