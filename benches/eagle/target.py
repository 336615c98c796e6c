"""A Llama model of a GGUF file in PyTorch: what a head is given, and what it should say."""

import gguf
import torch
import torch.nn.functional as F


class Target:
    """Weights in float32; `layers` of them."""

    def __init__(self, path):
        reader = gguf.GGUFReader(str(path))
        key = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
        if not key:
            raise SystemExit(f"{path} is no Llama model")
        self.weights = {
            tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in reader.tensors
        }
        self.num_layers = key["llama.block_count"]
        self.num_heads = key["llama.attention.head_count"]
        self.num_kv_heads = key["llama.attention.head_count_kv"]
        self.eps = key["llama.attention.layer_norm_rms_epsilon"]
        self.theta = key.get("llama.rope.freq_base", 10000.0)
        self.intermediate_size = key["llama.feed_forward_length"]
        self.embedding = self.weights["token_embd.weight"]
        self.vocab_size, self.hidden_size = self.embedding.shape
        self.head_dim = key.get("llama.rope.dimension_count", self.hidden_size // self.num_heads)
        self.lm_head = self.weights.get("output.weight", self.embedding)

    @torch.inference_mode()
    def states(self, tokens, inputs):
        """Of one text: what the layers `inputs` are given, side by side, and what the last norm leaves; `[n, …]`."""
        x, seen = self.embedding[tokens], []
        for index in range(self.num_layers):
            if index in inputs:
                seen.append(x)
            x = self.layer(x, f"blk.{index}.")
        return torch.cat(seen, -1), rms_norm(x, self.weights["output_norm.weight"], self.eps)

    def layer(self, x, prefix):
        def weight(name):
            return self.weights[f"{prefix}{name}.weight"]

        n = x.shape[0]
        h = rms_norm(x, weight("attn_norm"), self.eps)
        q, k, v = (
            (h @ weight(f"attn_{name}").T).view(n, -1, self.head_dim).transpose(0, 1) for name in "qkv"
        )
        q, k = (interleaved_rope(part, self.theta) for part in (q, k))
        groups = self.num_heads // self.num_kv_heads
        k, v = (part.repeat_interleave(groups, 0) for part in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(0, 1).reshape(n, -1) @ weight("attn_output").T
        h = rms_norm(x, weight("ffn_norm"), self.eps)
        return x + (F.silu(h @ weight("ffn_gate").T) * (h @ weight("ffn_up").T)) @ weight("ffn_down").T


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def angles(num_positions, dim, theta):
    frequencies = theta ** (-torch.arange(0, dim, 2).float() / dim)
    turns = torch.arange(num_positions)[:, None] * frequencies
    return turns.cos(), turns.sin()


def interleaved_rope(x, theta):
    """Neighbouring channels are pairs, as converters order them; x: `[heads, n, dim]`."""
    cos, sin = angles(x.shape[1], x.shape[2], theta)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
