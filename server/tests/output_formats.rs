//! Reasoning and tool calls in what models write: each format whole, cut anywhere, cut off and damaged.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod fetched;
mod output_fixtures;

use std::sync::Arc;

use fetched::fetched;
use output_fixtures::{FIXTURES, Fixture, fixtures_of, tools};
use proptest::prelude::*;
use quire_server::text::{
    OutputEvent, OutputFormats, OutputOptions, OutputParser, ParsedMessage, ToolChoice, ToolRequest,
};

fn options(reasoning: &str, tool_format: &str, prompt: &str) -> OutputOptions {
    let formats = OutputFormats::default().with_reasoning(reasoning).unwrap();
    let formats = formats.with_tools(tool_format).unwrap();
    let tools =
        ToolRequest { tools: Arc::new(tools()), choice: ToolChoice::Auto, is_single: false };
    OutputOptions::new(formats, tools, prompt, false)
}

fn options_of(fixture: &Fixture) -> OutputOptions {
    options(fixture.reasoning, fixture.tools, fixture.prompt)
}

/// What `pieces` come to, one after the other. Ids are of no matter where the server makes them up.
fn parse<'a>(options: &OutputOptions, pieces: impl IntoIterator<Item = &'a str>) -> ParsedMessage {
    let mut parser = OutputParser::new(options);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    check_order(&events);
    let mut message = ParsedMessage::default();
    events.into_iter().for_each(|event| message.add(event));
    assert_eq!(message.tool_calls.len(), parser.num_calls());
    for call in &mut message.tool_calls {
        call.id.clear();
        let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
        assert!(arguments.is_object(), "{arguments}");
    }
    message
}

/// Calls are numbered, begin before their arguments, and nothing is told that is empty.
fn check_order(events: &[OutputEvent]) {
    let mut num_calls = 0;
    for event in events {
        match event {
            OutputEvent::Reasoning(text) | OutputEvent::Content(text) => assert!(!text.is_empty()),
            OutputEvent::ToolCallStart { index, id, name } => {
                assert_eq!(*index, num_calls);
                assert!(!id.is_empty() && !name.is_empty());
                num_calls += 1;
            }
            OutputEvent::ToolCallArguments { index, .. } => assert_eq!(*index + 1, num_calls),
        }
    }
}

/// `text` in pieces that end at the characters `cuts`.
fn cut<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
    let mut places: Vec<usize> = cuts.iter().map(|&cut| char_floor(text, cut)).collect();
    places.sort_unstable();
    let ends = places.iter().copied().chain([text.len()]);
    let starts = [0].into_iter().chain(places.iter().copied());
    starts.zip(ends).map(|(start, end)| &text[start..end]).collect()
}

fn char_floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn characters(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().map(|(at, character)| &text[at..at + character.len_utf8()])
}

#[test]
fn each_format_is_read() {
    for fixture in FIXTURES {
        let found = parse(&options_of(fixture), [fixture.text]);
        assert_eq!(found, fixture.message(), "{}", fixture.text);
    }
}

#[test]
fn each_format_has_fixtures() {
    for format in OutputFormats::tool_formats() {
        assert!(fixtures_of(format).count() >= 3, "{format}");
    }
    for format in OutputFormats::reasoning_formats() {
        let count = FIXTURES.iter().filter(|fixture| fixture.reasoning == format).count();
        assert!(count >= 1, "{format}");
    }
}

#[test]
fn answers_may_be_cut_anywhere() {
    for fixture in FIXTURES {
        let options = options_of(fixture);
        let whole = parse(&options, [fixture.text]);
        for at in (0..fixture.text.len()).filter(|&at| fixture.text.is_char_boundary(at)) {
            let pieces = [&fixture.text[..at], &fixture.text[at..]];
            assert_eq!(parse(&options, pieces), whole, "{pieces:?}");
        }
        assert_eq!(parse(&options, characters(fixture.text)), whole, "{}", fixture.text);
    }
}

#[test]
fn without_tools_nothing_is_a_call() {
    for fixture in FIXTURES.iter().filter(|fixture| fixture.tools != "none") {
        let mut options = options_of(fixture);
        options.tools.choice = ToolChoice::None;
        let found = parse(&options, [fixture.text]);
        assert_eq!(found.tool_calls, [], "{}", fixture.text);
        let calls = fixture.message().tool_calls;
        assert!(calls.iter().all(|call| found.content.contains(&call.name)), "{}", found.content);
    }
}

