"""Experts as actors on devices of their own: whole clusters, which answer as one shard with all experts does. GPUs are
emulated ones, or with TROUPE_TEST_GPU=cuda a real one."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

from harness import ROOT, TROUPE, Cluster, Stream, wait_ended
from mixtral_gguf import write_mixtral_gguf
from topologies import ONE_PROCESS

REAL = os.environ.get("TROUPE_TEST_GPU") == "cuda"
TUTOR_MOE = ROOT / "examples/models/tutor-moe"
QUESTIONS = [json.loads(line) for line in (ROOT / "examples/models/held_out.jsonl").read_text().splitlines()]

LIMITS = """limits: {{kv_memory: 16MiB, max_model_len: 512, step_timeout_ms: 240000, restart_backoff_ms: 50}}
served_model_name: moe
"""

ONE = ONE_PROCESS + LIMITS

# Attention on a GPU, the experts on cores: of its own process and of another one.
ATTENTION_ON_GPU = """
cluster: {name}
model: {model}
nodes:
  - {{name: a, host: localhost, devices: [cuda:0, cpu:0]}}
  - {{name: b, host: localhost, devices: [cpu:1]}}
place:
  gateway: {{node: a, listen: 127.0.0.1:{port}}}
  stages:
    - {{layers: 0-5, shards: [a/cuda:0], experts: [a/cpu:0, b/cpu:1]}}
""" + LIMITS

# Both expert actors on one GPU, and attention on a core.
EXPERTS_ON_GPU = """
cluster: {name}
model: {model}
nodes:
  - {{name: a, host: localhost, devices: [cpu:0, cuda:0]}}
  - {{name: b, host: localhost, devices: [cuda:0]}}
place:
  gateway: {{node: a, listen: 127.0.0.1:{port}}}
  stages:
    - {{layers: 0-5, shards: [a/cpu:0], experts: [a/cuda:0, b/cuda:0]}}
