//! A thousand random schemas: each answer of the tiny model parses and is valid.
//!
//! The subset: null, boolean, integer and number (with bounds), string (with lengths, a pattern or a format), enum and const of
//! any JSON, arrays (items, prefixItems, minItems, maxItems), objects (properties, required, additionalProperties false,
//! patternProperties with maxProperties), lists of types, anyOf, and $ref to $defs, one of which contains itself; up to 4 deep.

use futures_util::stream::{self, StreamExt};
use serde_json::{Map, Value, json};

use crate::support::{TestServer, serve_tiny};

const NUM_SCHEMAS: u64 = 1000;

/// Of names that are no properties: short, as nothing else ends what a random model writes.
const NAME: &str = "^[a-z]{1,6}$";

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

fn schema(random: &mut Random) -> Value {
    let mut root = part(random, 0);
    let tree = json!({
        "type": "object", "required": ["kind"], "additionalProperties": false,
        "properties": {"kind": {"enum": ["leaf", "tree"]}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}},
    });
    root["$defs"] = json!({"tree": tree, "name": {"type": "string", "maxLength": 5}});
    root
}

fn part(random: &mut Random, depth: usize) -> Value {
    // The root is an object: it has the definitions.
    let kind = if depth == 0 { 9 } else { random.below(if depth > 3 { 8 } else { 12 }) };
    match kind {
        0 => json!({"type": (["null", "boolean"][random.below(2)])}),
        1 => integer(random),
        2 => json!({"type": "number", "minimum": -5, "exclusiveMaximum": 1000.5}),
        3 => string(random),
        4 => {
            let all = [
                json!("a\"b"),
                json!(17),
                json!(null),
                json!([1, "x"]),
                json!({"k": false}),
                json!("é\n"),
            ];
            let count = 1 + random.below(4);
            json!({"enum": (0..count).map(|_| all[random.below(all.len())].clone()).collect::<Vec<_>>()})
        }
        5 => json!({"const": (["one", "two\t"][random.below(2)])}),
        6 => json!({"$ref": (["#/$defs/tree", "#/$defs/name"][random.below(2)])}),
        7 => json!({"type": ["string", "null"], "maxLength": 6}),
        8 => array(random, depth),
        9 | 10 => object(random, depth),
        _ => {
            let count = 2 + random.below(2);
            json!({"anyOf": (0..count).map(|_| part(random, depth + 1)).collect::<Vec<_>>()})
        }
    }
}

