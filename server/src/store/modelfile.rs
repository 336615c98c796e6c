//! Modelfiles: what a model is made from, and its settings.

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

/// The longest Modelfile.
pub const MAX_MODELFILE: usize = 4 << 20;
const MAX_INSTRUCTIONS: usize = 4096;

/// What the instructions come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modelfile {
    /// A name in the store, or a file.
    pub from: String,
    pub parameters: Map<String, Value>,
    /// The name of one of the model's chat templates, or `chatml`.
    pub template: Option<String>,
    pub system: Option<String>,
    pub messages: Vec<Value>,
    pub licenses: Vec<String>,
}

/// How a parameter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Number,
    Bool,
    Text,
}

const PARAMETERS: &[(&str, Kind)] = &[
    ("num_ctx", Kind::Integer),
    ("repeat_last_n", Kind::Integer),
    ("repeat_penalty", Kind::Number),
    ("temperature", Kind::Number),
    ("seed", Kind::Integer),
    ("stop", Kind::Text),
    ("num_predict", Kind::Integer),
    ("draft_num_predict", Kind::Integer),
    ("top_k", Kind::Integer),
    ("top_p", Kind::Number),
    ("min_p", Kind::Number),
    ("typical_p", Kind::Number),
    ("presence_penalty", Kind::Number),
    ("frequency_penalty", Kind::Number),
    ("num_keep", Kind::Integer),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("use_mmap", Kind::Bool),
    ("num_thread", Kind::Integer),
];

/// Parameters of older Modelfiles that mean nothing any more.
const FORGOTTEN: &[&str] = &[
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "tfs_z",
    "numa",
];

impl Modelfile {
    /// Reads the text; errors name the line.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.len() <= MAX_MODELFILE, "the Modelfile is over {MAX_MODELFILE} bytes");
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut modelfile = Self::default();
        let (mut rest, mut num_instructions) = (text, 0);
        while let Some((line_number, instruction, argument, behind)) = next(text, rest)? {
            rest = behind;
            num_instructions += 1;
            ensure!(
                num_instructions <= MAX_INSTRUCTIONS,
                "the Modelfile has over {MAX_INSTRUCTIONS} lines"
            );
            let taken = modelfile.take(&instruction.to_ascii_uppercase(), argument);
            taken.map_err(|error| error.context(format!("line {line_number}")))?;
        }
        ensure!(!modelfile.from.is_empty(), "the Modelfile has no FROM line");
        Ok(modelfile)
    }

    fn take(&mut self, instruction: &str, argument: &str) -> Result<()> {
        match instruction {
            "FROM" if self.from.is_empty() => self.from = unquoted(argument)?,
            "FROM" => bail!("FROM: one model is served from one FROM"),
            "PARAMETER" => {
                let (name, value) =
                    argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
                set_parameter(&mut self.parameters, name, &unquoted(value.trim())?)?;
            }
            "SYSTEM" => self.system = Some(unquoted(argument)?),
            "TEMPLATE" => self.template = Some(template_name(&unquoted(argument)?)?),
            "LICENSE" => self.licenses.push(unquoted(argument)?),
            "MESSAGE" => {
                let (role, content) =
                    argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
                let role = role.to_ascii_lowercase();
                ensure!(
                    ["system", "user", "assistant"].contains(&role.as_str()),
                    "MESSAGE: the role must be system, user or assistant"
                );
                self.messages.push(json!({"role": role, "content": unquoted(content.trim())?}));
            }
            "ADAPTER" => bail!("ADAPTER: adapters are not supported; merge it into the model"),
            "DRAFT" => bail!("DRAFT: name it to the server, with --speculative draft:PATH"),
            // How Ollama writes prompts and reads answers: here the model's own template says so.
            "RENDERER" | "PARSER" | "REQUIRES" => drop(unquoted(argument)?),
            other => bail!("unknown instruction {}", crate::error::shortened(other)),
        }
        Ok(())
    }
}

/// Sets a parameter as it is written in a Modelfile; of `stop` each one counts.
pub fn set_parameter(parameters: &mut Map<String, Value>, name: &str, text: &str) -> Result<()> {
    let name = name.to_ascii_lowercase();
    if FORGOTTEN.contains(&name.as_str()) {
        return Ok(());
    }
    let Some((_, kind)) = PARAMETERS.iter().find(|(known, _)| *known == name) else {
        bail!("unknown parameter '{}'", crate::error::shortened(&name));
    };
    let value = match kind {
        Kind::Integer => text.parse::<i64>().ok().map(Value::from),
        Kind::Number => text.parse::<f64>().ok().filter(|it| it.is_finite()).map(Value::from),
        Kind::Bool => text.parse::<bool>().ok().map(Value::from),
        Kind::Text => {
            let stops = parameters.entry(name).or_insert_with(|| json!([]));
            if let Value::Array(stops) = stops {
                stops.push(text.into());
            }
            return Ok(());
        }
    };
    let Some(value) = value else {
        let kind = match kind {
            Kind::Integer => "a whole number",
            Kind::Number => "a number",
            Kind::Bool | Kind::Text => "true or false",
        };
        bail!("PARAMETER {name} must be {kind}");
    };
    parameters.insert(name, value);
    Ok(())
}

