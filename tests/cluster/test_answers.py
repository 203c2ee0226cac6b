"""What a client gets from a running cluster."""

import concurrent.futures
import json
import re
import unittest

from harness import ROOT, Cluster, alive, descendants
from topologies import ONE_PROCESS, TWO_BY_TWO, UNEVEN

QUESTIONS = [json.loads(line) for line in (ROOT / "examples/models/held_out.jsonl").read_text().splitlines()]


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(TWO_BY_TWO)
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def test_the_tutor_answers_95_percent_of_held_out_questions_exactly(self):
        self.assertEqual(len(QUESTIONS), 500)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda item: self.cluster.ask(item["question"]), QUESTIONS))
        right = sum(answer.strip() == item["answer"].strip() for answer, item in zip(answers, QUESTIONS))
        print(f"tutor: {right} of {len(QUESTIONS)} held-out questions right")
        self.assertGreaterEqual(right, 0.95 * len(QUESTIONS))

    def test_a_stream_says_the_same_as_a_whole_answer(self):
        question = QUESTIONS[0]["question"]
        body = {"model": "tutor", "messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": 64, "stream_options": {"include_usage": True}}
        events = list(self.cluster.stream("/v1/chat/completions", body))
        self.assertEqual(events[-1], "[DONE]")
        chunks = [json.loads(event) for event in events[:-1]]
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertGreater(chunks[-1]["usage"]["completion_tokens"], 0)
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1])
        self.assertEqual(text, self.cluster.ask(question))

    def test_a_request_gives_the_same_tokens_alone_and_in_a_full_batch(self):
        def sampled(seed):
            status, answer = self.cluster.post("/v1/completions", {
                "model": "tutor", "prompt": "<|im_start|>user\nTell me a story", "temperature": 1.0, "seed": seed,
                "max_tokens": 24, "ignore_eos": True, "return_token_ids": True})
            self.assertEqual(status, 200, answer)
            return answer["choices"][0]["token_ids"]
        alone = [sampled(seed) for seed in range(3)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            together = list(pool.map(sampled, list(range(32))))
        self.assertEqual(together[:3], alone)
        self.assertGreater(len({tuple(tokens) for tokens in together}), 16, "seeds make a difference")

    def test_every_actor_is_where_the_topology_says(self):
        status = self.cluster.status()
        self.assertTrue(status["ready"])
        places = {actor["actor"]: actor["node"] for actor in status["actors"]}
        self.assertEqual(places, {"gateway": "front", "scheduler/0": "brain", "stage/0/0": "a", "shard/0/0/0": "a",
                                  "shard/0/0/1": "b", "stage/0/1": "c", "shard/0/1/0": "c", "shard/0/1/1": "d"})
        self.assertEqual(len({actor["pid"] for actor in status["actors"]}), 6, "six processes")

    def test_a_second_cluster_of_the_same_name_is_refused(self):
        refused = self.cluster.troupe("up", self.cluster.file)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("runs already", refused.stderr)

    def test_metrics_tell_what_every_member_does(self):
        self.cluster.ask(QUESTIONS[0]["question"])
        status, text = self.cluster.get("/metrics")
        self.assertEqual(status, 200)
        for name in ("troupe_http_requests_total", "troupe_time_to_first_token_seconds",
                     "troupe_scheduler_step_seconds"):
            self.assertIn(name, text)
        for actor in self.cluster.status()["actors"]:
            labels = f'{{actor="{actor["actor"]}",node="{actor["node"]}"}}'
            kind = actor["actor"].split("/")[0]
            if kind in ("shard", "stage"):
                self.assertRegex(text, f"troupe_{kind}_step_seconds_count{re.escape(labels)} [1-9]")
            self.assertRegex(text, f'troupe_fabric_sent_bytes_total{{node="{actor["node"]}"}} [1-9]')


class Splits(unittest.TestCase):
    def test_other_splits_give_the_same_answers(self):
        questions = [item["question"] for item in QUESTIONS[:12]]
        answers = {}
        for name, topology in {"one": ONE_PROCESS, "uneven": UNEVEN, "two-by-two": TWO_BY_TWO}.items():
            with Cluster(topology, name=name) as cluster:
                answers[name] = [cluster.ask(question) for question in questions]
        self.assertEqual(answers["uneven"], answers["one"])
        self.assertEqual(answers["two-by-two"], answers["one"])


class Ending(unittest.TestCase):
    def test_down_ends_every_process(self):
        cluster = Cluster(TWO_BY_TWO, name="down")
        with cluster:
            members = descendants(cluster.process.pid)
            self.assertGreaterEqual(len(members), 6)
            down = cluster.troupe("down", cluster.file)
            self.assertEqual(down.returncode, 0, down.stderr)
            cluster.process.wait(timeout=10)
            self.assertEqual([pid for pid in members if alive(pid)], [])
            self.assertEqual(cluster.troupe("status", cluster.file).returncode, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