""" + LIMITS

# Two tensor-parallel ranks, each of which asks an expert actor in the other's process.
TWO_RANKS = """
cluster: {name}
model: {model}
nodes:
  - {{name: left, host: localhost, devices: [cpu:0]}}
  - {{name: right, host: localhost, devices: [cpu:1]}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
  stages:
    - {{layers: 0-5, shards: [left/cpu:0, right/cpu:1], experts: [right/cpu:1, left/cpu:0]}}
""" + LIMITS

# The experts of the second stage are three, which is uneven, and two of them share a process.
TWO_STAGES = """
cluster: {name}
model: {model}
nodes:
  - {{name: front, host: localhost}}
  - {{name: a, host: localhost, devices: [cpu:0]}}
  - {{name: b, host: localhost, devices: [cpu:1]}}
  - {{name: c, host: localhost, devices: [cpu:0]}}
  - {{name: d, host: localhost, devices: [cpu:1]}}
  - {{name: e, host: localhost, devices: [cpu:0, cpu:1]}}
place:
  gateway: {{node: front, listen: 127.0.0.1:{port}}}
  scheduler: {{node: front}}
  stages:
    - {{layers: 0-2, shards: [a/cpu:0], experts: [b/cpu:1, c/cpu:0]}}
    - {{layers: 3-5, shards: [d/cpu:1], experts: [e/cpu:0, e/cpu:1, c/cpu:0]}}
""" + LIMITS

# Two ranks whose experts live elsewhere: when one rank loses its expert, the other waits for that rank.
RANKS_APART = """
cluster: {name}
model: {model}
nodes:
  - {{name: front, host: localhost}}
  - {{name: a, host: localhost, devices: [cpu:0]}}
  - {{name: b, host: localhost, devices: [cpu:1]}}
  - {{name: c, host: localhost, devices: [cpu:0]}}
  - {{name: d, host: localhost, devices: [cpu:1]}}
place:
  gateway: {{node: front, listen: 127.0.0.1:{port}}}
  scheduler: {{node: front}}
  stages:
    - {{layers: 0-5, shards: [a/cpu:0, b/cpu:1], experts: [c/cpu:0, d/cpu:1]}}
""" + LIMITS

# The planner's choice: two ranks, and behind them two expert actors.
PLANNED = """
cluster: {name}
model: {model}
nodes:
  - {{name: left, host: localhost, devices: [cpu:0, cpu:1]}}
  - {{name: right, host: localhost, devices: [cpu:0, cpu:1]}}
parallel: {{tensor: 2, expert: 2}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
""" + LIMITS

LONG = {"model": "moe", "prompt": "<|im_start|>user\nTell me a long story", "temperature": 0.8, "seed": 1,
        "max_tokens": 300, "ignore_eos": True}


class Experts(unittest.TestCase):
    def answers(self, name, topology, questions, model=TUTOR_MOE):
        """The answers, and the actors of the cluster by name."""
        with Cluster(topology, model=model, name=name) as cluster:
            answers = [cluster.ask(item["question"], model="moe") for item in questions]
            self.metrics = cluster.get("/metrics")[1]
            return answers, {actor["actor"]: actor for actor in cluster.status()["actors"]}

    def metric(self, name, actor, label=""):
        for line in self.metrics.splitlines():
            if line.startswith(name + "{") and f'actor="{actor}"' in line and label in line:
                return float(line.rsplit(" ", 1)[1])
        self.fail(f"no {name} of {actor}")


@unittest.skipUnless((TUTOR_MOE / "config.json").exists(), "the shipped model is missing")
class ExpertsOnCores(Experts):
    @classmethod
    def setUpClass(cls):
        cls.some = QUESTIONS[:20]
        cls.expected, _ = cls.answers(cls(), "experts-one", ONE, cls.some)

    def test_two_ranks_ask_experts_in_each_others_process(self):
        answers, actors = self.answers("experts-ranks", TWO_RANKS, self.some)
        self.assertEqual(answers, self.expected)
        self.assertEqual([(actors[f"expert/0/0/{k}"]["node"], actors[f"expert/0/0/{k}"]["device"]) for k in (0, 1)],
                         [("right", "cpu:1"), ("left", "cpu:0")])
        self.assertIn("kernels", actors["expert/0/0/0"]["detail"])
        for rank in (0, 1):
            self.assertGreater(self.metric("troupe_expert_rows_total", f"expert/0/0/{rank}"), 0)
            self.assertGreater(self.metric("troupe_shard_expert_wait_seconds_total", f"shard/0/0/{rank}"), 0)
            self.assertGreater(self.metric("troupe_shard_arena_used_bytes", f"expert/0/0/{rank}", 'arena="weights"'), 0)

    def test_each_stage_has_experts_of_its_own(self):
        answers, actors = self.answers("experts-stages", TWO_STAGES, self.some)
        self.assertEqual(answers, self.expected)
        self.assertEqual({name for name in actors if name.startswith("expert/")},
                         {"expert/0/0/0", "expert/0/0/1", "expert/0/1/0", "expert/0/1/1", "expert/0/1/2"})
        # Each pair of row and expert of a layer is computed once: as many pairs as rows have experts, in both stages.
        pairs = [sum(self.metric("troupe_expert_pairs_total", f"expert/0/{stage}/{number}") for number in range(count))
                 for stage, count in ((0, 2), (1, 3))]
        self.assertEqual(pairs[0], pairs[1])
        tokens = self.metric("troupe_shard_tokens_total", "shard/0/0/0")
        self.assertEqual(pairs[0], tokens * 3 * 2)

    def test_the_planner_places_experts_behind_the_ranks(self):
        answers, actors = self.answers("experts-planned", PLANNED, self.some)
        self.assertEqual(answers, self.expected)
        self.assertEqual([actors[f"expert/0/0/{k}"]["node"] for k in (0, 1)], ["right", "right"])

    def test_gguf_and_quantised_models_answer_as_with_all_experts_in_one_shard(self):
        with tempfile.TemporaryDirectory(prefix="troupe-test-") as folder:
            file = pathlib.Path(folder) / "tutor-moe.gguf"
            write_mixtral_gguf(TUTOR_MOE, file)
            small = pathlib.Path(folder) / "q4"
            done = subprocess.run([TROUPE, "quantize", str(TUTOR_MOE), "--format", "q4", "--out", str(small)],
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            kept = f"packed_cache: {folder}/cache\n"
            for model in (file, small):
                expected, _ = self.answers("experts-whole", ONE, self.some, model)
                for start in ("first", "from the cache"):
                    answers, _ = self.answers("experts-split", TWO_RANKS + kept, self.some, model)
                    self.assertEqual(answers, expected, f"{model.name}, {start}")
            # By two ranks and two expert actors; of q4 there is less to keep, as it is stored as it is computed with.
            kept = [path.name for path in (pathlib.Path(folder) / "cache").glob("tutor-moe-*.packed")]
            self.assertEqual(len(kept), 4, kept)

    def check_killed(self, name, topology, victims):
        """Kills the processes of these actors under load, one after the other; no stream may change."""
        with Cluster(topology, model=TUTOR_MOE, name=name) as cluster:
            expected = cluster.post("/v1/completions", LONG)[1]["choices"][0]["text"]
            for actor in victims:
                streams = [Stream(cluster, LONG) for _ in range(3)]
                for stream in streams:
                    self.assertTrue(stream.first.wait(60), "the stream has begun")
                status = cluster.status()
                victim = next(entry["pid"] for entry in status["actors"] if entry["actor"] == actor)
                os.kill(victim, signal.SIGKILL)
                for stream in streams:
                    stream.join(45)
                    self.assertTrue(stream.complete(), f"{actor}: {stream.events[-1:]} {stream.end}\n{cluster.output()}")
                    self.assertEqual(stream.text(), expected)
                wait_ended([victim], 5, "the victim is dead")
                cluster.wait_ready_after(status["epoch"])
            return {entry["actor"]: entry["restarts"] for entry in cluster.status()["actors"]}

    def test_streams_go_on_with_the_same_tokens_when_the_process_of_an_expert_is_killed(self):
        restarts = self.check_killed("experts-killed", TWO_STAGES, ["expert/0/0/0", "expert/0/1/1"])
        self.assertEqual([restarts[name] for name in ("expert/0/0/0", "expert/0/1/1", "shard/0/0/0")], [1, 1, 0])

    def test_a_rank_does_not_wait_for_another_one_that_lost_its_expert(self):
        restarts = self.check_killed("experts-apart", RANKS_APART, ["expert/0/0/0", "expert/0/0/1", "shard/0/0/1"])
        self.assertEqual([restarts[f"expert/0/0/{k}"] for k in (0, 1)], [1, 1])
        self.assertEqual([restarts[f"shard/0/0/{k}"] for k in (0, 1)], [0, 1])

    def test_an_expert_that_stands_still_is_replaced(self):
        with Cluster(TWO_STAGES, model=TUTOR_MOE, name="experts-still") as cluster:
            expected = cluster.post("/v1/completions", LONG)[1]["choices"][0]["text"]
            stream = Stream(cluster, LONG)
            self.assertTrue(stream.first.wait(60), "the stream has begun")
            victim = next(actor["pid"] for actor in cluster.status()["actors"] if actor["actor"] == "expert/0/0/0")
            os.kill(victim, signal.SIGSTOP)
            wait_ended([victim], 20, "the silent member is killed")
            stream.join(90)
            self.assertTrue(stream.complete(), f"{stream.events[-1:]} {stream.end}\n{cluster.output()}")
            self.assertEqual(stream.text(), expected)

    def test_the_plan_shows_experts_with_their_bytes_and_links(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "topology.yaml"
            file.write_text(TWO_RANKS.format(model=TUTOR_MOE, name="plan", port=8080))
            shown = subprocess.run([TROUPE, "plan", "--json", file], capture_output=True, text=True, timeout=60)
            plan = json.loads(shown.stdout)
            whole = file.with_name("one.yaml")
            whole.write_text(ONE.format(model=TUTOR_MOE, name="plan", port=8080))
            one = json.loads(subprocess.run([TROUPE, "plan", "--json", whole], capture_output=True, text=True,
                                            timeout=60).stdout)
        experts = [actor for actor in plan["actors"] if actor["kind"] == "expert"]
        self.assertEqual([(actor["name"], actor["node"], actor["expert"], actor["experts"]) for actor in experts],
                         [("expert/0/0/0", "right", 0, 2), ("expert/0/0/1", "left", 1, 2)])
        held = 6 * 4 * 3 * 256 * 160 * 2  # layers, experts, matrices, in BF16
        self.assertEqual([actor["weight_bytes"] for actor in experts], [held, held])
        whole = sum(actor.get("weight_bytes", 0) for actor in one["actors"])
        split = sum(actor.get("weight_bytes", 0) for actor in plan["actors"])
        self.assertTrue(whole <= split < 1.02 * whole, "both ranks have the routers and norms, and nothing else twice")
        links = {(link["from"], link["to"], link["what"]) for link in plan["links"]}
        for number in (0, 1):
            self.assertIn((f"shard/0/0/{number}", f"expert/0/0/{number}", "dispatch"), links)
            self.assertIn((f"expert/0/0/{number}", f"shard/0/0/{number}", "combine"), links)


@unittest.skipUnless((TUTOR_MOE / "config.json").exists(), "the shipped model is missing")
class ExpertsAndGpus(Experts):
    @classmethod
    def setUpClass(cls):
        if not REAL:
            os.environ["TROUPE_GPU"] = "emulated"
            cls.addClassCleanup(os.environ.pop, "TROUPE_GPU")
        cls.some = QUESTIONS[:20 if REAL else 3]
        cls.expected, _ = cls.answers(cls(), "experts-one", ONE, cls.some)

    def test_attention_on_a_gpu_and_experts_on_cores_answer_as_cores_do(self):
        answers, actors = self.answers("experts-cpu", ATTENTION_ON_GPU, self.some)
        self.assertEqual(answers, self.expected)
        self.assertEqual(actors["shard/0/0/0"]["device"], "cuda:0")
        self.assertIn("kernels cuda", actors["shard/0/0/0"]["detail"])
        self.assertEqual([actors[f"expert/0/0/{k}"]["device"] for k in (0, 1)], ["cpu:0", "cpu:1"])
        self.assertNotIn("kernels cuda", actors["expert/0/0/0"]["detail"])

    def test_experts_on_gpus_and_attention_on_a_core_answer_as_cores_do(self):
        answers, actors = self.answers("experts-gpu", EXPERTS_ON_GPU, self.some)
        self.assertEqual(answers, self.expected)
        self.assertIn("kernels cuda", actors["expert/0/0/1"]["detail"])
        self.assertGreater(self.metric("troupe_shard_arena_used_bytes", "expert/0/0/1", 'arena="device"'), 0)


if __name__ == "__main__":
    unittest.main()
