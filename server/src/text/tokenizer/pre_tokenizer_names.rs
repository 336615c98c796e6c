//! The pre-tokenizers by the names that GGUF files use (`tokenizer.ggml.pre`).

use super::pre_tokenizer::Spaces;

/// What a name stands for.
#[derive(Clone, Debug, Default)]
pub struct PreTokenizerSpec {
    pub stages: Vec<StageSpec>,
    /// A whole word that is a token is taken without looking at the merges.
    pub ignore_merges: bool,
    /// Used when the file does not say.
    pub add_bos: bool,
    /// Merges are over characters, with U+2581 for the space.
    pub over_characters: bool,
    /// Of merges over characters: a whole run of newlines that is a token is taken without looking at the merges.
    pub whole_newlines: bool,
}

/// A split applied to the words of the one before.
#[derive(Clone, Debug)]
pub enum StageSpec {
    /// Each match is a word, and so is each stretch between matches.
    Regex(String),
    /// A last alternative `\s+(?!\S)|\s+` is understood.
    Main(String),
    MainWithSpaces(String, Spaces),
    DigitsFromRight {
        at_word_boundary: bool,
    },
}

const CONTRACTIONS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)";
pub(in crate::text) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
const CJK_RUNS: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const DEEPSEEK_CJK: &str = "[\u{4e00}-\u{9fa5}\u{0800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const DEEPSEEK_V3_MAIN: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
);
/// Letters with case, written out as in the DeepSeek LLM definition.
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    "\\s?[A-Za-z\u{00b5}\u{00c0}-\u{00d6}\u{00d8}-\u{00f6}\u{00f8}-\u{01ba}\u{01bc}-\u{01bf}",
    "\u{01c4}-\u{0293}\u{0295}-\u{02af}\u{0370}-\u{0373}\u{0376}\u{0377}\u{037b}-\u{037d}",
    "\u{037f}\u{0386}\u{0388}-\u{038a}\u{038c}\u{038e}-\u{03a1}\u{03a3}-\u{03f5}",
    "\u{03f7}-\u{0481}\u{048a}-\u{052f}\u{0531}-\u{0556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}",
    "\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}",
    "\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}",
    "\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}",
    "\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}",
    "\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}",
    "\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}",
    "\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}",
    "\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}",
    "\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}",
    "\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}",
    "\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}",
    "\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+"
);
const DEEPSEEK_LLM_SYMBOLS: &str =
    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
const YOUTU_SCRIPTS: &str = concat!(
    "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}",
    "\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+|",
    "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"
);
const AFMOE_SCRIPTS: &str = concat!(
    "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}",
    "\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{0e40}-\u{0e7f}\u{0e80}-\u{0eff}\u{1780}-\u{17ff}",
    "\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+"
);

/// The pre-tokenizer of `name`, or `None` for a name that is not known.
pub(super) fn find(name: &str) -> Option<PreTokenizerSpec> {
    let stages = stages(name)?;
    let over_characters = matches!(name, "gemma4" | "granite-embed-multi-311m" | "sarvam-moe");
    Some(PreTokenizerSpec {
        stages,
        ignore_merges: matches!(
            name,
            "llama3"
                | "llama-v3"
                | "llama-bpe"
                | "falcon3"
                | "falcon-h1"
                | "pixtral"
                | "midm-2.0"
                | "lfm2"
                | "jina-v5-nano"
                | "minicpm5"
                | "youtu"
                | "glm4"
                | "glm5"
                | "tekken"
                | "granite-embed-multi-97m"
        ),
        add_bos: matches!(
            name,
            "llama3"
                | "llama-v3"
                | "llama-bpe"
                | "falcon3"
                | "falcon-h1"
                | "pixtral"
                | "midm-2.0"
                | "lfm2"
                | "jina-v5-nano"
                | "tekken"
                | "chameleon"
                | "gemma4"
        ),
        over_characters,
        whole_newlines: over_characters,
    })
}

/// What stands in for a name that is not known, or for none.
pub(super) fn default() -> PreTokenizerSpec {
    PreTokenizerSpec {
        stages: vec![
            StageSpec::Regex(r"[\p{P}\$\+<=>\^~\|]+".to_owned()),
            StageSpec::Main(GPT2.to_owned()),
            StageSpec::Regex(r"\p{N}+".to_owned()),
            StageSpec::Regex("[0-9][0-9][0-9]".to_owned()),
        ],
        ..PreTokenizerSpec::default()
    }
}

