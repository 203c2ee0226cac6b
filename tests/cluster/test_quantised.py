"""What quantising costs: tutor's answers through running clusters, whole and quantised; and files as they are."""

import concurrent.futures
import json
import pathlib
import subprocess
import tempfile
import unittest

from harness import FIXTURES, ROOT, TROUPE, TUTOR, Cluster
from topologies import ONE_PROCESS, TWO_BY_TWO

SPLIT = """
cluster: {name}
model: {model}
nodes:
  - {{name: left, host: localhost, devices: [cpu:0]}}
  - {{name: right, host: localhost, devices: [cpu:1]}}
parallel: {{pipeline: 1, tensor: 2}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
"""
QUESTIONS = [json.loads(line) for line in (ROOT / "examples/models/held_out.jsonl").read_text().splitlines()]


def right_answers(topology, model, name):
    """How many of the held-out questions a cluster answers right."""
    with Cluster(topology, model=model, name=name) as cluster:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda item: cluster.ask(item["question"]), QUESTIONS))
    return sum(answer.strip() == item["answer"].strip() for answer, item in zip(answers, QUESTIONS))


def quantize(model, format, out):
    return subprocess.run([TROUPE, "quantize", str(model), "--format", format, "--out", str(out)],
                          capture_output=True, text=True)


class Quantised(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="troupe-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_a_quantised_tutor_keeps_its_right_answers(self):
        whole = right_answers(ONE_PROCESS, TUTOR, "whole")
        for format, share in {"q8": 0.98, "q4": 0.95}.items():
            out = self.folder / format / "tutor"
            made = quantize(TUTOR, format, out)
            self.assertEqual(made.returncode, 0, made.stderr)
            kept = right_answers(ONE_PROCESS, out, format)
            print(f"tutor in {format}: {kept} right, {whole} before")
            self.assertGreaterEqual(kept, share * whole, format)

    def test_narrow_kv_pages_keep_the_right_answers(self):
        whole = right_answers(ONE_PROCESS, TUTOR, "whole")
        for kv_dtype in ("f16", "bf16", "int8", "fp8"):
            kept = right_answers(ONE_PROCESS + f"kv_dtype: {kv_dtype}\n", TUTOR, kv_dtype)
            print(f"tutor with KV pages in {kv_dtype}: {kept} right, {whole} before")
            self.assertGreaterEqual(kept, 0.98 * whole, kv_dtype)

    def test_ranks_and_stages_share_a_quantised_model(self):
        out = self.folder / "q8" / "tutor"
        self.assertEqual(quantize(TUTOR, "q8", out).returncode, 0)
        questions = [item["question"] for item in QUESTIONS[:12]]
        right = 0
        with Cluster(TWO_BY_TWO, model=out, name="split") as cluster:
            for item in QUESTIONS[:12]:
                right += cluster.ask(item["question"]).strip() == item["answer"].strip()
        self.assertGreaterEqual(right, 0.9 * len(questions))

    def test_what_cannot_be_quantised_is_refused(self):
        out = self.folder / "q8" / "tutor"
        self.assertEqual(quantize(TUTOR, "q8", out).returncode, 0)
        again = quantize(out, "q4", self.folder / "q4")
        self.assertEqual(again.returncode, 2)
        self.assertIn("quantised already", again.stderr)
        occupied = quantize(TUTOR, "q8", out)
        self.assertEqual(occupied.returncode, 2)
        self.assertIn("not an empty directory", occupied.stderr)
        self.assertEqual(quantize(TUTOR, "q5", self.folder / "q5").returncode, 2)
        self.assertEqual(quantize(self.folder / "absent", "q8", self.folder / "new").returncode, 2)
        self.assertFalse((self.folder / "new").exists())


@unittest.skipUnless((FIXTURES / "stories260K").exists(), f"no fixtures in {FIXTURES}; set TROUPE_FIXTURES")
class Gguf(unittest.TestCase):
    def test_a_gguf_file_says_what_its_safetensors_say(self):
        texts = {}
        for model in ("stories260K.gguf", "hf-f32"):
            for name, topology in {"one": ONE_PROCESS, "split": SPLIT}.items():
                with Cluster(topology + "served_model_name: stories\n", model=FIXTURES / "stories260K" / model,
                             name="stories") as cluster:
                    status, answer = cluster.post("/v1/completions", {
                        "model": "stories", "prompt": [1, 403, 407, 261, 378], "max_tokens": 40, "temperature": 0,
                        "return_token_ids": True})
                    self.assertEqual(status, 200, answer)
                    texts[model, name] = answer["choices"][0]["token_ids"]
        self.assertEqual(len({tuple(ids) for ids in texts.values()}), 1, texts)


if __name__ == "__main__":
    unittest.main()
