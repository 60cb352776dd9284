//! `topics.md` as the tests see it: fenced blocks and tables.

/// A fenced block; its fence says ```` ```kind name ````.
#[derive(Debug)]
pub struct Block {
    /// Such as `cbor-hex`.
    pub kind: String,
    /// The payload, and after a `:` which example of it.
    pub name: String,
    /// What stands between the fences.
    pub text: String,
}

impl Block {
    /// The payload that the example is of.
    pub fn payload(&self) -> &str {
        self.name.split(':').next().expect("a split has a first part")
    }

    /// The bytes of a block of hexadecimal digits, blanks and line ends between them.
    pub fn bytes(&self) -> Vec<u8> {
        let digits: Vec<u32> = self
            .text
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| {
                c.to_digit(16)
                    .unwrap_or_else(|| panic!("{}: {c:?} is no hexadecimal digit", self.name))
            })
            .collect();
        assert_eq!(digits.len() % 2, 0, "{}: half a byte", self.name);
        digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }
}

/// The whole page.
pub struct Document {
    text: String,
    blocks: Vec<Block>,
}

impl Document {
    /// Reads `topics.md` in the root of the checkout.
    pub fn load() -> Self {
        let path = crate::root().join("topics.md");
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let blocks = blocks(&text);
        Document { text, blocks }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The blocks of a kind, in their order.
    pub fn blocks(&self, kind: &str) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.kind == kind)
    }

    /// The block of this kind and name.
    pub fn block(&self, kind: &str, name: &str) -> Option<&Block> {
        self.blocks(kind).find(|block| block.name == name)
    }

    /// The rows of the table whose header begins with `first`: cells without back-ticks.
    pub fn table(&self, first: &str) -> Vec<Vec<String>> {
        let head = |line: &&str| cells(line).first().is_some_and(|cell| cell == first);
        let rows: Vec<Vec<String>> = self
            .text
            .lines()
            .skip_while(|line| !head(line))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(cells)
            .collect();
        assert!(!rows.is_empty(), "topics.md has no table whose first column is {first:?}");
        rows
    }
}

fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
        return Vec::new();
    };
    inner.split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(fence) = line.strip_prefix("```") else { continue };
        let (kind, name) = fence.split_once(' ').unwrap_or((fence, ""));
        let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block {
            kind: kind.to_owned(),
            name: name.to_owned(),
            text: inside.join("\n"),
        });
    }
    blocks
}
