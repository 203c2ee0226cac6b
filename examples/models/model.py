"""The tutor models in plain PyTorch: Llama, and Mixtral with --moe.

The parameters are named as in transformers. The start of the weights is not all noise:
see Model.prepare_attention, and upcycle for the model with experts.
"""
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

VOCABULARY = 1664


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
        self.prepare_attention(c)

    @torch.no_grad()
    def prepare_attention(self, c):
        """Starts attention near what nearly all tasks need and what forms slowly from noise:
        heads of layer 0 look 1 to 4 tokens back, and half of the heads above find the like of a
        token further back and copy what stands after it or before it."""
        h, dim = c["hidden_size"], c["head_dim"]
        half, speed = dim // 2, c["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        common = F.normalize(torch.randn(h), dim=0)  # in every token, to attend by place alone
        embed = self.model.embed_tokens.weight
        embed.add_(0.02 * 0.7 * h ** 0.5 * common)
        near = (torch.arange(half) < 4).float()  # the fast frequencies tell places apart ...
        far = 2.0 * (torch.arange(dim) % half >= half // 2)[:, None]  # ... the slow ones keep still

        def frame():  # of a random subspace, as rows
            rows = torch.linalg.qr(torch.randn(h, dim))[0].T
            return rows - (rows @ common)[:, None] * common

        before = []  # (how the token before is read, where it is written)
        for n, layer in enumerate(self.model.layers):
            q, k, v, o = (getattr(layer.self_attn, f"{x}_proj").weight for x in "qkvo")
            for g in range(c["num_key_value_heads"]):
                rows, read = slice(g * dim, (g + 1) * dim), frame()
                heads = [slice(i * dim, (i + 1) * dim) for i in (2 * g, 2 * g + 1)]
                if n == 0:
                    k[rows].add_(0.63 * torch.cat((near, 0 * near))[:, None] * common)
                    for i, head in enumerate(heads):
                        angle = (1 + i + 2 * (g == 3)) * speed
                        turned = torch.cat((near * angle.cos(), -near * angle.sin()))
                        q[head].add_(0.63 * turned[:, None] * common)
                        write = frame()
                        v[rows].add_(read if i == 0 else 0)
                        o[:, head].add_(0.05 * write.T)
                        if i == 0 and g < 3:
                            before.append((read, write))
                elif g % 2 == 0:  # where did my like stand before this one? copy this one
                    own, prior = before[g % 3]
                    q[heads[0]].add_(far * own)
                    k[rows].add_(far * prior)
                    v[rows].add_(read)
                    o[:, heads[0]].add_(0.03 * read.T)
                else:  # where is my like? copy what stands before it
                    own, prior = before[g % 3]
                    q[heads[0]].add_(far * own)
                    k[rows].add_(far * own)
                    v[rows].add_(prior)
                    o[:, heads[0]].add_(0.03 * own.T)

    def logits(self, tokens, keep):
        """(kept positions, vocabulary): the logits where `keep` says so; and the mean balance
        loss."""
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        balance = 0.0
        # The last feed-forward part is run at the kept positions alone.
        for n, layer in enumerate(self.model.layers, 1):
            last = n == len(self.model.layers)
            x, b = layer(x, cos, sin, keep if last else None)
            balance = balance + b / len(self.model.layers)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight).float(), balance

    def forward(self, tokens, labels):
        """The mean loss over the labels >= 0, and the mean balance loss."""
        keep = labels >= 0
        logits, balance = self.logits(tokens, keep)
        return F.cross_entropy(logits, labels[keep]), balance


def upcycle(model, path, seed):
    """Starts a model with experts as the same function as a dense one (Komatsuzaki et al.
    2022): each pair of experts is the dense feed-forward part, split at random, and the two
    have the same row in the router, so that both or neither are chosen, at half a weight each.
    Training then tells the pairs, and the two of a pair, apart."""
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
        seats = torch.randperm(len(moe.experts), generator=chance).view(-1, 2)
        for pair in seats:
            parts = torch.randperm(len(gate), generator=chance).view(2, -1)
            for k, part in zip(pair, parts):
                e = moe.experts[int(k)]
                e.w1.weight.data.copy_(gate[part])
                e.w3.weight.data.copy_(up[part])
                e.w2.weight.data.copy_(down[:, part] * 2)
        rows = torch.randn(len(moe.experts) // 2, gate.shape[1], generator=chance) * 0.02
        moe.gate.weight.data[seats.reshape(-1)] = rows.repeat_interleave(2, 0)
