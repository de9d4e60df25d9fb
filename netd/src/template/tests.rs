use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object() -> Value {
    json!({
        "Id": "0123456789abcdef",
        "Name": "web",
        "Internal": false,
        "Count": 3,
        "Empty": "",
        "Nothing": null,
        "Labels": { "tier": "front", "app": "shop" },
        "NetworkSettings": {
            "Networks": {
                "net2": { "IPAddress": "10.0.2.2" },
                "net1": { "IPAddress": "10.0.1.2" },
            },
            "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }], "81/tcp": null },
        },
        "Aliases": ["a", "b"],
    })
}

fn render(template: &str) -> Result<String, String> {
    let template = Template::parse(template).map_err(|error| error.to_string())?;
    let text = template.render(&[object()], &[]).map_err(|error| error.to_string())?;
    Ok(text.strip_suffix('\n').expect("a line").to_owned())
}

#[test]
fn templates_print_what_dockers_would() {
    for (template, expected) in [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("{{ .Name }}: {{.Id}}", "web: 0123456789abcdef"),
        ("{{.ID}}", "0123456789abcdef"),
        (r"{{.Name}}\t{{.Count}}\n-", "web\t3\n-"),
        ("{{json .Labels}}", r#"{"app":"shop","tier":"front"}"#),
        ("{{.Labels | json}}", r#"{"app":"shop","tier":"front"}"#),
        ("{{json .Name}}", r#""web""#),
        ("{{json .Nothing}}", "null"),
        ("{{.Labels}}", "map[app:shop tier:front]"),
        ("{{.Aliases}} {{.Internal}} {{.Nothing}}", "[a b] false <nil>"),
        ("{{.Labels.tier}}", "front"),
        ("{{.NetworkSettings.Networks.net1.IPAddress}}", "10.0.1.2"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.0.1.2 10.0.2.2 "),
        (
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}};{{end}}",
            "net1=10.0.1.2;net2=10.0.2.2;",
        ),
        ("{{range $k,$v:=.Labels}}{{printf \"%s-%s \" $k $v}}{{end}}", "app-shop tier-front "),
        ("{{range $i, $a := .Aliases}}{{$i}}{{$a}}{{end}}", "0a1b"),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{range .Aliases}}{{.}}{{$.Name}}{{end}}", "awebbweb"),
        ("{{range .Aliases}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{range .Aliases}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "b"),
        ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{index .NetworkSettings.Networks \"net1\" \"IPAddress\"}}", "10.0.1.2"),
        ("{{index .Labels \"missing\"}}", ""),
        ("{{index .Aliases 1}}", "b"),
        ("{{with index .NetworkSettings.Ports \"80/tcp\"}}{{len .}}{{end}}", "1"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{if $conf}}{{(index $conf 0).HostPort}}{{else}}-{{end}} {{end}}",
            "80/tcp -> 8080 81/tcp -> - ",
        ),
        ("{{len .Name}} {{len .Aliases}} {{len .Labels}}", "3 2 2"),
        ("{{if .Internal}}in{{else if .Empty}}empty{{else}}out{{end}}", "out"),
        ("{{if and .Name (not .Internal)}}yes{{end}}", "yes"),
        ("{{if and .Nothing .Nothing.X}}yes{{else}}no{{end}} {{or .Name .Nope}}", "no web"),
        ("{{if or .Internal .Count}}yes{{end}}", "yes"),
        ("{{if gt .Count 2}}many{{end}}{{if lt .Count 2}}few{{end}}", "many"),
        ("{{with .Empty}}x{{else}}no{{end}}", "no"),
        ("{{with $x := .Name}}{{$x}}{{.}}{{end}}", "webweb"),
        ("{{$x := .Name}}{{$x = \"y\"}}{{$x}}", "y"),
        ("{{$n := 0}}{{range .Aliases}}{{$n = len .}}{{end}}{{$n}}", "1"),
        ("{{println .Name}}x", "web\nx"),
        ("{{println .Name .Count}}", "web 3\n"),
        ("{{print 1 2 \"a\" \"b\"}}", "1 2ab"),
        ("{{printf \"%-6s|%4d|%q|%%\" .Name .Count .Name}}", "web   |   3|\"web\"|%"),
        ("{{join .Aliases \",\"}} {{split \"a/b\" \"/\"}}", "a,b [a b]"),
        (
            "{{upper .Name}} {{title \"a bc\"}} {{lower \"X\"}} {{truncate .Id 4}}{{pad .Name 1 2}}|",
            "WEB A Bc x 0123 web  |",
        ),
        ("{{slice .Id 0 3}} {{slice .Aliases 1}}", "012 [b]"),
        ("{{.Name | upper | printf \"%s!\"}}", "WEB!"),
        ("a {{- .Name -}} b", "awebb"),
        ("a{{/* note */}}b{{- /* note */ -}} c", "abc"),
        ("{{`raw \\n`}}{{\"a\\tb\"}}", "raw \\na\tb"),
        ("{{true}} {{1.5}} {{-2}}", "true 1.5 -2"),
        ("{{eq .Name \"a\" \"web\"}} {{ne 1 1.0}}", "true false"),
        ("{{urlquery \"a b&c\"}}", "a+b%26c"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn mistakes_are_named() {
    for (template, message) in [
        ("{{.Nane}}", "template: can't evaluate field Nane: there is Aliases, Count, Empty, Id,"),
        ("{{.Labels.nope}}", "template: can't evaluate field nope: there is app, tier"),
        ("{{.Name.First}}", "template: can't evaluate field First in a string"),
        ("{{.Nothing.X}}", "template: can't evaluate field X in nil"),
        ("{{$x}}", "template: undefined variable $x"),
        ("{{$x = 1}}", "template: undefined variable $x"),
        ("{{shout .Name}}", "template: function \"shout\" not defined"),
        ("{{.Name", "template: unclosed action"),
        ("{{}}", "template: missing value for command"),
        ("{{.Name | }}", "template: missing value for command"),
        ("{{if .Name}}", "template: {{if}} without {{end}}"),
        ("{{range .Name}}{{end}}", "template: range can't iterate over a string"),
        ("{{end}}", "template: unexpected {{end}}"),
        ("{{else}}", "template: unexpected {{else}}"),
        ("{{if 1}}{{else}}{{else}}{{end}}", "template: two {{else}} in one block"),
        ("{{(.Name}}", "template: unclosed left paren"),
        ("{{.Name)}}", "template: unexpected )"),
        ("{{\"a}}", "template: unterminated quoted string"),
        ("{{.Name .Id}}", "template: a value that is no function has no arguments"),
        ("{{.Name | .Id}}", "template: can't give an argument"),
        ("{{len 3}}", "template: len of 3"),
        ("{{index .Aliases 9}}", "template: index out of range: 9"),
        ("{{lt 1 \"a\"}}", "template: incompatible types for lt"),
        ("{{json}}", "template: wrong arguments for json"),
        ("{{/* x}}", "template: unclosed comment"),
        ("{{define \"x\"}}{{end}}", "template: define is not supported"),
        ("{{.9}}", "template: unexpected \".9\""),
    ] {
        let error = render(template).expect_err(template);
        assert!(error.starts_with(message), "{template}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_table_has_a_header_and_straight_columns() {
    let template =
        Template::parse(r"table {{.Name}}\t{{.ID}}\t{{json .Count}}\t{{.NetworkMode}}").expect("valid");
    let object =
        |name: &str, mode: &str| json!({ "Name": name, "Id": "01", "Count": 3, "NetworkMode": mode });
    let text = template
        .render(&[object("a", "x"), object("a-long-name", "y")], &[("ID", "NETWORK ID")])
        .expect("fits");
    let expected = "NAME          NETWORK ID   COUNT     NETWORK MODE\n\
                    a             01           3         x\n\
                    a-long-name   01           3         y\n";
    assert_eq!(text, expected);
    assert_eq!(template.render(&[], &[]).expect("fits").lines().count(), 1);
}

#[test]
fn the_plain_words_are_formats() {
    for (text, expected) in [("json", "Json"), ("jsonl", "Jsonl"), ("table", "Table"), ("", "Table")] {
        assert_eq!(format!("{:?}", Format::parse(text).expect("valid")), expected);
    }
    assert!(matches!(Format::parse("{{.Name}}"), Ok(Format::Template(_))));
    assert!(Format::parse("{{").is_err());
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(Template::parse(&parens).is_err());
    let blocks = "{{if 1}}".repeat(10_000) + &"{{end}}".repeat(10_000);
    assert!(Template::parse(&blocks).is_err());
    let chain = "{{if 1}}".to_owned() + &"{{else if 1}}".repeat(10_000) + "{{end}}";
    assert!(Template::parse(&chain).is_err());
}

proptest! {
    #[test]
    fn no_template_makes_it_panic(
        text in "(\\{\\{|\\}\\}|\\.[A-Z][a-z]{0,3}|range|if|end|else|index|len|printf|\\$[a-z]?|:=|,|\"|[(|)]|[0-9]|-| |%[sdq-]|.){0,40}"
    ) {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&[object()], &[]);
        }
    }
}
