"""Guesses change nothing but the speed: the same tokens with and without, by text and by a draft, over any topology."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from harness import ROOT, TROUPE, TUTOR, Cluster, free_port
from topologies import ONE_PROCESS, TWO_BY_TWO, UNEVEN

DRAFT = ROOT / "examples/models/tutor-draft"

# A draft in a process of its own, beside the front; the model in two stages.
DRAFT_APART = f"""
cluster: {{name}}
model: {{model}}
nodes:
  - {{{{name: front, host: localhost, devices: [cpu:0]}}}}
  - {{{{name: back, host: localhost, devices: [cpu:1]}}}}
  - {{{{name: helper, host: localhost, devices: [cpu:1]}}}}
place:
  gateway: {{{{node: front, listen: 127.0.0.1:{{port}}}}}}
  stages:
    - {{{{layers: 0-2, shards: [front/cpu:0]}}}}
    - {{{{layers: 3-5, shards: [back/cpu:1]}}}}
speculation: {{{{draft: {{{{model: {DRAFT}, node: helper, device: cpu:1, max: 4}}}}}}}}
limits: {{{{kv_memory: 64MiB, restart_backoff_ms: 50}}}}
"""
DRAFT_BESIDE = ONE_PROCESS + f"speculation: {{{{draft: {{{{model: {DRAFT}}}}}}}}}\n"

WORDS = "Say these words again: " + "apple boat cat door egg fish " * 4


def requests():
    """(question, options): greedy and sampled, with everything that makes a token depend on those before it."""
    yield WORDS, {"temperature": 0}
    yield "What is 27 + 45?", {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    yield "Spell the word garden.", {"temperature": 0.8, "seed": 11}
    yield "Count from 3 to 9.", {"temperature": 0, "min_tokens": 30, "ignore_eos": True}
    for seed in range(4):
        yield "Count from 1 to 12.", {"temperature": 0.7, "seed": seed, "top_p": 0.9, "ignore_eos": True}
    yield WORDS, {"temperature": 0.5, "seed": 5, "frequency_penalty": 0.3, "presence_penalty": 0.2, "ignore_eos": True}
    yield WORDS, {"temperature": 0.3, "seed": 6, "repetition_penalty": 1.1, "logprobs": True, "ignore_eos": True}


class Speculation:
    """Run over several topologies."""

    topology = None

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cls.topology, name="speculation")
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def answer(self, question, speculation, **options):
        """(choice, usage)"""
        status, answer = self.cluster.post("/v1/chat/completions", {
            "model": "tutor", "max_tokens": 80, "return_token_ids": True, "speculation": speculation,
            "messages": [{"role": "user", "content": question}], **options})
        self.assertEqual(status, 200, answer)
        return answer["choices"][0], answer["usage"]

    def metric(self, name):
        _, text = self.cluster.get("/metrics")
        return float(re.search(rf"^troupe_scheduler_{name}(?:{{[^}}]*}})? (\S+)$", text, re.M).group(1))

    def check_guessed(self, accepted):
        self.assertGreater(accepted, 0)

    def check_all(self):
        accepted, guessed = 0, 0
        for question, options in requests():
            with_guesses, usage = self.answer(question, True, **options)
            without, plain_usage = self.answer(question, False, **options)
            self.assertEqual(with_guesses, without, (question, options))
            plain = plain_usage["completion_tokens_details"]
            self.assertEqual(plain, {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0})
            details = usage["completion_tokens_details"]
            accepted += details["accepted_prediction_tokens"]
            guessed += details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
            self.assertLess(details["accepted_prediction_tokens"], usage["completion_tokens"])
        return accepted, guessed

    def test_the_same_tokens_with_and_without_guesses(self):
        before = self.metric("guesses_total"), self.metric("accepted_guesses_total")
        accepted, guessed = self.check_all()
        self.check_guessed(accepted)
        self.assertGreaterEqual(self.metric("guesses_total") - before[0], guessed)
        self.assertGreaterEqual(self.metric("accepted_guesses_total") - before[1], accepted)
        self.assertGreaterEqual(self.metric("guess_acceptance"), 0)
        self.assertLessEqual(self.metric("guess_acceptance"), 1)


class NgramInOneProcess(Speculation, unittest.TestCase):
    topology = ONE_PROCESS

    def test_a_wrong_value_is_refused_by_its_name(self):
        status, answer = self.cluster.post("/v1/chat/completions", {
            "model": "tutor", "speculation": "off", "messages": [{"role": "user", "content": "Hi"}]})
        self.assertEqual((status, answer["error"]["param"]), (400, "speculation"))

    def test_text_that_repeats_itself_is_guessed(self):
        _, usage = self.answer(WORDS * 2, True, temperature=0, ignore_eos=True, max_tokens=200)
        self.assertGreater(usage["completion_tokens_details"]["accepted_prediction_tokens"], 20)
        self.assertGreater(self.metric("guess_accepted_length"), 0.5)


class NgramOverTwoStagesOfTwoRanks(Speculation, unittest.TestCase):
    topology = TWO_BY_TWO


class NgramOverThreeStages(Speculation, unittest.TestCase):
    topology = UNEVEN


class Draft(Speculation):
    """On a busy machine its guesses may come too late to be worth waiting for; but it was asked for them."""

    def check_guessed(self, _):
        _, text = self.cluster.get("/metrics")
        self.assertGreater(float(re.search(r"^troupe_draft_guesses_total{[^}]*} (\S+)$", text, re.M).group(1)), 0)


class DraftInOneProcess(Draft, unittest.TestCase):
    topology = DRAFT_BESIDE

    def test_most_guesses_of_the_shipped_draft_come_true(self):
        accepted, guessed = 0, 0
        for line in (ROOT / "examples/models/held_out.jsonl").read_text().splitlines()[:100]:
            _, usage = self.answer(json.loads(line)["question"], True, temperature=0)
            details = usage["completion_tokens_details"]
            accepted += details["accepted_prediction_tokens"]
            guessed += sum(details.values())
        self.assertGreaterEqual(accepted, 0.5 * (guessed - 40), "of few, by chance less")


class DraftInAProcessOfItsOwn(Draft, unittest.TestCase):
    topology = DRAFT_APART

    def test_the_loss_of_the_draft_ends_no_cluster(self):
        status = self.cluster.status()
        draft = next(actor for actor in status["actors"] if actor["actor"] == "draft/0")
        self.assertEqual(draft["node"], "helper")
        os.kill(draft["pid"], signal.SIGKILL)
        self.cluster.wait_ready_after(status["epoch"])
        self.check_all()
        self.check_guessed(0)


class Configuration(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="troupe-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_troupe(self, *arguments):
        return subprocess.run([TROUPE, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                              env=dict(os.environ, TROUPE_RUN_DIR=str(self.folder / "run")))

    def test_speculate_names_what_it_takes(self):
        for verb in (["serve", TUTOR], ["bench", "--local", TUTOR]):
            ran = self.run_troupe(*verb, "--speculate", "nothing-here")
            self.assertEqual(ran.returncode, 2)
            for part in ("--speculate", "nothing-here", "off", "ngram", "draft"):
                self.assertIn(part, ran.stderr)

    def test_a_draft_with_another_vocabulary_is_refused(self):
        draft = self.folder / "draft"
        shutil.copytree(DRAFT, draft)
        tokenizer = json.loads((draft / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        one, other = (name for name, token in vocabulary.items() if token in (300, 301))
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        (draft / "tokenizer.json").write_text(json.dumps(tokenizer))
        ran = self.run_troupe("serve", TUTOR, "--speculate", draft, "--port", free_port())
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn("token 300", ran.stderr + ran.stdout)
        self.assertIn("same tokenizer", ran.stderr + ran.stdout)

    def test_the_bench_runs_with_each_kind(self):
        for kind in ("ngram", DRAFT):
            ran = self.run_troupe("bench", "--local", TUTOR, "--speculate", kind, "--prompt", 32, "--generate", 64,
                                  "--repetitions", 1, "--json")
            self.assertEqual(ran.returncode, 0, ran.stderr)
            report = json.loads(ran.stdout)
            self.assertGreater(report["decode_tokens_per_s"], 0)
            self.assertGreaterEqual(report["guesses"], report["accepted_guesses"])


if __name__ == "__main__":
    unittest.main()
