//! No two modules of a crate import each other, directly or through others.
//!
//! Modules are compared where they are siblings: those of the crate's root, and those within each folder. Unit tests
//! may import what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree};

/// The full path of a module from the root of its crate.
type ModulePath = Vec<String>;

/// Every reference of one module: the paths in its `use` items and in its code.
struct References<'a> {
    module: &'a ModulePath,
    found: Vec<ModulePath>,
}

impl References<'_> {
    /// Adds a path that begins with `crate`, `self` or `super`; all others name crates or what was imported before.
    fn add(&mut self, segments: &[String]) {
        let mut base = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self") => self.module.clone(),
            Some("super") => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            _ => return,
        };
        let mut rest = &segments[1..];
        while let Some((_, after)) = rest.split_first().filter(|(first, _)| *first == "super") {
            base.pop();
            rest = after;
        }
        base.extend_from_slice(rest);
        self.found.push(base);
    }

    fn add_tree(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(&path.tree, before);
            }
            UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.add(&before);
            }
            UseTree::Rename(rename) => {
                before.push(rename.ident.to_string());
                self.add(&before);
            }
            UseTree::Glob(_) => self.add(&before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before.clone())),
        }
    }
}

impl<'ast> Visit<'ast> for References<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&item.tree, Vec::new());
    }
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(item) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn is_test(item: &ItemMod) -> bool {
    item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// The references of every module in the folder, which is that of the module `at`. Files that only tests include are
/// left out.
fn read(folder: &Path, file: &Path, at: &ModulePath, all: &mut BTreeMap<ModulePath, Vec<ModulePath>>) {
    let text = fs::read_to_string(file).expect("a source file can be read");
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut references = References { module: at, found: Vec::new() };
    references.visit_file(&parsed);
    let found = references.found;
    all.insert(at.clone(), found);
    for item in &parsed.items {
        let Item::Mod(module) = item else { continue };
        if module.content.is_some() || is_test(module) {
            continue;
        }
        let name = module.ident.to_string();
        let inner = folder.join(&name);
        let candidates = [folder.join(format!("{name}.rs")), inner.join("mod.rs")];
        let file = candidates.iter().find(|path| path.exists());
        let file = file.unwrap_or_else(|| panic!("{}: no file for the module {name}", folder.display()));
        let mut path = at.clone();
        path.push(name);
        read(&inner, file, &path, all);
    }
}

/// The modules of one crate, and which of its siblings each of them refers to.
fn siblings(references: &BTreeMap<ModulePath, Vec<ModulePath>>) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut edges: BTreeMap<ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
    for (from, targets) in references {
        for target in targets {
            let shared = from.iter().zip(target).take_while(|(a, b)| a == b).count();
            // One of them is the parent of the other: parents may name their children, and children their parents.
            if shared == from.len() || shared == target.len() {
                continue;
            }
            let (from, target) = (from[..=shared].to_vec(), target[..=shared].to_vec());
            if references.contains_key(&target) {
                edges.entry(from).or_default().insert(target);
            }
        }
    }
    edges
}

/// A path from a module back to itself, if there is one.
fn cycle(edges: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Option<Vec<String>> {
    for start in edges.keys() {
        let mut reached = BTreeMap::from([(start, None)]);
        let mut queue = vec![start];
        while let Some(module) = queue.pop() {
            for next in edges.get(module).into_iter().flatten() {
                if next == start {
                    let mut path = vec![start.join("::")];
                    let mut step = Some(module);
                    while let Some(module) = step {
                        path.push(module.join("::"));
                        step = reached[module];
                    }
                    path.reverse();
                    return Some(path);
                }
                if !reached.contains_key(next) {
                    reached.insert(next, Some(module));
                    queue.push(next);
                }
            }
        }
    }
    None
}

/// The source folders of the libraries of the workspace.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders =
        [root.clone(), root.join("tests")].map(|folder| fs::read_dir(folder).expect("the folder can be read"));
    let crates = folders.into_iter().flatten().map(|entry| entry.expect("the folder can be read").path());
    let mut sources: Vec<_> = crates.map(|path| path.join("src")).filter(|path| path.join("lib.rs").exists()).collect();
    sources.sort();
    sources
}

#[test]
fn imports_run_one_way() {
    let sources = sources();
    assert!(sources.len() >= 5, "only {sources:?} were found");
    let mut cycles = Vec::new();
    for source in sources {
        let mut references = BTreeMap::new();
        read(&source, &source.join("lib.rs"), &Vec::new(), &mut references);
        assert!(references.len() > 5, "{}: only {} modules were found", source.display(), references.len());
        if let Some(cycle) = cycle(&siblings(&references)) {
            cycles.push(format!("{}: {}", source.display(), cycle.join(" -> ")));
        }
    }
    assert!(cycles.is_empty(), "modules import each other in a circle:\n{}", cycles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<ModulePath>();
    let modules = |all: &[(&str, &[&str])]| -> BTreeMap<_, _> {
        all.iter().map(|(from, to)| (path(from), to.iter().map(|to| path(to)).collect())).collect()
    };
    let direct = modules(&[("a", &["b::Type"]), ("b", &["c::run"]), ("c", &["a::x::y"])]);
    assert_eq!(cycle(&siblings(&direct)).expect("a circle"), ["a", "b", "c", "a"]);
    let through_children = modules(&[("a", &[]), ("a::x", &["b::Type"]), ("b", &[]), ("b::y", &["a::Type"])]);
    assert!(cycle(&siblings(&through_children)).is_some());
    let with_parents = modules(&[("a", &["a::x::Type"]), ("a::x", &["a::Type"]), ("b", &["a::Type"])]);
    assert_eq!(cycle(&siblings(&with_parents)), None);
}