fn stages(name: &str) -> Option<Vec<StageSpec>> {
    general_stages(name).or_else(|| family_stages(name)).or_else(|| plain_stages(name))
}

/// Expressions that many families share.
fn general_stages(name: &str) -> Option<Vec<StageSpec>> {
    Some(match name {
        "default" => default().stages,
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" | "glm5" => {
            main(llama3(r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}\p{N}]+[\r\n]*"))
        }
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
        | "solar-open" | "grok-2" => main(llama3(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+[\r\n]*")),
        "qwen35" => main(llama3(r"[\p{L}\p{M}]+", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]+[\r\n]*")),
        "seed-coder" => main(llama3(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}\r\n]+")),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de"
        | "a.x-4.0" | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe"
        | "exaone4" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" => {
            main(GPT2.to_owned())
        }
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => vec![regex(r"\p{N}"), StageSpec::Main(GPT2.to_owned())],
        "falcon" => vec![
            regex(r"[\p{P}\$\+<=>\^~\|`]+"),
            StageSpec::Main(GPT2.to_owned()),
            regex("[0-9][0-9][0-9]"),
        ],
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" | "granite-embed-multi-97m" => {
            main(o200k(r"\p{N}{1,3}", CONTRACTIONS))
        }
        "tiny_aya" | "cohere2moe" => vec![
            StageSpec::DigitsFromRight { at_word_boundary: true },
            StageSpec::Main(o200k(r"\p{N}{1,3}", CONTRACTIONS)),
        ],
        "tekken" => main(o200k(r"\p{N}", "")),
        "gemma4" | "granite-embed-multi-311m" | "sarvam-moe" => vec![regex(r"[^\n]+|\n+")],
        _ => return None,
    })
}

/// Expressions unlike all others.
fn plain_stages(name: &str) -> Option<Vec<StageSpec>> {
    Some(match name {
        "superbpe" => {
            vec![regex(r"\p{N}+"), StageSpec::DigitsFromRight { at_word_boundary: false }]
        }
        "poro-chat" | "bloom" | "gpt3-finnish" => vec![regex(BLOOM)],
        "viking" => vec![regex(BLOOM), regex(r"\p{N}")],
        "chameleon" => vec![
            regex("<sentinel:[0-9]+>"),
            regex("IMGIMG[A-I]{1,4}Z"),
            regex(r"[\t\n]|    |  "),
            regex(r"\p{N}"),
            regex(r"[\p{P}!-/:-@\[-`{-~]"),
            StageSpec::Main(GPT2.to_owned()),
        ],
        _ => return None,
    })
}

/// Expressions of one family each.
fn family_stages(name: &str) -> Option<Vec<StageSpec>> {
    let qwen = || llama3(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+[\r\n]*");
    Some(match name {
        "deepseek-llm" => vec![
            regex(r"[\r\n]"),
            regex(DEEPSEEK_LLM_LETTERS),
            regex(DEEPSEEK_LLM_SYMBOLS),
            regex(r"\s+$"),
            regex(DEEPSEEK_CJK),
            regex(r"\p{N}+"),
        ],
        "deepseek-coder" => vec![
            regex(r"[\r\n]"),
            regex(r"\s?\p{L}+"),
            regex(r"\s?\p{P}+"),
            regex(DEEPSEEK_CJK),
            regex(r"\p{N}"),
        ],
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => vec![
            regex(r"\p{N}{1,3}"),
            regex(CJK_RUNS),
            StageSpec::Main(DEEPSEEK_V3_MAIN.to_owned()),
        ],
        "spark2_5" => vec![
            regex(r"\p{N}{1,3}"),
            regex(CJK_RUNS),
            StageSpec::Main(DEEPSEEK_V3_MAIN.replace(r"[\r\n]*|\s*[\r\n]+", r"|[\r\n]")),
            regex(r"\p{N}"),
        ],
        "afmoe" => vec![
            StageSpec::DigitsFromRight { at_word_boundary: false },
            regex(AFMOE_SCRIPTS),
            StageSpec::Main(DEEPSEEK_V3_MAIN.to_owned()),
        ],
        "youtu" => vec![regex(YOUTU_SCRIPTS), StageSpec::Main(o200k(r"\p{N}", CONTRACTIONS))],
        "minicpm5" => vec![
            regex(r"\p{N}{1,3}"),
            StageSpec::Main(llama3(r"\p{L}+", r"\p{N}+", r"[^\s\p{L}\p{N}]+[\r\n]*")),
        ],
        "kimi-k2" => main(kimi_k2()),
        "jais-2" => vec![StageSpec::MainWithSpaces(
            llama3(r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}\p{N}]+[\r\n]*"),
            Spaces::PowersOfTwo,
        )],
        "bailingmoe" | "bailingmoe2" | "llada-moe" => main(
            concat!(
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
            )
            .to_owned(),
        ),
        "exaone-moe" => main(format!(
            "{CONTRACTIONS}{}",
            concat!(
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
            )
        )),
        "laguna" => vec![regex(r"[^\n]+|\n+"), StageSpec::Main(qwen())],
        "ufakzeka" => main(qwen().replacen(&format!("{CONTRACTIONS}|"), "", 1)),
        _ => return None,
    })
}

