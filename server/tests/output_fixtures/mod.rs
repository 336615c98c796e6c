//! Answers as models of each family write them, and what they mean.

use quire_server::text::{ParsedMessage, Tool, ToolCall, ToolSet};
use serde_json::json;

pub(crate) struct Fixture {
    pub reasoning: &'static str,
    pub tools: &'static str,
    /// The end of the prompt.
    pub prompt: &'static str,
    pub text: &'static str,
    /// Reasoning, content, and calls with their arguments.
    means: (&'static str, &'static str, &'static [(&'static str, &'static str)]),
}

impl Fixture {
    pub(crate) fn message(&self) -> ParsedMessage {
        let (reasoning, content, calls) = self.means;
        let call = |&(name, arguments): &(&str, &str)| ToolCall {
            id: String::new(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        ParsedMessage {
            reasoning: reasoning.to_owned(),
            content: content.to_owned(),
            tool_calls: calls.iter().map(call).collect(),
        }
    }
}

pub(crate) fn fixtures_of(format: &str) -> impl Iterator<Item = &'static Fixture> {
    FIXTURES.iter().filter(move |fixture| fixture.tools == format)
}

/// How models with this format of calls write reasoning.
pub(crate) fn reasoning_of(tools: &str) -> &'static str {
    match tools {
        "harmony" => "harmony",
        "gemma4" => "gemma4",
        "mistral" => "mistral",
        "llama3_json" => "none",
        "pythonic" => "seed_oss",
        _ => "think",
    }
}

/// What a prompt ends with that begins the reasoning.
pub(crate) fn opening_of(reasoning: &str) -> &'static str {
    match reasoning {
        "harmony" => "<|start|>assistant",
        "gemma4" => "<|turn>model\n<|channel>thought\n",
        "mistral" => "[/INST][THINK]",
        "seed_oss" => "<seed:think>",
        _ => "<|im_start|>assistant\n<think>\n",
    }
}

/// `weather(city, days)`, `search(query, filters, fast)` and `now()`.
pub(crate) fn tools() -> ToolSet {
    let tool = |name: &str, properties: serde_json::Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters: Some(json!({"type": "object", "properties": properties})),
        is_strict: false,
    };
    ToolSet(vec![
        tool("weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        tool(
            "search",
            json!({"query": {"type": "string"}, "filters": {"type": "array"}, "fast": {"type": "boolean"}}),
        ),
        tool("now", json!({})),
    ])
}

/// Chat templates, and the formats of calls and of reasoning that they are written for.
pub(crate) const TEMPLATES: &[(&str, &str, &str)] = &[
    ("Qwen-Qwen2.5-7B-Instruct", "hermes", "none"),
    ("Qwen-Qwen3-0.6B", "hermes", "think"),
    ("Qwen-QwQ-32B", "hermes", "think"),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", "none"),
    ("ibm-granite-granite-4.0", "hermes", "none"),
    ("Qwen3-Coder", "qwen3_coder", "none"),
    ("Qwen3.5-4B", "qwen3_coder", "think"),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3_coder", "think"),
    ("ByteDance-Seed-OSS", "qwen3_coder", "seed_oss"),
    ("meta-llama-Llama-3.1-8B-Instruct", "llama3_json", "none"),
    ("meta-llama-Llama-3.2-3B-Instruct", "llama3_json", "none"),
    ("meta-llama-Llama-3.3-70B-Instruct", "llama3_json", "none"),
    ("LFM2.5-8B-A1B", "pythonic", "think"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "mistral", "none"),
    ("Mistral-Small-3.2-24B-Instruct-2506", "mistral", "none"),
    ("mistralai-Ministral-3-14B-Reasoning-2512", "mistral", "mistral"),
    ("openai-gpt-oss-120b", "harmony", "harmony"),
    ("google-gemma-4-31B-it", "gemma4", "gemma4"),
    ("google-gemma-4-31B-it-interleaved", "gemma4", "gemma4"),
    ("GLM-4.6", "glm", "think"),
    ("GLM-4.7-Flash", "glm", "think"),
    ("llama-cpp-deepseek-r1", "deepseek", "think"),
    ("deepseek-ai-DeepSeek-V3.1", "deepseek", "think"),
    ("deepseek-ai-DeepSeek-V3.2", "dsml", "think"),
    ("deepseek-ai-DeepSeek-V4-Flash-0731", "dsml", "think"),
    ("Kimi-K2-Thinking", "kimi_k2", "think"),
    ("HuggingFaceTB-SmolLM3-3B", "hermes (told in the system message)", "think"),
    ("google-gemma-2-2b-it", "hermes (told in the system message)", "none"),
];

