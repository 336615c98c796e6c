"""Trains a small EAGLE-3 head for a Llama model of a GGUF file, on text that the model writes itself.

python benches/eagle/train.py MODEL.gguf HEAD_DIRECTORY [--minutes 10]; serve it with --speculative eagle:HEAD_DIRECTORY.
"""

import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F
from head import Head, head_angles
from target import Target
from text import Server, generate

# Drafts that follow one another in training: what a head makes of its own states is what it is given later.
NUM_STEPS = 3
STEP_WEIGHT = 0.8
LENGTH = 192
BATCH = 6
HELD_OUT = 16
# The head so far is written this often.
SECONDS_TO_SAVE = 120


def main():
    args = arguments()
    torch.manual_seed(0)
    texts = known_texts(args)
    num_tokens = sum(len(tokens) for tokens, _ in texts)
    say(f"{len(texts)} texts of {num_tokens} tokens")
    target = Target(args.model)
    inputs = [2, target.num_layers // 2, target.num_layers - 3]
    vocabulary = most_frequent(texts, target.vocab_size, args.draft_vocab)
    head = Head(target, vocabulary, inputs)
    examples = [example(target, inputs, tokens, prompt) for tokens, prompt in texts]
    say("the target's states are known")
    held_out, training = examples[:HELD_OUT], examples[HELD_OUT:]
    train(head, training, args)
    head.save(args.head)
    report(head, held_out)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="GGUF file of a Llama model")
    parser.add_argument("head", type=pathlib.Path, help="directory that the head is written to")
    parser.add_argument("--quire", type=pathlib.Path, default=pathlib.Path("target/release/quire"), help="the binary")
    parser.add_argument("--texts", type=int, default=320, help="answers to learn from (at most 600)")
    parser.add_argument("--answer-tokens", type=int, default=192, help="tokens of each at most")
    parser.add_argument("--users", type=int, default=32, help="asked for at once")
    parser.add_argument("--draft-vocab", type=int, default=8192, help="tokens that the head knows")
    parser.add_argument("--minutes", type=float, default=10, help="of training, after the texts")
    return parser.parse_args()


def known_texts(args):
    """Those of an earlier run, or new ones."""
    path = args.head / "texts.json"
    if not path.exists():
        with Server(args.quire, args.model, args.users) as server:
            texts = generate(server, args.texts, args.answer_tokens, args.users)
        args.head.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(texts))
    return json.loads(path.read_text())


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def most_frequent(texts, vocab_size, count):
    """The tokens that occur most often, filled up with the first ones, ascending."""
    counts = torch.zeros(vocab_size)
    for tokens, _ in texts:
        counts += torch.bincount(torch.tensor(tokens), minlength=vocab_size)
    return counts.topk(count).indices.sort().values


def example(target, inputs, tokens, prompt):
    """Tokens, features and last states of one text, cut to `LENGTH`, and where its answer begins."""
    tokens = torch.tensor(tokens[:LENGTH + 1])
    features, last = target.states(tokens, inputs)
    return tokens, features.half(), last.half(), prompt


def batch_of(examples):
    """Padded to the longest. `valid[i]`: row i is one that drafts are made from."""
    longest = max(len(tokens) for tokens, *_ in examples)

    def pad(rows):
        return torch.stack([F.pad(row, (0, 0) * (row.dim() - 1) + (0, longest - len(row))) for row in rows])

    tokens, features, last, prompts = zip(*examples)
    positions = torch.arange(longest)
    ends = torch.tensor([len(row) for row in tokens])[:, None]
    valid = (positions >= torch.tensor(prompts)[:, None] - 1) & (positions < ends)
    return pad(tokens), pad(features).float(), pad(last).float(), valid


def unrolled(head, examples):
    """For each step: the head's logits, the target's for the same tokens, and which rows count."""
    tokens, features, last, valid = batch_of(examples)
    n = tokens.shape[1]
    teacher = head.target.lm_head[head.vocabulary]
    cos_sin, past = head_angles(head.target, n), []
    states = head.fuse(features)
    for step in range(NUM_STEPS):
        # Row i: the state of position i and the token after it; it says what follows that.
        states = head.step(states, shift_left(tokens, 1), past, cos_sin)
        says = shift_left(last, 1) @ teacher.T
        counts = valid & shift_left(valid, 1) & (torch.arange(n) >= step)
        yield head.logits(states), says, counts
        states = F.pad(states, (0, 0, 1, 0))[:, :n]


def shift_left(x, rows):
    return torch.cat([x[:, rows:], torch.zeros_like(x[:, :rows])], 1)


def train(head, examples, args):
    start, end = time.monotonic(), time.monotonic() + 60 * args.minutes
    optimizer = torch.optim.AdamW(head.parameters(), lr=args_rate(0), betas=(0.9, 0.95), weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    number, mean, saved = 0, None, start
    while time.monotonic() < end:
        part = (time.monotonic() - start) / (end - start)
        optimizer.param_groups[0]["lr"] = args_rate(part)
        chosen = torch.randint(len(examples), (BATCH,), generator=generator).tolist()
        loss = 0
        for step, (says, wanted, counts) in enumerate(unrolled(head, [examples[index] for index in chosen])):
            difference = F.cross_entropy(says[counts], wanted[counts].softmax(-1))
            loss = loss + STEP_WEIGHT**step * difference
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        number += 1
        if number % 20 == 0:
            say(f"step {number}, loss {mean:.3f}")
        if time.monotonic() - saved > SECONDS_TO_SAVE:
            head.save(args.head)
            saved = time.monotonic()


def args_rate(part):
    """Rises for a short time, then falls to a tenth."""
    most = 1e-3
    return most * min(1.0, (part + 0.002) / 0.03) * (1.0 - 0.9 * part)


@torch.inference_mode()
def report(head, examples):
    """How often the head says what the target says, draft after draft, on texts that it has not learned from."""
    right, total = torch.zeros(NUM_STEPS), torch.zeros(NUM_STEPS)
    for index in range(0, len(examples), BATCH):
        for step, (says, wanted, counts) in enumerate(unrolled(head, examples[index : index + BATCH])):
            right[step] += (says.argmax(-1) == wanted.argmax(-1))[counts].sum()
            total[step] += counts.sum()
    shares = ", ".join(f"{100 * share:.0f}%" for share in right / total)
    say(f"agrees with the target at depths 1 to {NUM_STEPS}: {shares}")


if __name__ == "__main__":
    main()
