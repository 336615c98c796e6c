//! Log probabilities in the shapes of the chat and completions APIs.

use std::collections::BTreeMap;

use quire_engine::request::{TokenId, TokenLogprobs, TokenOutput};
use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::model::ServedModel;

/// Writes tokens as text, or as `token_id:17` where the text could be ambiguous.
#[derive(Clone, Copy)]
pub(crate) struct TokenNames<'a> {
    pub model: &'a ServedModel,
    pub as_ids: bool,
}

/// `logprobs` of a chat choice.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatEntry>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ChatEntry {
    #[serde(flatten)]
    token: ChatToken,
    top_logprobs: Vec<ChatToken>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// `logprobs` of a completion choice: parallel lists, an entry a token.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct CompletionLogprobs {
    /// Characters of token text before this token.
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<String>,
    #[schemars(with = "Vec<Option<BTreeMap<String, f32>>>")]
    top_logprobs: Vec<Option<TopLogprobs>>,
    #[serde(skip)]
    num_chars: usize,
    /// How many of the likeliest tokens to show.
    #[serde(skip)]
    num_top: usize,
}

/// Token text to log probability, likeliest first.
#[derive(Debug)]
struct TopLogprobs(Vec<(String, f32)>);

/// One prompt token: id to what is known of it.
pub(crate) type PromptLogprobs = Option<BTreeMap<TokenId, PromptEntry>>;

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct PromptEntry {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

/// JSON has no infinities; this is what vLLM says for "impossible".
const LEAST_LOGPROB: f32 = -9999.0;

impl TokenNames<'_> {
    fn name(&self, token: TokenId) -> String {
        if self.as_ids {
            return format!("token_id:{token}");
        }
        String::from_utf8_lossy(self.model.token_bytes(token)).into_owned()
    }

    fn chat_token(&self, token: TokenId, logprob: f32) -> ChatToken {
        ChatToken {
            token: self.name(token),
            logprob: logprob.max(LEAST_LOGPROB),
            bytes: self.model.token_bytes(token).to_vec(),
        }
    }
}

impl ChatLogprobs {
    pub(crate) fn new(names: TokenNames<'_>, tokens: &[TokenOutput]) -> Self {
        let mut logprobs = Self::default();
        logprobs.extend(names, tokens);
        logprobs
    }

    pub(crate) fn extend(&mut self, names: TokenNames<'_>, tokens: &[TokenOutput]) {
        let entries = tokens.iter().filter_map(|output| {
            let known = output.logprobs.as_ref()?;
            let top = known.top.iter();
            Some(ChatEntry {
                token: names.chat_token(output.token, known.logprob),
                top_logprobs: top.map(|&(id, logprob)| names.chat_token(id, logprob)).collect(),
            })
        });
        self.content.extend(entries);
    }
}

impl CompletionLogprobs {
    /// Shows the `num_top` likeliest tokens. The first offset is `num_chars`: that much text came in earlier chunks.
    pub(crate) fn new(num_top: u32, num_chars: usize) -> Self {
        Self { num_top: num_top as usize, num_chars, ..Self::default() }
    }

    pub(crate) fn push(
        &mut self,
        names: TokenNames<'_>,
        token: TokenId,
        known: Option<&TokenLogprobs>,
    ) {
        let name = names.name(token);
        self.text_offset.push(self.num_chars);
        self.num_chars += name.chars().count();
        self.token_logprobs.push(known.map(|known| known.logprob.max(LEAST_LOGPROB)));
        self.top_logprobs
            .push(known.map(|known| TopLogprobs::new(names, self.num_top, &name, known)));
        self.tokens.push(name);
    }

    pub(crate) fn extend(&mut self, names: TokenNames<'_>, tokens: &[TokenOutput]) {
        for output in tokens {
            self.push(names, output.token, output.logprobs.as_ref());
        }
    }

    /// Where the next chunk's offsets start.
    pub(crate) fn num_chars(&self) -> usize {
        self.num_chars
    }
}

impl TopLogprobs {
    /// The likeliest tokens and the chosen one. Of tokens that look alike the likeliest is kept.
    fn new(names: TokenNames<'_>, count: usize, chosen: &str, known: &TokenLogprobs) -> Self {
        let likeliest =
            known.top.iter().take(count).map(|&(id, logprob)| (names.name(id), logprob));
        let mut entries: Vec<(String, f32)> = Vec::with_capacity(known.top.len() + 1);
        for (name, logprob) in likeliest.chain([(chosen.to_owned(), known.logprob)]) {
            if entries.iter().all(|(earlier, _)| *earlier != name) {
                entries.push((name, logprob.max(LEAST_LOGPROB)));
            }
        }
        Self(entries)
    }
}

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, logprob) in &self.0 {
            map.serialize_entry(name, logprob)?;
        }
        map.end()
    }
}

/// `prompt_logprobs` of a choice: an entry a prompt token, the first `null`, each with the `count` likeliest.
pub(crate) fn prompt_logprobs(
    names: TokenNames<'_>,
    prompt: &[TokenId],
    known: &[Option<TokenLogprobs>],
    count: u32,
) -> Vec<PromptLogprobs> {
    let entry = |id: TokenId, logprob: f32, rank: u32| {
        let decoded_token = names.name(id);
        (id, PromptEntry { logprob: logprob.max(LEAST_LOGPROB), rank, decoded_token })
    };
    let of_token = |(&token, known): (&TokenId, &Option<TokenLogprobs>)| {
        let known = known.as_ref()?;
        let top = known.top.iter().take(count as usize).zip(1..);
        let mut entries: BTreeMap<_, _> =
            top.map(|(&(id, logprob), rank)| entry(id, logprob, rank)).collect();
        entries.extend([entry(token, known.logprob, known.rank)]);
        Some(entries)
    };
    prompt.iter().zip(known).map(of_token).collect()
}
