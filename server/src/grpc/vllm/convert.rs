//! Messages of `vllm.Inference` to what the engine is asked, and what it answers back to messages.

use std::time::Instant;

use quire_engine::request::{Started, TokenId, TokenLogprobs, TokenOutput};
use vllm_proto::candidate_token_info::TokenInfo;
use vllm_proto::candidate_tokens::Select;
use vllm_proto::decoding_parameters::StructuredOutput as Asked;
use vllm_proto::finish_info::{FinishReason, StopReason as WireStopReason};
use vllm_proto::generate_request::Prompt;
use vllm_proto::{
    CandidateTokenInfo, CandidateTokens, DecodingParameters, FinishInfo, GenerateRequest,
    GenerateResponse, KvCacheParameters, PromptInfo, ResponseOptions, SequenceOutput,
};

use crate::error::ApiError;
use crate::generation::sampling::{SamplingFields, check_cache_salt, check_n};
use crate::generation::{Delta, Finish, GenerationSpec, StopReason, TextOptions};
use crate::grpc::convert::checked_n;
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::structured::{Kind, StructuredOutput};

/// What the contract says that 0 tokens mean.
const DEFAULT_MAX_TOKENS: u32 = 20;

/// How the answers of one call are shown.
pub(super) struct Wanted {
    options: ResponseOptions,
    prompt: Vec<TokenId>,
    /// For the first message of the call.
    prompt_info: Option<PromptInfo>,
    num_cached_tokens: u32,
    /// Of each answer: its tokens so far and the last of them.
    counts: Vec<(u32, Option<TokenId>)>,
}

/// Tokenizes the prompt, resolves the parameters, and refuses what is not supported.
pub(super) fn generation_spec(
    request: GenerateRequest,
    model: &ServedModel,
    limits: &ServerLimits,
    arrival: Instant,
) -> Result<(GenerationSpec, ResponseOptions), ApiError> {
    model.engine.info().limits.check_generates()?;
    refuse_unsupported(&request)?;
    let prompt = match request.prompt {
        None => return Err(ApiError::invalid("prompt", "prompt is missing")),
        Some(Prompt::Text(text)) => model.encode(&text, true),
        Some(Prompt::TokenIds(tokens)) => tokens.ids,
    };
    let random = request.sampling.unwrap_or_default();
    let decoding = request.decoding.unwrap_or_default();
    let stopping = request.stopping.unwrap_or_default();
    let options = request.response.unwrap_or_default();
    let is_given = |penalty: f32| (penalty != 0.0).then_some(penalty);
    let banned = banned_tokens(&decoding)?;
    let fields = SamplingFields {
        max_tokens: Some(match stopping.max_new_tokens {
            0 => DEFAULT_MAX_TOKENS,
            tokens => tokens,
        }),
        min_tokens: Some(stopping.min_new_tokens),
        temperature: request.temperature,
        top_k: random.top_k.map(i64::from),
        top_p: random.top_p,
        min_p: random.min_p,
        repetition_penalty: is_given(decoding.repetition_penalty),
        presence_penalty: is_given(decoding.presence_penalty),
        frequency_penalty: is_given(decoding.frequency_penalty),
        seed: random.seed.map(|seed| seed as u64),
        stop_token_ids: stopping.stop_token_ids,
        ignore_eos: Some(stopping.ignore_eos),
        logit_bias: decoding.logit_bias.into_iter().collect(),
        allowed_token_ids: Some(decoding.allowed_token_ids).filter(|ids| !ids.is_empty()),
        bad_words: Vec::new(),
        logprobs: candidates(
            "response.output_candidates",
            options.output_logprobs,
            options.output_candidates.as_ref(),
        )?,
        prompt_logprobs: candidates(
            "response.prompt_candidates",
            options.prompt_logprobs,
            options.prompt_candidates.as_ref(),
        )?,
    };
    let text = TextOptions {
        stop: stopping.stop_strings,
        include_stop: stopping.include_stop_strings,
        skip_special_tokens: options.skip_special_tokens.unwrap_or(true),
        every_token: true,
    };
    text.check(limits)?;
    let mut params = fields.resolve(model)?;
    params.banned_token_ids = banned;
    let n = checked_n("sampling.num_sequences", random.num_sequences, limits)?;
    check_n(n, &params)?;
    let cache_salt = cache_salt(request.kv.unwrap_or_default())?;
    let structured_output = structured_output(decoding.structured_output)?;
    let spec = GenerationSpec {
        prompts: vec![prompt],
        n,
        params,
        structured_output,
        text,
        output: None,
        priority: request.priority,
        replica: None,
        cache_salt,
        arrival,
    };
    Ok((spec, options))
}