const BLOOM: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{0964}\u{06d4}\u{060c})]+";

fn regex(pattern: &str) -> StageSpec {
    StageSpec::Regex(pattern.to_owned())
}

fn main(pattern: String) -> Vec<StageSpec> {
    vec![StageSpec::Main(pattern)]
}

/// The shape that Llama 3 and Qwen share.
fn llama3(letters: &str, digits: &str, symbols: &str) -> String {
    format!(r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}|{digits}| ?{symbols}|\s*[\r\n]+")
}

/// The shape of o200k: words split where lower case turns to upper case.
fn o200k(digits: &str, contractions: &str) -> String {
    let suffix = if contractions.is_empty() { String::new() } else { format!("{contractions}?") };
    format!(
        concat!(
            r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*",
            r"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{suffix}|",
            r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+",
            r"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{suffix}|",
            r"{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+"
        ),
        suffix = suffix,
        digits = digits
    )
}

/// o200k with runs of Han characters apart.
fn kimi_k2() -> String {
    let upper = r"[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]";
    let lower = r"[[\p{Ll}\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]";
    let lead = r"[^\r\n\p{L}\p{N}]?";
    format!(
        concat!(
            r"\p{{Han}}+|{lead}{upper}*{lower}+{suffix}?|{lead}{upper}+{lower}*{suffix}?|",
            r"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
        ),
        lead = lead,
        upper = upper,
        lower = lower,
        suffix = CONTRACTIONS
    )
}

#[cfg(test)]
mod tests {
    use super::super::pre_tokenizer::PreTokenizer;
    use super::find;

    const NAMES: &[&str] = &[
        "default",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "seed-coder",
        "gpt-2",
        "starcoder",
        "falcon",
        "gpt-4o",
        "tiny_aya",
        "tekken",
        "gemma4",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "spark2_5",
        "afmoe",
        "youtu",
        "minicpm5",
        "kimi-k2",
        "jais-2",
        "bailingmoe",
        "exaone-moe",
        "laguna",
        "ufakzeka",
        "superbpe",
        "bloom",
        "viking",
        "chameleon",
        "glm4",
    ];

    fn words(name: &str, text: &str) -> Vec<String> {
        let splitter = PreTokenizer::new(&find(name).unwrap()).unwrap();
        let mut words = Vec::new();
        splitter.split(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn every_pre_tokenizer_keeps_all_text() {
        let text = "I'll pay 12345€  now\n\n \tÄpfel-Birne 我想在apple工作1314151天～ e\u{301}!? \u{3000} Xy ";
        for name in NAMES {
            let words = words(name, text);
            assert_eq!(words.concat(), text, "{name}");
            assert!(words.iter().all(|word| !word.is_empty()), "{name}");
        }
    }

    #[test]
    fn words_are_split_as_the_families_define() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("llama-bpe", "Don't  1234", &["Don", "'t", " ", " ", "123", "4"]),
            ("qwen2", "a 12\n\nb", &["a", " ", "1", "2", "\n\n", "b"]),
            ("gpt-4o", "helloWorld's", &["hello", "World's"]),
            ("tekken", "helloWorld's", &["hello", "World", "'s"]),
            ("superbpe", "1234567", &["1", "234", "567"]),
            ("tiny_aya", "12345 1234x", &["12", "345", " ", "123", "4", "x"]),
            ("kimi-k2", "中文abc", &["中文", "abc"]),
            ("jais-2", "a       b", &["a", "    ", "  ", " b"]),
            ("gpt-2", "a   b  ", &["a", "  ", " b", "  "]),
        ];
        for (name, text, expected) in cases {
            assert_eq!(words(name, text), *expected, "{name}");
        }
    }
}
