"""The experiment that asks a running cluster where the time of a token goes."""

import os
import pathlib
import subprocess
import unittest

from harness import TROUPE, Cluster, any_model
from topologies import PLANNED

PROGRAM = os.environ.get("EXPERIMENT_BIN", str(pathlib.Path(TROUPE).parent / "where_a_token_goes"))


def run(cluster, *arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], env=cluster.environment, capture_output=True, text=True,
                          timeout=60)


def table(output):
    """{first words of a line: its numbers}, without the two lines of headings."""
    rows = {}
    for line in output.splitlines()[2:]:
        rows[line[:28].strip()] = [float(number) for number in line[28:].split()]
    return rows


class Experiment(unittest.TestCase):
    def test_the_parts_of_a_token_make_up_the_whole(self):
        with Cluster(PLANNED, any_model(), "experiment") as cluster:
            # Twice: a guest that left must not be in the way of the next.
            for tokens in (4, 24):
                done = run(cluster, cluster.file, tokens)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(f"{tokens} tokens", done.stdout.splitlines()[0])
                rows = table(done.stdout)
                shards = {name: numbers for name, numbers in rows.items() if name.startswith("shard/")}
                self.assertEqual(set(shards), {"shard/0/0/0", "shard/0/0/1", "shard/0/1/0", "shard/0/1/1"})
                for name, (compute, collectives) in shards.items():
                    self.assertGreater(compute, 0, name)
                    self.assertGreater(collectives, 0, name)
                parts = [rows[part][0] for part in ("stages", "messages between them", "scheduler and answers to us")]
                self.assertTrue(all(part > 0 for part in parts), done.stdout)
                self.assertAlmostEqual(sum(parts), rows["all"][0], delta=0.2)
                on_path = sum(shards["shard/0/0/0"]) + sum(shards["shard/0/1/0"])
                self.assertAlmostEqual(on_path, rows["stages"][0], delta=0.3)
            self.assertEqual(cluster.status()["epoch"], 1, "a guest disturbs nobody")

    def test_mistakes_are_told(self):
        cluster = Cluster(PLANNED, "nowhere", "not-running")
        absent = run(cluster, "not-running")
        self.assertEqual(absent.returncode, 1)
        self.assertIn("no cluster named not-running", absent.stderr)
        self.assertEqual(run(cluster).returncode, 2)
        self.assertEqual(run(cluster, "not-running", "0").returncode, 2)
        cluster.directory.cleanup()


if __name__ == "__main__":
    unittest.main(verbosity=2)
