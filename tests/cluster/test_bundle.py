"""The bundle: one directory that runs where nothing of ours is installed."""

import os
import pathlib
import re
import subprocess
import tarfile
import tempfile
import unittest

BUILD = pathlib.Path(os.environ["BUILD"])
MAX_MEBIBYTES = 64  # packed
# What every machine has of its own; the name of the loader differs by architecture.
LIBC = re.compile(r"(ld-linux|linux-vdso|lib(c|m|dl|rt|pthread|resolv|util)\.so)")


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        subprocess.run([os.environ["CMAKE"], "--build", BUILD, "--target", "bundle"], check=True, capture_output=True)
        cls.bundle = BUILD / "bundle"

    def run_bare(self, *command):
        return subprocess.run(command, env={"PATH": "", "LD_LIBRARY_PATH": ""}, cwd="/", capture_output=True, text=True,
                              timeout=120)

    def test_the_command_starts(self):
        ran = self.run_bare(self.bundle / "bin/troupe", "version")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertRegex(ran.stdout, r"^troupe \d")

    def test_a_shipped_topology_is_planned(self):
        ran = self.run_bare(self.bundle / "bin/troupe", "check", self.bundle / "examples/topologies/one.yaml")
        self.assertEqual(ran.returncode, 0, ran.stderr)

    def test_every_library_but_libcs_is_inside(self):
        programs = [*(self.bundle / "bin").iterdir(), *(self.bundle / "tests").glob("bin/*")]
        self.assertTrue(programs)
        for program in programs:
            env = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_LIBRARY_PATH": ""}
            linked = subprocess.run([program], env=env, cwd="/", capture_output=True, text=True, check=True).stdout
            for line in linked.splitlines():
                name = line.split()[0].rsplit("/", 1)[-1]
                if LIBC.match(name):
                    continue
                self.assertIn(" => ", line)
                found = pathlib.Path(line.split(" => ")[1].split()[0]).resolve()
                self.assertEqual(found.parent, self.bundle / "lib", f"{program.name}: {line}")

    def test_it_can_be_carried(self):
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
                archive.add(self.bundle, "bundle")
            self.assertLess(packed.tell() / 2**20, MAX_MEBIBYTES)

    def test_the_gpu_check_is_rehearsed_from_it(self):
        with tempfile.TemporaryDirectory() as out:
            ran = subprocess.run([self.bundle / "tests/gpu/check.sh", "--emulated", "--only",
                                  "models,goldens,clusters,bench_tiny", "--out", out],
                                 env={"PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True, text=True, timeout=300)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            summary = (pathlib.Path(out) / "summary.txt").read_text()
        self.assertNotIn("failed", summary)
        for part in ("models", "clusters", "bench_tiny"):
            self.assertRegex(summary, rf"(?m)^{part} +passed in")


if __name__ == "__main__":
    unittest.main()
