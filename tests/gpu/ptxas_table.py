#!/usr/bin/env python3
"""What the compiler says of every kernel for GPUs: registers a thread, bytes of static shared memory, and bytes that
spill from registers to memory. Needs nvcc and c++filt, and no GPU.

Prints a table in Markdown, a line for each kernel; with all files and both architectures it takes some minutes of one
core. Exit codes: 0 no kernel spills, 1 one does, or a file does not compile, 2 wrong usage, 3 there is no nvcc.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As kernels/cuda/CMakeLists.txt compiles them.
FLAGS = ["-O3", "-DNDEBUG", "-std=c++20", "--expt-relaxed-constexpr", "-fmad=false", "-diag-suppress=554"]
# Enumerations in names of kernels, whose values the compiler has as numbers.
ENUMS = {"DType": "kernels/tensor.h", "Preparation": "kernels/cuda/norm.cu"}

Usage = collections.namedtuple("Usage", "registers shared stack stores loads")


def enum_names(enum, path):
    body = re.search(r"enum class " + enum + r"\b[^{]*{(.*?)};", (ROOT / path).read_text(), re.S).group(1)
    return re.findall(r"\bk([A-Z]\w*)", re.sub(r"//.*", "", body))


def compile_one(nvcc, file, arch):
    """What ptxas prints of a file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, f"-I{ROOT}", *FLAGS, "-Xptxas", "-v", f"-arch={arch}", "-cubin", "-o",
                   os.path.join(folder, "out"), str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"ptxas_table.py: {file} does not compile for {arch}:\n{done.stdout}")
    return done.stdout


def usages(log):
    """Usage by mangled name of the kernel."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers", part)
        if frame is None or used is None:
            sys.exit("ptxas_table.py: this nvcc reports kernels in words that are not known here:\n" + part)
        shared = re.search(r"(\d+) bytes smem", part)
        found[part.split("'")[0]] = Usage(int(used[1]), int(shared[1]) if shared else 0, *map(int, frame.groups()))
    return found


def readable(mangled):
    """Kernels as the source names them, by mangled name."""
    if not mangled:
        return {}
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    values = {enum: enum_names(enum, path) for enum, path in ENUMS.items()}
    names = {}
    for key, name in zip(mangled, plain.splitlines()):
        name = name.replace("(anonymous namespace)::", "")
        name = re.sub(r"troupe::kernels::(cuda::)?", "", name)
        for enum in ENUMS:
            name = re.sub(r"\(" + enum + r"\)(\d+)", lambda m, v=values[enum]: v[int(m[1])], name)
        name = re.sub(r"\b(\d+)u\b", r"\1", re.sub(r"\((int|unsigned int|bool)\)", "", name))
        names[key] = re.sub(r"\([^()]*\)$", "", name.removeprefix("void "))  # without parameters
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_80,sm_90a", help="what to compile for (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at a time (default: %(default)s)")
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="default: all of kernels/cuda")
    options = parser.parse_args()
    archs = options.arch.split(",")
    files = options.files or sorted((ROOT / "kernels/cuda").glob("*.cu"))
    if options.jobs < 1 or not all(re.fullmatch(r"sm_\w+", arch) for arch in archs):
        parser.error("--jobs is at least 1, --arch a list of names such as sm_90a")
    nvcc = shutil.which("nvcc") or shutil.which(os.path.join(os.environ.get("CUDA_PATH", "/usr/local/cuda"), "bin/nvcc"))
    if nvcc is None:
        print("ptxas_table.py: there is no nvcc: put it into PATH, or set CUDA_PATH", file=sys.stderr)
        return 3

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        logs = {(file, arch): pool.submit(compile_one, nvcc, file, arch) for file in files for arch in archs}
    rows = {}  # (file, kernel) -> Usage by arch
    for (file, arch), log in logs.items():
        found = usages(log.result())
        names = readable(list(found))
        for mangled, usage in found.items():
            by_arch = rows.setdefault((file.stem, names[mangled]), {})
            if arch in by_arch:
                sys.exit(f"ptxas_table.py: two kernels of {file} have the name {names[mangled]} here")
            by_arch[arch] = usage

    print("| file | kernel | " + " | ".join(archs) + " |\n|---|---|" + "---|" * len(archs))
    spills = False
    for (file, kernel), by_arch in sorted(rows.items()):
        cells = []
        for arch in archs:
            usage = by_arch[arch]
            cell = f"{usage.registers}" + (f", {usage.shared} B" if usage.shared else "")
            if usage.stack:
                cell += f", stack {usage.stack} B"
            if usage.stores or usage.loads:
                spills = True
                cell += f", SPILLS {usage.stores} / {usage.loads} B"
            cells.append(cell)
        print(f"| {file} | `{kernel}` | " + " | ".join(cells) + " |")
    if spills:
        print("ptxas_table.py: a kernel spills registers", file=sys.stderr)
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
