"""Writes tiny quantized llama directories, one a layout, beside this script: python make_quantized.py

    python -m venv venv && venv/bin/pip install torch numpy safetensors compressed-tensors transformers

Each has config.json, model.safetensors and expected.safetensors: the float32 values of two of its weights (of the second
the first features only), by the library of the layout where it has one (compressed-tensors), else by its formula.
"""

import json
import pathlib

import torch
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file

HIDDEN, INNER, VOCAB = 128, 192, 32
SHAPES = {
    "self_attn.q_proj": (64, HIDDEN), "self_attn.k_proj": (32, HIDDEN), "self_attn.v_proj": (32, HIDDEN),
    "self_attn.o_proj": (HIDDEN, 64),
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
}
EXPECTED = {"self_attn.v_proj": 32, "mlp.down_proj": 24}
FLOAT8 = torch.float8_e4m3fn


def to_float8(weight, scale):
    return (weight / scale).clamp(-448, 448).to(FLOAT8)


def float8_block(weight):
    rows, columns = -(-weight.shape[0] // 128), -(-weight.shape[1] // 128)
    scale = torch.rand(rows, columns) * 0.001 + 0.0005
    spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: weight.shape[0], : weight.shape[1]]
    numbers = to_float8(weight, spread)
    expected = FP8BlockDequantizer(dtype=torch.float32)._create_dequantized_weight(numbers, scale)
    return {"weight": numbers, "weight_scale_inv": scale}, expected


def float8_tensor(weight):
    scale = weight.abs().max() / 448
    numbers = to_float8(weight, scale)
    parts = {"weight": numbers, "weight_scale": scale, "input_scale": torch.tensor(0.02)}
    return parts, numbers.float() * scale


def float8_channel(weight):
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    numbers = to_float8(weight, scale.float())
    return {"weight": numbers, "weight_scale": scale}, numbers.float() * scale.float()


def int8_channel(weight):
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    numbers = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": numbers, "weight_scale": scale}, numbers.float() * scale.float()


def compressed_words(weight, bits, group, symmetric):
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    grouped = weight.reshape(weight.shape[0], -1, group)
    half = 1 << (bits - 1)
    if symmetric:
        scale = (grouped.abs().amax(2) / half).bfloat16().float()
        state = {"weight": weight, "weight_scale": scale}
    else:
        scale = ((grouped.amax(2) - grouped.amin(2)) / (2 * half - 1)).bfloat16().float()
        zero = (-half - (grouped.amin(2) / scale).round()).clamp(-half, half - 1).to(torch.int8)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    parts = PackedQuantizationCompressor.compress(state, scheme)
    expected = PackedQuantizationCompressor.decompress(parts, scheme)["weight"].float()
    parts["weight_scale"] = parts["weight_scale"].bfloat16()
    return parts, expected


