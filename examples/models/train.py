#!/usr/bin/env python3
"""Trains a tutor model on two CPU cores and writes it in the Hugging Face layout.

    train.py --corpus corpus.jsonl --out tutor          # Llama architecture
    train.py --corpus corpus.jsonl --out tutor-moe --moe --start tutor   # Mixtral architecture

The model (model.py) has the tensor names that transformers uses, so that writing it out
is a cast to BF16. Training reads conversations of several
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
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model import VOCABULARY, Model, config_of, upcycle

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


# ---------------------------------------------------------------- export
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
    p.add_argument("--batch", type=int, default=4096, help="tokens in a step")
    p.add_argument("--lr", type=float, default=0.013, help="of the matrices (Muon)")
    p.add_argument("--lr-rest", type=float, default=0.003, help="of all else (AdamW)")
    p.add_argument("--fall", type=float, default=0.75, help="share of the time with a falling rate")
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
        length = 64 if done < 0.6 else 96 if done < 0.8 else 192 if done < 0.92 else 384
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
