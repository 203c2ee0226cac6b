"""The bundle: one directory that runs where nothing of ours is installed."""

import os
import pathlib
import re
import subprocess
import unittest

BUILD = pathlib.Path(os.environ["BUILD"])
MAX_MEGABYTES = 200
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
        bytes_in_all = sum(path.stat().st_size for path in self.bundle.rglob("*") if path.is_file() and not path.is_symlink())
        self.assertLess(bytes_in_all / 1e6, MAX_MEGABYTES)


if __name__ == "__main__":
    unittest.main()
