//! From words to a tree.

use super::{
    TemplateError,
    lexer::{Piece, Token, pieces},
};

/// Deepest nesting of blocks and parentheses; far above what anyone writes, far below what the stack holds.
const MAX_DEPTH: usize = 64;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// `{{PIPE}}`
    Print(Pipe),
    /// `{{$x := PIPE}}`, `{{$x = PIPE}}`
    Set {
        name: String,
        declare: bool,
        pipe: Pipe,
    },
    /// `{{if}}`; `{{else if}}` is a branch inside `otherwise`.
    If {
        condition: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{range $k, $v := PIPE}}`
    Range {
        variables: Vec<String>,
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{with $x := PIPE}}`
    With {
        variable: Option<String>,
        pipe: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{break}}`, `{{continue}}`
    Leave {
        again: bool,
    },
}

/// Commands whose results feed one another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipe(pub(super) Vec<Command>);

/// A function with its arguments, or a single value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command(pub(super) Vec<Operand>);

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A`
    Variable(String, Vec<String>),
    /// `(PIPE).A`
    Group(Pipe, Vec<String>),
    /// A function's name.
    Function(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Nil,
}

/// Parses a template.
pub(super) fn parse(template: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces(template)?.into_iter(), depth: 0 };
    match parser.block()? {
        (nodes, Stop::Template) => Ok(nodes),
        (_, Stop::End) => Err(TemplateError::new("unexpected {{end}}")),
        (_, Stop::Else(_)) => Err(TemplateError::new("unexpected {{else}}")),
    }
}

/// What ended a block.
enum Stop {
    Template,
    End,
    /// With the words behind `else`.
    Else(Vec<Token>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

impl Parser {
    fn block(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Text(text) => nodes.push(Node::Text(text)),
                Piece::Action(tokens) => match self.action(&tokens)? {
                    Ok(node) => nodes.push(node),
                    Err(end) => return Ok((nodes, end)),
                },
            }
        }
        Ok((nodes, Stop::Template))
    }

    /// Returns the node that begins with this action, or the end of the block it stands for.
    fn action(&mut self, tokens: &[Token]) -> Result<Result<Node, Stop>, TemplateError> {
        let Some(Token::Word(word)) = tokens.first() else { return simple(tokens).map(Ok) };
        let rest = || tokens[1..].to_vec();
        match word.as_str() {
            "end" if tokens.len() == 1 => Ok(Err(Stop::End)),
            "else" => Ok(Err(Stop::Else(rest()))),
            "if" | "range" | "with" => self.control(word, &tokens[1..]).map(Ok),
            "break" | "continue" if tokens.len() == 1 => Ok(Ok(Node::Leave { again: word == "continue" })),
            "define" | "template" | "block" => Err(TemplateError::new(format!("{word} is not supported"))),
            _ => simple(tokens).map(Ok),
        }
    }

    fn control(&mut self, keyword: &str, tokens: &[Token]) -> Result<Node, TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(TemplateError::new("blocks are nested too deeply"));
        }
        let (variables, tokens) = declared(tokens);
        let pipe = pipe(tokens)?;
        let (body, end) = self.block()?;
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::Template => {
                return Err(TemplateError::new(format!("{{{{{keyword}}}}} without {{{{end}}}}")));
            }
            Stop::Else(words) => self.otherwise(&words)?,
        };
        self.depth -= 1;
        let most = if keyword == "range" { 2 } else { 1 };
        if variables.len() > most || (keyword == "if" && !variables.is_empty()) {
            return Err(TemplateError::new(format!("too many variables in {keyword}")));
        }
        Ok(match keyword {
            "if" => Node::If { condition: pipe, then: body, otherwise },
            "range" => Node::Range { variables, over: pipe, body, otherwise },
            _ => Node::With { variable: variables.into_iter().next(), pipe, body, otherwise },
        })
    }

    /// Parses what follows `{{else}}`, or the `if` or `with` that follows `else` in the same braces.
    fn otherwise(&mut self, words: &[Token]) -> Result<Vec<Node>, TemplateError> {
        match words.split_first() {
            None => match self.block()? {
                (nodes, Stop::End) => Ok(nodes),
                (_, Stop::Else(_)) => Err(TemplateError::new("two {{else}} in one block")),
                (_, Stop::Template) => Err(TemplateError::new("{{else}} without {{end}}")),
            },
            Some((Token::Word(word), rest)) if matches!(word.as_str(), "if" | "with") => {
                Ok(vec![self.control(word, rest)?])
            }
            Some(_) => Err(TemplateError::new("unexpected words after else")),
        }
    }
}

