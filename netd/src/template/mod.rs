//! `--format`: `json`, `jsonl`, and the part of Go's templates that Docker's users write (spec: cli.md, Global).
//!
//! Fields (`{{.A.B}}`), variables, pipes, `if`/`else if`/`else`, `range`, `with`, white space trimming, and the functions listed in
//! `functions.rs`, over the JSON that `inspect` prints. A field that does not exist is an error that names it.

mod evaluate;
mod functions;
mod lexer;
mod parser;
mod table;

use serde_json::Value;

use parser::Node;

/// Why a template was refused, or could not be carried out on an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct TemplateError(String);

impl TemplateError {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// How objects are to be printed.
#[derive(Debug, Clone)]
pub enum Format {
    /// The command's own table.
    Table,
    /// One array.
    Json,
    /// One object a line.
    Jsonl,
    /// One line per object, or a table with a header where it began with `table`.
    Template(Template),
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<Node>,
    table: bool,
}

impl Format {
    /// Parses the argument of `--format`.
    ///
    /// # Errors
    /// What is no template, with the place.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        match text {
            "table" | "" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::Jsonl),
            _ => Template::parse(text).map(Self::Template),
        }
    }
}

impl Template {
    /// Parses a template; `table ` in front asks for a header and aligned columns.
    ///
    /// # Errors
    /// What is no template, with the place.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (table, body) = match text.strip_prefix("table ") {
            Some(body) => (true, body.trim_start()),
            None => (false, text),
        };
        Ok(Self { nodes: parser::parse(body)?, table })
    }

    /// Prints objects, one line each; a table gets its header line first.
    ///
    /// `headers` gives columns a name other than the field's, as (field, name): `("ID", "NETWORK ID")`.
    ///
    /// # Errors
    /// A field that an object does not have, or a function that does not fit its argument.
    pub fn render(&self, objects: &[Value], headers: &[(&str, &str)]) -> Result<String, TemplateError> {
        let mut text = String::new();
        if self.table {
            text.push_str(&table::header(&self.nodes, headers));
            text.push('\n');
        }
        for object in objects {
            evaluate::execute(&self.nodes, object, &mut text)?;
            text.push('\n');
        }
        Ok(if self.table { table::align(&text) } else { text })
    }
}

#[cfg(test)]
mod tests;
