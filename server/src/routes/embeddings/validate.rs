//! Parses and checks the body of `POST /v1/embeddings`.

use std::time::Instant;

use quire_engine::PoolingParams;

use crate::error::{ApiError, shortened};
use crate::generation::embed::{EmbedOptions, Input};
use crate::http::fields::{Fields, NeutralOnly, TextsOrIds};
use crate::limits::ServerLimits;

/// A checked request.
pub(super) struct EmbeddingRequest {
    pub inputs: Vec<Input>,
    pub encoding: Encoding,
    pub dimensions: Option<u32>,
    /// `None`: as the model's files say.
    pub normalize: Option<bool>,
    pub common: TextFields,
}

/// What every route that makes embeddings of texts may be told.
pub(crate) struct TextFields {
    add_special_tokens: bool,
    /// `None`: an input that is too long is an error.
    truncate: Option<Truncate>,
    priority: i32,
}

/// How the numbers of an embedding are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Float,
    Base64,
}

/// To how many tokens an input is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truncate {
    /// As many as the model takes.
    ToLimit,
    To(u32),
}

/// Fields without support, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("messages", &[]),
    NeutralOnly("embed_dtype", &[r#""float32""#]),
    NeutralOnly("endianness", &[r#""native""#, r#""little""#]),
];

/// The same of `TextFields`.
pub(crate) const TEXT_UNSUPPORTED: &[NeutralOnly] =
    &[NeutralOnly("truncation_side", &[r#""right""#])];

impl EmbeddingRequest {
    pub(super) fn take(fields: &mut Fields<'_>, limits: &ServerLimits) -> Result<Self, ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        let inputs = take_inputs(fields, limits)?;
        let encoding = match fields.take_string("encoding_format")?.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(other) => {
                let other = shortened(other);
                let message = format!("encoding_format must be float or base64, not {other}");
                return Err(ApiError::invalid("encoding_format", message));
            }
        };
        let dimensions = fields.take_u32("dimensions")?;
        let normalize = fields.take_bool("normalize")?;
        let common = TextFields::take(fields)?;
        Ok(Self { inputs, encoding, dimensions, normalize, common })
    }
}

impl TextFields {
    pub(crate) fn take(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        fields.reject_unsupported(TEXT_UNSUPPORTED)?;
        let add_special_tokens = fields.take_bool("add_special_tokens")?.unwrap_or(true);
        let name = "truncate_prompt_tokens";
        let truncate = match fields.take_integer(name, -1, i64::from(u32::MAX))? {
            None => None,
            Some(-1) => Some(Truncate::ToLimit),
            Some(0) => {
                return Err(ApiError::invalid(name, format!("{name} must be -1 or at least 1")));
            }
            Some(tokens) => Some(Truncate::To(tokens as u32)),
        };
        let (least, most) = (i64::from(i32::MIN), i64::from(i32::MAX));
        let priority = fields.take_integer("priority", least, most)?.unwrap_or(0) as i32;
        // Who asks is of no use here.
        fields.take_string("user")?;
        Ok(Self { add_special_tokens, truncate, priority })
    }

    /// To how many tokens a text is cut, of a model that takes `limit`.
    pub(crate) fn max_tokens(&self, limit: u32) -> Option<usize> {
        self.truncate.map(|truncate| match truncate {
            Truncate::ToLimit => limit as usize,
            Truncate::To(tokens) => tokens as usize,
        })
    }

    /// Pooled as the model's files say, and not cut.
    pub(crate) fn options(&self, arrival: Instant) -> EmbedOptions {
        EmbedOptions {
            pooling: PoolingParams::default(),
            add_special_tokens: self.add_special_tokens,
            max_tokens: None,
            priority: self.priority,
            arrival,
        }
    }
}

fn take_inputs(fields: &mut Fields<'_>, limits: &ServerLimits) -> Result<Vec<Input>, ApiError> {
    let inputs: Vec<Input> = match fields.take_texts_or_ids("input")? {
        None => return Err(ApiError::invalid("input", "input is missing")),
        Some(TextsOrIds::Text(text)) => vec![Input::Text(text)],
        // An empty list is of no kind; it looks like one of ids.
        Some(TextsOrIds::Ids(tokens)) if tokens.is_empty() => Vec::new(),
        Some(TextsOrIds::Ids(tokens)) => vec![Input::Tokens(tokens)],
        Some(TextsOrIds::Texts(texts)) => texts.into_iter().map(Input::Text).collect(),
        Some(TextsOrIds::IdLists(lists)) => lists.into_iter().map(Input::Tokens).collect(),
    };
    limits.check_num_inputs("input", inputs.len())?;
    Ok(inputs)
}
