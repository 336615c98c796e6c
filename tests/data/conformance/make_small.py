"""Makes small models of kinds that make.py's sources have only in large, with golden numbers of transformers:
python make_small.py (needs: pip install torch transformers==5.23.0 safetensors).

Writes hf/<name>/{config.json,model.safetensors}, <name>.safetensors and <name>.json beside this script.
- qwen3_next_small: Gated DeltaNet with fused projections, attention with gates, a dense layer, and layers of experts with a softmax router
  and a shared expert with a gate.
- nomic_bert: an encoder with rotations and SwiGLU, in the layout of its published checkpoints.
"""
import json
import math
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import NomicBertConfig, NomicBertModel, Qwen3NextConfig, Qwen3NextForCausalLM

HERE = pathlib.Path(__file__).parent
VOCAB_SIZE = 512
NUM_GREEDY = 4
NOT_OF_THE_MODEL = ["_name_or_path", "chunk_size_feed_forward", "id2label", "is_encoder_decoder", "label2id", "return_dict"]


def randomize(model, generator):
    """Numbers of bfloat16, of such sizes that each part of a layer is felt."""
    for name, tensor in model.named_parameters():
        random = torch.randn(tensor.shape, generator=generator)
        if "embed" in name and tensor.dim() == 2:
            values = 0.35 * random
        elif name.endswith("A_log"):
            values = torch.log(torch.rand(tensor.shape, generator=generator) * 4 + 0.2)
        elif name.endswith("dt_bias"):
            values = random - 2.0
        elif tensor.dim() == 1:
            # Norms of Qwen3-Next are centred at 0, and all others at 1; biases at 0.
            is_centred = "linear_attn" in name or not isinstance(model, Qwen3NextForCausalLM)
            values = 0.2 * random + (1.0 if is_centred and not name.endswith("bias") else 0.0)
        else:
            values = 1.2 * random / math.sqrt(tensor.shape[-1])
        tensor.data = values.to(torch.bfloat16).to(torch.float32)


