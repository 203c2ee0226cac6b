"""Shards on GPUs: whole clusters on emulated ones, which run the GPU's kernels on the CPU; with TROUPE_TEST_GPU=cuda on
a real one."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest

from harness import ROOT, TROUPE, TUTOR, Cluster, Stream
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

# Each rank of the only stage has a GPU to itself.
ONE_GPU_EACH = TWO_ON_ONE_GPU.replace("devices: [cuda:0]}}\nplace", "devices: [cuda:1]}}\nplace").replace(
    "right/cuda:0", "right/cuda:1")

# Two stages on GPUs, and the gateway and scheduler away from them.
TWO_STAGES = """
cluster: {name}
model: {model}
nodes:
  - {{name: front, host: localhost}}
  - {{name: left, host: localhost, devices: [cuda:0]}}
  - {{name: right, host: localhost, devices: [cuda:1]}}
place:
  gateway: {{node: front, listen: 127.0.0.1:{port}}}
  scheduler: {{node: front}}
  stages:
    - {{layers: 0-2, shards: [left/cuda:0]}}
    - {{layers: 3-5, shards: [right/cuda:1]}}
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


def gpus():
    shown = subprocess.run([TROUPE, "doctor"], capture_output=True, text=True, timeout=60,
                           env=os.environ if REAL else {**os.environ, "TROUPE_GPU": "emulated"})
    return len(re.findall(r"(?m)^cuda:\d+: .* kernels cuda", shown.stdout))


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
            self.log = cluster.log.read_text(errors="replace")
        self.assertEqual(answers, self.expected)
        return {actor["actor"]: actor for actor in status["actors"]}

    def test_a_gpu_answers_as_the_cpu_does(self):
        actors = self.check("gpu", ON_GPU)
        self.assertEqual(actors["shard/0/0/0"]["device"], "cuda:0")
        self.assertIn("kernels cuda", actors["shard/0/0/0"]["detail"])

    def test_two_shards_share_one_gpu(self):
        actors = self.check("gpu-shared", TWO_ON_ONE_GPU)
        self.assertEqual(actors["shard/0/0/1"]["device"], "cuda:0")
        self.assertRegex(self.log, "group of stage/0/0: staged through the host: ranks 0 and 1 share cuda:0")

    @unittest.skipIf(REAL and gpus() < 2, "needs two GPUs")
    def test_ranks_with_a_gpu_each_use_nccl_where_there_is_one(self):
        self.check("gpu-each", ONE_GPU_EACH)
        self.assertRegex(self.log, r"group of stage/0/0: " + (
            r"NCCL \d+\.\d+" if REAL else "staged through the host: rank 0: its GPU is emulated"))

    def test_cpu_and_gpu_share_a_stage_and_follow_each_other(self):
        self.check("gpu-mixed", MIXED)

    @unittest.skipIf(REAL, "breaks a GPU")
    def test_a_gpu_that_is_lost_in_a_stream_costs_it_no_token(self):
        body = {"model": "tutor", "prompt": "<|im_start|>user\nTell me a story", "temperature": 0.8, "seed": 1,
                "max_tokens": 48, "ignore_eos": True}
        with tempfile.TemporaryDirectory() as directory:
            fault = pathlib.Path(directory) / "fault"
            os.environ["TROUPE_EMULATED_GPU_FAULT"] = str(fault)
            self.addCleanup(os.environ.pop, "TROUPE_EMULATED_GPU_FAULT")
            with Cluster(TWO_STAGES, name="gpu-lost") as cluster:
                expected = cluster.post("/v1/completions", body)[1]["choices"][0]["text"]
                streams = [Stream(cluster, body) for _ in range(2)]
                for stream in streams:
                    self.assertTrue(stream.first.wait(60), "the stream has begun")
                written = fault.with_suffix(".new")
                written.write_text("cuda:1 an illegal memory access was encountered\n")
                written.rename(fault)
                for stream in streams:
                    stream.join(120)
                    self.assertTrue(stream.complete(), f"{stream.events[-1:]} {stream.end}\n{cluster.output()}")
                    self.assertEqual(stream.text(), expected)
                restarts = {actor["actor"]: actor["restarts"] for actor in cluster.status()["actors"]}
                log = cluster.log.read_text(errors="replace")
        self.assertFalse(fault.exists())
        self.assertEqual([restarts[f"shard/0/{stage}/0"] for stage in (0, 1)], [0, 1])
        self.assertRegex(log, "the emulated GPU stopped: an illegal memory access was encountered")

    @unittest.skipIf(REAL, "takes turns with what runs there")
    def test_a_rank_that_is_killed_in_a_stream_costs_it_no_token(self):
        body = {"model": "tutor", "prompt": "<|im_start|>user\nTell me a story", "temperature": 0.8, "seed": 1,
                "max_tokens": 24, "ignore_eos": True}
        with Cluster(TWO_ON_ONE_GPU, name="gpu-rank-lost") as cluster:
            expected = cluster.post("/v1/completions", body, timeout=120)[1]["choices"][0]["text"]
            stream = Stream(cluster, body)
            self.assertTrue(stream.first.wait(60), "the stream has begun")
            pids = {actor["actor"]: actor["pid"] for actor in cluster.status()["actors"]}
            os.kill(pids["shard/0/0/1"], signal.SIGKILL)
            stream.join(120)
            self.assertTrue(stream.complete(), f"{stream.events[-1:]} {stream.end}\n{cluster.output()}")
            self.assertEqual(stream.text(), expected)

    def test_the_doctor_shows_the_gpu_and_nccl(self):
        shown = subprocess.run([TROUPE, "doctor", "--gpu"], capture_output=True, text=True, timeout=60)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertRegex(shown.stdout, r"(?m)^cuda:0: .* kernels cuda")
        self.assertRegex(shown.stdout, r"(?m)^NCCL: \d+\.\d+\.\d+$|^no NCCL, .*: .*install")

    def test_the_plan_tells_how_ranks_exchange(self):
        for topology, way in ((TWO_ON_ONE_GPU, "staged through the host: ranks 0 and 1 share cuda:0"),
                              (MIXED, "staged through the host: rank 1 computes on cpu:0"),
                              *([] if gpus() < 2 else [(ONE_GPU_EACH, "by NCCL if all of them find it")])):
            with tempfile.TemporaryDirectory() as directory:
                file = pathlib.Path(directory) / "topology.yaml"
                file.write_text(topology.format(model=TUTOR, name="plan", port=8080))
                shown = subprocess.run([TROUPE, "plan", file], capture_output=True, text=True, timeout=60)
            self.assertIn(f"The ranks of stage/0/0 exchange {way}", shown.stdout, shown.stderr)


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
