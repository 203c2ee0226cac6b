"""What a cluster's scheduler recorded is gone through again, also after a crash."""

import json
import os
import pathlib
import signal
import tempfile
import unittest

from harness import ROOT, Cluster
from topologies import ONE_PROCESS


DRAFT = ROOT / "examples/models/tutor-draft"


class Replay(unittest.TestCase):
    def replay(self, cluster, file):
        """The events, after all of them were found to be the same as then."""
        done = cluster.troupe("replay", file, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("all the same as then", done.stderr)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertTrue(all(event["same"] for event in events))
        return events

    def test_a_record_is_gone_through_again_after_an_end_and_after_a_crash(self):
        with tempfile.TemporaryDirectory(prefix="troupe-record-") as directory:
            file = pathlib.Path(directory) / "record"
            with Cluster(ONE_PROCESS + "served_model_name: tutor\n", name="replay",
                         arguments=("--record", str(file))) as cluster:
                for question in ("What is 27 + 45?", "What is 9 - 4?"):
                    cluster.ask(question)
                stream = cluster.stream("/v1/completions", {"model": "tutor", "prompt": [40, 41, 42], "max_tokens": 900,
                                                            "ignore_eos": True})
                next(stream)
                status = cluster.status()
                actor = next(actor for actor in status["actors"] if actor["actor"] == "scheduler/0")
                os.kill(actor["pid"], signal.SIGKILL)
                stream.close()
                cluster.wait_ready_after(status["epoch"])
                cluster.ask("What is 3 + 4?")

                crashed = self.replay(cluster, file)
                self.assertEqual(sum(event["kind"] == "admit" for event in crashed), 3)
                self.assertGreater(sum(event["kind"] == "step" for event in crashed), 2)
            ended = self.replay(cluster, f"{file}.1")
            self.assertEqual(sum(event["kind"] == "admit" for event in ended), 1)

            whole = file.read_bytes()
            file.write_bytes(whole[:64] + bytes([whole[64] ^ 255]) * 64 + whole[128:])
            done = cluster.troupe("replay", file)
            self.assertEqual(done.returncode, 1)
            self.assertIn("byte ", done.stderr)

    def test_what_a_draft_guessed_is_part_of_the_record(self):
        with tempfile.TemporaryDirectory(prefix="troupe-record-") as directory:
            file = pathlib.Path(directory) / "record"
            topology = ONE_PROCESS + f"served_model_name: tutor\nspeculation: {{{{draft: {{{{model: {DRAFT}}}}}}}}}\n"
            with Cluster(topology, name="replay-draft", arguments=("--record", str(file))) as cluster:
                for number in range(20):
                    cluster.ask(f"What is {number} + 45?")
                cluster.ask("Spell the word station backwards.", n=2)
                self.assertEqual(cluster.status()["ready"], True)
            events = self.replay(cluster, file)
            self.assertEqual(sum(event["kind"] == "admit" for event in events), 22)
            self.assertGreater(sum(event["kind"] == "guesses" for event in events), 0)


if __name__ == "__main__":
    unittest.main()
