"""Writes a Mixtral directory as the GGUF file that llama.cpp's converter makes of it. Standard library only."""

import array
import json
import struct

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5  # of metadata values
GGML_F32, GGML_Q8_0, GGML_BF16 = 0, 8, 30
ALIGNMENT = 32
BLOCK = 32
NORMAL, CONTROL = 1, 3  # kinds of tokens
SMALLEST_F16 = 2.0 ** -24


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def metadata(key, kind, value):
    pack = {U32: lambda v: struct.pack("<I", v), F32: lambda v: struct.pack("<f", v), STRING: text,
            I32: lambda v: struct.pack("<i", v)}
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(map(pack[kind], value))
    return text(key) + struct.pack("<I", kind) + pack[kind](value)


def floats(bf16):
    """BF16 numbers as float32: their bits are the upper halves."""
    return array.array("f", b"".join(b"\0\0" + bf16[i:i + 2] for i in range(0, len(bf16), 2)))


def q8_0(bf16):
    values = floats(bf16)
    blocks = []
    for first in range(0, len(values), BLOCK):
        block = values[first:first + BLOCK]
        scale = max(max(block), -min(block)) / 127 or SMALLEST_F16
        blocks.append(struct.pack("<e32b", scale, *[round(value / scale) for value in block]))
    return b"".join(blocks)


def interleaved(rows, row_bytes, head_dim):
    """Row i of the second half of each head goes behind row i of the first."""
    half = head_dim // 2
    return b"".join(rows[(head + part * half + i) * row_bytes:][:row_bytes]
                    for head in range(0, len(rows) // row_bytes, head_dim) for i in range(half) for part in range(2))


class Tensors:
    """The tensors of a safetensors file in BF16."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            self.data = file.read()

    def __getitem__(self, name):
        entry = self.header[name]
        assert entry["dtype"] == "BF16", name
        begin, end = entry["data_offsets"]
        return self.data[begin:end]

    def shape(self, name):
        return self.header[name]["shape"]


def tokenizer_metadata(model):
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    template = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
    return [metadata("tokenizer.ggml.model", STRING, "gpt2"), metadata("tokenizer.ggml.pre", STRING, "qwen2"),
            metadata("tokenizer.ggml.tokens", STRING, tokens),
            metadata("tokenizer.ggml.token_type", I32, [CONTROL if i in special else NORMAL
                                                        for i in range(len(tokens))]),
            metadata("tokenizer.ggml.merges", STRING, [" ".join(pair) for pair in tokenizer["model"]["merges"]]),
            metadata("tokenizer.chat_template", STRING, template)]


def write_mixtral_gguf(model, path):
    """Experts in Q8_0, norms and routers in F32, all else in BF16 as it is. The embedding must be tied."""
    config = json.loads((model / "config.json").read_text())
    weights = Tensors(model / "model.safetensors")
    values = [metadata("general.architecture", STRING, "llama")]
    for key, value in {"block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
                       "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size"],
                       "attention.head_count": config["num_attention_heads"],
                       "attention.head_count_kv": config["num_key_value_heads"],
                       "rope.dimension_count": config["head_dim"], "expert_count": config["num_local_experts"],
                       "expert_used_count": config["num_experts_per_tok"]}.items():
        values.append(metadata("llama." + key, U32, value))
    values.append(metadata("llama.rope.freq_base", F32, config["rope_theta"]))
    values.append(metadata("llama.attention.layer_norm_rms_epsilon", F32, config["rms_norm_eps"]))
    values.append(metadata("tokenizer.ggml.eos_token_id", U32, config["eos_token_id"]))
    values += tokenizer_metadata(model)

    tensors = []  # name, shape outermost first, type, bytes

    def add(name, source, kind=GGML_BF16):
        data = weights[source]
        tensors.append((name, weights.shape(source), kind, floats(data).tobytes() if kind == GGML_F32 else data))

    add("token_embd.weight", "model.embed_tokens.weight")
    add("output_norm.weight", "model.norm.weight", GGML_F32)
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"blk.{layer}.", f"model.layers.{layer}."
        add(ours + "attn_norm.weight", theirs + "input_layernorm.weight", GGML_F32)
        add(ours + "ffn_norm.weight", theirs + "post_attention_layernorm.weight", GGML_F32)
        add(ours + "attn_v.weight", theirs + "self_attn.v_proj.weight")
        add(ours + "attn_output.weight", theirs + "self_attn.o_proj.weight")
        for name in ("q", "k"):
            source = f"{theirs}self_attn.{name}_proj.weight"
            rows = interleaved(weights[source], 2 * config["hidden_size"], config["head_dim"])
            tensors.append((f"{ours}attn_{name}.weight", weights.shape(source), GGML_BF16, rows))
        add(ours + "ffn_gate_inp.weight", theirs + "block_sparse_moe.gate.weight", GGML_F32)
        for name, source in {"gate": "w1", "up": "w3", "down": "w2"}.items():
            experts = [f"{theirs}block_sparse_moe.experts.{expert}.{source}.weight"
                       for expert in range(config["num_local_experts"])]
            tensors.append((f"{ours}ffn_{name}_exps.weight", [len(experts), *weights.shape(experts[0])], GGML_Q8_0,
                            b"".join(q8_0(weights[expert]) for expert in experts)))

    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values)
    data = b""
    for name, shape, kind, content in tensors:
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
        data += content + bytes(-len(content) % ALIGNMENT)
    path.write_bytes(header + bytes(-len(header) % ALIGNMENT) + data)