def write(name, config, tensors, golden, notes):
    folder = HERE / "hf" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({key: value.to(torch.bfloat16).contiguous() for key, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    save_file({key: value.clone().contiguous() for key, value in golden.items()}, HERE / f"{name}.safetensors")
    for path in [folder / "model.safetensors", HERE / f"{name}.safetensors"]:
        path.chmod(0o644)
    notes = {"family": name, "torch": torch.__version__, "transformers": transformers.__version__, "compute": "float32 eager CPU", **notes}
    (HERE / f"{name}.json").write_text(json.dumps(notes) + "\n")


def prompts(lengths, vocab_size, generator):
    return [torch.randint(4, vocab_size, (1, length), generator=generator) for length in lengths]


@torch.no_grad()
def golden_of_decoder(model, index, ids):
    out = model(ids, output_hidden_states=True, use_cache=False)
    logprobs = out.logits[0].log_softmax(-1)
    golden = {
        f"p{index}.input_ids": ids[0].int(),
        f"p{index}.hidden_last": torch.stack([state[0, -1] for state in out.hidden_states]),
    }
    if ids.shape[1] > 1:
        golden[f"p{index}.next_logprob"] = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
    greedy, logits = [], []
    for _ in range(NUM_GREEDY):
        logits.append(model(ids, use_cache=False).logits[0, -1])
        greedy.append(int(logits[-1].argmax()))
        ids = torch.cat([ids, torch.tensor([[greedy[-1]]])], 1)
    golden[f"p{index}.greedy_ids"] = torch.tensor(greedy).int()
    golden[f"p{index}.greedy_logits"] = torch.stack(logits)
    return golden


def qwen3_next_small(seed):
    generator = torch.Generator().manual_seed(seed)
    config = Qwen3NextConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=32, shared_expert_intermediate_size=32, mlp_only_layers=[0],
        layer_types=["linear_attention", "linear_attention", "full_attention"], attn_implementation="eager", dtype="float32",
    )
    model = Qwen3NextForCausalLM(config).eval()
    randomize(model, generator)
    golden = {}
    for index, ids in enumerate(prompts([1, 5, 40, 70, 130, 200], VOCAB_SIZE, generator)):
        golden.update(golden_of_decoder(model, index, ids))
    gaps = torch.cat([golden[f"p{index}.greedy_logits"].topk(2).values for index in range(6)])
    margin = float((gaps[:, 0] - gaps[:, 1]).min())
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        if name.endswith("mlp.experts.gate_up_proj"):
            # As published: each expert has tensors of its own.
            for expert, both in enumerate(tensor):
                gate, up = both.chunk(2)
                tensors[name.replace("gate_up_proj", f"{expert}.gate_proj.weight")] = gate
                tensors[name.replace("gate_up_proj", f"{expert}.up_proj.weight")] = up
        elif name.endswith("mlp.experts.down_proj"):
            for expert, down in enumerate(tensor):
                tensors[name.replace("down_proj", f"{expert}.down_proj.weight")] = down
        else:
            tensors[name] = tensor
    published = {key: value for key, value in config.to_dict().items() if value is not None and key not in NOT_OF_THE_MODEL}
    published["architectures"] = ["Qwen3NextForCausalLM"]
    return margin, published, tensors, golden


def nomic_bert(seed):
    generator = torch.Generator().manual_seed(seed)
    config = NomicBertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, type_vocab_size=2,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0}, max_position_embeddings=512, attn_implementation="eager",
    )
    model = NomicBertModel(config).eval()
    randomize(model, generator)
    golden = {}
    for index, ids in enumerate(prompts([3, 17, 64, 150], 64, generator)):
        with torch.no_grad():
            last = model(ids).last_hidden_state[0]
        golden.update({f"p{index}.input_ids": ids[0].int(), f"p{index}.last_hidden": last[-1:]})
        golden.update({f"p{index}.cls": last[0], f"p{index}.mean": last.mean(0)})
    state, tensors = model.state_dict(), {}
    for ours, theirs in [
        ("embeddings.word_embeddings", "embeddings.word_embeddings"), ("embeddings.token_type_embeddings", "embeddings.token_type_embeddings"),
        ("emb_ln", "embeddings.LayerNorm"),
    ]:
        tensors.update({f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ["weight", "bias"] if f"{theirs}.{kind}" in state})
    for layer in range(2):
        to, of = f"encoder.layers.{layer}.", f"layers.{layer}."
        heads = [state[f"{of}self_attn.{part}_proj.weight"] for part in "qkv"]
        tensors[f"{to}attn.Wqkv.weight"] = torch.cat(heads)
        for ours, theirs in [
            ("attn.out_proj", "self_attn.o_proj"), ("mlp.fc11", "mlp.up_proj"), ("mlp.fc12", "mlp.gate_proj"), ("mlp.fc2", "mlp.down_proj"),
            ("norm1", "post_attention_layernorm"), ("norm2", "post_mlp_layernorm"),
        ]:
            tensors.update({f"{to}{ours}.{kind}": state[f"{of}{theirs}.{kind}"] for kind in ["weight", "bias"] if f"{of}{theirs}.{kind}" in state})
    published = {
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 48,
        "n_positions": 512, "max_trained_positions": 512, "type_vocab_size": 2, "activation_function": "swiglu", "layer_norm_epsilon": 1e-12,
        "rotary_emb_base": 700, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "prenorm": False,
        "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "use_rms_norm": None, "parallel_block": False,
    }
    return published, tensors, golden


def main():
    seed, best = max(((seed, qwen3_next_small(seed)) for seed in range(12)), key=lambda found: found[1][0])
    margin, config, tensors, golden = best
    write("qwen3_next_small", config, tensors, golden, {"seed": seed, "margins": {"greedy": margin}})
    write("nomic_bert", *nomic_bert(1), {"seed": 1})


main()