/// Whether the text is the name of a template, and not one of Go's.
pub(super) fn is_template_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain)
}

/// The name that TEMPLATE gives.
pub fn template_name(text: &str) -> Result<String> {
    ensure!(
        is_template_name(text.trim()),
        "TEMPLATE: Go's templates are not run here. Leave it out, and the model's own chat template is used, or name \
         one: default, chatml, or one that the model has"
    );
    Ok(text.trim().to_owned())
}

type Instruction<'a> = (usize, &'a str, &'a str, &'a str);

/// The next instruction of `rest`: its line, its word, its argument, and what follows.
fn next<'a>(whole: &'a str, rest: &'a str) -> Result<Option<Instruction<'a>>> {
    let mut rest = rest;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(None);
        }
        if !rest.starts_with('#') {
            break;
        }
        rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
    }
    let line_number = whole[..whole.len() - rest.len()].matches('\n').count() + 1;
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let word_end = rest[..line_end].find(char::is_whitespace).unwrap_or(line_end);
    let (word, tail) = rest.split_at(word_end);
    let tail = tail.trim_start_matches([' ', '\t']);
    // An argument in three quotes may have many lines; what may stand before them is a role or a name.
    let first_line = &tail[..tail.find('\n').unwrap_or(tail.len())];
    let end = match first_line.find("\"\"\"") {
        Some(open) => match tail[open + 3..].find("\"\"\"") {
            Some(close) => open + 3 + close + 3,
            None => bail!("line {line_number}: the text in three quotes has no end"),
        },
        None => first_line.len(),
    };
    Ok(Some((line_number, word, tail[..end].trim(), &tail[end..])))
}

/// The text without its quotes.
fn unquoted(text: &str) -> Result<String> {
    if let Some(inside) = text.strip_prefix("\"\"\"") {
        let inside = inside.strip_suffix("\"\"\"");
        return Ok(inside.unwrap_or_default().trim_start_matches('\n').to_owned());
    }
    match text.strip_prefix('"') {
        None => Ok(text.to_owned()),
        Some(_) if text.len() > 1 && text.ends_with('"') => {
            // As JSON where it is that: `"\n"` is a line feed.
            Ok(serde_json::from_str(text).unwrap_or_else(|_| text[1..text.len() - 1].to_owned()))
        }
        Some(_) => bail!("a quote has no end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_become_settings() {
        let text = "# a comment\nfrom smollm2:135m\n\nPARAMETER temperature 0.2\nPARAMETER stop \"<|end|>\"\n\
                    PARAMETER stop \"\\n\\n\"\nPARAMETER num_ctx 4096\nPARAMETER mirostat 2\n\
                    SYSTEM \"\"\"You are short.\nVery short.\"\"\"\nTEMPLATE chatml\n\
                    MESSAGE user Hello there\nMESSAGE assistant \"\"\"Hi.\"\"\"\nLICENSE MIT\nLICENSE \"Apache\"\n\
                    PARSER qwen3\n";
        let file = Modelfile::parse(text).unwrap();
        assert_eq!(file.from, "smollm2:135m");
        let expected = json!({"temperature": 0.2, "stop": ["<|end|>", "\n\n"], "num_ctx": 4096});
        assert_eq!(Value::Object(file.parameters), expected);
        assert_eq!(file.system.as_deref(), Some("You are short.\nVery short."));
        assert_eq!(file.messages[1], json!({"role": "assistant", "content": "Hi."}));
        assert_eq!((file.licenses.len(), file.template.as_deref()), (2, Some("chatml")));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, expected) in [
            ("PARAMETER temperature 1", "no FROM"),
            ("FROM a\nFROM b", "line 2"),
            ("FROM a\n\n# x\nPARAMETER temperature hot", "line 4"),
            ("FROM a\nPARAMETER colour red", "unknown parameter"),
            ("FROM a\nADAPTER ./lora.gguf", "ADAPTER"),
            ("FROM a\nTEMPLATE \"\"\"{{ .Prompt }}\"\"\"", "chatml"),
            ("FROM a\nMESSAGE robot hi", "role"),
            ("FROM a\nSYSTEM \"\"\"no end", "no end"),
            ("FROM a\nSYSTEM \"no end", "no end"),
            ("FROM a\nRUN rm -rf /", "unknown instruction"),
        ] {
            let error = format!("{:#}", Modelfile::parse(text).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(Modelfile::parse(&"#".repeat(MAX_MODELFILE + 1)).is_err());
    }
}
