#!/usr/bin/env python3
"""Distils a small draft model from a tutor model, for speculative decoding.

    distill.py --corpus corpus.jsonl --teacher tutor --out tutor-draft

The draft has the teacher's tokenizer and vocabulary. It learns the teacher's distribution
over each next token of an answer (Hinton et al. 2015), not the corpus' token: the loss is
KL(teacher || draft), because a guess is of use when the teacher would say it, right or wrong.
"""
import argparse
import json
import os
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from model import Model, config_of
from train import Conversations, Muon, export


def draft_config(teacher, hidden, layers):
    c = dict(teacher)
    c.update({"hidden_size": hidden, "intermediate_size": 2 * hidden,
              "num_hidden_layers": layers, "num_attention_heads": hidden // c["head_dim"],
              "num_key_value_heads": hidden // c["head_dim"] // 2})
    return c


def divergence(teacher, draft):
    """KL(teacher || draft) in nats, the mean over positions; both (positions, vocabulary)."""
    return F.kl_div(draft.log_softmax(-1), teacher.log_softmax(-1), log_target=True,
                    reduction="batchmean")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--corpus", required=True)
    p.add_argument("--teacher", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--minutes", type=float, default=25)
    p.add_argument("--batch", type=int, default=4096, help="tokens in a step")
    p.add_argument("--lr", type=float, default=0.013, help="of the matrices (Muon)")
    p.add_argument("--lr-rest", type=float, default=0.003, help="of all else (AdamW)")
    p.add_argument("--fall", type=float, default=0.75, help="share of the time with a falling rate")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tokenizer = Tokenizer.from_file(os.path.join(a.teacher, "tokenizer.json"))
    with open(a.corpus, encoding="utf-8") as f:
        data = Conversations([json.loads(line) for line in f], tokenizer)
    data.random.seed(a.seed)
    teacher = Model(config_of(False))
    weights = load_file(os.path.join(a.teacher, "model.safetensors"))
    teacher.load_state_dict({k: v.float() for k, v in weights.items()})
    config = draft_config(config_of(False), a.hidden, a.layers)
    draft = Model(config)
    print("parameters", sum(q.numel() for q in draft.parameters()), flush=True)
    matrices = [q for n, q in draft.named_parameters() if q.dim() == 2 and "embed" not in n]
    known = {id(q) for q in matrices}
    rest = [q for q in draft.parameters() if id(q) not in known]
    optimizers = [Muon(matrices, a.lr), torch.optim.AdamW(rest, a.lr_rest, (0.9, 0.98),
                                                          weight_decay=0.0)]
    began, step, done, shown = time.time(), 0, 0.0, []
    while done < 1:
        rate = min(1.0, (step + 1) / 50, (1 - done) / a.fall)
        for o, lr in zip(optimizers, (a.lr, a.lr_rest)):
            for group in o.param_groups:
                group["lr"] = lr * rate
        length = 64 if done < 0.6 else 96 if done < 0.8 else 192 if done < 0.92 else 384
        tokens, labels = data.batch(a.batch, length)
        keep = labels >= 0
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted, _ = teacher.logits(tokens, keep)
            given, _ = draft.logits(tokens, keep)
        loss = divergence(wanted, given)
        loss.backward()
        for o in optimizers:
            o.step()
        draft.zero_grad()
        step += 1
        done = (time.time() - began) / 60 / a.minutes
        shown.append((loss.item(), (wanted.argmax(-1) == given.argmax(-1)).float().mean().item()))
        if len(shown) == 50 or done >= 1:
            losses, agreed = zip(*shown)
            print(f"step {step} done {done:.3f} KL {sum(losses) / len(losses):.4f} "
                  f"agrees {sum(agreed) / len(agreed):.4f}", flush=True)
            shown = []
    export(draft, config, tokenizer, a.out)


if __name__ == "__main__":
    main()
