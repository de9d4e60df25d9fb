//! How results are printed: tables for people; JSON, lines of JSON and templates for scripts.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use crate::{
    api::Filters,
    controller::Code,
    template::{Format, Template},
};

/// `--format` on commands that print objects.
#[derive(Debug, clap::Args)]
pub(super) struct FormatOption {
    /// json (one array), jsonl (an object a line), table, or a template such as '{{.Name}}'
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub(super) format: Option<Format>,
}

/// What every list takes.
#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    #[command(flatten)]
    format: FormatOption,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print ids in full length
    #[arg(long)]
    no_trunc: bool,
    /// Print only what matches (repeat: every key must match)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Shortens an id, unless ids are wanted in full.
pub(super) type Shorten<'a> = &'a dyn Fn(&str) -> String;

/// How objects of one kind are listed.
pub(super) struct View<'a, T> {
    /// Head of the table.
    pub(super) columns: &'a [&'a str],
    /// A row of the table; the second argument shortens ids.
    pub(super) row: fn(&T, Shorten<'_>) -> Vec<String>,
    /// What `-q` prints.
    pub(super) id: fn(&T) -> &str,
}

impl Listing {
    /// Returns the filters; a key that is not among the allowed ones is a usage error.
    pub(super) fn filters(&self, allowed: &[&str]) -> Result<Filters, Failure> {
        Ok(Filters::from_options(&self.filter, allowed)?)
    }

    /// Prints a list in the wanted form.
    pub(super) fn print<T: Serialize>(&self, items: &[T], view: &View<'_, T>) -> Result<(), Failure> {
        let shorten = |id: &str| if self.no_trunc { id.to_owned() } else { short(id).to_owned() };
        if self.quiet {
            return print(&lines(items.iter().map(|item| shorten((view.id)(item)))));
        }
        match self.format.format.as_ref().unwrap_or(&Format::Table) {
            Format::Table => print(&table(view.columns, items.iter().map(|item| (view.row)(item, &shorten)))),
            Format::Template(template) => {
                // Docker's lists call the id `ID`, and shorten it.
                let values = values(items)?.into_iter().map(|mut value| {
                    if let Some(Value::String(id)) = value.get("Id") {
                        value["ID"] = shorten(id).into();
                    }
                    value
                });
                render(template, &values.collect::<Vec<_>>())
            }
            format => print_objects(items, format),
        }
    }
}

impl FormatOption {
    /// Whether something else than the command's own table is wanted.
    pub(super) fn is_for_scripts(&self) -> bool {
        !matches!(self.format, None | Some(Format::Table))
    }

    /// Prints objects in full; without `--format` as one JSON array.
    pub(super) fn print<T: Serialize>(&self, items: &[T]) -> Result<(), Failure> {
        print_objects(items, self.format.as_ref().unwrap_or(&Format::Json))
    }

    /// Prints one object in full, or as the given text without `--format`.
    pub(super) fn print_one<T: Serialize>(
        &self,
        item: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format.as_ref().unwrap_or(&Format::Table) {
            Format::Table => print(&text()),
            Format::Json => print(&(json(item, true)? + "\n")),
            format => print_objects(std::slice::from_ref(item), format),
        }
    }
}

fn print_objects<T: Serialize>(items: &[T], format: &Format) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Json => print(&(json(&items, true)? + "\n")),
        Format::Jsonl => {
            let objects: Result<Vec<String>, Failure> = items.iter().map(|item| json(item, false)).collect();
            print(&lines(objects?))
        }
        Format::Template(template) => render(template, &values(items)?),
    }
}

/// Takes what the template language takes, except text without any field: that is a misspelt `json`.
fn parse_format(text: &str) -> Result<Format, String> {
    match Format::parse(text).map_err(|why| why.to_string())? {
        Format::Template(_) if !text.contains("{{") => {
            Err("json, jsonl, table or a template such as '{{.Name}}'".into())
        }
        format => Ok(format),
    }
}

fn json<T: Serialize>(item: &T, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(item) } else { serde_json::to_string(item) };
    text.map_err(|error| Failure::new(Code::Failure, format!("print as JSON: {error}")))
}

fn values<T: Serialize>(items: &[T]) -> Result<Vec<Value>, Failure> {
    let values: Result<_, _> = items.iter().map(serde_json::to_value).collect();
    values.map_err(|error| Failure::new(Code::Failure, format!("print as JSON: {error}")))
}

/// Heads of template tables that docker names otherwise than the field.
const HEADERS: &[(&str, &str)] = &[("ID", "ID"), ("CreatedAt", "CREATED AT")];

fn render(template: &Template, values: &[Value]) -> Result<(), Failure> {
    print(&template.render(values, HEADERS).map_err(|why| Failure::usage(format!("--format: {why}")))?)
}

/// Returns a table with aligned columns, three spaces apart, as docker's; numbers are not aligned to the right.
pub(super) fn table<R: IntoIterator<Item = String>>(
    columns: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3)).set_cell_alignment(CellAlignment::Left);
    }
    lines(table.lines().map(|line| line.trim_end().to_owned()))
}

/// Returns `KEY: value` lines with aligned values.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
    lines(facts.iter().map(|(key, value)| format!("{:width$}  {value}", format!("{key}:"))))
}

/// Ends every line with a newline.
pub(super) fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Returns an id as docker shortens it.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Writes data to stdout. A reader that has gone has seen enough.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write to stdout", &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_their_columns_and_end_without_blanks() {
        let rows = [["a", "bridge"], ["longer", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&["NAME", "DRIVER"], rows), "NAME     DRIVER\na        bridge\nlonger   x\n");
        assert_eq!(table::<[String; 1]>(&["NAME"], []), "NAME\n");
    }

    #[test]
    fn facts_align_their_values() {
        assert_eq!(facts(&[("A", "1".into()), ("Long", "2".into())]), "A:     1\nLong:  2\n");
    }

    #[test]
    fn only_known_formats_are_taken() {
        assert!(matches!(parse_format("json"), Ok(Format::Json)));
        assert!(matches!(parse_format("jsonl"), Ok(Format::Jsonl)));
        assert!(matches!(parse_format("{{.Name}}"), Ok(Format::Template(_))));
        assert!(parse_format("yaml").is_err());
    }
}
