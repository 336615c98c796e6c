"""Makes the compact conformance files from the full ones: python make.py SOURCE_DIR (needs: pip install gguf numpy).

SOURCE_DIR holds gguf/<family>-f32.gguf and models/<family>/{config.json,golden.json,golden.safetensors}. The matrices of these tiny random
models are bfloat16 numbers, so storing them as BF16 loses nothing (checked here) and halves the size. Keys that llama.cpp's converter leaves out, because llama.cpp assumes
their values, are added from config.json where a tiny model has others.
Writes <family>.gguf, <family>.safetensors and <family>.json beside this script, and hf/<family>/ for some.
"""
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np

FAMILIES = [
    "llama3", "qwen3", "gemma3", "phi4mini", "ministral3", "gpt_oss_mxfp4", "llama4_scout", "gemma4_26b", "deepseek_v3",
    "qwen35_vl", "gemma4_e2b", "glm5_shared", "modernbert",
]
DIRECTORIES = ["llama3", "qwen3", "gpt_oss_mxfp4", "qwen35_vl"]
# Without the files of their tokenizers, which are the same.
BARE_DIRECTORIES = ["gemma2", "bert"]
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def copy_key(writer, field):
    kind = field.types[0]
    if kind == gguf.GGUFValueType.ARRAY:
        writer.add_key_value(field.name, field.contents(), kind, sub_type=field.types[-1])
    else:
        writer.add_key_value(field.name, field.contents(), kind)


def add_missing_keys(writer, architecture, config):
    if "attention_chunk_size" in config:
        writer.add_uint32(f"{architecture}.attention.chunk_size", config["attention_chunk_size"])
        writer.add_uint32(f"{architecture}.attention.temperature_length", config["floor_scale"])
    if "query_pre_attn_scalar" in config:
        writer.add_float32(f"{architecture}.attention.scale", config["query_pre_attn_scalar"] ** -0.5)
        windows = [kind == "sliding_attention" for kind in config["layer_types"]]
        writer.add_array(f"{architecture}.attention.sliding_window_pattern", windows)


def convert(source, config, target):
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    add_missing_keys(writer, architecture, config)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            copy_key(writer, field)
    for tensor in reader.tensors:
        values = np.array(tensor.data)
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, values, raw_dtype=tensor.tensor_type)
            continue
        bits = values.view(np.uint32)
        if values.ndim > 1 and not (bits & 0xFFFF).any():
            packed = (bits >> 16).astype(np.uint16)
            writer.add_tensor(tensor.name, packed.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    source, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
    for family in sorted({*FAMILIES, *DIRECTORIES, *BARE_DIRECTORIES}):
        model = source / "models" / family
        shutil.copyfile(model / "golden.safetensors", here / f"{family}.safetensors")
        shutil.copyfile(model / "golden.json", here / f"{family}.json")
    for family in FAMILIES:
        model = source / "models" / family
        config = json.loads((model / "config.json").read_text())
        convert(source / "gguf" / f"{family}-f32.gguf", config, here / f"{family}.gguf")
    for family in BARE_DIRECTORIES:
        (here / "hf" / family).mkdir(parents=True, exist_ok=True)
        for name in ["config.json", "model.safetensors"]:
            shutil.copyfile(source / "models" / family / name, here / "hf" / family / name)
    for family in DIRECTORIES:
        (here / "hf" / family).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(source / "models" / family / name, here / "hf" / family / name)


main()
