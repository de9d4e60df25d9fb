//! Cuts a template into text and actions, and actions into words.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Printed as it is.
    Text(String),
    /// What stands between `{{` and `}}`.
    Action(Vec<Token>),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `.`, `.A`, `.A.B`; also behind `)`.
    Field(Vec<String>),
    /// `$`, `$x`, `$x.A`: the variable's name, then fields.
    Variable(String, Vec<String>),
    /// A keyword, function, `true`, `false` or `nil`.
    Word(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Cuts a template into pieces; `{{-` and `-}}` trim the text beside them, comments vanish.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trim_next = false;
    while let Some(open) = rest.find("{{") {
        let (text, action) = (&rest[..open], &rest[open + 2..]);
        let trim_here = action.starts_with('-') && action[1..].starts_with(char::is_whitespace);
        push_text(&mut pieces, text, trim_next, trim_here);
        let action = if trim_here { &action[1..] } else { action };
        if let Some(comment) = action.trim_start().strip_prefix("/*") {
            let end = comment.find("*/").ok_or_else(|| TemplateError::new("unclosed comment"))?;
            let behind = comment[end + 2..].trim_start();
            let closed = behind.strip_prefix("}}").or_else(|| behind.strip_prefix("-}}"));
            rest = closed.ok_or_else(|| TemplateError::new("a comment ends before the closing braces"))?;
            trim_next = behind.starts_with('-');
            continue;
        }
        let (tokens, behind, trim) = action_tokens(action)?;
        pieces.push(Piece::Action(tokens));
        (rest, trim_next) = (behind, trim);
    }
    push_text(&mut pieces, rest, trim_next, false);
    Ok(pieces)
}

/// Adds text with `\t` and `\n` as Docker reads them in `--format`.
fn push_text(pieces: &mut Vec<Piece>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.replace("\\t", "\t").replace("\\n", "\n")));
    }
}

/// Returns the words of an action, what follows it, and whether the text behind it is to be trimmed.
fn action_tokens(text: &str) -> Result<(Vec<Token>, &str, bool), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix("-}}") {
            return Ok((tokens, behind, true));
        }
        if let Some(behind) = rest.strip_prefix("}}") {
            return Ok((tokens, behind, false));
        }
        let (token, behind) = token(rest)?;
        tokens.push(token);
        rest = behind;
    }
}

fn token(text: &str) -> Result<(Token, &str), TemplateError> {
    let Some(first) = text.chars().next() else { return Err(TemplateError::new("unclosed action")) };
    let one = |token: Token| Ok((token, &text[first.len_utf8()..]));
    match first {
        '|' => one(Token::Pipe),
        '(' => one(Token::Open),
        ')' => one(Token::Close),
        ',' => one(Token::Comma),
        '=' => one(Token::Assign),
        ':' => match text.strip_prefix(":=") {
            Some(behind) => Ok((Token::Declare, behind)),
            None => Err(TemplateError::new("expected :=")),
        },
        '"' => quoted(&text[1..]),
        '`' => match text[1..].split_once('`') {
            Some((inner, behind)) => Ok((Token::Text(inner.to_owned()), behind)),
            None => Err(TemplateError::new("unterminated raw quoted string")),
        },
        '.' => {
            let (fields, behind) = fields(text);
            // A lone dot is the object itself; anything else without a name is a mistake.
            if fields.is_empty() && behind[1..].starts_with(|c: char| c.is_alphanumeric()) {
                return Err(TemplateError::new(format!("unexpected {:?}", word_of(behind))));
            }
            Ok(if fields.is_empty() {
                (Token::Field(fields), &behind[1..])
            } else {
                (Token::Field(fields), behind)
            })
        }
        '$' => {
            let (name, behind) = split_word(&text[1..]);
            let (fields, behind) = fields(behind);
            Ok((Token::Variable(name.to_owned(), fields), behind))
        }
        c if c.is_ascii_digit() || matches!(c, '-' | '+') => number(text),
        c if c.is_alphabetic() || c == '_' => {
            let (word, behind) = split_word(text);
            Ok((Token::Word(word.to_owned()), behind))
        }
        other => Err(TemplateError::new(format!("unexpected {other:?}"))),
    }
}

/// Reads `.A.B` and leaves what follows; a dot without a name behind it is left as well.
fn fields(text: &str) -> (Vec<String>, &str) {
    let mut fields = Vec::new();
    let mut rest = text;
    while let Some(behind) =
        rest.strip_prefix('.').filter(|b| b.starts_with(|c: char| c.is_alphabetic() || c == '_'))
    {
        let (name, next) = split_word(behind);
        fields.push(name.to_owned());
        rest = next;
    }
    (fields, rest)
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()))
}

fn word_of(text: &str) -> &str {
    text.split(|c: char| c.is_whitespace() || c == '}').next().unwrap_or(text)
}

fn number(text: &str) -> Result<(Token, &str), TemplateError> {
    let end =
        text[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '.').map_or(text.len(), |end| end + 1);
    let (digits, behind) = text.split_at(end);
    let token = digits.parse().map(Token::Integer).or_else(|_| digits.parse().map(Token::Float));
    token.map(|token| (token, behind)).map_err(|_| TemplateError::new(format!("bad number {digits:?}")))
}

/// Reads a string up to its closing quote, with Go's usual escapes.
fn quoted(text: &str) -> Result<(Token, &str), TemplateError> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Text(value), &text[at + 1..])),
            '\\' => value.push(match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(same @ ('"' | '\\' | '\'')) => same,
                other => {
                    return Err(TemplateError::new(format!("unknown escape \\{}", other.unwrap_or(' '))));
                }
            }),
            other => value.push(other),
        }
    }
    Err(TemplateError::new("unterminated quoted string"))
}
