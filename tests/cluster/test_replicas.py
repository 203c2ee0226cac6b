"""Several replicas of a model behind one gateway."""

import concurrent.futures
import os
import re
import signal
import unittest

from harness import Cluster, Stream, wait_ended, wait_until

REPLICAS = """
cluster: {name}
model: {model}
nodes:
  - {{name: front, host: localhost}}
  - {{name: a, host: localhost, devices: [cpu:0]}}
  - {{name: b, host: localhost, devices: [cpu:1]}}
parallel: {{replicas: 2}}
place:
  gateway: {{node: front, listen: 127.0.0.1:{port}}}
limits: {{kv_memory: 8MiB, restart_backoff_ms: 50}}
"""

LONG = {"model": "tutor", "prompt": "<|im_start|>user\nTell me a long story", "temperature": 0.8, "max_tokens": 900,
        "ignore_eos": True, "return_token_ids": True}


def system_prompt(group):
    return f"You are tutor number {group}. " + "Answer every question about numbers briefly and show no steps. " * 24


def question(group, number):
    return {"model": "tutor", "temperature": 0, "max_tokens": 8,
            "messages": [{"role": "system", "content": system_prompt(group)},
                         {"role": "user", "content": f"What is {number} + 7?"}]}


class Replicas(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(REPLICAS, name="replicas")
        self.cluster.__enter__()
        # /ready speaks of the gateway, which serves with one replica as well.
        wait_until(lambda: self.cluster.status()["ready"], 60, "every replica is ready")

    def tearDown(self):
        self.cluster.__exit__()

    def counts(self, metric):
        """By replica."""
        text = self.cluster.get("/metrics")[1]
        return {int(replica): float(value)
                for replica, value in re.findall(rf'^{metric}{{replica="(\d+)"}} (\S+)$', text, re.M)}

    def test_both_replicas_answer_and_alike(self):
        body = dict(LONG, seed=5, max_tokens=32)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: self.cluster.post("/v1/completions", body), range(16)))
        self.assertEqual({status for status, _ in answers}, {200})
        self.assertEqual(len({tuple(answer["choices"][0]["token_ids"]) for _, answer in answers}), 1)
        routed = self.counts("troupe_routed_requests_total")
        self.assertEqual(sum(routed.values()), 16)
        self.assertEqual(set(routed), {0, 1})
        self.assertEqual(self.counts("troupe_scheduler_generated_tokens_total"),
                         {replica: count * 32 for replica, count in routed.items()})

    def test_prompts_that_begin_alike_go_to_one_replica(self):
        # The pages of a replica hold three of the system prompts.
        groups = range(6)
        for group in groups:
            self.assertEqual(self.cluster.post("/v1/chat/completions", question(group, 0))[0], 200)
        for number in range(1, 6):
            for group in groups:
                status, answer = self.cluster.post("/v1/chat/completions", question(group, number))
                self.assertEqual(status, 200, answer)
                usage = answer["usage"]
                self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"] // 2)
        routed = self.counts("troupe_routed_requests_total")
        self.assertEqual(set(routed), {0, 1}, routed)
        self.assertGreaterEqual(min(routed.values()), 12, routed)

    def test_a_killed_replica_costs_the_other_one_nothing(self):
        streams = [Stream(self.cluster, dict(LONG, seed=seed)) for seed in range(6)]
        for stream in streams:
            self.assertTrue(stream.first.wait(30), "the stream has begun")
        self.assertEqual(self.counts("troupe_routed_requests_total"), {0: 3, 1: 3})
        status = self.cluster.status()
        victim = next(entry["pid"] for entry in status["actors"] if entry["actor"] == "shard/1/0/0")
        os.kill(victim, signal.SIGKILL)
        for stream in streams:
            stream.join(60)
            self.assertFalse(stream.is_alive(), "a stream hangs")
            self.assertTrue(stream.complete() or stream.failed(), "a stream closed as if it were complete")
        self.assertGreaterEqual(sum(stream.complete() for stream in streams), 3, "replica 0 goes on")
        wait_ended([victim], 5, "the victim is dead")
        self.cluster.wait_ready_after(status["epoch"])
        self.assertEqual(self.cluster.post("/v1/completions", dict(LONG, max_tokens=4))[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
