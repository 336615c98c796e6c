"""Makes encoders.json: the tokenizers of encoders (WordPiece, Unigram) with the ids of the reference implementation.

Run: pip install tokenizers==0.23.*; python make_encoders.py. The entries are as those of make_directories.py; what ids decode to
is left out, since nobody decodes what an encoder reads.
"""
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLOCK = "\u2581"


def word_piece(lowercase, strip_accents):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    single = list(LETTERS + "0123456789!(),.%-#[]'HW")
    words = ["你", "日", "é", "hello", "the", "qui", "brown", "fox", "wor", "un", "sp", "caf"]
    rest = list(LETTERS + "0123456789é") + ["ck", "ld", "believ", "able", "ing", "aces"]
    texts = dict.fromkeys(special + single + words + ["##" + piece for piece in rest])
    tokenizer = Tokenizer(models.WordPiece({text: id for id, text in enumerate(texts)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    around = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer


def unigram(pre, normalizer=None):
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = {text: 0.0 for text in special} | {BLOCK: -3.0}
    pieces |= {text: -6.0 - index / 100 for index, text in enumerate(LETTERS + "HWT,.!3147%'")}
    pieces |= {BLOCK + "Hello": -7.5, BLOCK + "the": -4.2, "ello": -8.0, BLOCK + "H": -6.5, BLOCK + "W": -6.6, "or": -5.1,
               "ld": -5.2, "orld": -9.0, BLOCK + "qui": -8.2, "ck": -5.5, BLOCK + "br": -7.1, "own": -7.0, BLOCK + "fox": -9.2,
               "un": -5.0, "able": -6.9, "你": -9.0, "fi": -7.0}
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), 3, False))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.add_special_tokens(special)
    around = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    return tokenizer


def variants():
    yield "word piece", word_piece(lowercase=True, strip_accents=None)
    yield "word piece cased", word_piece(lowercase=False, strip_accents=False)
    meta = pre_tokenizers.Metaspace(replacement=BLOCK, prepend_scheme="always")
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta])
    yield "unigram words", unigram(words)
    yield "unigram collapsed", unigram(words, normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " ")]))


def texts():
    chosen = ["", " ", "a", "Hello, World! naïve café", "The quick (brown) fox—jumps 3.14%", "你好 world 日本", "unbelievable ##ing x",
              "  spaces\tand\nnewlines  ", "ÀÉÎ ﬁne ①", "hello" * 21, "a [SEP] b", "hello <s> the", "[CLS]", "\u0001x\u200dy\ufffd",
              "\u00a0x\u3000y", "Hello  World ", "don't stop", "e\u0301é", "🦀 crab"]
    generator = random.Random(7)
    alphabet = list(" \n\t'.,![]é3中a日") + ["the", "ing", "un", "able", "  ", "Hello", "fox", "quick"]
    return chosen + ["".join(generator.choices(alphabet, k=generator.randint(1, 16))) for _ in range(30)]


def main():
    entries = []
    for name, tokenizer in variants():
        cases = []
        for text in texts():
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "ids": ids, "whole": tokenizer.encode(text).ids})
        entries.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases})
    lines = ",\n".join(json.dumps(entry, ensure_ascii=True, separators=(",", ":")) for entry in entries)
    (HERE / "encoders.json").write_text(f"[\n{lines}\n]\n")


main()
