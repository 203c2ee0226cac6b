"""Who is served first, who is refused and who runs out of time, through a whole cluster that answers one at a time."""

import http.client
import json
import re
import tempfile
import threading
import unittest

from harness import Cluster, wait_until

# Two ranks in two processes: a long answer takes a while.
TOPOLOGY = """
cluster: {name}
model: {model}
served_model_name: tutor
nodes:
  - {{name: left, host: localhost, devices: [cpu:0]}}
  - {{name: right, host: localhost, devices: [cpu:1]}}
parallel: {{pipeline: 1, tensor: 2}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}, api_key_file: KEYS}}
limits: {{max_batch_sequences: 1, queue: 4}}
"""
KEYS = ("first-key", "second-key")
LONG = 900  # tokens of an answer that runs until everything else has happened


def body_of(max_tokens, first_token=40, **options):
    return {"model": "tutor", "prompt": [first_token, *range(41, 56)], "temperature": 0, "max_tokens": max_tokens,
            "ignore_eos": True, "return_token_ids": True, **options}


class Request:
    """Asked on a thread of its own; `ended` gets its name when it is answered."""

    def __init__(self, cluster, body, key=KEYS[0], name=None, ended=None):
        self.status = self.headers = self.answer = None
        self.thread = threading.Thread(target=self.run, args=(cluster, body, key, name, ended))
        self.thread.start()

    def run(self, cluster, body, key, name, ended):
        connection = cluster.connection()
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Authorization": f"Bearer {key}"})
            response = connection.getresponse()
            self.answer = json.loads(response.read())
            self.status, self.headers = response.status, response.headers
        finally:
            connection.close()
        if ended is not None:
            ended.append(name)

    def wait(self):
        self.thread.join()
        return self

    def tokens(self):
        return self.answer["choices"][0]["token_ids"]


class Stream:
    """An answer that runs: its first token has come."""

    def __init__(self, cluster, **options):
        self.connection = cluster.connection()
        self.connection.request("POST", "/v1/completions", json.dumps(body_of(LONG, stream=True, **options)),
                                {"Authorization": f"Bearer {KEYS[0]}"})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self.events = [self.response.readline()]

    def rest(self):
        """All of its events, whether the body ended well or was cut."""
        try:
            while line := self.response.readline():
                self.events.append(line)
        except (http.client.IncompleteRead, ConnectionError):
            pass
        self.connection.close()
        return [json.loads(event[6:]) for event in self.events if event.startswith(b"data: {")]

    def close(self):
        self.response.close()
        self.connection.close()


class Admission(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keys = tempfile.NamedTemporaryFile("w", prefix="troupe-keys-")
        cls.keys.write("\n".join(KEYS))
        cls.keys.flush()
        cls.cluster = Cluster(TOPOLOGY.replace("KEYS", cls.keys.name), name="admission")
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()
        cls.keys.close()

    def metric(self, name):
        _, text = self.cluster.get("/metrics")
        return float(re.search(rf"^troupe_scheduler_{name}(?:{{[^}}]*}})? (\S+)$", text, re.M).group(1))

    def wait_queued(self, count):
        wait_until(lambda: self.metric("queue_length") == count, 20, f"{count} requests wait")

    def wait_idle(self):
        wait_until(lambda: self.metric("queue_length") + self.metric("running_sequences") == 0, 20, "nothing is left")

    def test_an_urgent_request_goes_before_what_runs_and_changes_nothing_in_its_answer(self):
        alone = [token for event in Stream(self.cluster).rest() for choice in event["choices"]
                 for token in choice["token_ids"]]
        self.assertEqual(len(alone), LONG)
        preemptions = self.metric("preemptions_total")
        stream, ended = Stream(self.cluster), []
        last = Request(self.cluster, body_of(4, priority=5), name="last", ended=ended)
        self.wait_queued(1)
        urgent = Request(self.cluster, body_of(4, priority=-5), name="urgent", ended=ended)
        interrupted = [token for event in stream.rest() for choice in event["choices"]
                       for token in choice["token_ids"]]
        ended.append("stream")
        urgent.wait(), last.wait()
        self.assertEqual(ended[0], "urgent")
        self.assertEqual(interrupted, alone)
        self.assertEqual(self.metric("preemptions_total"), preemptions + 1)
        self.assertEqual((urgent.status, last.status), (200, 200))
        self.wait_idle()

    def test_a_key_with_many_requests_does_not_hold_up_one_with_few(self):
        stream, ended = Stream(self.cluster), []
        many = [Request(self.cluster, body_of(30, 60 + number), name=f"first {number}", ended=ended)
                for number in range(3)]
        self.wait_queued(3)
        few = Request(self.cluster, body_of(30, 70), KEYS[1], "second", ended)
        self.wait_queued(4)
        stream.close()
        for request in [*many, few]:
            self.assertEqual(request.wait().status, 200)
        # The stream has used up the first key's share.
        self.assertEqual(ended[0], "second")
        self.wait_idle()

    def test_a_full_queue_refuses_at_once_and_takes_the_prompts_of_a_request_together(self):
        stream = Stream(self.cluster)
        waiting = [Request(self.cluster, body_of(2, 60 + number)) for number in range(3)]
        self.wait_queued(3)
        together = Request(self.cluster, {**body_of(2), "prompt": [[5] * 4, [6] * 4]}).wait()
        self.assertEqual(together.status, 429, together.answer)
        self.assertEqual(self.metric("queue_length"), 3)
        too_many = Request(self.cluster, {**body_of(2), "prompt": [[5] * 4] * 5}).wait()
        self.assertEqual(too_many.status, 400, too_many.answer)
        waiting.append(Request(self.cluster, body_of(2, 80)))
        self.wait_queued(4)
        refused = Request(self.cluster, body_of(2)).wait()
        self.assertEqual(refused.status, 429, refused.answer)
        self.assertEqual(refused.answer["error"]["param"], "queue")
        self.assertGreaterEqual(int(refused.headers["Retry-After"]), 1)
        stream.close()
        for request in waiting:
            self.assertEqual(request.wait().status, 200)
        self.assertEqual(Request(self.cluster, {**body_of(2), "prompt": [[5] * 4, [6] * 4]}).wait().status, 200)
        self.wait_idle()

    def test_a_timeout_ends_what_waits_and_what_runs(self):
        stream = Stream(self.cluster)
        waits = Request(self.cluster, body_of(2, timeout=0.05)).wait()
        self.assertEqual(waits.status, 504, waits.answer)
        self.assertEqual(waits.answer["error"]["code"], "deadline_exceeded")
        self.assertEqual(waits.answer["error"]["param"], "timeout")
        self.assertEqual(waits.headers["x-should-retry"], "false")
        stream.close()
        self.wait_idle()
        events = Stream(self.cluster, timeout=0.1, speculation=False).rest()
        self.assertEqual(events[-1]["error"]["code"], "deadline_exceeded")
        self.assertLess(len(events), LONG)
        self.wait_idle()
        self.assertEqual(self.metric("kv_blocks_used"), 0)

    def test_what_is_out_of_range_is_named(self):
        for field, value in (("priority", 101), ("priority", 0.5), ("timeout", 0), ("timeout", 1e9)):
            refused = Request(self.cluster, body_of(2, **{field: value})).wait()
            self.assertEqual((refused.status, refused.answer["error"]["param"]), (400, field))


if __name__ == "__main__":
    unittest.main()
