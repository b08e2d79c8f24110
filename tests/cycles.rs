//! Rejects import cycles between sibling modules of `src` and `e2e/src`.
//!
//! `tests/layers.rs` checks the order of the layers; this test checks that the modules within each
//! folder have an order, too.

#![allow(clippy::expect_used, reason = "a test may stop at a source file that it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};

/// The absolute path of a module, for example `["frontend", "tor"]`. The path of the crate root is
/// empty.
type Module = Vec<String>;

/// The parsed source files of one crate, by module.
type Sources = BTreeMap<Module, syn::File>;

/// The edges of the import graph. An edge leads from a module to a module that it imports.
type Edges = BTreeSet<(Module, Module)>;

#[test]
fn no_sibling_modules_import_each_other_in_a_cycle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for (name, folder) in [("src", root.join("src")), ("e2e/src", root.join("e2e/src"))] {
        let mut sources = Sources::new();
        read(&folder, &Module::new(), &mut sources);
        assert!(sources.len() > 20, "only {} modules found in {name}", sources.len());
        found.extend(cycles(&edges(&sources)).into_iter().map(|cycle| format!("{name}: {cycle}")));
    }
    assert!(
        found.is_empty(),
        "these sibling modules import each other; move the shared code into a separate module:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_cycle_is_found_through_nested_modules_and_re_exports() {
    let parse = |text: &str| syn::parse_file(text).expect("the text is not valid Rust");
    let sources: Sources = [
        ("", "mod one; mod two; pub use two::inner::Thing;"),
        ("one", "use crate::Thing; #[cfg(test)] mod tests { use crate::three::Other; }"),
        ("two", "pub mod inner;"),
        ("two inner", "pub struct Thing; fn f() { super::super::one::f(); }"),
        ("three", "use super::one::A;"),
    ]
    .into_iter()
    .map(|(module, text)| (module.split_whitespace().map(str::to_owned).collect(), parse(text)))
    .collect();
    assert_eq!(cycles(&edges(&sources)), ["one -> two -> one"]);
}

/// Reads and parses the source files in a folder. Test modules are skipped.
fn read(folder: &Path, module: &Module, sources: &mut Sources) {
    for entry in fs::read_dir(folder).expect("could not list the folder") {
        let path = entry.expect("could not read the entry").path();
        let name = path.file_stem().expect("the path has no file name").to_string_lossy().into_owned();
        if ["tests", "testing", "testdata"].contains(&name.as_str()) {
            continue;
        }
        let inner = || module.iter().cloned().chain([name.clone()]).collect::<Module>();
        if path.is_dir() {
            read(&path, &inner(), sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = syn::parse_file(&fs::read_to_string(&path).expect("could not read the source file"))
                .expect("the source file is not valid Rust");
            let is_root = ["mod", "lib", "main"].contains(&name.as_str());
            let target = if is_root { module.clone() } else { inner() };
            // The library and the program share the crate root.
            let entry = sources.entry(target).or_insert_with(|| syn::File {
                shebang: None,
                attrs: Vec::new(),
                items: Vec::new(),
            });
            entry.items.extend(file.items);
        }
    }
}

fn edges(sources: &Sources) -> Edges {
    let re_exports = re_exports(sources);
    let mut edges = Edges::new();
    for (module, file) in sources {
        let mut paths = Paths::default();
        paths.visit_file(file);
        for path in paths.0 {
            if let Some(target) = resolve(&path, module, sources, &re_exports)
                && target != *module
            {
                edges.insert((module.clone(), target));
            }
        }
    }
    edges
}

/// Returns a map of all re-exports. The key is the re-exporting module and the re-exported name.
/// The value is the module where the name originates.
fn re_exports(sources: &Sources) -> BTreeMap<(Module, String), Module> {
    let mut found = BTreeMap::new();
    for (module, file) in sources {
        for item in &file.items {
            let syn::Item::Use(item) = item else { continue };
            if matches!(item.vis, syn::Visibility::Inherited) {
                continue;
            }
            let mut leaves = Vec::new();
            flatten(&item.tree, &mut Vec::new(), &mut leaves);
            for leaf in leaves {
                if let (Some(target), Some(name)) = (resolve(&leaf, module, sources, &BTreeMap::new()), leaf.last()) {
                    found.insert((module.clone(), name.clone()), target);
                }
            }
        }
    }
    found
}

/// Returns the innermost module that a path names, following re-exports.
fn resolve(
    path: &[String],
    from: &Module,
    sources: &Sources,
    re_exports: &BTreeMap<(Module, String), Module>,
) -> Option<Module> {
    let mut rest = path.iter();
    let first = rest.next()?;
    let mut module = match first.as_str() {
        "crate" => Module::new(),
        "self" => from.clone(),
        "super" => from.split_last()?.1.to_vec(),
        name => {
            let child: Module = from.iter().cloned().chain([name.to_owned()]).collect();
            sources.contains_key(&child).then_some(child)?
        }
    };
    for segment in rest {
        if segment == "super" {
            module.pop();
            continue;
        }
        let child: Module = module.iter().cloned().chain([segment.clone()]).collect();
        if sources.contains_key(&child) {
            module = child;
        } else if let Some(target) = re_exports.get(&(module.clone(), segment.clone())) {
            return Some(target.clone());
        } else {
            break;
        }
    }
    Some(module)
}

/// The paths that a source file mentions outside test code.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        let is_test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
        };
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A re-export only gives items a shorter path; the re-exporting module does not depend on
        // them.
        if matches!(item.vis, syn::Visibility::Inherited) {
            flatten(&item.tree, &mut Vec::new(), &mut self.0);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn flatten(tree: &syn::UseTree, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, found);
            prefix.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, found)),
        syn::UseTree::Glob(_) => found.push(prefix.clone()),
        syn::UseTree::Name(name) => found.push(prefix.iter().cloned().chain([name.ident.to_string()]).collect()),
        syn::UseTree::Rename(name) => found.push(prefix.iter().cloned().chain([name.ident.to_string()]).collect()),
    }
}

/// Returns one cycle for each group of siblings that import each other.
fn cycles(edges: &Edges) -> Vec<String> {
    let mut siblings: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (from, to) in edges {
        let common = from.iter().zip(to).take_while(|(one, other)| one == other).count();
        if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
            let folder = siblings.entry(from[..common].to_vec()).or_default();
            folder.entry(one.clone()).or_default().insert(other.clone());
        }
    }
    let mut found = Vec::new();
    for (folder, graph) in &siblings {
        for start in graph.keys() {
            if let Some(path) = path_back(graph, start)
                && path.iter().all(|step| start <= step)
            {
                let name = |step: &String| folder.iter().chain([step]).cloned().collect::<Vec<_>>().join("::");
                found.push(path.iter().map(name).collect::<Vec<_>>().join(" -> "));
            }
        }
    }
    found
}

/// Returns the shortest path from a module back to itself.
fn path_back(graph: &BTreeMap<String, BTreeSet<String>>, start: &String) -> Option<Vec<String>> {
    let mut paths = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            for next in path.last().and_then(|last| graph.get(last)).into_iter().flatten() {
                let extended: Vec<String> = path.iter().cloned().chain([next.clone()]).collect();
                if next == start {
                    return Some(extended);
                }
                if seen.insert(next.clone()) {
                    longer.push(extended);
                }
            }
        }
        paths = longer;
    }
    None
}
