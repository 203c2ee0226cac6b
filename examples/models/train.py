#!/usr/bin/env python3
"""Trains a tutor model on two CPU cores and writes it in the Hugging Face layout.

    train.py --corpus corpus.jsonl --out tutor          # Llama architecture
    train.py --corpus corpus.jsonl --out tutor-moe --moe --start tutor   # Mixtral architecture

The model is written here in plain PyTorch, with the tensor names that transformers
uses, so that writing it out is a cast to BF16. Training reads conversations of several
questions, packed to a fixed length, and takes the loss on the answers alone. The
learning rate is constant and falls to zero over the last part of --minutes; a checkpoint
beside the output is written every few minutes, and a second start goes on from it.
"""
import argparse
import json
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 1664
SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a helpful assistant.",
                  "You are Tutor.", "Answer briefly.", "You are a friendly teacher.",
                  "You answer short questions."]
# As Qwen2 splits: every digit alone, a word with the space or the hyphen before it.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
                 "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


# ---------------------------------------------------------------- tokenizer
def train_tokenizer(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL],
        show_progress=False)
    texts = ["user\n", "assistant\n", "system\n"] * 1000 + SYSTEM_PROMPTS * 100
    texts += [t for line in lines for t in (line["question"], line["answer"])]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


# ---------------------------------------------------------------- model
class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.dim = (c["num_attention_heads"], c["num_key_value_heads"],
                                         c["head_dim"])
        h = c["hidden_size"]
        self.q_proj = nn.Linear(h, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(h, self.kv * self.dim, bias=False)
        self.v_proj = nn.Linear(h, self.kv * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, h, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape

        def turn(y, n):
            y = y.view(b, t, n, self.dim)
            one, two = y.chunk(2, -1)
            return torch.cat((one * cos - two * sin, two * cos + one * sin), -1).transpose(1, 2)

        q, k = turn(self.q_proj(x), self.heads), turn(self.k_proj(x), self.kv)
        v = self.v_proj(x).view(b, t, self.kv, self.dim).transpose(1, 2)
        group = self.heads // self.kv
        k, v = (y.repeat_interleave(group, 1) for y in (k, v))
        # Written out, as the fused kernel's backward pass is slow on the CPU at this size.
        mask = torch.full((t, t), float("-inf")).triu(1)
        y = ((q @ k.mT) * self.dim ** -0.5 + mask).softmax(-1).to(v.dtype) @ v
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class Dense(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, i = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(h, i, bias=False)
        self.up_proj = nn.Linear(h, i, bias=False)
        self.down_proj = nn.Linear(i, h, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)), 0.0


class Expert(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, i = c["hidden_size"], c["intermediate_size"]
        self.w1 = nn.Linear(h, i, bias=False)
        self.w2 = nn.Linear(i, h, bias=False)
        self.w3 = nn.Linear(h, i, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Experts(nn.Module):
    """Top 2 of 8, weighted by the softmax over the two (Mixtral)."""

    def __init__(self, c):
        super().__init__()
        self.gate = nn.Linear(c["hidden_size"], c["num_local_experts"], bias=False)
        self.experts = nn.ModuleList(Expert(c) for _ in range(c["num_local_experts"]))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        n = len(self.experts)
        logits = F.linear(flat.float(), self.gate.weight)  # autocast would round the choice
        shares = logits.softmax(-1)
        top, choice = shares.topk(2, -1)
        weight = (top / top.sum(-1, keepdim=True)).reshape(-1)
        choice = choice.reshape(-1)
        order = choice.argsort(stable=True)
        counts = torch.bincount(choice, minlength=n)
        token = order // 2
        parts = flat[token].split(counts.tolist())
        out = torch.cat([e(p) for e, p in zip(self.experts, parts)])
        out = out.float() * weight[order, None]
        out = torch.zeros_like(flat, dtype=torch.float32).index_add(0, token, out)
        balance = n * (counts / counts.sum() * shares.mean(0)).sum()
        return out.view(x.shape), balance


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"])
        self.moe = "num_local_experts" in c
        if self.moe:
            self.block_sparse_moe = Experts(c)
        else:
            self.mlp = Dense(c)

    def forward(self, x, cos, sin, keep=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        x = x if keep is None else x[keep]
        y, balance = (self.block_sparse_moe if self.moe else self.mlp)(
            self.post_attention_layernorm(x))
        return x + y, balance


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = Norm(c["hidden_size"])
        dim = c["head_dim"]
        speed = c["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        angle = torch.outer(torch.arange(c["max_position_embeddings"]), speed)[:, None, :]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight", "w2.weight"))
                nn.init.normal_(p, std=0.02 if not deep else 0.006)

    def forward(self, tokens, labels):
        """The mean loss over the labels >= 0, and the mean balance loss."""
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        balance = 0.0
        keep = labels >= 0  # the last feed-forward part is run at these positions alone
        for n, layer in enumerate(self.model.layers, 1):
            last = n == len(self.model.layers)
            x, b = layer(x, cos, sin, keep if last else None)
            balance = balance + b / len(self.model.layers)
        logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)
        return F.cross_entropy(logits.float(), labels[keep]), balance


# ---------------------------------------------------------------- optimizer
class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024), for matrices."""

    def __init__(self, params, lr, momentum=0.95, decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(m, group["momentum"]))
                x = torch.stack(updates).bfloat16()
                flip = shape[0] > shape[1]
                x = x.mT if flip else x
                x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    s = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
                x = x.mT if flip else x
                scale = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for p, u in zip(params, x):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(u.float(), alpha=-scale)


# ---------------------------------------------------------------- data
class Conversations:
    """Packs the corpus, in a shuffled order, into rows of several turns."""

    def __init__(self, lines, tokenizer):
        def encode(texts):
            return [e.ids for e in tokenizer.encode_batch(texts)]

        self.start, self.end = (tokenizer.token_to_id(s) for s in SPECIAL[1:])
        self.newline = tokenizer.encode("\n").ids
        self.user = encode(["user\n" + line["question"] for line in lines])
        self.answer = encode([line["answer"] for line in lines])
        self.assistant = encode(["assistant\n"])[0]
        self.system = encode(["system\n" + s for s in SYSTEM_PROMPTS])
        self.random = random.Random()
        self.order = []

    def row(self, length):
        tokens, labels = [], []

        def put(ids, learn=False):
            tokens.extend(ids)
            labels.extend(ids if learn else [-1] * len(ids))

        if self.random.random() < 0.3:
            put([self.start] + self.random.choice(self.system) + [self.end] + self.newline)
        while len(tokens) <= length:
            if not self.order:
                self.order = list(range(len(self.user)))
                self.random.shuffle(self.order)
            k = self.order.pop()
            put([self.start] + self.user[k] + [self.end] + self.newline)
            put([self.start] + self.assistant)
            put(self.answer[k] + [self.end], True)
            put(self.newline)
        return tokens[:length], labels[1:length + 1]

    def batch(self, size, length):
        rows = [self.row(length) for _ in range(size // length)]
        return (torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows]))


# ---------------------------------------------------------------- a start from a dense model
def upcycle(model, path, seed):
    """Starts a model with experts as the same function as a dense one (Komatsuzaki et al.
    2022): an expert is half of the dense feed-forward part, the two halves of a pair start
    with the same row in the router, so that both or neither are chosen, at half a weight each.
    Training then tells the four pairs, and the two of a pair, apart."""
    dense = {k: v.float() for k, v in load_file(os.path.join(path, "model.safetensors")).items()}
    own = model.state_dict()
    for name, value in dense.items():
        if ".mlp." not in name:
            own[name].copy_(value)
    chance = torch.Generator().manual_seed(seed)
    for n, layer in enumerate(model.model.layers):
        gate, up, down = (dense[f"model.layers.{n}.mlp.{p}_proj.weight"]
                          for p in ("gate", "up", "down"))
        moe = layer.block_sparse_moe
        for k, e in enumerate(moe.experts):
            half = slice(0, len(gate) // 2) if k % 2 == 0 else slice(len(gate) // 2, None)
            e.w1.weight.data.copy_(gate[half])
            e.w3.weight.data.copy_(up[half])
            e.w2.weight.data.copy_(down[:, half] * 2)
        rows = torch.randn(len(moe.experts) // 2, gate.shape[1], generator=chance) * 0.02
        moe.gate.weight.data.copy_(rows.repeat_interleave(2, 0))


# ---------------------------------------------------------------- export
def config_of(moe):
    c = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
         "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 6,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
         "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
         "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": True,
         "use_cache": True, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0,
         "torch_dtype": "bfloat16"}
    if moe:
        for key in ("rope_scaling", "attention_bias", "mlp_bias"):
            del c[key]
        c.update({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
                  "intermediate_size": 160, "num_local_experts": 8, "num_experts_per_tok": 2,
                  "router_aux_loss_coef": 0.01, "router_jitter_noise": 0.0,
                  "output_router_logits": False, "sliding_window": None})
    return c


def export(model, config, tokenizer, out):
    def write(name, value):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2)
            f.write("\n")

    os.makedirs(out, exist_ok=True)
    weights = {k: v.detach().bfloat16().contiguous() for k, v in model.state_dict().items()}
    path = os.path.join(out, "model.safetensors")
    save_file(weights, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)
    write("config.json", config)
    write("generation_config.json", {"do_sample": False, "eos_token_id": 2, "pad_token_id": 0,
                                     "max_new_tokens": 96})
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "model_max_length": config["max_position_embeddings"], "add_bos_token": False,
        "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE})


# ---------------------------------------------------------------- training
def share(model, done):
    """Averages the gradients, and how much is done, over the workers."""
    grads = [q.grad for q in model.parameters() if q.grad is not None]
    grads.append(torch.tensor([done]))
    flat = torch.cat([g.reshape(-1) for g in grads])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for g, part in zip(grads, flat.split([g.numel() for g in grads])):
        g.copy_(part.view_as(g))
    return float(grads[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--corpus", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--moe", action="store_true")
    p.add_argument("--minutes", type=float, default=60, help="from this start to the end")
    p.add_argument("--batch", type=int, default=6144, help="tokens in a step")
    p.add_argument("--lr", type=float, default=0.02, help="of the matrices (Muon)")
    p.add_argument("--lr-rest", type=float, default=0.003, help="of all else (AdamW)")
    p.add_argument("--fall", type=float, default=0.5, help="share of the time with a falling rate")
    p.add_argument("--start", help="with --moe: the dense model to take tokenizer and start from")
    p.add_argument("--workers", type=int, default=2, help="processes of one thread each; they "
                   "suffer less from other load than threads, which wait in every operation")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    with open(a.corpus, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    path = os.path.join(a.start or a.out, "tokenizer.json")
    if os.path.exists(path):
        tokenizer = Tokenizer.from_file(path)
    else:
        tokenizer = train_tokenizer(lines[:100000])
    data = Conversations(lines, tokenizer)
    meeting = a.out.rstrip("/") + ".meeting"
    if os.path.exists(meeting):
        os.remove(meeting)
    rank = 0
    while rank + 1 < a.workers and os.fork():
        rank += 1
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    torch.distributed.init_process_group("gloo", init_method="file://" + os.path.abspath(meeting),
                                         rank=rank, world_size=a.workers)
    config = config_of(a.moe)
    model = Model(config)
    if a.start:
        upcycle(model, a.start, a.seed)
    print("parameters", sum(q.numel() for q in model.parameters()), flush=True)
    matrices = [q for n, q in model.named_parameters()
                if q.dim() == 2 and "embed" not in n and ".gate." not in n]
    known = {id(q) for q in matrices}
    rest = [q for q in model.parameters() if id(q) not in known]
    optimizers = [Muon(matrices, a.lr), torch.optim.AdamW(rest, a.lr_rest, (0.9, 0.98),
                                                          weight_decay=0.0)]
    state, step, done = a.out.rstrip("/") + ".checkpoint", 0, 0.0
    if os.path.exists(state):
        s = torch.load(state)
        model.load_state_dict(s["model"])
        for o, saved in zip(optimizers, s["optimizers"]):
            o.load_state_dict(saved)
        step, done = s["step"], s.get("done", 0.0)
    data.random.seed(a.seed + step + 1000003 * rank)
    rates = [a.lr, a.lr_rest]
    began = shown_at = saved_at = time.time()
    past, shown = done, []
    while done < 1:
        rate = min(1.0, (step + 1) / 50, (1 - done) / a.fall)
        for o, lr in zip(optimizers, rates):
            for group in o.param_groups:
                group["lr"] = lr * rate
        length = 48 if done < 0.6 else 96 if done < 0.8 else 192 if done < 0.92 else 384
        tokens, labels = data.batch(a.batch // a.workers, length)
        with torch.autocast("cpu", torch.bfloat16):
            loss, balance = model(tokens, labels)
        (loss + 0.01 * balance).backward()
        done = share(model, past + (1 - past) * (time.time() - began) / 60 / a.minutes)
        for o in optimizers:
            o.step()
        model.zero_grad()
        step += 1
        if rank:
            continue
        shown.append(loss.item())
        if len(shown) == 50 or done >= 1:
            print(f"step {step} done {done:.3f} loss {sum(shown) / len(shown):.4f} balance "
                  f"{float(balance):.3f} {(time.time() - shown_at) / len(shown):.2f} s/step",
                  flush=True)
            shown, shown_at = [], time.time()
        if time.time() - saved_at > 150 or done >= 1:
            torch.save({"model": model.state_dict(), "step": step, "done": done,
                        "optimizers": [o.state_dict() for o in optimizers]}, state + ".new")
            os.replace(state + ".new", state)
            export(model, config, tokenizer, a.out)
            saved_at = time.time()
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