def float4(weight, group, names):
    is_nv = group == 16
    args = QuantizationArgs(
        num_bits=4, type="float", symmetric=True, group_size=group, strategy="tensor_group" if is_nv else "group"
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    largest = weight.reshape(weight.shape[0], -1, group).abs().amax(2)
    state = {"weight": weight}
    if is_nv:
        state["weight_global_scale"] = (448 * 6 / weight.abs().max()).reshape(1)
        scale = largest / 6 * state["weight_global_scale"]
        state["weight_scale"] = scale.clamp(min=2**-9).to(FLOAT8).float()
        compressor = NVFP4PackedCompressor
    else:
        state["weight_scale"] = torch.exp2(torch.floor(torch.log2(largest)) - 2)
        compressor = MXFP4PackedCompressor
    parts = compressor.compress(state, scheme)
    # As the compressor's `decompress`, which computes in bfloat16.
    scale = compressor._decompress_scale(parts["weight_scale"], torch.float32)
    numbers = unpack_fp4_from_uint8(parts["weight_packed"], *weight.shape, dtype=torch.float32)
    expected = dequantize(numbers, scale, args=args, global_scale=parts.get("weight_global_scale"))
    if names == "modelopt":
        parts["weight"] = parts.pop("weight_packed")
        parts["weight_scale_2"] = 1 / parts.pop("weight_global_scale")[0]
        parts["input_scale"] = torch.tensor(0.01)
    return parts, expected


def words(numbers, bits, dim):
    """Unsigned numbers along a dimension to int32, the first lowest."""
    numbers = numbers.movedim(dim, -1)
    numbers = numbers.reshape(*numbers.shape[:-1], -1, 32 // bits).to(torch.int64)
    packed = (numbers << bits * torch.arange(32 // bits)).sum(-1)
    return (packed - ((packed >> 31) << 32)).to(torch.int32).movedim(-1, dim).contiguous()


def integers(weight, bits, group, symmetric, order=None):
    """Numbers, zeros and scales of groups along k, of float16 scales; `order[j]` is the k that comes j-th."""
    order = torch.arange(weight.shape[1]) if order is None else order
    group_of = torch.empty_like(order)
    group_of[order] = torch.arange(len(order)) // group
    half, zeros, scales = 1 << (bits - 1), [], []
    for index in range(int(group_of.max()) + 1):
        part = weight[:, group_of == index]
        if symmetric:
            scale = (part.abs().amax(1) / half).half().float()
            zero = torch.full_like(scale, half)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale = ((high - low) / (2 * half - 1)).half().float()
            zero = (-low / scale).round().clamp(1, 2 * half - 1)
        zeros.append(zero)
        scales.append(scale)
    zeros, scales = torch.stack(zeros, 1), torch.stack(scales, 1)
    spread = scales[:, group_of]
    numbers = (weight / spread + zeros[:, group_of]).round().clamp(0, 2 * half - 1)
    return numbers, zeros, scales, group_of, spread * (numbers - zeros[:, group_of])


def gptq(weight, bits, group, symmetric, minus, order=False):
    """AutoGPTQ: qweight packed along k, qzeros along features, 1 less in the first format."""
    order = torch.randperm(weight.shape[1]) if order else None
    numbers, zeros, scales, group_of, expected = integers(weight, bits, group, symmetric, order)
    parts = {
        "qweight": words(numbers.T, bits, 0),
        "qzeros": words(zeros.T - minus, bits, 1),
        "scales": scales.T.half().contiguous(),
        "g_idx": group_of.to(torch.int32),
    }
    return parts, expected


def awq(weight, group):
    """AutoAWQ GEMM: packed along features, eight of them in the order 0 2 4 6 1 3 5 7."""
    numbers, zeros, scales, _, expected = integers(weight, 4, group, False)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    shuffled = lambda values: values.reshape(values.shape[0], -1, 8)[:, :, order].reshape(values.shape)
    parts = {
        "qweight": words(shuffled(numbers.T), 4, 1),
        "qzeros": words(shuffled(zeros.T), 4, 1),
        "scales": scales.T.half().contiguous(),
    }
    back = AutoAWQConverter(group_size=group)._convert_gemm_module(parts["qweight"], parts["scales"], parts["qzeros"])
    found = (back[0].float().reshape(weight.shape[0], -1, group) - back[2].float()[:, :, None]) * back[1].float()[:, :, None]
    assert torch.equal(found.reshape(weight.shape), expected)
    return parts, expected


def compressed_config(format, **weights):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def gptq_config(bits, group, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": True, **more}


LAYOUTS = {
    "fp8-block": (float8_block, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
    "fp8-tensor": (float8_tensor, {"quant_method": "fp8", "activation_scheme": "static"}),
    "compressed-fp8": (float8_channel, compressed_config("float-quantized", num_bits=8, type="float", strategy="channel")),
    "compressed-int8": (int8_channel, compressed_config("int-quantized", num_bits=8, type="int", strategy="channel")),
    "compressed-int4": (
        lambda weight: compressed_words(weight, 4, 64, True),
        compressed_config("pack-quantized", num_bits=4, type="int", strategy="group", group_size=64),
    ),
    "compressed-int4-zeros": (
        lambda weight: compressed_words(weight, 4, 32, False),
        compressed_config("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32, symmetric=False),
    ),
    "gptq": (lambda weight: gptq(weight, 4, 128, True, 1), gptq_config(4, 128, desc_act=False)),
    "gptq-order": (lambda weight: gptq(weight, 4, 32, False, 1, order=True), gptq_config(4, 32, desc_act=True)),
    "gptq-v2": (lambda weight: gptq(weight, 4, 64, False, 0), gptq_config(4, 64, checkpoint_format="gptq_v2")),
    "gptq-int8": (lambda weight: gptq(weight, 8, 128, True, 1), gptq_config(8, 128)),
    "auto-round": (
        lambda weight: gptq(weight, 4, 64, False, 1),
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 64, "sym": False},
    ),
    "auto-round-awq": (
        lambda weight: awq(weight, 32),
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32, "sym": False},
    ),
    "awq": (
        lambda weight: awq(weight, 64),
        {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"},
    ),
    "modelopt-nvfp4": (
        lambda weight: float4(weight, 16, "modelopt"),
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
    ),
    "compressed-nvfp4": (
        lambda weight: float4(weight, 16, "compressed"),
        compressed_config("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
    ),
    "compressed-mxfp4": (
        lambda weight: float4(weight, 32, "compressed"),
        compressed_config("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32),
    ),
}


def main():
    here = pathlib.Path(__file__).parent
    for seed, (name, (quantize, quantization)) in enumerate(LAYOUTS.items()):
        torch.manual_seed(seed)
        tensors = {
            "model.embed_tokens.weight": torch.randn(VOCAB, HIDDEN).bfloat16(),
            "model.norm.weight": torch.ones(HIDDEN).bfloat16(),
            "model.layers.0.input_layernorm.weight": torch.ones(HIDDEN).bfloat16(),
            "model.layers.0.post_attention_layernorm.weight": torch.ones(HIDDEN).bfloat16(),
        }
        expected = {}
        for module, shape in SHAPES.items():
            parts, values = quantize(torch.randn(shape) * 0.1)
            tensors |= {f"model.layers.0.{module}.{part}": tensor for part, tensor in parts.items()}
            if module in EXPECTED:
                expected[module] = values[: EXPECTED[module]].contiguous()
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
            "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 32, "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": True, "quantization_config": quantization,
        }
        folder = here / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file(tensors, folder / "model.safetensors")
        save_file(expected, folder / "expected.safetensors")


main()
