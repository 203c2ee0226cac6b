"""Shards on GPUs: whole clusters on emulated ones, which run the GPU's kernels on the CPU; with TROUPE_TEST_GPU=cuda on
a real one."""

import json
import os
import subprocess
import unittest

from harness import ROOT, TROUPE, TUTOR, Cluster
from topologies import ONE_PROCESS

REAL = os.environ.get("TROUPE_TEST_GPU") == "cuda"
QUESTIONS = [json.loads(line) for line in (ROOT / "examples/models/held_out.jsonl").read_text().splitlines()]
SOME = QUESTIONS[:100] if REAL else QUESTIONS[:3]

LIMITS = "limits: {{kv_memory: 16MiB, max_model_len: 256, step_timeout_ms: 240000, restart_backoff_ms: 50}}\n"

ON_GPU = ONE_PROCESS.replace("cpu:0", "cuda:0") + LIMITS

# Both ranks of the only stage on one GPU, each in a process of its own.
TWO_ON_ONE_GPU = """
cluster: {name}
model: {model}
nodes:
  - {{name: left, host: localhost, devices: [cuda:0]}}
  - {{name: right, host: localhost, devices: [cuda:0]}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
  stages:
    - {{layers: 0-5, shards: [left/cuda:0, right/cuda:0]}}
""" + LIMITS

# A CPU stage behind a GPU stage, whose ranks are a GPU and a core.
MIXED = """
cluster: {name}
model: {model}
nodes:
  - {{name: left, host: localhost, devices: [cuda:0, cpu:0]}}
  - {{name: right, host: localhost, devices: [cpu:0]}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
  stages:
    - {{layers: 0-2, shards: [left/cuda:0, left/cpu:0]}}
    - {{layers: 3-5, shards: [right/cpu:0]}}
""" + LIMITS


class Gpu(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not REAL:
            os.environ["TROUPE_GPU"] = "emulated"
            cls.addClassCleanup(os.environ.pop, "TROUPE_GPU")
        with Cluster(ONE_PROCESS, name="gpu-reference") as cluster:
            cls.expected = [cluster.ask(item["question"]) for item in SOME]

    def check(self, name, topology):
        with Cluster(topology, name=name) as cluster:
            answers = [cluster.ask(item["question"]) for item in SOME]
            status = cluster.status()
        self.assertEqual(answers, self.expected)
        return {actor["actor"]: actor for actor in status["actors"]}

    def test_a_gpu_answers_as_the_cpu_does(self):
        actors = self.check("gpu", ON_GPU)
        self.assertEqual(actors["shard/0/0/0"]["device"], "cuda:0")
        self.assertIn("kernels cuda", actors["shard/0/0/0"]["detail"])

    def test_two_shards_share_one_gpu(self):
        actors = self.check("gpu-shared", TWO_ON_ONE_GPU)
        self.assertEqual(actors["shard/0/0/1"]["device"], "cuda:0")

    def test_cpu_and_gpu_share_a_stage_and_follow_each_other(self):
        self.check("gpu-mixed", MIXED)

    def test_the_doctor_shows_the_gpu(self):
        shown = subprocess.run([TROUPE, "doctor", "--gpu"], capture_output=True, text=True, timeout=60)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertRegex(shown.stdout, r"(?m)^cuda:0: .* kernels cuda")


class NoGpu(unittest.TestCase):
    """No driver finds a GPU here: CUDA_VISIBLE_DEVICES hides those that there are."""

    ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TROUPE_GPU": ""}

    def test_a_shard_on_a_missing_gpu_is_refused_in_one_line_with_a_remedy(self):
        served = subprocess.run([TROUPE, "serve", str(TUTOR), "--device", "cuda:0", "--port", "0"],
                                env=self.ENVIRONMENT, capture_output=True, text=True, timeout=60)
        self.assertEqual(served.returncode, 2)
        self.assertRegex(served.stderr, r"^troupe serve: .*cuda:0: .*GPU|^troupe serve: .*cuda:0: .*driver")
        self.assertEqual(len(served.stderr.splitlines()), 1, served.stderr)

    def test_the_doctor_tells_a_missing_gpu_apart(self):
        shown = subprocess.run([TROUPE, "doctor", "--gpu"], env=self.ENVIRONMENT, capture_output=True, text=True,
                               timeout=60)
        self.assertEqual(shown.returncode, 3)
        self.assertIn("no GPU: ", shown.stdout)


if __name__ == "__main__":
    unittest.main()
