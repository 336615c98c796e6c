//! The response object, before its answer and after.

use serde_json::{Map, Value, json};

use crate::generation::UsageCount;
use crate::http::auth::KeyOwner;

/// What all states of one response share.
pub(super) struct Frame {
    pub id: String,
    pub created: u64,
    /// The model as the client called it.
    pub model: String,
    /// Fields of the request that are told back.
    pub echoed: Map<String, Value>,
    pub temperature: f32,
    pub top_p: f32,
    pub caller: KeyOwner,
    /// It is to be stored, with these items.
    pub is_stored: bool,
    pub input: Vec<Value>,
    /// The input, and before it all that earlier responses had.
    pub conversation: Vec<Value>,
}

/// How a response stands.
pub(super) enum Status {
    InProgress,
    Completed,
    /// There was no room for more.
    Incomplete,
    Failed(String),
}

impl Status {
    /// The event that tells of it.
    pub(super) fn event(&self) -> &'static str {
        match self {
            Self::InProgress => "response.in_progress",
            Self::Completed => "response.completed",
            Self::Incomplete => "response.incomplete",
            Self::Failed(_) => "response.failed",
        }
    }

    fn name(&self) -> &'static str {
        self.event().trim_start_matches("response.")
    }
}

impl Frame {
    pub(super) fn object(&self, status: &Status, output: &[Value], usage: UsageCount) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status.name(),
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": output,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": self.temperature,
            "top_logprobs": 0,
            "top_p": self.top_p,
            "usage": null,
        });
        if let Value::Object(fields) = &mut object {
            fields.extend(self.echoed.clone());
        }
        match status {
            Status::InProgress => return object,
            Status::Completed => {}
            Status::Incomplete => {
                object["incomplete_details"] = json!({"reason": "max_output_tokens"});
            }
            Status::Failed(message) => {
                object["error"] = json!({"code": "server_error", "message": message});
            }
        }
        object["usage"] = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning.unwrap_or(0)},
            "total_tokens": usage.prompt + usage.completion,
        });
        object
    }
}
