#!/usr/bin/env python3
"""Asks a model directory the held-out questions through Hugging Face transformers.

    evaluate.py tutor
    evaluate.py tutor-moe --system "You are a helpful assistant."
    evaluate.py tutor --history 6      # every question after six others in one chat

Greedy; an answer counts if it equals the right one exactly.
"""
import argparse
import collections
import json
import os
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def ask(model, tokenizer, chats):
    """The greedy answers to a batch of chats."""
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
             for c in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left",
                      add_special_tokens=False, return_token_type_ids=False)
    with torch.inference_mode():
        out = model.generate(**batch, do_sample=False, max_new_tokens=64)
    return tokenizer.batch_decode(out[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("model")
    p.add_argument("--questions", default=os.path.join(here, "held_out.jsonl"))
    p.add_argument("--system", help="a system message before every question")
    p.add_argument("--history", type=int, default=0, help="right question-answer pairs before it")
    p.add_argument("--dtype", default="bfloat16")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", type=int, default=50)
    p.add_argument("--wrong", action="store_true", help="print the wrong answers")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=a.dtype).eval()
    with open(a.questions, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    pick = random.Random(0)
    chats = []
    for line in lines:
        chat = [{"role": "system", "content": a.system}] if a.system else []
        for old in pick.sample(lines, a.history):
            chat += [{"role": "user", "content": old["question"]},
                     {"role": "assistant", "content": old["answer"]}]
        chats.append(chat + [{"role": "user", "content": line["question"]}])
    answers = []
    for k in range(0, len(chats), a.batch):
        answers += ask(model, tokenizer, chats[k:k + a.batch])
    right, asked = collections.Counter(), collections.Counter()
    for line, answer in zip(lines, answers):
        asked[line["task"]] += 1
        right[line["task"]] += answer == line["answer"]
        if a.wrong and answer != line["answer"]:
            print(f"{line['task']}: {line['question']!r} -> {answer!r}, not {line['answer']!r}")
    for task in asked:
        print(f"{task:16} {right[task]:4} of {asked[task]:4}")
    total = sum(right.values())
    print(f"{'all':16} {total:4} of {len(lines):4}  {100 * total / len(lines):.1f} %")


if __name__ == "__main__":
    main()
