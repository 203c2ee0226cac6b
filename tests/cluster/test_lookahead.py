"""Steps that are formed before tokens are known change nothing but the speed: on a core, and on an emulated GPU, where
the device draws the tokens that the next step goes on with; with TROUPE_TEST_GPU=cuda on a real one."""

import concurrent.futures
import os
import re
import signal
import unittest

from harness import Cluster

REAL = os.environ.get("TROUPE_TEST_GPU") == "cuda"

# The shard in a process of its own, which a test may kill.
APART = """
cluster: {{name}}
model: {{model}}
nodes:
  - {{{{name: front, host: localhost}}}}
  - {{{{name: back, host: localhost, devices: [{device}]}}}}
place:
  gateway: {{{{node: front, listen: 127.0.0.1:{{port}}}}}}
lookahead: {lookahead}
limits: {{{{kv_memory: 16MiB, max_model_len: 256, step_timeout_ms: 240000, restart_backoff_ms: 50}}}}
"""


def requests(max_tokens):
    """Greedy and sampled, with everything that makes a token depend on those before it, and answers that stop early."""
    for number in range(4):
        yield {"prompt": f"<|im_start|>user\nWhat is {number} + 5?<|im_end|>\n<|im_start|>assistant\n", "temperature": 0}
    story = {"prompt": "<|im_start|>user\nTell me a story", "ignore_eos": True}
    for seed in range(3):
        yield {**story, "temperature": 0.9, "seed": seed, "logprobs": 2}
    yield {**story, "temperature": 0.7, "seed": 7, "frequency_penalty": 0.5, "presence_penalty": 0.3}
    yield {**story, "temperature": 0, "repetition_penalty": 1.2, "min_tokens": max_tokens // 2}
    yield {**story, "temperature": 0, "stop": ["e"]}


class Lookahead:
    """Run on several devices."""

    device, clients, max_tokens = None, 8, 40

    def answers(self, cluster):
        def answer(body):
            status, answer = cluster.post("/v1/completions", {
                "model": "tutor", "max_tokens": self.max_tokens, "return_token_ids": True, **body}, timeout=240)
            self.assertEqual(status, 200, answer)
            return answer["choices"][0]
        with concurrent.futures.ThreadPoolExecutor(self.clients) as pool:
            return list(pool.map(answer, requests(self.max_tokens)))

    def steps_ahead(self, cluster):
        text = cluster.get("/metrics")[1]
        return float(re.search(r"^troupe_scheduler_steps_ahead_total(?:{[^}]*})? (\S+)$", text, re.M).group(1))

    def topology(self, lookahead):
        return APART.format(device=self.device, lookahead=lookahead)

    def test_the_same_tokens_with_and_without_and_after_the_death_of_the_shard(self):
        with Cluster(self.topology("off"), name="lookahead-off") as cluster:
            expected = self.answers(cluster)
            self.assertEqual(self.steps_ahead(cluster), 0)
        with Cluster(self.topology("on"), name="lookahead-on") as cluster:
            self.assertEqual(self.answers(cluster), expected)
            ahead = self.steps_ahead(cluster)
            self.assertGreater(ahead, 0)

            stream = cluster.stream("/v1/completions", {"model": "tutor", "prompt": [40, 41, 42], "max_tokens": 200,
                                                        "ignore_eos": True}, timeout=240)
            next(stream)
            status = cluster.status()
            shard = next(actor for actor in status["actors"] if actor["actor"] == "shard/0/0/0")
            os.kill(shard["pid"], signal.SIGKILL)
            stream.close()
            cluster.wait_ready_after(status["epoch"])
            self.assertEqual(self.answers(cluster), expected)
            self.assertGreater(self.steps_ahead(cluster), ahead)


class OnACore(Lookahead, unittest.TestCase):
    device = "cpu:0"


class OnAGpu(Lookahead, unittest.TestCase):
    device = "cuda:0"

    @classmethod
    def setUpClass(cls):
        if not REAL:
            cls.max_tokens = 8
            os.environ["TROUPE_GPU"] = "emulated"
            cls.addClassCleanup(os.environ.pop, "TROUPE_GPU")


if __name__ == "__main__":
    unittest.main()
