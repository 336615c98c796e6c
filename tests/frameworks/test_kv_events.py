"""Events of the prefix cache, read with the packages that routers read them with."""

import json
import struct

import msgpack
import zmq
from conftest import wait_for

PROMPT = "A list of all animals of the zoo, in the order of the alphabet: aardvark, alpaca, ant, antelope, ape, armadillo"
ASK = {"model": "default", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}


def test_events_of_the_prefix_cache(server):
    """A subscriber made of the format alone: what a prompt stores, and that its tokens are the prompt's."""
    source = json.loads(server.get("/kv_event_sources"))["0"]
    context = zmq.Context.instance()
    with context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.setsockopt(zmq.RCVTIMEO, 10_000)
        subscriber.connect(source["endpoint"])
        numbers, tokens = [], []
        wanted = server.post("/tokenize", {"prompt": PROMPT})["tokens"]

        def is_told():
            # Another prompt each time, until the subscription has taken effect.
            server.post("/v1/completions", ASK | {"prompt": f"{len(numbers)} {PROMPT}"})
            if not subscriber.poll(200):
                return False
            while subscriber.poll(200):
                topic, number, payload = subscriber.recv_multipart()
                numbers.append(struct.unpack(">Q", number)[0])
                _, events, rank = msgpack.unpackb(payload)
                assert (topic, rank) == (b"", 0)
                for event in events:
                    if event["type"] == "BlockStored":
                        assert len(event["token_ids"]) == event["block_size"] * len(event["block_hashes"])
                        tokens.extend(event["token_ids"])
            return len(tokens) >= len(wanted) - 2 * source_block(server)

        wait_for(is_told, 30, "events come")
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def source_block(server):
    return json.loads(server.get("/get_server_info"))["kv_block_size"]
