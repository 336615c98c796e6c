"""An EAGLE-3 head (Li et al. 2025, arXiv 2503.01840) that is trained, and written as published ones are."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from target import angles, rms_norm
from torch import nn


class Head(nn.Module):
    """One layer on the hidden size of its target, for the target's tokens `vocabulary` alone."""

    def __init__(self, target, vocabulary, inputs):
        super().__init__()
        hidden, kv_size = target.hidden_size, target.num_kv_heads * target.head_dim
        q_size = target.num_heads * target.head_dim
        self.target, self.vocabulary, self.inputs = target, vocabulary, inputs
        sizes = {
            "fc": (hidden, 3 * hidden),
            "midlayer.self_attn.q_proj": (q_size, 2 * hidden),
            "midlayer.self_attn.k_proj": (kv_size, 2 * hidden),
            "midlayer.self_attn.v_proj": (kv_size, 2 * hidden),
            "midlayer.self_attn.o_proj": (hidden, q_size),
            "midlayer.mlp.gate_proj": (target.intermediate_size, hidden),
            "midlayer.mlp.up_proj": (target.intermediate_size, hidden),
            "midlayer.mlp.down_proj": (hidden, target.intermediate_size),
        }
        sizes["lm_head"] = (len(vocabulary), hidden)
        matrices = {name: nn.Parameter(torch.randn(shape) * shape[1] ** -0.5) for name, shape in sizes.items()}
        norms = ["midlayer.input_layernorm", "midlayer.hidden_norm", "midlayer.post_attention_layernorm", "norm"]
        ones = {name: nn.Parameter(torch.ones(hidden)) for name in norms}
        # It begins near what the target makes of its deepest features: its last MLP, norm and output layer.
        matrices["fc"].data[:, : 2 * hidden] *= 0.1
        matrices["fc"].data[:, 2 * hidden :] = torch.eye(hidden)
        matrices["midlayer.self_attn.o_proj"].data *= 0.1
        last = f"blk.{target.num_layers - 1}."
        copied = {
            "midlayer.mlp.gate_proj": last + "ffn_gate",
            "midlayer.mlp.up_proj": last + "ffn_up",
            "midlayer.mlp.down_proj": last + "ffn_down",
            "midlayer.post_attention_layernorm": last + "ffn_norm",
            "norm": "output_norm",
        }
        for name, source in copied.items():
            {**matrices, **ones}[name].data = target.weights[f"{source}.weight"].clone()
        matrices["lm_head"].data = target.lm_head[vocabulary].clone()
        self.weights = nn.ParameterDict({name.replace(".", "/"): value for name, value in {**matrices, **ones}.items()})

    def weight(self, name):
        return self.weights[name.replace(".", "/")]

    def normed(self, x, name):
        return rms_norm(x, self.weight(name), self.target.eps)

    def fuse(self, features):
        return features @ self.weight("fc").T

    def step(self, states, tokens, past, cos_sin):
        """All rows one draft further: row i goes on from `states[i]` with `tokens[i]`; `past` has the keys and values of
        the steps before, of which the first sees all rows before it, and each later one itself, a row earlier."""
        embedded = self.target.embedding[tokens]
        x = torch.cat([self.normed(embedded, "midlayer.input_layernorm"), self.normed(states, "midlayer.hidden_norm")], -1)
        batch, n, dim = *states.shape[:2], self.target.head_dim
        q, k, v = (
            (x @ self.weight(f"midlayer.self_attn.{name}_proj").T).view(batch, n, -1, dim).transpose(1, 2)
            for name in "qkv"
        )
        q, k = (rope(part, *cos_sin) for part in (q, k))
        groups = self.target.num_heads // self.target.num_kv_heads
        past.append(tuple(part.repeat_interleave(groups, 1) for part in (k, v)))
        attended = attend(q, past).transpose(1, 2).reshape(batch, n, -1)
        x = states + attended @ self.weight("midlayer.self_attn.o_proj").T
        h = self.normed(x, "midlayer.post_attention_layernorm")
        gated = F.silu(h @ self.weight("midlayer.mlp.gate_proj").T) * (h @ self.weight("midlayer.mlp.up_proj").T)
        return x + gated @ self.weight("midlayer.mlp.down_proj").T

    def logits(self, states):
        return self.normed(states, "norm") @ self.weight("lm_head").T

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        target, size = self.target, len(self.vocabulary)
        tensors = {
            f"{name.replace('/', '.')}.weight": value.detach().to(torch.bfloat16).contiguous()
            for name, value in self.weights.items()
        }
        tensors["d2t"] = self.vocabulary - torch.arange(size)
        tensors["t2d"] = torch.zeros(target.vocab_size, dtype=torch.bool).index_fill(0, self.vocabulary, True)
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
        config = {
            "architectures": ["LlamaForCausalLMEagle3"],
            "model_type": "llama",
            "hidden_size": target.hidden_size,
            "intermediate_size": target.intermediate_size,
            "num_hidden_layers": 1,
            "num_attention_heads": target.num_heads,
            "num_key_value_heads": target.num_kv_heads,
            "head_dim": target.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": target.eps,
            "rope_theta": target.theta,
            "vocab_size": target.vocab_size,
            "draft_vocab_size": size,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            # Here layers are named by what they leave.
            "eagle_config": {
                "eagle_aux_hidden_state_layer_ids": [index - 1 for index in self.inputs],
                "use_aux_hidden_state": True,
            },
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def rope(x, cos, sin):
    """Channels i and i + dim / 2 are pairs; x: `[batch, heads, n, dim]`."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, past):
    """Row i sees rows 0 to i − k of the first step, and row i − k + j of each later step j up to k, its own."""
    k, n = len(past) - 1, q.shape[2]
    scale = q.shape[-1] ** -0.5
    first_keys, first_values = past[0]
    seen = torch.ones(n, n, dtype=torch.bool).tril(-k)
    scores = [(q @ first_keys.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))]
    for step in range(1, k + 1):
        keys = shifted(past[step][0], k - step)
        scores.append((q * keys).sum(-1, keepdim=True) * scale)
    weights = torch.cat(scores, -1).softmax(-1)
    out = weights[..., :n].nan_to_num() @ first_values
    for step in range(1, k + 1):
        out = out + weights[..., n + step - 1 : n + step].nan_to_num() * shifted(past[step][1], k - step)
    return out


def shifted(x, rows):
    """Row i has what row i − `rows` had; the first ones have zeros."""
    return F.pad(x, (0, 0, rows, 0))[:, :, : x.shape[2]]


def head_angles(target, num_positions):
    return angles(num_positions, target.head_dim, target.theta)