fn refuse_unsupported(request: &GenerateRequest) -> Result<(), ApiError> {
    let kv = request.kv.as_ref();
    let budget = request.stopping.as_ref().and_then(|stopping| stopping.thinking_token_budget);
    let asked = [
        ("media", !request.media.is_empty()),
        ("lora_name", !request.lora_name.is_empty()),
        ("truncate_prompt_tokens", request.truncate_prompt_tokens > 0),
        ("stopping.thinking_token_budget", budget.is_some_and(|budget| budget >= 0)),
        ("kv.kv_transfer_params", kv.is_some_and(|kv| kv.kv_transfer_params.is_some())),
        ("kv.ec_transfer_params", kv.is_some_and(|kv| kv.ec_transfer_params.is_some())),
    ];
    match asked.into_iter().find(|&(_, is_asked)| is_asked) {
        Some((field, _)) => Err(ApiError::invalid(field, format!("{field} is not supported"))),
        None => Ok(()),
    }
}

fn structured_output(asked: Option<Asked>) -> Result<Option<StructuredOutput>, ApiError> {
    const FIELD: &str = "decoding.structured_output";
    let kind = match asked {
        None | Some(Asked::JsonObject(false)) => return Ok(None),
        Some(Asked::JsonObject(true)) => Kind::JsonObject,
        Some(Asked::Json(text)) => Kind::of_schema(FIELD, &text)?,
        Some(Asked::Regex(regex)) => Kind::Regex(regex),
        Some(Asked::Choice(choice)) => Kind::Choice(choice.choices),
        Some(Asked::Grammar(grammar)) => Kind::Grammar(grammar),
        Some(Asked::StructuralTag(text)) => Kind::of_structural_tag(FIELD, &text)?,
    };
    Ok(Some(StructuredOutput::new(FIELD, kind)))
}

/// Sequences of one token only.
fn banned_tokens(decoding: &DecodingParameters) -> Result<Vec<TokenId>, ApiError> {
    const FIELD: &str = "decoding.bad_words_token_ids";
    let one = |sequence: &vllm_proto::TokenIds| match sequence.ids.as_slice() {
        &[token] => Ok(token),
        _ => Err(ApiError::invalid(FIELD, format!("{FIELD}: only single tokens are supported"))),
    };
    decoding.bad_words_token_ids.iter().map(one).collect()
}

/// How many of the likeliest tokens are wanted beside the log probabilities.
fn candidates(
    field: &'static str,
    logprobs: bool,
    candidates: Option<&CandidateTokens>,
) -> Result<Option<u32>, ApiError> {
    match candidates.and_then(|candidates| candidates.select.as_ref()) {
        None => Ok(logprobs.then_some(0)),
        Some(&Select::TopN(count)) => Ok(Some(count)),
        Some(Select::TokenIds(_) | Select::All(_)) => {
            Err(ApiError::invalid(field, format!("{field}: only top_n is supported")))
        }
    }
}

/// Who goes around the prefix cache gets a salt that nobody else has.
fn cache_salt(kv: KvCacheParameters) -> Result<Option<String>, ApiError> {
    if kv.bypass_prefix_cache {
        return Ok(Some(uuid::Uuid::new_v4().simple().to_string()));
    }
    check_cache_salt(&kv.cache_salt)?;
    Ok(Some(kv.cache_salt).filter(|salt| !salt.is_empty()))
}

impl Wanted {
    pub(super) fn new(
        options: ResponseOptions,
        mut spec: GenerationSpec,
        num_choices: usize,
    ) -> Self {
        let prompt = spec.prompts.pop().unwrap_or_default();
        let counts = vec![(0, None); num_choices];
        Self { options, prompt, prompt_info: None, num_cached_tokens: 0, counts }
    }

