//! The documentation of each route.

use super::doc::{Answer, Doc, Field};
use super::fields::{self, anthropic, ollama};
use crate::http::fields::NeutralOnly;
use crate::routes::ollama::manage;
use crate::routes::{
    self, chat_completions, completions, console, embeddings, generate, rerank, sampling, tokenize,
};

/// That of the route at `path`.
///
/// # Panics
/// For paths that `ROUTES` does not have, which a test rules out.
pub(super) fn doc_of(path: &str) -> Doc {
    probe(path)
        .or_else(|| openai(path))
        .or_else(|| worker(path))
        .or_else(|| of_anthropic(path))
        .or_else(|| of_responses(path))
        .or_else(|| of_ollama(path))
        .unwrap_or_else(|| panic!("{path} has no documentation in openapi/routes.rs"))
}

fn probe(path: &str) -> Option<Doc> {
    Some(match path {
        "/livez" => Doc::plain("Whether the engine runs and makes steps.", Answer::Object),
        "/startupz" => Doc::plain("Whether the model is loaded.", Answer::Object),
        "/readyz" | "/health" | "/ping" => Doc::plain(
            "Whether requests are taken; 503 while loading, draining or stopped.",
            Answer::Object,
        ),
        "/metrics" => Doc::plain("Metrics for Prometheus.", Answer::Text("text/plain")),
        "/version" => Doc::plain("The version of the server.", Answer::Object),
        "/openapi.json" => Doc::plain("This API as OpenAPI 3.1.", Answer::Object),
        "/console" => {
            Doc::plain("A page to chat and to watch the engine.", Answer::Text("text/html"))
        }
        "/console/{asset}" => Doc::plain("A file of the page.", Answer::Text("*/*")),
        console::STATE_PATH => Doc::plain("What the page shows of a model.", Answer::Object),
        _ => return None,
    })
}

fn openai(path: &str) -> Option<Doc> {
    Some(match path {
        "/v1/models" => Doc::plain("The models and their names.", Answer::Object),
        "/v1/models/{id}" => Doc::plain("One of the names.", Answer::Object),
        "/v1/chat/completions" => chat("Goes on with a conversation.", chat_completions::ANSWER),
        "/v1/chat/completions/render" => {
            chat("What `/inference/v1/generate` would be sent for this body.", Answer::Object)
        }
        "/v1/completions" => completion("Goes on with each prompt.", completions::ANSWER),
        "/v1/completions/render" => completion(
            "For each prompt what `/inference/v1/generate` would be sent.",
            Answer::Json(
                |_| schemars::json_schema!({"type": "array", "items": {"type": "object"}}),
            ),
        ),
        "/v1/embeddings" => Doc {
            fields: &[fields::EMBEDDING, fields::EMBEDDED],
            unsupported: &[embeddings::UNSUPPORTED, embeddings::TEXT_UNSUPPORTED],
            ..Doc::plain("The embedding of each input.", embeddings::ANSWER)
        },
        "/v1/score" | "/score" => Doc {
            fields: &[fields::SCORE, fields::EMBEDDED],
            unsupported: &[embeddings::TEXT_UNSUPPORTED],
            ..Doc::plain("How near texts are to each other.", Answer::Object)
        },
        "/v1/rerank" | "/v2/rerank" | "/rerank" => Doc {
            fields: &[fields::RERANK, fields::EMBEDDED],
            unsupported: &[rerank::UNSUPPORTED, embeddings::TEXT_UNSUPPORTED],
            ..Doc::plain("Which documents are nearest to a query.", Answer::Object)
        },
        "/inference/v1/generate" => Doc {
            fields: &[fields::GENERATE],
            unsupported: &[generate::UNSUPPORTED],
            ..Doc::plain("Token ids in, token ids out.", generate::ANSWER)
        },
        "/tokenize" => Doc {
            fields: &[fields::TOKENIZE, fields::CONVERSATION],
            unsupported: &[tokenize::UNSUPPORTED],
            ..Doc::plain("The token ids of a prompt or a conversation.", Answer::Object)
        },
        "/detokenize" => Doc {
            fields: &[fields::DETOKENIZE],
            ..Doc::plain("The text of token ids.", Answer::Object)
        },
        _ => return None,
    })
}

/// What routers ask of a worker.
fn worker(path: &str) -> Option<Doc> {
    Some(match path {
        "/server_info" | "/get_server_info" => {
            Doc::plain("What routers ask of a worker: sizes, limits, names.", Answer::Object)
        }
        "/model_info" | "/get_model_info" => {
            Doc::plain("What routers ask of a model.", Answer::Object)
        }
        "/kv_event_sources" => Doc::plain(
            "Where events of the prefix cache are published, by replica.",
            Answer::Object,
        ),
        "/load" => Doc::plain("Requests that are not finished.", Answer::Object),
        "/v1/loads" => Doc::plain("What each replica has to do.", Answer::Object),
        "/is_sleeping" => Doc::plain("Whether the engine sleeps: never.", Answer::Object),
        "/v1/load_lora_adapter" | "/v1/unload_lora_adapter" => {
            Doc::plain("Not supported: always 501.", Answer::Nothing)
        }
        _ => return None,
    })
}

