//! Parses the declarations of the generated header.

use std::fs;

/// A function of the header.
pub struct Function {
    /// Its name.
    pub name: String,
    /// The type and name of each parameter.
    pub parameters: Vec<(String, String)>,
    /// The parameters that may be NULL according to the documentation of the function.
    pub nullable: Vec<String>,
}

/// A struct of the header that is not opaque.
pub struct Struct {
    /// Its name.
    pub name: String,
    /// The names of its fields.
    pub fields: Vec<String>,
}

/// The text of `mini_kms.h`.
pub fn header() -> String {
    fs::read_to_string(super::root().join("include/mini_kms.h")).unwrap()
}

/// The documentation and the code of each declaration, in order.
fn pieces(header: &str) -> Vec<(String, String)> {
    let mut pieces = Vec::new();
    let (mut documentation, mut code, mut in_comment) = (String::new(), String::new(), false);
    let mut depth = 0_usize;
    for line in header.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with("/*") {
            in_comment = true;
            if depth == 0 && code.is_empty() {
                documentation.clear();
            }
        }
        if in_comment {
            if depth == 0 {
                documentation.push_str(trimmed.trim_start_matches(['/', '*', ' ']));
                documentation.push(' ');
            }
            in_comment = !trimmed.ends_with("*/");
            continue;
        }
        if trimmed.is_empty() || trimmed.starts_with('#') || trimmed == "extern \"C\" {" {
            continue;
        }
        depth += trimmed.matches('{').count();
        depth -= trimmed.matches('}').count().min(depth);
        code.push_str(trimmed);
        code.push(' ');
        if depth == 0 && trimmed.ends_with(';') {
            pieces.push((std::mem::take(&mut documentation), std::mem::take(&mut code)));
        }
    }
    pieces
}

/// The functions that a header declares, in its order.
pub fn functions(header: &str) -> Vec<Function> {
    pieces(header).iter().filter_map(|(documentation, code)| function(documentation, code)).collect()
}

fn function(documentation: &str, code: &str) -> Option<Function> {
    let (name, rest) = code.strip_prefix("mkms_status ")?.split_once('(')?;
    let parameters = rest.rsplit_once(')')?.0;
    let parameters = parameters.split(',').map(|parameter| {
        let parameter = parameter.trim();
        let start = parameter.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap() + 1;
        (parameter[..start].trim().to_owned(), parameter[start..].to_owned())
    });
    Some(Function { name: name.to_owned(), parameters: parameters.collect(), nullable: nullable(documentation) })
}

/// The names in backticks before "may be NULL" in the same clause.
fn nullable(documentation: &str) -> Vec<String> {
    let clauses = documentation.split(['.', ';', ':']).filter(|clause| clause.contains("may be NULL"));
    let names = |clause: &str| {
        let before = clause.split("may be NULL").next().unwrap_or_default();
        before.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    clauses.flat_map(names).collect()
}

/// The structs that are not opaque.
pub fn structs(header: &str) -> Vec<Struct> {
    pieces(header).iter().filter_map(|(_, code)| structure(code)).collect()
}

fn structure(code: &str) -> Option<Struct> {
    let (name, rest) = code.strip_prefix("typedef struct ")?.split_once('{')?;
    let fields = rest.rsplit_once('}')?.0;
    let field = |declaration: &str| {
        let declaration = declaration.split('[').next().unwrap_or_default().trim();
        let start = declaration.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_')? + 1;
        Some(declaration[start..].to_owned())
    };
    Some(Struct { name: name.trim().to_owned(), fields: fields.split(';').filter_map(field).collect() })
}
