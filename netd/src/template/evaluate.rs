//! Carries a template out on an object.

use serde_json::{Map, Value};

use super::{
    TemplateError,
    functions::{call, is_true, kind},
    parser::{Command, Node, Operand, Pipe},
};

/// How a block ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// What names mean at a place in the template.
struct Scope<'a> {
    root: &'a Value,
    /// Innermost last.
    variables: Vec<(String, Value)>,
}

/// Appends what the template makes of an object.
pub(super) fn execute(nodes: &[Node], object: &Value, out: &mut String) -> Result<(), TemplateError> {
    let mut scope = Scope { root: object, variables: Vec::new() };
    scope.block(nodes, object, out).map(|_| ())
}

/// Returns a value as Go's templates print it.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(display).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs = sorted(map).into_iter().map(|(key, value)| format!("{key}:{}", display(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
    }
}

/// Returns a map's entries by key, as Go ranges over them.
fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

impl Scope<'_> {
    fn block(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<Flow, TemplateError> {
        let outer = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            flow = self.node(node, dot, out)?;
            if flow != Flow::On {
                break;
            }
        }
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value, out: &mut String) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&display(&self.pipe(pipe, dot)?)),
            Node::Set { name, declare, pipe } => {
                let value = self.pipe(pipe, dot)?;
                self.set(name, *declare, value)?;
            }
            Node::If { condition, then, otherwise } => {
                let branch = if is_true(&self.pipe(condition, dot)?) { then } else { otherwise };
                return self.block(branch, dot, out);
            }
            Node::With { variable, pipe, body, otherwise } => {
                let value = self.pipe(pipe, dot)?;
                if !is_true(&value) {
                    return self.block(otherwise, dot, out);
                }
                let outer = self.variables.len();
                self.variables.extend(variable.clone().map(|name| (name, value.clone())));
                let flow = self.block(body, &value, out)?;
                self.variables.truncate(outer);
                return Ok(flow);
            }
            Node::Range { variables, over, body, otherwise } => {
                let entries = entries(self.pipe(over, dot)?)?;
                if entries.is_empty() {
                    return self.block(otherwise, dot, out);
                }
                return self.range(variables, entries, body, out);
            }
            Node::Leave { again } => return Ok(if *again { Flow::Continue } else { Flow::Break }),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        variables: &[String],
        entries: Vec<(Value, Value)>,
        body: &[Node],
        out: &mut String,
    ) -> Result<Flow, TemplateError> {
        for (key, value) in entries {
            let outer = self.variables.len();
            match variables {
                [] => {}
                [one] => self.variables.push((one.clone(), value.clone())),
                [first, second, ..] => {
                    self.variables.extend([(first.clone(), key), (second.clone(), value.clone())]);
                }
            }
            let flow = self.block(body, &value, out)?;
            self.variables.truncate(outer);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, declare: bool, value: Value) -> Result<(), TemplateError> {
        if declare {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let variable = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        let (_, old) = variable.ok_or_else(|| undefined(name))?;
        *old = value;
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value, TemplateError> {
        let mut piped = None;
        for command in &pipe.0 {
            piped = Some(self.command(command, piped, dot)?);
        }
        piped.ok_or_else(|| TemplateError::new("missing value for command"))
    }

    fn command(&self, command: &Command, piped: Option<Value>, dot: &Value) -> Result<Value, TemplateError> {
        match command.0.as_slice() {
            [Operand::Function(name), arguments @ ..] if matches!(name.as_str(), "and" | "or") => {
                self.decide(name == "or", arguments, piped, dot)
            }
            [Operand::Function(name), arguments @ ..] => {
                let own = arguments.iter().map(|argument| self.operand(argument, dot));
                let arguments: Vec<Value> = own.chain(piped.map(Ok)).collect::<Result<_, _>>()?;
                call(name, &arguments)
            }
            [value] if piped.is_none() => self.operand(value, dot),
            _ => Err(TemplateError::new("can't give an argument to a value that is no function")),
        }
    }

    /// Returns the first argument that decides `and` or `or`, else the last; what follows it is not looked at.
    fn decide(
        &self,
        deciding: bool,
        arguments: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let mut last = None;
        for value in arguments.iter().map(|argument| self.operand(argument, dot)).chain(piped.map(Ok)) {
            let value = value?;
            if is_true(&value) == deciding {
                return Ok(value);
            }
            last = Some(value);
        }
        last.ok_or_else(|| TemplateError::new("`and` and `or` need an argument"))
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Field(fields) => descend(dot, fields),
            Operand::Variable(name, fields) if name.is_empty() => descend(self.root, fields),
            Operand::Variable(name, fields) => {
                let variable = self.variables.iter().rev().find(|(known, _)| known == name);
                descend(&variable.ok_or_else(|| undefined(name))?.1, fields)
            }
            Operand::Group(pipe, fields) => descend(&self.pipe(pipe, dot)?, fields),
            Operand::Function(name) => call(name, &[]),
            Operand::Text(text) => Ok(text.as_str().into()),
            Operand::Integer(number) => Ok((*number).into()),
            Operand::Float(number) => Ok((*number).into()),
            Operand::Bool(on) => Ok((*on).into()),
            Operand::Nil => Ok(Value::Null),
        }
    }
}

fn undefined(name: &str) -> TemplateError {
    TemplateError::new(format!("undefined variable ${name}"))
}

/// Follows field names into an object.
fn descend(value: &Value, fields: &[String]) -> Result<Value, TemplateError> {
    let mut value = value;
    for field in fields {
        value = match value {
            Value::Object(map) => get(map, field).ok_or_else(|| {
                let names: Vec<&str> = sorted(map).into_iter().map(|(name, _)| name.as_str()).collect();
                TemplateError::new(format!("can't evaluate field {field}: there is {}", names.join(", ")))
            })?,
            other => {
                return Err(TemplateError::new(format!("can't evaluate field {field} in {}", kind(other))));
            }
        };
    }
    Ok(value.clone())
}

/// Returns a field by its name, else by its name in another case: Docker's structs say `ID` where its JSON says `Id`.
fn get<'a>(map: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    map.get(field).or_else(|| {
        let mut similar = map.iter().filter(|(name, _)| name.eq_ignore_ascii_case(field));
        similar.next().map(|(_, value)| value).filter(|_| similar.next().is_none())
    })
}

/// Returns what `range` goes through, as (key or index, value).
fn entries(value: Value) -> Result<Vec<(Value, Value)>, TemplateError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            Ok(items.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect())
        }
        Value::Object(map) => Ok(sorted(&map)
            .into_iter()
            .map(|(key, value)| (Value::from(key.as_str()), value.clone()))
            .collect()),
        other => Err(TemplateError::new(format!("range can't iterate over {}", kind(&other)))),
    }
}
