//! Reads the manifests and commands in the pages of `docs/`, so that tests can apply and run them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::state::source_tree;

/// The fenced code blocks of a documentation page.
#[derive(Debug, Clone)]
pub struct Page {
    path: PathBuf,
    blocks: Vec<Block>,
}

#[derive(Debug, Clone)]
struct Block {
    language: String,
    text: String,
}

impl Page {
    /// Reads `docs/<name>`.
    pub fn open(name: &str) -> Result<Self> {
        let path = source_tree().join("docs").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, blocks: blocks(&text) })
    }

    /// Parses the text of a page. `name` is used in error messages.
    pub fn of(name: &str, text: &str) -> Self {
        Self { path: name.into(), blocks: blocks(text) }
    }

    /// Returns the language and the text of each code block, in the order of the page.
    pub fn blocks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.blocks.iter().map(|block| (block.language.as_str(), block.text.as_str()))
    }

    /// Returns the block whose first line is a comment that begins with the given file name, for
    /// example `# web.yaml` or `# scale.sh REPLICAS`.
    pub fn file(&self, name: &str) -> Result<&str> {
        let is_named = |block: &&Block| {
            block.text.strip_prefix("# ").and_then(|text| text.split_whitespace().next()) == Some(name)
        };
        let block = self.blocks.iter().find(is_named);
        block
            .map(|block| block.text.as_str())
            .with_context(|| format!("{} has no block named {name}", self.path.display()))
    }

    /// Returns all code blocks in a language, in the order of the page.
    pub fn of_language(&self, language: &str) -> impl Iterator<Item = &str> {
        self.blocks().filter(move |block| block.0 == language).map(|block| block.1)
    }
}

/// Splits a page into its fenced blocks. Fences must begin at the start of a line.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.split_inclusive('\n') {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some(Block { language: language.trim().to_owned(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += line,
            (None, None) => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_file_name_and_by_language() {
        let text = "Text\n```yaml\n# a.yaml\na: 1\n```\n\n```sh\n# b.sh X\necho $1\n```\n```yaml\nc: 2\n```\n";
        let page = Page::of("page", text);
        assert_eq!(page.file("a.yaml").unwrap(), "# a.yaml\na: 1\n");
        assert_eq!(page.file("b.sh").unwrap(), "# b.sh X\necho $1\n");
        assert_eq!(page.of_language("yaml").collect::<Vec<_>>(), ["# a.yaml\na: 1\n", "c: 2\n"]);
        assert_eq!(page.file("b").unwrap_err().to_string(), "page has no block named b");
    }

    #[test]
    fn every_yaml_block_of_the_gitops_page_parses_as_yaml() {
        let page = Page::open("gitops.md").unwrap();
        assert!(page.of_language("yaml").count() > 5);
        for block in page.of_language("yaml") {
            let documents = serde_saphyr::from_multiple::<serde_json::Value>(block).unwrap();
            assert!(documents.iter().all(serde_json::Value::is_object), "not a YAML mapping: {block}");
        }
    }
}
