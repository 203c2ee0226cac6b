"""Sequences that make room for others go on with the same tokens, taken back from beside the KV pages or computed anew."""

import concurrent.futures
import re
import unittest

from harness import Cluster
from topologies import ONE_PROCESS, TWO_BY_TWO, UNEVEN

BLOCKS = 40  # of the KV pages, of 16 tokens each: too few for half of the requests
REQUESTS, ANSWER = 8, 150
BLOCK_BYTES_PER_LAYER = 16 * 2 * 4 * 32 * 4  # tokens, keys and values, heads, elements, float32: the tutor's
ROOMY = "limits: {{kv_memory: 64MiB"


def tight(topology, layers, heads_share=1, **limits):
    """The topology with pages for BLOCKS blocks where `layers` layers lie in one shard."""
    limits = {"kv_memory": int(BLOCKS * BLOCK_BYTES_PER_LAYER * layers * heads_share), **limits}
    text = "limits: {{" + ", ".join(f"{name}: {value}" for name, value in limits.items())
    return topology.replace(ROOMY, text) if ROOMY in topology else topology + text + "}}\n"


def body_of(number):
    return {"model": "tutor", "prompt": [10 + (number * 37 + i * 11) % 1500 for i in range(16)], "max_tokens": ANSWER,
            "temperature": 0.8, "seed": number, "ignore_eos": True, "return_token_ids": True, "logprobs": 0}


class Swap:
    """Run over several topologies."""

    topology = None
    swaps = True

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cls.topology, name="swap")
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def ask(self, number):
        status, answer = self.cluster.post("/v1/completions", body_of(number), timeout=120)
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["usage"]["completion_tokens"], ANSWER)
        return answer["choices"][0]

    def metric(self, name):
        _, text = self.cluster.get("/metrics")
        return float(re.search(rf"^troupe_scheduler_{name}(?:{{[^}}]*}})? (\S+)$", text, re.M).group(1))

    def test_the_tokens_of_each_are_those_it_has_alone(self):
        with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
            together = list(pool.map(self.ask, range(REQUESTS)))
        self.assertGreater(self.metric("preemptions_total"), 0)
        if self.swaps:
            self.assertGreater(self.metric("swaps_out_total"), 0)
            self.assertGreater(self.metric("swap_blocks"), 0)
        else:
            self.assertEqual(self.metric("swaps_out_total"), 0)
        self.assertEqual(self.metric("swaps_in_total"), self.metric("swaps_out_total"))
        self.assertEqual(self.metric("swap_blocks_used"), 0)
        preemptions = self.metric("preemptions_total")
        alone = [self.ask(number) for number in range(REQUESTS)]
        self.assertEqual(self.metric("preemptions_total"), preemptions)
        self.assertEqual(together, alone, "tokens, text and log-probabilities")


class OneProcess(Swap, unittest.TestCase):
    topology = tight(ONE_PROCESS, layers=6)


class Recomputed(Swap, unittest.TestCase):
    topology = tight(ONE_PROCESS, layers=6, swap_memory=0)
    swaps = False


class Int8Pages(Swap, unittest.TestCase):
    # A byte an element, and a scale of four for 32 of them.
    topology = tight(ONE_PROCESS + "kv_dtype: int8\n", layers=6, heads_share=(1 + 4 / 32) / 4)


class UnevenStages(Swap, unittest.TestCase):
    topology = tight(UNEVEN, layers=4)


class TwoByTwo(Swap, unittest.TestCase):
    topology = tight(TWO_BY_TWO, layers=3, heads_share=0.5)


if __name__ == "__main__":
    unittest.main()
