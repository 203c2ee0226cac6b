"""Prompts that begin alike: the same answers, fewer tokens computed."""

import concurrent.futures
import json
import os
import re
import signal
import unittest

from harness import Cluster
from topologies import ONE_PROCESS, TWO_BY_TWO, UNEVEN

BLOCK = 16  # the default of the limit block_size
SYSTEM = "You are a patient tutor. Answer every question about numbers briefly, and show no steps unless asked. " * 5


def body_of(question, **options):
    return {"model": "tutor", "temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 3,
            "return_token_ids": True,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}], **options}


class Prefixes:
    """Run over several topologies."""

    topology = None

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cls.topology, name="prefix")
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def ask(self, question, **options):
        """(choice without its index, cached tokens, prompt tokens)"""
        status, answer = self.cluster.post("/v1/chat/completions", body_of(question, **options))
        self.assertEqual(status, 200, answer)
        usage = answer["usage"]
        return answer["choices"][0], usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]

    def metric(self, name):
        _, text = self.cluster.get("/metrics")
        return float(re.search(rf"^troupe_scheduler_{name}(?:{{[^}}]*}})? (\S+)$", text, re.M).group(1))

    def test_a_hit_changes_nothing_in_the_answer(self):
        cold, cached, length = self.ask("What is 27 + 45?", cache_salt="first")
        self.assertEqual(cached, 0)
        hits = self.metric("prefix_cache_hit_tokens_total")
        warm, cached, _ = self.ask("What is 27 + 45?", cache_salt="first")
        self.assertEqual(cached, (length - 1) // BLOCK * BLOCK)
        self.assertGreater(len(cold["token_ids"]), 0)
        self.assertEqual(warm, cold, "tokens, text and log-probabilities")
        self.assertEqual(self.metric("prefix_cache_hit_tokens_total") - hits, cached)
        self.assertGreater(self.metric("kv_blocks_cached"), 0)

    def test_another_question_shares_the_system_prompt(self):
        self.ask("What is 27 + 45?", cache_salt="shared")
        other, cached, length = self.ask("What is 9 * 8?", cache_salt="shared")
        alone, none, _ = self.ask("What is 9 * 8?", cache_salt="alone")
        self.assertGreater(cached, length // 2)
        self.assertLess(cached, length)
        self.assertEqual(none, 0)
        self.assertEqual(other, alone)

    def test_choices_of_one_prompt_compute_it_once(self):
        computed = self.metric("prompt_tokens_total")
        body = body_of("Name a colour.", cache_salt="choices", n=8, temperature=1.5, seed=3)
        status, answer = self.cluster.post("/v1/chat/completions", body)
        self.assertEqual(status, 200, answer)
        self.assertEqual([choice["index"] for choice in answer["choices"]], list(range(8)))
        length = answer["usage"]["prompt_tokens"]
        self.assertEqual(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        # Of what is in no full block each further choice computes one token, unless copying was slow.
        own = length - (length - 1) // BLOCK * BLOCK
        computed = self.metric("prompt_tokens_total") - computed
        self.assertGreaterEqual(computed, length + 7)
        self.assertLessEqual(computed, length + 7 * own)
        self.assertGreater(len({tuple(choice["token_ids"]) for choice in answer["choices"]}), 1)
        for seed in (3, 5):  # each choice is what a request with its seed gets
            alone, _, _ = self.ask("Name a colour.", temperature=1.5, seed=seed)
            choice = answer["choices"][seed - 3]
            self.assertEqual(choice["token_ids"], alone["token_ids"])

    def test_other_salts_find_nothing(self):
        for salt in ("one", "two", "three"):
            self.assertEqual(self.ask("What is 1 + 1?", cache_salt=salt)[1], 0)
        self.assertGreater(self.ask("What is 1 + 1?", cache_salt="two")[1], 0)

    def test_a_salt_that_cannot_be_one_is_refused_by_its_name(self):
        for salt in (5, ["a"], "x" * 257):
            status, answer = self.cluster.post("/v1/chat/completions", body_of("hi", cache_salt=salt))
            self.assertEqual((status, answer["error"]["param"]), (400, "cache_salt"))

    def test_a_stream_tells_of_cached_tokens_in_its_usage(self):
        _, _, length = self.ask("What is 5 + 6?", cache_salt="stream")
        body = body_of("What is 5 + 6?", cache_salt="stream", stream_options={"include_usage": True})
        chunks = [json.loads(event) for event in self.cluster.stream("/v1/chat/completions", body) if event != "[DONE]"]
        self.assertEqual(chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"], (length - 1) // BLOCK * BLOCK)

    def test_completions_find_prefixes_and_sum_them_up(self):
        prompt = list(range(10, 60))
        body = {"model": "tutor", "prompt": prompt, "temperature": 0, "max_tokens": 8, "cache_salt": "ids"}
        self.cluster.post("/v1/completions", body)
        status, answer = self.cluster.post("/v1/completions", dict(body, prompt=[prompt, prompt[:40]]))
        self.assertEqual(status, 200, answer)
        # The second prompt ends in a block that the first one has, of which it leaves a token to itself.
        self.assertIn(answer["usage"]["prompt_tokens_details"]["cached_tokens"], (48 + 32, 48 + 39))

    def test_prompts_whose_tokens_are_rated_are_computed_whole(self):
        body = {"model": "tutor", "prompt": list(range(60, 110)), "temperature": 0, "max_tokens": 1, "echo": True,
                "logprobs": 1, "cache_salt": "rated"}
        answers = [self.cluster.post("/v1/completions", body)[1] for _ in range(2)]
        self.assertEqual([answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers], [0, 0])
        self.assertEqual(answers[0]["choices"], answers[1]["choices"])

    def test_many_at_a_time_compute_their_system_prompt_once(self):
        before = self.metric("prompt_tokens_total")
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            asked = list(pool.map(lambda i: self.ask(f"What is {i} + 3?", cache_salt="burst"), range(12)))
        computed = self.metric("prompt_tokens_total") - before
        self.assertLess(computed, 2 * max(length for _, _, length in asked))
        self.assertEqual(sum(length - cached for _, cached, length in asked), computed)
        for i in (0, 11):
            self.assertEqual(asked[i][0], self.ask(f"What is {i} + 3?", cache_salt=f"burst {i}")[0])


class InOneProcess(Prefixes, unittest.TestCase):
    topology = ONE_PROCESS


class OverUnevenStages(Prefixes, unittest.TestCase):
    topology = UNEVEN


class TwoByTwo(Prefixes, unittest.TestCase):
    topology = TWO_BY_TWO

    def test_pages_of_a_shard_that_was_lost_are_not_found(self):
        cold, cached, _ = self.ask("What is 3 + 4?", cache_salt="lost")
        self.assertEqual(cached, 0)
        status = self.cluster.status()
        shard = next(actor for actor in status["actors"] if actor["actor"] == "shard/0/1/1")
        os.kill(shard["pid"], signal.SIGKILL)
        self.cluster.wait_ready_after(status["epoch"])
        again, cached, _ = self.ask("What is 3 + 4?", cache_salt="lost")
        self.assertEqual(cached, 0)
        self.assertEqual(again, cold)
        warm, cached, _ = self.ask("What is 3 + 4?", cache_salt="lost")
        self.assertGreater(cached, 0)
        self.assertEqual(warm, cold)


class SwitchedOff(unittest.TestCase):
    def test_without_the_cache_nothing_is_found(self):
        with Cluster(ONE_PROCESS + "limits: {{prefix_cache_blocks: 0}}\n", name="off") as cluster:
            answers = [cluster.post("/v1/chat/completions", body_of("What is 27 + 45?"))[1] for _ in range(2)]
        self.assertEqual([answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers], [0, 0])
        self.assertEqual(answers[0]["choices"], answers[1]["choices"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
