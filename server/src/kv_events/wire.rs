//! A batch of cache events in vLLM's msgpack: `[seconds since 1970, events, rank]`, each event a map with its `type`.

use quire_engine::CacheEvent;
use serde::Serialize;

/// Where the cached blocks are. vLLM calls the first tier so, whatever the device.
const MEDIUM: &str = "GPU";

#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "type")]
enum Event<'a> {
    BlockStored {
        block_hashes: Vec<u64>,
        parent_block_hash: Option<u64>,
        token_ids: Vec<u32>,
        block_size: u32,
        lora_id: Option<u32>,
        medium: &'a str,
        lora_name: Option<&'a str>,
    },
    BlockRemoved {
        block_hashes: Vec<u64>,
        medium: &'a str,
    },
    AllBlocksCleared {},
}

/// The payload of one message.
pub(super) fn encode(events: &[CacheEvent], unix_seconds: f64, rank: u32) -> Vec<u8> {
    rmp_serde::to_vec_named(&(unix_seconds, merged(events), rank))
        .expect("the types are those of msgpack")
}

/// Blocks that follow each other are one event.
fn merged(events: &[CacheEvent]) -> Vec<Event<'static>> {
    let mut out: Vec<Event<'static>> = Vec::new();
    for event in events {
        match (event, out.last_mut()) {
            (
                CacheEvent::Stored { hash, parent: Some(parent), tokens },
                Some(Event::BlockStored { block_hashes, token_ids, .. }),
            ) if block_hashes.last() == Some(parent) => {
                block_hashes.push(*hash);
                token_ids.extend(tokens);
            }
            (CacheEvent::Removed { hash }, Some(Event::BlockRemoved { block_hashes, .. })) => {
                block_hashes.push(*hash);
            }
            (CacheEvent::Stored { hash, parent, tokens }, _) => out.push(Event::BlockStored {
                block_hashes: vec![*hash],
                parent_block_hash: *parent,
                token_ids: tokens.clone(),
                block_size: tokens.len() as u32,
                lora_id: None,
                medium: MEDIUM,
                lora_name: None,
            }),
            (CacheEvent::Removed { hash }, _) => {
                out.push(Event::BlockRemoved { block_hashes: vec![*hash], medium: MEDIUM });
            }
            (CacheEvent::Cleared, _) => out.push(Event::AllBlocksCleared {}),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(hash: u64, parent: Option<u64>) -> CacheEvent {
        CacheEvent::Stored { hash, parent, tokens: vec![hash as u32; 2] }
    }

    #[test]
    fn chains_are_one_event() {
        let events = [
            stored(1, None),
            stored(2, Some(1)),
            stored(9, Some(1)),
            CacheEvent::Removed { hash: 2 },
            CacheEvent::Removed { hash: 1 },
            CacheEvent::Cleared,
        ];
        let stored = |hashes: &[u64], parent, tokens: &[u32]| Event::BlockStored {
            block_hashes: hashes.to_vec(),
            parent_block_hash: parent,
            token_ids: tokens.to_vec(),
            block_size: 2,
            lora_id: None,
            medium: "GPU",
            lora_name: None,
        };
        let expected = [
            stored(&[1, 2], None, &[1, 1, 2, 2]),
            stored(&[9], Some(1), &[9, 9]),
            Event::BlockRemoved { block_hashes: vec![2, 1], medium: "GPU" },
            Event::AllBlocksCleared {},
        ];
        assert_eq!(merged(&events), expected);
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = encode(&[CacheEvent::Removed { hash: 5 }, CacheEvent::Cleared], 1.5, 3);
        // By hand: an array of 3; a float of 8 bytes; an array of 2 maps; the rank.
        let mut expected = vec![0x93, 0xcb];
        expected.extend(1.5_f64.to_be_bytes());
        expected.push(0x92);
        let text = |out: &mut Vec<u8>, text: &str| {
            out.push(0xa0 | text.len() as u8);
            out.extend(text.bytes());
        };
        expected.push(0x83);
        text(&mut expected, "type");
        text(&mut expected, "BlockRemoved");
        text(&mut expected, "block_hashes");
        expected.extend([0x91, 5]);
        text(&mut expected, "medium");
        text(&mut expected, "GPU");
        expected.push(0x81);
        text(&mut expected, "type");
        text(&mut expected, "AllBlocksCleared");
        expected.push(3);
        assert_eq!(bytes, expected);
    }
}