    pub(super) fn take_started(&mut self, index: usize, started: &Started) {
        if index > 0 {
            return;
        }
        self.num_cached_tokens = started.num_cached_tokens;
        let known: Vec<&TokenLogprobs> = started.prompt_logprobs.iter().flatten().collect();
        let top = self.options.prompt_candidates.is_some();
        self.prompt_info = Some(PromptInfo {
            num_prompt_tokens: self.prompt.len() as u32,
            token_ids: if self.options.prompt_token_ids { self.prompt.clone() } else { Vec::new() },
            logprobs: known.iter().map(|known| known.logprob).collect(),
            ranks: known.iter().map(|known| known.rank).collect(),
            candidate_tokens: known
                .iter()
                .filter(|_| top)
                .map(|known| candidates_of(known))
                .collect(),
        });
    }

    pub(super) fn response(&mut self, index: usize, delta: Delta) -> GenerateResponse {
        let options = &self.options;
        let tokens = &delta.tokens;
        let (count, last) = &mut self.counts[index];
        *count += tokens.len() as u32;
        *last = tokens.last().map(|output| output.token).or(*last);
        let known = || tokens.iter().filter_map(|output: &TokenOutput| output.logprobs.as_ref());
        let has_ids = options.output_token_ids;
        let has_text = options.output_text.unwrap_or(true);
        let top = options.output_candidates.is_some();
        let outputs = SequenceOutput {
            index: index as u32,
            text: if has_text { delta.text } else { String::new() },
            num_tokens: tokens.len() as u32,
            token_ids: tokens.iter().filter(|_| has_ids).map(|output| output.token).collect(),
            logprobs: known().map(|known| known.logprob).collect(),
            ranks: known().map(|known| known.rank).collect(),
            candidate_tokens: known().filter(|_| top).map(candidates_of).collect(),
            finish_info: delta
                .finish
                .map(|finish| finish_info(finish, *last, *count, self.num_cached_tokens)),
            sampling_mask: Vec::new(),
        };
        GenerateResponse { prompt_info: self.prompt_info.take(), outputs: Some(outputs) }
    }
}

fn candidates_of(known: &TokenLogprobs) -> CandidateTokenInfo {
    let info = |(rank, &(id, logprob)): (usize, &(TokenId, f32))| TokenInfo {
        id,
        logprob,
        rank: rank as u32 + 1,
    };
    CandidateTokenInfo { tokens: known.top.iter().enumerate().map(info).collect() }
}

/// `last`: the last token, which is the end token where nothing else has ended the answer.
fn finish_info(
    finish: Finish,
    last: Option<TokenId>,
    num_output_tokens: u32,
    num_cached_tokens: u32,
) -> FinishInfo {
    let finish_reason = match finish.reason {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        _ => FinishReason::Aborted,
    };
    let stop_reason = match finish.stop_reason {
        Some(StopReason::Token(token)) => Some(WireStopReason::StopTokenId(token)),
        Some(StopReason::Text(text)) => Some(WireStopReason::StopString(text)),
        None if finish_reason == FinishReason::Stop => last.map(WireStopReason::EosTokenId),
        None => None,
    };
    FinishInfo {
        num_output_tokens,
        finish_reason: finish_reason.into(),
        stop_reason,
        num_cached_tokens: Some(num_cached_tokens),
        ..FinishInfo::default()
    }
}

/// Adds the next message of one answer to those before it.
pub(super) fn append(whole: &mut GenerateResponse, part: GenerateResponse) {
    whole.prompt_info = whole.prompt_info.take().or(part.prompt_info);
    let Some(part) = part.outputs else { return };
    let Some(all) = &mut whole.outputs else {
        whole.outputs = Some(part);
        return;
    };
    all.text.push_str(&part.text);
    all.num_tokens += part.num_tokens;
    all.token_ids.extend(part.token_ids);
    all.logprobs.extend(part.logprobs);
    all.ranks.extend(part.ranks);
    all.candidate_tokens.extend(part.candidate_tokens);
    all.finish_info = part.finish_info;
}
