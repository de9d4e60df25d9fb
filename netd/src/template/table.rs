//! `table`: a header line from the template itself, and columns under one another.

use super::parser::{Node, Operand, Pipe};

/// Narrowest column and space between two, as in Docker's tables.
const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Returns the header: the template's text, with each action replaced by the name of its last field.
pub(super) fn header(nodes: &[Node], headers: &[(&str, &str)]) -> String {
    nodes
        .iter()
        .map(|node| match node {
            Node::Text(text) => text.clone(),
            Node::Print(pipe) => field_of(pipe).map_or_else(String::new, |field| column_name(field, headers)),
            Node::If { then: body, .. } | Node::Range { body, .. } | Node::With { body, .. } => {
                header(body, headers).trim().to_owned()
            }
            Node::Set { .. } | Node::Leave { .. } => String::new(),
        })
        .collect()
}

/// Returns the last name of the first field in a pipe.
fn field_of(pipe: &Pipe) -> Option<&str> {
    pipe.0.iter().flat_map(|command| &command.0).find_map(|operand| match operand {
        Operand::Field(fields) | Operand::Variable(_, fields) => fields.last().map(String::as_str),
        Operand::Group(pipe, fields) => fields.last().map(String::as_str).or_else(|| field_of(pipe)),
        _ => None,
    })
}

/// `NetworkMode` becomes `NETWORK MODE`; abbreviations stay whole: `ID`, `IPAddress` becomes `IP ADDRESS`.
fn column_name(field: &str, headers: &[(&str, &str)]) -> String {
    if let Some((_, name)) = headers.iter().find(|(known, _)| *known == field) {
        return (*name).to_owned();
    }
    let chars: Vec<char> = field.chars().collect();
    let mut name = String::new();
    for (at, c) in chars.iter().enumerate() {
        let after_lower = at > 0 && chars[at - 1].is_lowercase();
        let before_lower = at > 0 && chars.get(at + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && (after_lower || before_lower) {
            name.push(' ');
        }
        name.extend(c.to_uppercase());
    }
    name
}

/// Replaces tabs by as many spaces as put columns under one another.
pub(super) fn align(text: &str) -> String {
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        // The last cell of a row ends the line and needs no room.
        let cells = rows.iter().filter(|row| column + 1 < row.len()).map(|row| row[column].chars().count());
        cells.max().map_or(0, |widest| (widest + PADDING).max(MIN_WIDTH))
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut aligned = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if at + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[at] - cell.chars().count()));
            }
        }
        aligned.push_str(line.trim_end());
        aligned.push('\n');
    }
    aligned
}
