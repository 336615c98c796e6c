//! docs/api.md: the routes as a page to read.

use std::fmt::Write;

use super::doc::{Answer, Doc};
use crate::app::{Access, ROUTES, Route};
use crate::http::fields::NeutralOnly;

const HEAD: &str = "# HTTP API\n\nMade from the code (`server/src/openapi/`); `GET /openapi.json` says the same to machines. \
    Fields that are not listed are accepted\nand ignored; a field whose value is `null` counts as absent; a value that is not \
    supported is an error 400 that names its field.\nErrors are `{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`; those of Ollama's and Anthropic's routes have their form.\n\
    With `--api-key` all routes but the probes want `Authorization: Bearer KEY`.\n";

pub(super) fn write(doc_of: impl Fn(&str) -> Doc) -> String {
    let mut out = String::from(HEAD);
    for route in ROUTES {
        write_route(&mut out, route, &doc_of(route.path)).expect("a String takes all");
    }
    out
}

fn write_route(out: &mut String, route: &Route, doc: &Doc) -> std::fmt::Result {
    writeln!(out, "\n## {} {}\n\n{}", route.method, route.path, doc.summary)?;
    match route.access {
        Access::Open | Access::Page => writeln!(out, "No key is needed.")?,
        Access::Metrics => writeln!(out, "No key is needed with `--metrics-without-key`.")?,
        Access::Manage => writeln!(out, "A key for changing models is needed (`--manage-key`).")?,
        Access::Key => {}
    }
    match doc.answer {
        Answer::JsonOrStream(..) => {
            writeln!(
                out,
                "With `stream` the answer is a stream of server-sent events that ends with `[DONE]`."
            )?;
        }
        Answer::Text(kind) => writeln!(out, "The answer is `{kind}`.")?,
        Answer::ObjectOrStream(kind) => writeln!(out, "A stream is `{kind}`.")?,
        Answer::Json(_) | Answer::Object | Answer::Nothing => {}
        Answer::Empty => writeln!(out, "The answer has no body.")?,
    }
    if doc.takes_file {
        writeln!(out, "The body is the file.")?;
    }
    if doc.fields.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n| field | type | |\n|---|---|---|")?;
    for field in doc.fields.iter().copied().flatten() {
        let needed = if field.is_required { "Required. " } else { "" };
        writeln!(out, "| `{}` | {} | {needed}{} |", field.name, field.kind.words(), field.text)?;
    }
    let unsupported: Vec<String> = doc.unsupported.iter().copied().flatten().map(only).collect();
    if !unsupported.is_empty() {
        writeln!(out, "\nNot supported: {}.", unsupported.join(", "))?;
    }
    if !doc.ignored.is_empty() {
        writeln!(out, "\nAccepted and not used: `{}`.", doc.ignored.join("`, `"))?;
    }
    Ok(())
}

fn only(NeutralOnly(name, neutral): &NeutralOnly) -> String {
    match neutral {
        [] => format!("`{name}`"),
        values => format!("`{name}` (but for `{}`)", values.join("`, `")),
    }
}
