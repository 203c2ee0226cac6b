"""What happens when members die: answers go on where their scheduler and gateway live, or end with an error, never in
silence; and the cluster comes back by itself."""

import json
import os
import pathlib
import signal
import unittest

from harness import Cluster, Stream, descendants, wait_ended, wait_until
from topologies import TWO_BY_TWO

LONG = {"model": "tutor", "prompt": "<|im_start|>user\nTell me a long story", "temperature": 0.8, "seed": 1,
        "max_tokens": 400, "ignore_eos": True}


def shared_memory_segments():
    found = {str(path) for path in pathlib.Path("/dev/shm").glob("*")}
    with open("/proc/sysvipc/shm") as table:
        found |= {"sysv " + line.split()[1] for line in table.readlines()[1:]}
    return found


class Failures(unittest.TestCase):
    topology = TWO_BY_TWO

    def setUp(self):
        self.segments = shared_memory_segments()
        self.cluster = Cluster(self.topology, name="failures")
        self.cluster.__enter__()

    def tearDown(self):
        self.cluster.__exit__()
        self.assertEqual(shared_memory_segments() - self.segments, set())

    def pid_of(self, actor):
        return next(entry["pid"] for entry in self.cluster.status()["actors"] if entry["actor"] == actor)

    def kill_under_load(self, actor):
        """Returns the streams that ran meanwhile."""
        streams = [Stream(self.cluster, LONG) for _ in range(4)]
        for stream in streams:
            self.assertTrue(stream.first.wait(30), "the stream has begun")
        epoch = self.cluster.status()["epoch"]
        victim = self.pid_of(actor)
        os.kill(victim, signal.SIGKILL)
        for stream in streams:
            stream.join(30)
            self.assertFalse(stream.is_alive(), f"a stream hangs after the death of {actor}")
            self.assertTrue(stream.complete() or stream.failed(),
                            f"after the death of {actor} a stream closed as if it were complete")
        wait_ended([victim], 5, "the victim is dead")
        self.cluster.wait_ready_after(epoch)
        self.assertEqual(self.cluster.post("/v1/completions", dict(LONG, max_tokens=4))[0], 200)
        return streams

    def test_a_killed_shard_comes_back_and_its_streams_go_on_with_the_same_tokens(self):
        expected = self.cluster.post("/v1/completions", LONG)[1]["choices"][0]["text"]
        for actor in ("shard/0/0/1", "shard/0/1/0"):
            for stream in self.kill_under_load(actor):
                self.assertTrue(stream.complete(), f"a stream of {actor} ended with {stream.events[-1:]} {stream.end}")
                self.assertEqual(stream.text(), expected)

    def test_a_killed_scheduler_comes_back(self):
        self.kill_under_load("scheduler/0")

    def test_a_killed_gateway_comes_back(self):
        self.kill_under_load("gateway")

    def test_a_member_that_stands_still_is_replaced(self):
        victim = self.pid_of("shard/0/1/1")
        os.kill(victim, signal.SIGSTOP)
        wait_ended([victim], 20, "the silent member is killed")
        self.cluster.wait_ready_after(1)
        self.assertEqual(self.cluster.post("/v1/completions", dict(LONG, max_tokens=4))[0], 200)

    def test_a_client_that_goes_away_frees_its_place(self):
        connection = self.cluster.connection()
        connection.request("POST", "/v1/completions", json.dumps(dict(LONG, stream=True)))
        response = connection.getresponse()
        response.read1(10)
        response.close()
        connection.close()
        def running():
            text = self.cluster.get("/metrics")[1]
            return [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                    if line.startswith("troupe_scheduler_running")]
        wait_until(lambda: running() == [0.0], 10, "nothing runs any more")


class FailuresOverSharedMemory(Failures):
    """The same where killed processes could leave segments behind. Guests (troupe status) join that way too."""

    topology = TWO_BY_TWO + 'fabric: {{transports: "shm,tcp"}}\n'


class RootFailure(unittest.TestCase):
    topology = TWO_BY_TWO

    def test_nothing_is_left_when_the_root_is_killed(self):
        segments = shared_memory_segments()
        cluster = Cluster(self.topology, name="root-killed")
        cluster.start()
        cluster.wait_ready()
        members = descendants(cluster.process.pid)
        self.assertGreaterEqual(len(members), 6)
        cluster.process.kill()
        cluster.process.wait(10)
        wait_ended(members, 10, "every member has ended")
        # The name is free again: the lock died with its holder.
        cluster.start()
        cluster.wait_ready()
        cluster.stop()
        cluster.directory.cleanup()
        self.assertEqual(shared_memory_segments() - segments, set())


class RootFailureOverSharedMemory(RootFailure):
    topology = FailuresOverSharedMemory.topology


if __name__ == "__main__":
    unittest.main(verbosity=2)
