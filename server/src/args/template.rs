//! The flags of the chat template: how conversations become prompts.

use clap::Args as ClapArgs;
use quire_server::registry::ParserNames;
use quire_server::text::{OutputFormats, TemplateLimits, TemplateOptions, UnknownFormat};

use super::units;

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Chat template")]
pub(crate) struct TemplateArgs {
    /// Join messages of one role that follow each other, for templates that want roles to alternate
    #[arg(long)]
    merge_consecutive_roles: bool,

    /// How the model writes tool calls: auto takes it from the chat template, none leaves them in the text; or a format's name, vLLM's names too
    #[arg(long, default_value = "auto", value_parser = tool_format, value_name = "NAME")]
    tool_call_parser: String,

    /// How the model writes its reasoning: auto, none, or a format's name, as with --tool-call-parser
    #[arg(long, default_value = "auto", value_parser = reasoning_format, value_name = "NAME")]
    reasoning_parser: String,

    /// The longest template that a model may bring
    #[arg(long, default_value = "1MiB", value_parser = units::bytes, value_name = "BYTES")]
    max_template_bytes: u64,

    /// Instructions that a template may run for one conversation
    #[arg(long, default_value_t = 1_000_000, value_name = "COUNT")]
    max_template_fuel: u64,

    /// The longest prompt that a template may print
    #[arg(long, default_value = "16MiB", value_parser = units::bytes, value_name = "BYTES")]
    max_template_output_bytes: u64,
}

impl TemplateArgs {
    pub(crate) fn parsers(&self) -> ParserNames {
        ParserNames {
            tool_calls: self.tool_call_parser.clone(),
            reasoning: self.reasoning_parser.clone(),
        }
    }

    pub(crate) fn resolve(&self) -> TemplateOptions {
        TemplateOptions {
            limits: TemplateLimits {
                max_source_bytes: self.max_template_bytes as usize,
                max_fuel: self.max_template_fuel,
                max_output_bytes: self.max_template_output_bytes as usize,
                ..TemplateLimits::default()
            },
            merge_consecutive_roles: self.merge_consecutive_roles,
        }
    }
}

fn tool_format(name: &str) -> Result<String, UnknownFormat> {
    OutputFormats::default().with_tools(name).map(|_| name.to_owned())
}

fn reasoning_format(name: &str) -> Result<String, UnknownFormat> {
    OutputFormats::default().with_reasoning(name).map(|_| name.to_owned())
}