/// Answers that end too early lose no word, and have at most the calls of the whole answer.
#[test]
fn answers_that_are_cut_off_lose_nothing() {
    for fixture in FIXTURES.iter().filter(|fixture| fixture.reasoning != "harmony") {
        let options = options_of(fixture);
        let whole = parse(&options, [fixture.text]);
        for at in (0..fixture.text.len()).filter(|&at| fixture.text.is_char_boundary(at)) {
            let text = &fixture.text[..at];
            let found = parse(&options, [text]);
            assert_eq!(parse(&options, characters(text)), found, "{text}");
            let is_whole = whole.tool_calls.is_empty();
            assert!(
                is_whole || whole.tool_calls.starts_with(&found.tool_calls),
                "{text}: {found:?}"
            );
            let shown = shown(&found);
            for word in words(text) {
                assert!(shown.contains(word), "{word:?} of {text:?} is lost: {found:?}");
            }
        }
    }
}

/// What the chat templates of the families say. `make tokenizers` brings them.
#[test]
fn templates_tell_the_formats() {
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (name, tools, reasoning) in output_fixtures::TEMPLATES {
        let Some(path) = fetched(&format!("templates/{name}.jinja")) else { continue };
        let source = std::fs::read_to_string(path).expect("templates are UTF-8");
        found.push(format!("{name}: {}", OutputFormats::of_template(&source)));
        expected.push(format!("{name}: tool calls: {tools}, reasoning: {reasoning}"));
    }
    assert_eq!(found, expected);
}

/// Words that no format has a use of its own for.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |word: &&str| {
        word.starts_with('w')
            && word.len() > 2
            && word[1..].bytes().all(|byte| byte.is_ascii_digit())
    };
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_word)
}

fn shown(message: &ParsedMessage) -> String {
    let calls = message.tool_calls.iter().map(|call| format!("{} {}", call.name, call.arguments));
    let texts = [message.reasoning.clone(), message.content.clone()];
    texts.into_iter().chain(calls).collect::<Vec<_>>().join("\n")
}

/// Pieces of a format's own answers, markers and words, in any order.
fn damaged(format: &'static str) -> impl Strategy<Value = String> {
    let texts: Vec<&str> = fixtures_of(format).map(|fixture| fixture.text).collect();
    let piece = (0..texts.len(), any::<prop::sample::Index>(), any::<prop::sample::Index>())
        .prop_map(move |(text, from, to)| {
            let text = texts[text];
            let place = |index: prop::sample::Index| char_floor(text, index.index(text.len() + 1));
            let (from, to) = (place(from), place(to));
            text[from.min(to)..from.max(to)].to_owned()
        });
    let markers: Vec<&str> = OutputFormats::markers_of(format);
    let noise = prop_oneof![
        prop::sample::select(markers).prop_map(str::to_owned),
        (100..1000).prop_map(|number| format!(" w{number} ")),
        "[ \n{}\\[\\]<>|\"',:=/()a-zé]{0,6}",
    ];
    prop::collection::vec(prop_oneof![piece, noise], 1..8).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_anything_gives_the_same(
        (format, text) in prop::sample::select(OutputFormats::tool_formats())
            .prop_flat_map(|format| (Just(format), damaged(format))),
        cuts in cuts(),
        inside in any::<bool>(),
    ) {
        let reasoning = output_fixtures::reasoning_of(format);
        let prompt = if inside { output_fixtures::opening_of(reasoning) } else { "" };
        let options = options(reasoning, format, prompt);
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        let whole = parse(&options, [text.as_str()]);
        prop_assert_eq!(&parse(&options, cut(&text, &cuts)), &whole, "{}", text);
        prop_assert_eq!(&parse(&options, characters(&text)), &whole, "{}", text);
        if reasoning != "harmony" {
            let shown = shown(&whole);
            for word in words(&text) {
                prop_assert!(shown.contains(word), "{} of {} is lost: {:?}", word, text, whole);
            }
        }
    }
}