fn integer(random: &mut Random) -> Value {
    let least = random.below(500) as i64 - 250;
    let most = least + random.below(10_000) as i64;
    match random.below(3) {
        0 => json!({"type": "integer", "minimum": least, "maximum": most}),
        1 => json!({"type": "integer", "exclusiveMinimum": least, "exclusiveMaximum": most + 2}),
        _ => json!({"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5}),
    }
}

fn string(random: &mut Random) -> Value {
    match random.below(4) {
        0 => {
            json!({"type": "string", "minLength": random.below(4), "maxLength": (4 + random.below(6))})
        }
        1 => {
            json!({"type": "string", "pattern": (["^[a-f]{2,4}$", "^(x|yz)+[0-9]$", "^\\d{3}-\\w$"][random.below(3)])})
        }
        2 => {
            json!({"type": "string", "format": (["date", "time", "uuid", "ipv4", "date-time"][random.below(5)])})
        }
        _ => json!({"type": "string", "maxLength": 12}),
    }
}

fn array(random: &mut Random, depth: usize) -> Value {
    if random.one_in(4) {
        let items: Vec<Value> = (0..=random.below(3)).map(|_| part(random, depth + 1)).collect();
        return json!({"type": "array", "prefixItems": items, "items": false, "minItems": items.len()});
    }
    let least = random.below(3);
    let most = least + random.below(3);
    json!({"type": "array", "items": part(random, depth + 1), "minItems": least, "maxItems": most})
}

fn object(random: &mut Random, depth: usize) -> Value {
    const NAMES: [&str; 8] = ["id", "name", "a b", "größe", "\"q\"", "x", "list", "$ref"];
    let mut properties = Map::new();
    for _ in 0..random.below(5) {
        properties.insert(NAMES[random.below(7)].into(), part(random, depth + 1));
    }
    let required: Vec<&String> = properties.keys().filter(|_| !random.one_in(3)).collect();
    let mut object = json!({"type": "object", "properties": properties, "required": required});
    object["additionalProperties"] = json!(false);
    if properties.is_empty() && random.one_in(2) {
        let digit = json!({"type": "integer", "minimum": 0, "maximum": 9});
        object["patternProperties"] = json!({(NAME): digit});
        object["maxProperties"] = json!(2);
    }
    object
}

/// JSON Schema (2020-12), as far as the subset goes; keywords that it does not know are not valid.
fn is_valid(root: &Value, schema: &Value, answer: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema == true };
    keywords.iter().all(|(keyword, want)| keyword_holds(root, schema, keyword, want, answer))
}

fn keyword_holds(
    root: &Value,
    schema: &Value,
    keyword: &str,
    want: &Value,
    answer: &Value,
) -> bool {
    let number = |holds: fn(f64, f64) -> bool| {
        answer.as_f64().is_none_or(|number| holds(number, want.as_f64().unwrap()))
    };
    let length = |holds: fn(usize, usize) -> bool, length: Option<usize>| {
        length.is_none_or(|length| holds(length, want.as_u64().unwrap() as usize))
    };
    let text = answer.as_str();
    match keyword {
        "$defs" => true,
        "$ref" => {
            let target = root.pointer(want.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
            is_valid(root, target, answer)
        }
        "type" => match want {
            Value::Array(types) => types.iter().any(|one| is_of_type(one, answer)),
            one => is_of_type(one, answer),
        },
        "enum" => want.as_array().unwrap().contains(answer),
        "const" => want == answer,
        "minimum" => number(|number, want| number >= want),
        "maximum" => number(|number, want| number <= want),
        "exclusiveMinimum" => number(|number, want| number > want),
        "exclusiveMaximum" => number(|number, want| number < want),
        "multipleOf" => number(|number, want| number % want == 0.0),
        "minLength" => length(|have, want| have >= want, text.map(|text| text.chars().count())),
        "maxLength" => length(|have, want| have <= want, text.map(|text| text.chars().count())),
        "pattern" => text.is_none_or(|text| matches(want.as_str().unwrap(), text)),
        "format" => text.is_none_or(|text| has_format(want.as_str().unwrap(), text)),
        "minItems" => length(|have, want| have >= want, answer.as_array().map(Vec::len)),
        "maxItems" => length(|have, want| have <= want, answer.as_array().map(Vec::len)),
        "maxProperties" => length(|have, want| have <= want, answer.as_object().map(Map::len)),
        "prefixItems" => answer.as_array().is_none_or(|items| {
            let pairs = want.as_array().unwrap().iter().zip(items);
            pairs.into_iter().all(|(schema, item)| is_valid(root, schema, item))
        }),
        "items" => answer.as_array().is_none_or(|items| {
            let first = schema["prefixItems"].as_array().map_or(0, Vec::len);
            items.iter().skip(first).all(|item| is_valid(root, want, item))
        }),
        "properties" => answer.as_object().is_none_or(|object| {
            object.iter().all(|(name, value)| {
                want.get(name).is_none_or(|schema| is_valid(root, schema, value))
            })
        }),
        "patternProperties" => answer.as_object().is_none_or(|object| {
            let others = object.iter().filter(|(name, _)| matches(NAME, name));
            others.into_iter().all(|(_, value)| is_valid(root, &want[NAME], value))
        }),
        "additionalProperties" => answer.as_object().is_none_or(|object| {
            let is_other = |name: &str| {
                let has_pattern = schema.get("patternProperties").is_some() && matches(NAME, name);
                schema["properties"].get(name).is_none() && !has_pattern
            };
            let others = object.iter().filter(|(name, _)| is_other(name));
            others.into_iter().all(|(_, value)| is_valid(root, want, value))
        }),
        "required" => answer.as_object().is_none_or(|object| {
            want.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "anyOf" => want.as_array().unwrap().iter().any(|schema| is_valid(root, schema, answer)),
        _ => false,
    }
}

fn is_of_type(name: &Value, answer: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => answer.is_null(),
        "boolean" => answer.is_boolean(),
        "integer" => answer.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => answer.is_number(),
        "string" => answer.is_string(),
        "array" => answer.is_array(),
        "object" => answer.is_object(),
        _ => false,
    }
}

/// The form of it; of a date also that the month has the day in some year.
fn has_format(format: &str, text: &str) -> bool {
    const DATE: &str = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])";
    const TIME: &str =
        r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)";
    let pattern = match format {
        "date" => format!("^{DATE}$"),
        "time" => format!("^{TIME}$"),
        "date-time" => format!("^{DATE}[tT ]{TIME}$"),
        "uuid" => "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$".into(),
        "ipv4" => return text.parse::<std::net::Ipv4Addr>().is_ok(),
        _ => return false,
    };
    matches(&pattern, text)
}

fn matches(pattern: &str, text: &str) -> bool {
    regex_automata::meta::Regex::new(pattern).unwrap().is_match(text)
}

/// What is wrong with the answer.
async fn check(server: &TestServer, seed: u64) -> Result<(), String> {
    let schema = schema(&mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let format = json!({"type": "json_schema", "json_schema": {"name": "random", "strict": true, "schema": schema}});
    let body = json!({
        "messages": [{"role": "user", "content": "x"}], "response_format": format,
        "temperature": 1.0, "seed": seed, "max_tokens": 1500,
    });
    let reply = server.post("/v1/chat/completions", &body).await;
    let fail = |what: &str| format!("{seed}: {what}\n{schema}\n{}", reply.body);
    if reply.status.as_u16() != 200 {
        return Err(fail("refused"));
    }
    let choice = &reply.json()["choices"][0];
    if choice["finish_reason"] != "stop" {
        return Err(fail("did not end"));
    }
    let text = choice["message"]["content"].as_str().unwrap();
    let answer: Value = serde_json::from_str(text).map_err(|error| fail(&error.to_string()))?;
    is_valid(&schema, &schema, &answer).then_some(()).ok_or_else(|| fail("not valid"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_to_a_thousand_random_schemas_is_valid() {
    let server = serve_tiny(|_| ());
    let checks = stream::iter(0..NUM_SCHEMAS).map(|seed| check(&server, seed));
    let results: Vec<Result<(), String>> = checks.buffer_unordered(32).collect().await;
    let errors: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(
        errors.is_empty(),
        "{} of {NUM_SCHEMAS}:\n{}",
        errors.len(),
        errors[..errors.len().min(5)].join("\n\n")
    );
}
