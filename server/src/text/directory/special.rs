//! Which tokens begin and end texts, from all files that say so.

use serde_json::Value;

use crate::text::tokenizer::TokenizerConfig;

/// The files that give tokens their roles; null where there is no such file.
pub(super) struct Roles<'a> {
    pub(super) tokenizer_config: &'a Value,
    pub(super) model_config: &'a Value,
    pub(super) generation: &'a Value,
}

impl Roles<'_> {
    pub(super) fn apply(&self, tokenizer: &mut TokenizerConfig) {
        let mut ids = tokenizer.special_ids;
        ids.bos = self.by_text(tokenizer, "bos_token").or(self.first_id(tokenizer, "bos_token_id"));
        ids.eos = self.by_text(tokenizer, "eos_token").or(self.first_id(tokenizer, "eos_token_id"));
        ids.pad = self.by_text(tokenizer, "pad_token");
        ids.unk = self.by_text(tokenizer, "unk_token").or(ids.unk);
        tokenizer.special_ids = ids;
        // What the tokenizer itself puts around a text, unless the class that the file names is told otherwise.
        let switch = |name: &str| self.tokenizer_config[name].as_bool();
        let around = [
            (switch("add_bos_token"), &mut tokenizer.prefix_tokens, ids.bos),
            (switch("add_eos_token"), &mut tokenizer.suffix_tokens, ids.eos),
        ];
        for (switch, tokens, id) in around {
            match switch {
                Some(false) => *tokens = Some(Vec::new()),
                Some(true) if tokens.as_ref().is_none_or(Vec::is_empty) => {
                    *tokens = Some(id.into_iter().collect());
                }
                _ => {}
            }
        }
        let num_tokens = tokenizer.tokens.len() as u64;
        let ends = self.eos_ids().into_iter().filter(|&id| id < num_tokens);
        tokenizer.end_tokens = ends.map(|id| id as u32).collect();
    }

    /// generation_config.json's ends; a model without any has those of config.json.
    fn eos_ids(&self) -> Vec<u64> {
        let values = [
            &self.generation["eos_token_id"],
            &self.model_config["eos_token_id"],
            &self.model_config["text_config"]["eos_token_id"],
        ];
        let found = values.into_iter().map(ids).find(|ids| !ids.is_empty());
        found.unwrap_or_default()
    }

    /// The token that tokenizer_config.json names, as a text or an object with one.
    fn by_text(&self, tokenizer: &TokenizerConfig, key: &str) -> Option<u32> {
        let value = &self.tokenizer_config[key];
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        let position = tokenizer.tokens.iter().position(|token| token == text);
        if position.is_none() {
            tracing::warn!("tokenizer_config.json: {key} {text:?} is no token");
        }
        position.map(|position| position as u32)
    }

    fn first_id(&self, tokenizer: &TokenizerConfig, key: &str) -> Option<u32> {
        let id = *ids(&self.model_config[key]).first()?;
        ((id as usize) < tokenizer.tokens.len()).then_some(id as u32)
    }
}

/// One id, or a list of them.
fn ids(value: &Value) -> Vec<u64> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_u64).collect(),
        value => value.as_u64().into_iter().collect(),
    }
}
