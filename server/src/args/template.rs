//! The flags of the chat template: how conversations become prompts.

use clap::Args as ClapArgs;
use quire_server::text::{TemplateLimits, TemplateOptions};

use super::units;

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Chat template")]
pub(crate) struct TemplateArgs {
    /// Join messages of one role that follow each other, for templates that want roles to alternate
    #[arg(long)]
    merge_consecutive_roles: bool,

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
