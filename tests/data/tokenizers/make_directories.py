"""Makes directories.json: tokenizers of every supported shape with the ids of the reference implementation.

Run: pip install tokenizers==0.23.*; python make_directories.py. Each entry has a tokenizer.json, and for each text its
ids without and with what the post-processor adds, and what the ids decode to without special tokens.
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
CORPUS = (HERE / "qwen2.inp").read_text() + (HERE.parents[2] / "ARCHITECTURE.md").read_text()
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
POSSESSIVE = LLAMA3.replace(r"]?\p{L}", r"]?+\p{L}").replace(r"]+[\r\n]", r"]++[\r\n]")
SPECIAL = ["<unk>", "<s>", "</s>"]


def added(*more):
    return [AddedToken("<tool>", special=False, normalized=False), *more]


def byte_level(pre, normalizer=None, ignore_merges=False, post=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(show_progress=False, vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_tokens(added())
    tokenizer.add_special_tokens([AddedToken("<both>", lstrip=True, rstrip=True, special=True)])
    if post:
        tokenizer.post_processor = post
    return json.loads(tokenizer.to_str())


def characters(pre, normalizer, decoder, joined_merges=False):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(show_progress=False, vocab_size=460, special_tokens=SPECIAL + byte_tokens, limit_alphabet=80)
    tokenizer.train_from_iterator([CORPUS], trainer)
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] in SPECIAL]
    value["pre_tokenizer"], value["normalizer"], value["decoder"] = (json.loads(part) if part else None for part in (
        json.dumps(pre), json.dumps(normalizer), json.dumps(decoder)))
    if joined_merges:
        value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(value))
    tokenizer.add_tokens(added())
    return json.loads(tokenizer.to_str())


def variants():
    byte = lambda **more: pre_tokenizers.ByteLevel(add_prefix_space=False, **more)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    both = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    sequence = pre_tokenizers.Sequence
    yield "plain", byte_level(byte())
    yield "llama3", byte_level(sequence([split(LLAMA3), byte(use_regex=False)]), ignore_merges=True,
                               post=processors.Sequence([processors.ByteLevel(), bos]))
    yield "possessive", byte_level(sequence([split(POSSESSIVE), byte(use_regex=False)]))
    yield "qwen", byte_level(sequence([split(LLAMA3.replace("{1,3}", "")), byte(use_regex=False)]),
                             normalizer=normalizers.NFC(), post=both)
    yield "smollm", byte_level(sequence([pre_tokenizers.Digits(individual_digits=True), byte()]))
    yield "digits", byte_level(sequence([pre_tokenizers.Digits(individual_digits=False), byte()]))
    yield "deepseek", byte_level(sequence([
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
        split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
              r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), byte(use_regex=False)]))
    yield "literal", byte_level(sequence([pre_tokenizers.Split(".", "isolated"), byte()]))
    space, block = {"String": " "}, "\u2581"
    replace = {"type": "Replace", "pattern": space, "content": block}
    fuse = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    back = {"type": "Replace", "pattern": {"String": block}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    stripping = {"type": "Sequence", "decoders": [back, *fuse, strip]}
    keeping = {"type": "Sequence", "decoders": [back, *fuse]}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": block}, replace]}
    meta = lambda scheme, splits: {"type": "Metaspace", "replacement": block, "prepend_scheme": scheme, "split": splits}
    yield "llama2", characters(None, prepend, stripping, joined_merges=True)
    yield "metaspace first", characters(meta("first", False), None, stripping)
    yield "metaspace always", characters(meta("always", True), None, stripping)
    yield "metaspace never", characters(meta("never", False), None, keeping)
    yield "gemma", characters({"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": False},
                              replace, keeping)


def texts():
    chosen = ["", " ", "  ", "a", " a", "Hello world", "Hello  world ", "\n", "a\n\nb", "\t x", "it's I'LL", "12345 6",
              "x1234567890y", "e\u0301 \u00e9", "中文abc日本", "🦀 crab", "\u2581already", "<tool>", "a <tool> b", "<s>hi</s>",
              "<s> hi </s> there", "a  <both>  b", "<tool><tool> x", "!!??...,\r\n\r\n z", "naïve façade", "\u00a0x\u3000y",
              "\u0001\u0002a\u0003", "ſ's", "<0x41>", "a.b..c", "don't  stop\n  now\n", "ﬁ ﬂ"]
    generator = random.Random(7)
    alphabet = list(" \n\t'.,!<>éa1中🦀e\u0301") + ["the", "ing", "<tool>", "  ", "Quire", "\u2581", "2026", "'ll", "</s>"]
    return chosen + ["".join(generator.choices(alphabet, k=generator.randint(1, 24))) for _ in range(60)]


def main():
    entries = []
    for name, value in variants():
        tokenizer = Tokenizer.from_str(json.dumps(value))
        cases = []
        for text in texts():
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            whole = tokenizer.encode(text).ids
            cases.append({"text": text, "ids": ids, "whole": whole, "decoded": tokenizer.decode(ids)})
        entries.append({"name": name, "tokenizer": value, "cases": cases})
    lines = ",\n".join(json.dumps(entry, ensure_ascii=True, separators=(",", ":")) for entry in entries)
    (HERE / "directories.json").write_text(f"[\n{lines}\n]\n")


main()
