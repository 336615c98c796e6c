//! What a Modelfile says of a model beside its weights.

use serde_json::{Map, Value};

/// Settings that requests may override.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSettings {
    /// Options in Ollama's words, checked when they are set.
    pub parameters: Map<String, Value>,
    /// The first message of conversations that bring none of this role.
    pub system: Option<String>,
    /// Messages before those of each conversation.
    pub messages: Vec<Value>,
    /// The name of one of the model's chat templates, or `chatml`; `None`: its default one.
    pub template: Option<String>,
    /// Texts of licences.
    pub licenses: Vec<String>,
}
