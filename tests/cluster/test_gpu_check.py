"""tests/gpu/check.sh, rehearsed on an emulated GPU, from the source tree; test_bundle.py does it from a bundle."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

from harness import ROOT

CHECK = ROOT / "tests/gpu/check.sh"
PARTS = {"kernels", "products", "models", "goldens", "fuzz_kernels", "fuzz_products", "clusters", "cluster_tests",
         "nccl", "sanitizer", "bench_tiny", "peer"}


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name) / "out"

    def check(self, *arguments, **environment):
        return subprocess.run([CHECK, "--out", self.out, *arguments], env={**os.environ, **environment},
                              capture_output=True, text=True, timeout=480)

    def summary(self):
        lines = (self.out / "summary.txt").read_text().splitlines()
        self.assertEqual(lines[0], "EMULATED: no GPU was checked")
        return dict(line.split(maxsplit=1) for line in lines[1:])

    def test_every_part_passes_or_says_why_it_was_skipped(self):
        ran = self.check("--emulated")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        summary = self.summary()
        self.assertEqual(set(summary), PARTS)
        for part, outcome in summary.items():
            self.assertRegex(outcome, r"^passed in \d+ s$|^skipped: .", part)
        for part in PARTS - {"goldens", "cluster_tests", "nccl", "sanitizer", "peer"}:
            self.assertTrue(summary[part].startswith("passed"), part)
        steps = json.loads((self.out / "bench_tiny.json").read_text())["steps"]
        self.assertEqual({step["weights"] for step in steps}, {"bf16", "int8", "int4"})
        self.assertTrue(all(step["seconds"] > 0 for step in steps))
        self.assertEqual(ran.stdout.splitlines()[0],
                         "EMULATED: a rehearsal of this script on the CPU; it says nothing about any GPU")

    def test_what_fails_is_told_and_shown_by_the_exit_code(self):
        ran = self.check("--emulated", "--only", "models,clusters", TROUPE_TEST_SEED="", LD_PRELOAD="",
                         PATH=str(self.fake("timeout", "exit 7")) + ":" + os.environ["PATH"])
        self.assertEqual(ran.returncode, 1)
        self.assertEqual({part: outcome.split(":")[0] for part, outcome in self.summary().items()},
                         {"models": "failed (7)", "clusters": "failed (7)"})

    def fake(self, name, script):
        folder = self.out.parent / "fake"
        folder.mkdir()
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return folder

    def test_without_a_gpu_nothing_is_checked(self):
        ran = self.check(CUDA_VISIBLE_DEVICES="", TROUPE_GPU="")
        self.assertEqual(ran.returncode, 3)
        self.assertEqual(ran.stdout.splitlines()[-1], "check.sh: nothing was checked")

    def test_wrong_usage_is_refused(self):
        for arguments in (["--what"], ["--emulated", "--only", "nothing"], ["--only"]):
            self.assertEqual(self.check(*arguments).returncode, 2, arguments)


if __name__ == "__main__":
    unittest.main()
