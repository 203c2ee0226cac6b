"""The plan of the house as a test: who may include whom, files of one idea, a README whose paths exist."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# room -> the rooms it may include from, besides itself. Arrows run only downwards.
BASE = {"runtime/base"}
MAY_INCLUDE = {
    "schema": set(),
    "kernels": {"runtime/base"},
    "runtime/base": set(),
    "runtime/fabric": BASE | {"schema"},
    "runtime/collective": BASE | {"kernels", "runtime/fabric"},
    "runtime/model": BASE | {"kernels", "runtime/collective"},
    "runtime/text": BASE,
    "runtime/engine": BASE | {"schema"},
}
MAY_INCLUDE["actors"] = set(MAY_INCLUDE) | {"actors"}
MAY_INCLUDE["cluster"] = set(MAY_INCLUDE)
MAY_INCLUDE["examples"] = set(MAY_INCLUDE)
MAY_INCLUDE["tests"] = set(MAY_INCLUDE)

# Libraries that must stay inside their rooms.
ONLY_IN = {
    r"<caf/": {"runtime/fabric", "actors", "cluster", "examples", "tests"},
    r"<uc[pst]/": {"runtime/fabric", "tests", "cluster"},
    r"<boost/(beast|asio)": {"actors", "cluster", "tests", "examples"},
    r"<yaml-cpp/": {"cluster", "tests"},
    r"\"schema/": {"runtime/fabric", "runtime/engine", "actors", "cluster", "examples", "tests", "schema"},
}

MAX_LINES = 600


def tracked(*patterns):
    # safe.directory: the tests may run as another user than the one who cloned.
    listing = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "--", *patterns], cwd=ROOT,
                             capture_output=True, text=True, check=True)
    return listing.stdout.split()


def room_of(path):
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "runtime" else parts[0]


def sources():
    return tracked("*.h", "*.cpp", "*.cu", "*.cuh", "*.inc")


class Layout(unittest.TestCase):
    def test_includes_point_only_downwards(self):
        wrong = []
        for path in sources():
            room = room_of(path)
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
                match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not match:
                    continue
                target = room_of(match.group(1))
                if "/" not in match.group(1):
                    wrong.append(f"{path}:{number}: include paths start at the root: {line}")
                elif target != room and target not in MAY_INCLUDE[room]:
                    wrong.append(f"{path}:{number}: {room} must not know {target}: {line}")
        self.assertEqual(wrong, [])

    def test_libraries_stay_in_their_rooms(self):
        wrong = []
        for path in sources():
            room = room_of(path)
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
                for pattern, rooms in ONLY_IN.items():
                    if re.match(r"\s*#\s*include\s+" + pattern, line) and room not in rooms | {"tests"}:
                        wrong.append(f"{path}:{number}: {line.strip()}")
        self.assertEqual(wrong, [])

    def test_no_file_holds_two_ideas(self):
        long = [f"{path}: {lines} lines" for path in tracked("*.h", "*.cpp", "*.capnp", "*.py", "*.sh", "*.cu")
                if (lines := len((ROOT / path).read_text().splitlines())) > MAX_LINES]
        self.assertEqual(long, [])

    def test_every_path_in_the_readme_exists(self):
        text = (ROOT / "README.md").read_text()
        tops = "actors|runtime|kernels|schema|cluster|tests|examples|\\.ci"
        missing = []
        for match in re.finditer(rf"(?<![\w/.-])((?:{tops})/[\w./-]*\w)", text):
            path = match.group(1)
            if not (ROOT / path).exists() and not list(ROOT.glob(path + ".*")):
                missing.append(path)
        self.assertEqual(missing, [])

    def test_the_top_level_holds_nothing_else(self):
        allowed = {"CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", ".clang-format", ".clang-tidy", ".ci",
                   ".gitignore", "actors", "runtime", "kernels", "schema", "cluster", "tests", "examples"}
        self.assertEqual({path.split("/")[0] for path in tracked()} - allowed, set())


if __name__ == "__main__":
    unittest.main(verbosity=2)