fn of_anthropic(path: &str) -> Option<Doc> {
    let (summary, answer, fields): (_, _, &[&[Field]]) = match path {
        "/v1/messages" => (
            "Goes on with a conversation, as Anthropic's clients ask.",
            Answer::ObjectOrStream(EVENTS),
            &[anthropic::MAX_TOKENS, anthropic::MESSAGE],
        ),
        "/v1/messages/count_tokens" => (
            "How many tokens a conversation has.",
            Answer::Object,
            &[anthropic::NO_MAX_TOKENS, anthropic::MESSAGE],
        ),
        _ => return None,
    };
    let unsupported = &[routes::anthropic::UNSUPPORTED];
    let ignored = routes::anthropic::WITHOUT_EFFECT;
    Some(Doc { fields, unsupported, ignored, ..Doc::plain(summary, answer) })
}

fn of_responses(path: &str) -> Option<Doc> {
    let request = |summary, answer| Doc {
        fields: &[fields::responses::RESPONSE, fields::responses::ONE_SAMPLING],
        unsupported: &[routes::responses::UNSUPPORTED, sampling::UNSUPPORTED],
        ignored: routes::responses::WITHOUT_EFFECT,
        ..Doc::plain(summary, answer)
    };
    Some(match path {
        "/v1/responses" => {
            request("Goes on with a conversation, as items.", Answer::ObjectOrStream(EVENTS))
        }
        "/v1/responses/input_tokens" => {
            request("How many tokens a conversation has.", Answer::Object)
        }
        "/v1/responses/{id}" => {
            Doc::plain("A response that was stored; `DELETE` forgets it.", Answer::Object)
        }
        "/v1/responses/{id}/input_items" => Doc::plain(
            "The items of its request, in pages: `limit`, `order`, `after`.",
            Answer::Object,
        ),
        _ => return None,
    })
}

fn of_ollama(path: &str) -> Option<Doc> {
    let lines = || Answer::ObjectOrStream("application/x-ndjson");
    let doc = |fields, summary, answer| Doc { fields, ..Doc::plain(summary, answer) };
    Some(match path {
        "/" => Doc::plain("A text that clients look for.", Answer::Text("text/plain")),
        "/api/version" => Doc::plain("The version of Ollama's API.", Answer::Object),
        "/api/tags" => Doc::plain("The models that there are.", Answer::Object),
        "/api/ps" => Doc::plain("The models that are loaded.", Answer::Object),
        "/api/show" => {
            doc(&[ollama::NAME, ollama::SHOW], "What is known of a model.", Answer::Object)
        }
        "/api/generate" => Doc {
            unsupported: &[ollama::GENERATE_UNSUPPORTED],
            ..doc(
                &[ollama::NAME, ollama::GENERATE, ollama::ANSWERING],
                "Answers a prompt.",
                lines(),
            )
        },
        "/api/chat" => doc(
            &[ollama::NAME, ollama::CHAT, ollama::ANSWERING],
            "Goes on with a conversation.",
            lines(),
        ),
        "/api/embed" => doc(ollama::EMBED, "The embedding of each text.", Answer::Object),
        "/api/embeddings" => {
            doc(ollama::EMBEDDINGS, "The embedding of a text, as long as it is.", Answer::Object)
        }
        "/api/pull" => doc(
            &[ollama::NAME, ollama::PROGRESS],
            "Gets a model from a hub or a registry.",
            lines(),
        ),
        "/api/create" => Doc {
            unsupported: &[manage::CREATE_UNSUPPORTED],
            ..doc(
                &[ollama::NAME, ollama::PROGRESS, ollama::CREATE],
                "Makes a model from another one, or from a file.",
                lines(),
            )
        },
        "/api/copy" => doc(&[ollama::COPY], "Gives a model another name.", Answer::Empty),
        "/api/delete" => doc(&[ollama::NAME], "Removes a model.", Answer::Empty),
        "/api/blobs/{digest}" => Doc {
            takes_file: true,
            ..Doc::plain(
                "Takes a file for `/api/create`; `HEAD` says whether it is there.",
                Answer::Empty,
            )
        },
        _ => return None,
    })
}

const EVENTS: &str = "text/event-stream";

fn chat(summary: &'static str, answer: Answer) -> Doc {
    Doc {
        fields: &[
            fields::CONVERSATION,
            fields::CHAT,
            fields::SAMPLING,
            fields::STRUCTURED,
            fields::ANSWERING,
        ],
        unsupported: CHAT_UNSUPPORTED,
        ..Doc::plain(summary, answer)
    }
}

fn completion(summary: &'static str, answer: Answer) -> Doc {
    Doc {
        fields: &[fields::COMPLETION, fields::SAMPLING, fields::STRUCTURED, fields::ANSWERING],
        unsupported: COMPLETION_UNSUPPORTED,
        ..Doc::plain(summary, answer)
    }
}

const CHAT_UNSUPPORTED: &[&[NeutralOnly]] = &[chat_completions::UNSUPPORTED, sampling::UNSUPPORTED];
const COMPLETION_UNSUPPORTED: &[&[NeutralOnly]] =
    &[completions::UNSUPPORTED, sampling::UNSUPPORTED];