/// Parses an action that is no block: a value to print, or a variable to set.
fn simple(tokens: &[Token]) -> Result<Node, TemplateError> {
    match tokens {
        [Token::Variable(name, fields), op @ (Token::Declare | Token::Assign), rest @ ..]
            if fields.is_empty() && !name.is_empty() =>
        {
            Ok(Node::Set { name: name.clone(), declare: *op == Token::Declare, pipe: pipe(rest)? })
        }
        _ => pipe(tokens).map(Node::Print),
    }
}

/// Takes `$a, $b :=` from the front.
fn declared(tokens: &[Token]) -> (Vec<String>, &[Token]) {
    let Some(at) = tokens.iter().position(|token| *token == Token::Declare) else {
        return (Vec::new(), tokens);
    };
    let names: Option<Vec<String>> = tokens[..at]
        .split(|token| *token == Token::Comma)
        .map(|name| match name {
            [Token::Variable(name, fields)] if fields.is_empty() => Some(name.clone()),
            _ => None,
        })
        .collect();
    match names {
        Some(names) => (names, &tokens[at + 1..]),
        None => (Vec::new(), tokens),
    }
}

fn pipe(tokens: &[Token]) -> Result<Pipe, TemplateError> {
    let mut tokens = tokens.iter();
    let pipe = commands(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(pipe),
        Some(_) => Err(TemplateError::new("unexpected )")),
    }
}

/// Parses up to the end of the action, or to the parenthesis that closes a group.
fn commands(tokens: &mut std::slice::Iter<'_, Token>, depth: usize) -> Result<Pipe, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::new("parentheses are nested too deeply"));
    }
    let mut commands = vec![Command(Vec::new())];
    while let Some(token) = tokens.as_slice().first() {
        if *token == Token::Close {
            break;
        }
        tokens.next();
        if *token == Token::Pipe {
            commands.push(Command(Vec::new()));
        } else if let Some(command) = commands.last_mut() {
            command.0.push(operand(token, tokens, depth)?);
        }
    }
    if commands.iter().any(|command| command.0.is_empty()) {
        return Err(TemplateError::new("missing value for command"));
    }
    for command in &commands {
        check_command(command)?;
    }
    Ok(Pipe(commands))
}

/// Only a function takes arguments.
fn check_command(command: &Command) -> Result<(), TemplateError> {
    match command.0.as_slice() {
        [Operand::Function(_), ..] | [_] => Ok(()),
        _ => Err(TemplateError::new("a value that is no function has no arguments")),
    }
}

fn operand(
    token: &Token,
    rest: &mut std::slice::Iter<'_, Token>,
    depth: usize,
) -> Result<Operand, TemplateError> {
    Ok(match token {
        Token::Field(fields) => Operand::Field(fields.clone()),
        Token::Variable(name, fields) => Operand::Variable(name.clone(), fields.clone()),
        Token::Text(text) => Operand::Text(text.clone()),
        Token::Integer(number) => Operand::Integer(*number),
        Token::Float(number) => Operand::Float(*number),
        Token::Word(word) => match word.as_str() {
            "true" | "false" => Operand::Bool(word == "true"),
            "nil" => Operand::Nil,
            name if super::functions::is_function(name) => Operand::Function(name.to_owned()),
            name => return Err(TemplateError::new(format!("function {name:?} not defined"))),
        },
        Token::Open => {
            let inner = commands(rest, depth + 1)?;
            if rest.next() != Some(&Token::Close) {
                return Err(TemplateError::new("unclosed left paren"));
            }
            let fields = match rest.as_slice().first() {
                Some(Token::Field(fields)) if !fields.is_empty() => fields.clone(),
                _ => Vec::new(),
            };
            if !fields.is_empty() {
                rest.next();
            }
            Operand::Group(inner, fields)
        }
        Token::Comma | Token::Declare | Token::Assign | Token::Pipe | Token::Close => {
            return Err(TemplateError::new("unexpected `,`, `=` or `)`"));
        }
    })
}
