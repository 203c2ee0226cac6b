#!/usr/bin/env python3
"""Decoding speed of PyTorch and transformers on the shapes of gpu_bench, with random weights: what to compare with.

    gpu_peer.py [--check] [--model 1b|8b] [--json FILE]

generate() of transformers in BF16, greedy, at batch 1 and 16 after prompts of 128 tokens. The time of a token is that
of the longer of two generations less the shorter, over the tokens between, so that the prompt does not count. Weights
are made on the GPU; models that it has no room for are left out, with a line that says so.
--check says in one line why it cannot run here, with exit code 1, or nothing with 0. Otherwise exit code 0, or 1 when
it could not measure.
"""
import argparse
import importlib.util
import json
import sys
import time

SHAPES = {
    "1b": dict(num_hidden_layers=16, hidden_size=2048, intermediate_size=8192, num_attention_heads=32,
               num_key_value_heads=8, head_dim=64, vocab_size=128256),
    "8b": dict(num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, vocab_size=128256),
}
BATCHES = (1, 16)
PROMPT, SHORT, LONG = 128, 16, 80  # tokens
ROUNDS = 3
MARGIN_BYTES = 4 << 30  # beside the weights


def why_not():
    """Why nothing can be measured here, or None."""
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            return f"Python has no {module}"
    import torch
    return None if torch.cuda.is_available() else "PyTorch sees no GPU"


def weight_bytes(shape):
    hidden, heads = shape["hidden_size"], shape["head_dim"]
    attention = 2 * hidden * heads * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    layer = attention + 3 * hidden * shape["intermediate_size"]
    return 2 * (shape["num_hidden_layers"] * layer + 2 * shape["vocab_size"] * hidden)


def seconds_of(model, tokens, count):
    """Of one generation of `count` tokens, the best of ROUNDS."""
    import torch
    best = float("inf")
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, min_new_tokens=count,
                       max_new_tokens=count, pad_token_id=0)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def measure(name):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    shape = SHAPES[name]
    free, _ = torch.cuda.mem_get_info()
    if weight_bytes(shape) + MARGIN_BYTES > free:
        print(f"{name:<7} skipped: more memory than the GPU has free")
        return []
    config = LlamaConfig(**shape, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.eval()
    results = []
    for batch in BATCHES:
        tokens = torch.randint(1, shape["vocab_size"], (batch, PROMPT), device="cuda")
        model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=4, pad_token_id=0)
        seconds = (seconds_of(model, tokens, LONG) - seconds_of(model, tokens, SHORT)) / (LONG - SHORT)
        results.append({"model": name, "weights": "bf16", "step": f"decode {batch}", "seconds": seconds,
                        "tokens_per_s": batch / seconds})
        print(f"{name:<7} bf16  decode {batch:<13} {batch / seconds:>10.1f} tokens/s {seconds * 1e3:>9.3f} ms  "
              f"transformers", flush=True)
    del model
    torch.cuda.empty_cache()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--model", choices=sorted(SHAPES))
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    why = why_not()
    if why is not None:
        print(why)
        return 1
    if options.check:
        return 0
    import torch
    import transformers
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    with torch.inference_mode():
        results = [result for name in SHAPES if options.model in (None, name) for result in measure(name)]
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
                       "transformers": transformers.__version__, "steps": results}, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
