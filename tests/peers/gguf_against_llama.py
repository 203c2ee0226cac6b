#!/usr/bin/env python3
"""Compares troupe's greedy tokens with llama.cpp's on the same GGUF file, question by question.

    gguf_against_llama.py FILE.gguf --questions examples/models/held_out.jsonl --llama "llama-server -m FILE.gguf"

Both servers get the same text; llama.cpp's command is run as given, with --port added. The answers must agree up to
the first near-tie: a step at which llama.cpp's two best tokens are less than --tie apart in log-probability (0.25: a
ratio of 1.28), where the formats' own error decides. Also prints how far the log-probabilities of the agreed tokens
lie apart. Exit code 1 when an answer differs before a near-tie. Standard library only.
"""
import argparse
import json
import pathlib
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.loads(response.read())


class Server:
    def __init__(self, command, ready_path):
        self.port = free_port()
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{ready_path}", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise SystemExit(f"{command[0]} does not become ready")
                time.sleep(0.1)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


def steps_of(answer):
    """Each token of an answer of llama.cpp's with its probabilities, or None: there are none for a token that ends
    within a UTF-8 character. The token that ends the answer may only be among the probabilities."""
    left = list(answer["completion_probabilities"])
    steps = [(token, left.pop(0) if left and left[0]["id"] == token else None) for token in answer["tokens"]]
    return steps + [(step["id"], step) for step in left]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--questions", default=ROOT / "examples/models/held_out.jsonl", type=pathlib.Path)
    parser.add_argument("--llama", required=True, help="command that serves the same file with llama.cpp")
    parser.add_argument("--troupe", default=str(ROOT / "build/release/bin/troupe"))
    parser.add_argument("--count", type=int, default=100, help="questions to ask")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--tie", type=float, default=0.25)
    arguments = parser.parse_args()

    questions = [json.loads(line)["question"] for line in arguments.questions.read_text().splitlines()]
    theirs = Server(shlex.split(arguments.llama), "/health")
    ours = Server([arguments.troupe, "serve", arguments.file, "--served-model-name", "m", "--threads", "1"], "/ready")
    agreed = ties = 0
    wrong, apart = [], []
    try:
        for question in questions[:arguments.count]:
            prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            answer = post(theirs.port, "/completion", {"prompt": prompt, "n_predict": arguments.tokens,
                                                       "temperature": 0, "n_probs": 2, "cache_prompt": False,
                                                       "return_tokens": True})
            choice = post(ours.port, "/v1/completions", {"model": "m", "prompt": prompt, "temperature": 0,
                                                         "max_tokens": arguments.tokens, "logprobs": 1,
                                                         "return_token_ids": True})["choices"][0]
            for step, (token, probabilities) in enumerate(steps_of(answer)):
                if step < len(choice["token_ids"]) and choice["token_ids"][step] == token:
                    agreed += 1
                    if probabilities is not None:
                        apart.append(abs(choice["logprobs"]["token_logprobs"][step] - probabilities["logprob"]))
                    continue
                best = probabilities["top_logprobs"] if probabilities is not None else None
                if best is not None and best[0]["logprob"] - best[1]["logprob"] < arguments.tie:
                    ties += 1
                elif step < len(choice["token_ids"]) or choice["finish_reason"] == "length":
                    wrong.append((question, step, token, choice["token_ids"]))
                break
    finally:
        ours.stop()
        theirs.stop()
    print(f"{arguments.file}: {agreed} tokens agree, {ties} answers part at a near-tie, {len(wrong)} before one; "
          f"log-probabilities apart: median {statistics.median(apart):.4f}, at most {max(apart):.4f}")
    for question, step, wanted, got in wrong[:5]:
        print(f"  {question!r}, token {step}: {wanted} wanted, got {got}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