const fn think(
    tools: &'static str,
    text: &'static str,
    means: (&'static str, &'static str, &'static [(&'static str, &'static str)]),
) -> Fixture {
    Fixture { reasoning: "think", tools, prompt: "", text, means }
}

pub(crate) const FIXTURES: &[Fixture] = &[
    // Reasoning alone.
    think(
        "none",
        "<think>\nA riddle, w101.\n\nSo.\n</think>\n\nThe answer w102.",
        ("A riddle, w101.\n\nSo.", "The answer w102.", &[]),
    ),
    think("none", "\n<think></think>\n\nHello w103\n", ("", "Hello w103\n", &[])),
    think(
        "none",
        "  No thoughts w104, </think> and <think> are text.\n",
        ("", "  No thoughts w104, </think> and <think> are text.\n", &[]),
    ),
    think("none", "<think>It never ends w105 </thin", ("It never ends w105 </thin", "", &[])),
    Fixture {
        reasoning: "think",
        tools: "none",
        prompt: "<|im_start|>assistant\n<think>\n",
        text: "Already inside w106.\n</think>\n\nOut w107.",
        means: ("Already inside w106.", "Out w107.", &[]),
    },
    Fixture {
        reasoning: "think",
        tools: "none",
        prompt: "<|im_start|>user\nWhat does <think> do?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        text: "It opens w108.",
        means: ("", "It opens w108.", &[]),
    },
    Fixture {
        reasoning: "seed_oss",
        tools: "none",
        prompt: "",
        text: "<seed:think>Hm w109</seed:think>Yes w110",
        means: ("Hm w109", "Yes w110", &[]),
    },
    // Hermes.
    think(
        "hermes",
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"w111\", \"days\": 2}}\n</tool_call>",
        ("", "", &[("weather", r#"{"city": "w111", "days": 2}"#)]),
    ),
    think(
        "hermes",
        "<think>\nTwo calls w112.\n</think>\n\nI look w113.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"}</tool_call> \\\" é w114\"}}\n</tool_call>\n<tool_call>\n{\"arguments\": {}, \"name\": \"now\"}\n</tool_call>\n",
        (
            "Two calls w112.",
            "I look w113.",
            &[("weather", r#"{"city": "}</tool_call> \" é w114"}"#), ("now", "{}")],
        ),
    ),
    think(
        "hermes",
        "<tool_call>{\"name\": \"now\"}</tool_call> and text w115 <tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"a\\\": [1]}\"}",
        ("", "and text w115", &[("now", "{}"), ("now", r#"{"a": [1]}"#)]),
    ),
    think(
        "hermes",
        "The tag <tool_call> opens w116, <tool_call>{\"name\": 5}</tool_call> w117 <tool_call>{\"name\": \"now\"}}</tool_call>\n",
        (
            "",
            "The tag <tool_call> opens w116, <tool_call>{\"name\": 5}</tool_call> w117 <tool_call>{\"name\": \"now\"}}</tool_call>\n",
            &[],
        ),
    ),
    think(
        "hermes",
        "```json\n{\"name\": \"weather\", \"arguments\": {\"city\": \"```w108\", \"days\": 2}}\n```\n",
        ("", "", &[("weather", r#"{"city": "```w108", "days": 2}"#)]),
    ),
    think(
        "hermes",
        "<think>\nBare w109.\n</think>\n\n{\"name\": \"now\", \"arguments\": {}}",
        ("Bare w109.", "", &[("now", "{}")]),
    ),
    think(
        "hermes",
        "```\n[{\"name\": \"now\"}, {\"name\": \"weather\", \"arguments\": {\"city\": \"w118\"}}]\n```",
        ("", "", &[("now", "{}"), ("weather", r#"{"city": "w118"}"#)]),
    ),
    think(
        "hermes",
        "```json\n{\"name\": \"now\"}\n```\nThis calls nothing w119.",
        ("", "```json\n{\"name\": \"now\"}\n```\nThis calls nothing w119.", &[]),
    ),
    think(
        "hermes",
        "```json\n{\"name\": \"w119\", \"arguments\": {}}\n```",
        ("", "```json\n{\"name\": \"w119\", \"arguments\": {}}\n```", &[]),
    ),
    // Qwen3-Coder.
    think(
        "qwen3_coder",
        "I will look w120.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nNew\nYork w121\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        (
            "",
            "I will look w120.",
            &[("weather", r#"{"city":"New\nYork w121","days":3}"#), ("now", "{}")],
        ),
    ),
    Fixture {
        reasoning: "think",
        tools: "qwen3_coder",
        prompt: "<|im_start|>assistant\n<think>\n",
        text: "Search w122.\n</think>\n\n<function=search>\n<parameter=query>\n<b>w123</parameter> is no end</b>\n</parameter>\n<parameter=filters>\n[\"a\", {\"b\": null}]\n</parameter>\n<parameter=fast>\nTrue\n</parameter>\n</function>\n</tool_call>\nDone w124",
        means: (
            "Search w122.",
            "Done w124",
            &[(
                "search",
                r#"{"query":"<b>w123</parameter> is no end</b>","filters":["a",{"b":null}],"fast":true}"#,
            )],
        ),
    },
    think(
        "qwen3_coder",
        "Write <function=name> w125, <tool_call> w126 or <tool_call><function=now><parameter=a>\n1\n</parameter></tool_call>",
        ("", "Write <function=name> w125, <tool_call> w126 or", &[("now", r#"{"a":1}"#)]),
    ),
    think(
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nw127\n</parameter>\n<parameter=city>\nw128\n</parameter>\n</function>\n</tool_call>",
        (
            "",
            "<tool_call>\n<function=weather>\n<parameter=city>\nw127\n</parameter>\n<parameter=city>\nw128\n</parameter>\n</function>\n</tool_call>",
            &[],
        ),
    ),
    // GLM.
    think(
        "glm",
        "<think>Weather w130.</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bei jing w131</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        ("Weather w130.", "", &[("weather", r#"{"city":"Bei jing w131","days":3}"#)]),
    ),
    Fixture {
        reasoning: "think",
        tools: "glm",
        prompt: "<|assistant|><think>",
        text: "w132</think>Both w133.<tool_call>search<arg_key>query</arg_key><arg_value>12</arg_value><arg_key>fast</arg_key><arg_value>false</arg_value></tool_call><tool_call>now</tool_call>",
        means: (
            "w132",
            "Both w133.",
            &[("search", r#"{"query":"12","fast":false}"#), ("now", "{}")],
        ),
    },
    think(
        "glm",
        "<tool_call> is for calls w134, <tool_call>now<arg_key>a</arg_key>w135</tool_call>",
        (
            "",
            "<tool_call> is for calls w134, <tool_call>now<arg_key>a</arg_key>w135</tool_call>",
            &[],
        ),
    ),
    // DeepSeek V3, R1 and V3.1.
    think(
        "deepseek",
        "Let me see w140.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"w141\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ("", "Let me see w140.", &[("weather", r#"{"city": "w141"}"#), ("now", "{}")]),
    ),
    Fixture {
        reasoning: "think",
        tools: "deepseek",
        prompt: "<｜Assistant｜><think>\n",
        text: "w142\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"w143\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        means: ("w142", "", &[("weather", r#"{"city": "w143"}"#), ("now", "{}")]),
    },
    think(
        "deepseek",
        "<｜tool▁calls▁begin｜> w144 <｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": w145<｜tool▁call▁end｜>",
        (
            "",
            "<｜tool▁calls▁begin｜> w144 <｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": w145<｜tool▁call▁end｜>",
            &[],
        ),
    ),
    // DeepSeek V3.2 and V4.
    think(
        "dsml",
        "I check w150.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"search\">\n<｜DSML｜parameter name=\"query\" string=\"true\">a < b \"w151\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"filters\" string=\"false\">[1, 2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        (
            "",
            "I check w150.",
            &[("search", r#"{"query":"a < b \"w151\"","filters":[1,2]}"#), ("now", "{}")],
        ),
    ),
    Fixture {
        reasoning: "think",
        tools: "dsml",
        prompt: "<｜Assistant｜><think>",
        text: "w152</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">w153</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        means: ("w152", "", &[("weather", r#"{"city":"w153"}"#)]),
    },
    think(
        "dsml",
        "<｜DSML｜invoke name=\"now\"> w154 </｜DSML｜invoke>",
        ("", "<｜DSML｜invoke name=\"now\"> w154 </｜DSML｜invoke>", &[]),
    ),
    // Kimi K2.
    think(
        "kimi_k2",
        "<think>w160</think>Yes w161<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"w162\"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        ("w160", "Yes w161", &[("weather", r#"{"city": "w162"}"#), ("now", "{}")]),
    ),
    think(
        "kimi_k2",
        "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}",
        ("", "", &[("now", "{}")]),
    ),
    think(
        "kimi_k2",
        "<|tool_calls_section_begin|>w163<|tool_calls_section_end|>",
        ("", "<|tool_calls_section_begin|>w163<|tool_calls_section_end|>", &[]),
    ),
    // Mistral.
    Fixture {
        reasoning: "mistral",
        tools: "mistral",
        prompt: "",
        text: "[THINK]w170 [TOOL_CALLS] later[/THINK]Now w171.[TOOL_CALLS]weather[ARGS]{\"city\": \"w172\"}[TOOL_CALLS]now[ARGS]{}",
        means: (
            "w170 [TOOL_CALLS] later",
            "Now w171.",
            &[("weather", r#"{"city": "w172"}"#), ("now", "{}")],
        ),
    },
    Fixture {
        reasoning: "mistral",
        tools: "mistral",
        prompt: "",
        text: "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"[w173]\"}, \"id\": \"abc123DEF\"}, {\"name\": \"now\", \"arguments\": {}}]",
        means: ("", "", &[("weather", r#"{"city": "[w173]"}"#), ("now", "{}")]),
    },
    Fixture {
        reasoning: "none",
        tools: "mistral",
        prompt: "",
        text: "[TOOL_CALLS]weather[CALL_ID]abc123DEF[ARGS]{\"days\": 1}[TOOL_CALLS]now{}",
        means: ("", "", &[("weather", r#"{"days": 1}"#), ("now", "{}")]),
    },
    Fixture {
        reasoning: "none",
        tools: "mistral",
        prompt: "",
        text: "[TOOL_CALLS] w174 [TOOL_CALLS][1, \"w175\"] [TOOL_CALLS]now[ARGS]w176",
        means: ("", "[TOOL_CALLS] w174 [TOOL_CALLS][1, \"w175\"] [TOOL_CALLS]now[ARGS]w176", &[]),
    },
    // Llama 3.
    Fixture {
        reasoning: "none",
        tools: "llama3_json",
        prompt: "",
        text: "{\"name\": \"weather\", \"parameters\": {\"city\": \"w180\"}}; {\"name\": \"now\", \"parameters\": {}}",
        means: ("", "", &[("weather", r#"{"city": "w180"}"#), ("now", "{}")]),
    },
    Fixture {
        reasoning: "none",
        tools: "llama3_json",
        prompt: "",
        text: "<|python_tag|>{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {\"city\": \"w181\"}}",
        means: ("", "", &[("weather", r#"{"city": "w181"}"#)]),
    },
    Fixture {
        reasoning: "none",
        tools: "llama3_json",
        prompt: "",
        text: "{\"name\": \"nobody\", \"parameters\": {\"w182\": 1}} {\"name\": \"now\"}",
        means: (
            "",
            "{\"name\": \"nobody\", \"parameters\": {\"w182\": 1}} {\"name\": \"now\"}",
            &[],
        ),
    },
    Fixture {
        reasoning: "none",
        tools: "llama3_json",
        prompt: "",
        text: "As JSON w183: {\"name\": \"now\", \"parameters\": {}}",
        means: ("", "As JSON w183: {\"name\": \"now\", \"parameters\": {}}", &[]),
    },
    // Python.
    Fixture {
        reasoning: "none",
        tools: "pythonic",
        prompt: "",
        text: "[weather(city=\"w190 \\\"é\\\" \\u00e9\", days=-2), search(query='it\\'s ) w191', filters=[1, (2.5,), {'k': None}], fast=True), now()]",
        means: (
            "",
            "",
            &[
                ("weather", r#"{"city":"w190 \"é\" é","days":-2}"#),
                ("search", r#"{"query":"it's ) w191","filters":[1,[2.5],{"k":null}],"fast":true}"#),
                ("now", "{}"),
            ],
        ),
    },
    Fixture {
        reasoning: "seed_oss",
        tools: "pythonic",
        prompt: "",
        text: "<seed:think>w192</seed:think>I call w193. <|python_start|>[now()]<|python_end|>",
        means: ("w192", "I call w193.", &[("now", "{}")]),
    },
    Fixture {
        reasoning: "none",
        tools: "pythonic",
        prompt: "",
        text: "[1, \"w194\"] and [now()]",
        means: ("", "[1, \"w194\"] and [now()]", &[]),
    },
    Fixture {
        reasoning: "none",
        tools: "pythonic",
        prompt: "",
        text: "[nobody(a=\"w195\"), now()]",
        means: ("", "[nobody(a=\"w195\"), now()]", &[]),
    },
    // Gemma 4.
    Fixture {
        reasoning: "gemma4",
        tools: "gemma4",
        prompt: "<|turn>model\n",
        text: "<|channel>thought\nTwo w200.\n<channel|>I look w201.<|tool_call>call:weather{city:<|\"|>\"w202\", {é}<|\"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>",
        means: (
            "Two w200.",
            "I look w201.",
            &[("weather", r#"{"city":"\"w202\", {é}","days":2}"#), ("now", "{}")],
        ),
    },
    Fixture {
        reasoning: "gemma4",
        tools: "gemma4",
        prompt: "<|turn>model\n<|channel>thought\n<channel|>",
        text: "<|tool_call>call:search{query:<|\"|>w203<|\"|>,filters:[<|\"|>a<|\"|>,{k:null,<|\"|>q r<|\"|>:[]},-1.5],fast:true}",
        means: (
            "",
            "",
            &[(
                "search",
                r#"{"query":"w203","filters":["a",{"k":null,"q r":[]},-1.5],"fast":true}"#,
            )],
        ),
    },
    Fixture {
        reasoning: "gemma4",
        tools: "gemma4",
        prompt: "<|turn>model\n",
        text: "<|tool_call>call:now{a:w204<tool_call|> and <|tool_call> w205",
        means: ("", "<|tool_call>call:now{a:w204<tool_call|> and <|tool_call> w205", &[]),
    },
    // gpt-oss.
    Fixture {
        reasoning: "harmony",
        tools: "harmony",
        prompt: "<|start|>assistant",
        text: "<|channel|>analysis<|message|>Need w210.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"w211\"}",
        means: ("Need w210.", "", &[("weather", r#"{"city": "w211"}"#)]),
    },
    Fixture {
        reasoning: "harmony",
        tools: "harmony",
        prompt: "<|start|>assistant",
        text: "<|channel|>analysis<|message|>w212<|end|><|start|>assistant<|channel|>commentary<|message|>I look w213.<|end|><|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
        means: ("w212", "I look w213.", &[("now", "{}")]),
    },
    Fixture {
        reasoning: "harmony",
        tools: "harmony",
        prompt: "<|start|>assistant",
        text: " to=functions.now<|channel|>commentary <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        means: ("", "", &[("now", r#"{"a": 1}"#)]),
    },
    Fixture {
        reasoning: "harmony",
        tools: "none",
        prompt: "<|start|>assistant",
        text: "<|channel|>analysis<|message|>w214<|end|><|start|>assistant<|channel|>commentary<|message|>First w215.<|end|><|start|>assistant<|channel|>final<|message|>Then w216.\n<|return|>",
        means: ("w214", "First w215.\n\nThen w216.", &[]),
    },
    Fixture {
        reasoning: "harmony",
        tools: "harmony",
        prompt: "<|start|>assistant",
        text: "<|channel|>commentary to=functions.weather<|message|>{\"city\": w217}<|call|><|start|>assistant<|channel|>fin",
        means: (
            "",
            "<|channel|>commentary to=functions.weather<|message|>{\"city\": w217}<|call|>",
            &[],
        ),
    },
    Fixture {
        reasoning: "harmony",
        tools: "harmony",
        prompt: "<|start|>assistant",
        text: "Plain text w218.",
        means: ("", "Plain text w218.", &[]),
    },
];
