//! `options`: how to sample, in Ollama's words. Unknown ones are passed over; none ever loads a model anew.

use serde_json::{Map, Value};

use crate::error::{ApiError, shortened};
use crate::generation::TextOptions;
use crate::generation::sampling::SamplingFields;
use crate::http::fields::OneOrMany;
use crate::model::{SamplingDefaults, ServedModel};

/// What the options of a request came to.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub sampling: SamplingFields,
    pub stop: Vec<String>,
    /// Tokens of prompt and answer together.
    pub num_ctx: Option<u32>,
}

/// Known options that decide nothing here, each with the type that Ollama wants.
const WITHOUT_EFFECT: &[(&str, Kind)] = &[
    ("num_keep", Kind::Integer),
    ("repeat_last_n", Kind::Integer),
    ("typical_p", Kind::Number),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("num_thread", Kind::Integer),
    ("draft_num_predict", Kind::Integer),
    ("use_mmap", Kind::Bool),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Number,
    Bool,
}

impl Options {
    /// The options of a request over those that the model's own settings give.
    pub(super) fn read(model: &ServedModel, given: Map<String, Value>) -> Result<Self, ApiError> {
        let mut all = model.settings.parameters.clone();
        all.extend(given.into_iter().filter(|(_, value)| !value.is_null()));
        let mut options = Self { sampling: defaults(model), ..Self::default() };
        for (name, value) in &all {
            options.take(name, value)?;
        }
        Ok(options)
    }

    fn take(&mut self, name: &str, value: &Value) -> Result<(), ApiError> {
        let sampling = &mut self.sampling;
        match name {
            "temperature" => sampling.temperature = Some(number(name, value)?),
            "top_p" => sampling.top_p = Some(number(name, value)?),
            "min_p" => sampling.min_p = Some(number(name, value)?),
            "repeat_penalty" => sampling.repetition_penalty = Some(number(name, value)?),
            "presence_penalty" => sampling.presence_penalty = Some(number(name, value)?),
            "frequency_penalty" => sampling.frequency_penalty = Some(number(name, value)?),
            "top_k" => sampling.top_k = Some(integer(name, value)?),
            // -1 asks for chance.
            "seed" => sampling.seed = u64::try_from(integer(name, value)?).ok(),
            // Below 0: until the model ends or the context is full.
            "num_predict" => sampling.max_tokens = at_most(integer(name, value)?),
            "num_ctx" => self.num_ctx = at_most(integer(name, value)?),
            "stop" => {
                let stop = serde_json::from_value(value.clone()).map(OneOrMany::into_vec);
                self.stop = stop.map_err(|_| wrong_type(name, "a string or a list of strings"))?;
            }
            _ => match WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
                Some((_, Kind::Integer)) => drop(integer(name, value)?),
                Some((_, Kind::Number)) => drop(number(name, value)?),
                Some((_, Kind::Bool)) if !value.is_boolean() => {
                    return Err(wrong_type(name, "true or false"));
                }
                Some(_) => {}
                None => tracing::debug!(option = %shortened(name), "unknown option ignored"),
            },
        }
        Ok(())
    }

    /// How tokens become text.
    pub(super) fn text(&self) -> TextOptions {
        TextOptions { stop: self.stop.clone(), skip_special_tokens: true, ..TextOptions::default() }
    }
}

/// What the model recommends; of a model that recommends nothing Ollama's own numbers.
fn defaults(model: &ServedModel) -> SamplingFields {
    if model.sampling_defaults != SamplingDefaults::default() {
        return SamplingFields::default();
    }
    SamplingFields {
        temperature: Some(0.8),
        top_k: Some(40),
        top_p: Some(0.9),
        ..SamplingFields::default()
    }
}

fn at_most(count: i64) -> Option<u32> {
    u32::try_from(count).ok().filter(|&count| count > 0)
}

fn number(name: &str, value: &Value) -> Result<f32, ApiError> {
    value.as_f64().map(|value| value as f32).ok_or_else(|| wrong_type(name, "a number"))
}

fn integer(name: &str, value: &Value) -> Result<i64, ApiError> {
    const EXACT: f64 = (1_i64 << 53) as f64;
    let whole = |value: f64| (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i64);
    let found = value.as_i64().or_else(|| value.as_f64().and_then(whole));
    found.ok_or_else(|| wrong_type(name, "a whole number"))
}

fn wrong_type(name: &str, expected: &str) -> ApiError {
    ApiError::invalid("options", format!("option \"{name}\" must be {expected}"))
}
