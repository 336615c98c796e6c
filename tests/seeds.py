#!/usr/bin/env python3
"""Makes tiny models that no test has seen, of the families of the conformance tests, with golden numbers of transformers.

    seeds.py TARGET SEED [NAME...]

Writes TARGET/models/<name>/{config.json,model.safetensors,golden.safetensors}, after the models beside the repository (or in
QUIRE_CONFORMANCE) or, where there are none, the committed directories. Each number of a tensor is drawn from the numbers of the
same tensor there, so every part of a layer is still felt. With an odd SEED the shapes are others too: half as many heads, channels
and experts more, another layer, another window. Decoders only.
"""

import json
import os
import pathlib
import re
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
BESIDE = pathlib.Path(os.environ.get("QUIRE_CONFORMANCE", HERE.parent.parent / "shared/data/conformance")) / "models"
COMMITTED = HERE / "data/conformance/hf"

# Beyond these are the tokens that stand for images and sounds.
NUM_WORDS = 500
# Alone, in a block, over windows and chunks.
LENGTHS = [1, 5, 40, 70, 160, 250]
NUM_GREEDY = 6
# Where a golden token leads by less, sums in another order may give another. Then the next seed is tried.
MIN_MARGIN = 1e-3
NUM_TRIES = 20

HALF_AS_MANY_MORE = [
    "hidden_size", "intermediate_size", "intermediate_size_mlp", "moe_intermediate_size", "shared_expert_intermediate_size",
    "num_attention_heads", "num_key_value_heads", "linear_num_value_heads", "index_n_heads", "q_lora_rank", "kv_lora_rank",
    "n_routed_experts", "num_experts", "num_local_experts", "num_experts_per_tok", "top_k_experts",
]
OTHERS = {"sliding_window": 19, "attention_chunk_size": 40, "index_topk": 37}


def reshape(config):
    """Makes `config` that of a model of other shapes."""
    text = config.get("text_config", config)
    for key in HALF_AS_MANY_MORE:
        if (text.get(key) or 0) > 1:
            text[key] = text[key] * 3 // 2
    text.update({key: value for key, value in OTHERS.items() if text.get(key)})
    if "out_hidden_size" in (config.get("vision_config") or {}):
        config["vision_config"]["out_hidden_size"] = text["hidden_size"]
    num_layers = text["num_hidden_layers"]
    if text.get("num_kv_shared_layers"):
        return
    # The last layer again, which some families want to be of a certain kind.
    text["num_hidden_layers"] = num_layers + 1
    for key, value in text.items():
        if isinstance(value, list) and len(value) == num_layers:
            text[key] = [*value, num_layers if key == "moe_layers" else value[-1]]
    per_layer = text.get("per_layer_config") or {}
    if str(num_layers - 1) in per_layer:
        per_layer[str(num_layers)] = per_layer[str(num_layers - 1)]


def class_of(config):
    return getattr(transformers, config.architectures[0])


def shapes(folder):
    """Tensors of the names and shapes that a published model of the config in `folder` has."""
    config = transformers.AutoConfig.from_pretrained(folder)
    published = folder / "published"
    class_of(config)(config).save_pretrained(published)
    tensors = load_file(published / "model.safetensors")
    shutil.rmtree(published)
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def draw(tensors, like, generator):
    """Numbers for `tensors`, drawn from those of `like`."""
    kind = lambda name: re.sub(r"\.\d+\.", ".N.", name)
    of_kind = {kind(name): name for name in like}
    drawn = {}
    for name, tensor in tensors.items():
        # Of the last layer or expert, where there was none of this number.
        source = like[name if name in like else of_kind[kind(name)]]
        chosen = torch.randint(source.numel(), tensor.shape, generator=generator)
        # Sums over more columns shall come out as large.
        scale = (source.shape[-1] / tensor.shape[-1]) ** 0.5 if tensor.dim() > 1 else 1.0
        drawn[name] = (source.flatten()[chosen] * scale).to(tensor.dtype)
    return drawn


@torch.no_grad()
def golden_of_prompt(model, ids):
    """By name, and the tokens with those that follow."""
    out = model(ids, output_hidden_states=True, use_cache=False)
    golden = {"input_ids": ids[0].int(), "hidden_last": torch.stack([state[0, -1] for state in out.hidden_states])}
    if ids.shape[1] > 1:
        golden["next_logprob"] = out.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    logits = []
    for _ in range(NUM_GREEDY):
        logits.append(model(ids, use_cache=False).logits[0, -1])
        ids = torch.cat([ids, logits[-1].argmax().reshape(1, 1)], 1)
    golden["greedy_ids"], golden["greedy_logits"] = ids[0, -NUM_GREEDY:].int(), torch.stack(logits)
    return golden, ids


@torch.no_grad()
def is_clear(model, rounded, ids, logits):
    """Whether the golden tokens are words, lead clearly, and in a model without experts are those of bfloat16 where they lead by 0.1."""
    if hasattr(model.config, "vision_config") and int(ids.max()) >= NUM_WORDS:
        return False
    best = logits.topk(2)
    lead = best.values[:, 0] - best.values[:, 1]
    if "expert" in str(model.config):
        return bool((lead > MIN_MARGIN).all())
    same = rounded(ids[:, :-1], use_cache=False).logits[0, -NUM_GREEDY:].argmax(-1) == best.indices[:, 0]
    return bool((lead > MIN_MARGIN).all() and (same | (lead < 0.1)).all())


def make(source, target, seed):
    """Writes a model, unless its golden tokens are not clear."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    config = json.loads((source / "config.json").read_text())
    tensors = like = load_file(source / "model.safetensors")
    # Blocks of four bits keep their shapes.
    is_reshaped = seed % 2 == 1 and "quantization_config" not in config
    if is_reshaped:
        reshape(config)
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if is_reshaped:
        tensors = shapes(target)
    save_file(draw(tensors, like, generator), target / "model.safetensors", {"format": "pt"})
    config = transformers.AutoConfig.from_pretrained(target)
    kind, golden = class_of(config), {}
    model, rounded = (kind.from_pretrained(target, dtype=dtype, attn_implementation="eager").eval() for dtype in (torch.float32, torch.bfloat16))
    for index, length in enumerate(LENGTHS):
        found, ids = golden_of_prompt(model, torch.randint(4, NUM_WORDS, (1, length), generator=generator))
        if not is_clear(model, rounded, ids, found["greedy_logits"]):
            return False
        golden.update({f"p{index}.{name}": tensor.contiguous() for name, tensor in found.items()})
    save_file(golden, target / "golden.safetensors")
    return True


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    target, seed, names = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for source in sorted((BESIDE if BESIDE.is_dir() else COMMITTED).iterdir()):
        if names and source.name not in names or not (source / "config.json").is_file():
            continue
        architecture = json.loads((source / "config.json").read_text())["architectures"][0]
        if not architecture.endswith(("ForCausalLM", "ForConditionalGeneration")):
            continue
        for attempt in range(seed, seed + 1000 * NUM_TRIES, 1000):
            if make(source, target / "models" / source.name, attempt):
                print(f"{source.name}: seed {attempt}", flush=True)
                break
        else:
            sys.exit(f"{source.name}: no seed gives clear golden tokens")


main()
