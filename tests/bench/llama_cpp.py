"""llama.cpp as a peer: its own benches, run from a folder as ../shared/peers/setup.sh makes it (a `sid` command that runs
inside a root where that folder is /peers)."""

import contextlib
import json
import pathlib
import random
import socket
import subprocess
import time

RPC_SERVER = "/usr/libexec/x86_64-linux-gnu/llama/bin/ggml-rpc-server"


class LlamaCpp:
    def __init__(self, folder, prefix=()):
        """prefix: words before every measured command."""
        self.folder, self.prefix = pathlib.Path(folder), tuple(prefix)

    def missing(self):
        """Why it cannot be run, or nothing."""
        if not (self.folder / "sid").exists():
            return f"{self.folder / 'sid'} is missing"
        found = self._run("llama-bench", "--help", check=False)
        return None if found.returncode == 0 else f"llama-bench does not run in {self.folder}"

    def _run(self, program, *arguments, check=True):
        return subprocess.run([*self.prefix, str(self.folder / "sid"), program, *map(str, arguments)], check=check,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def _inside(self, file):
        return "/peers/" + str(file.resolve().relative_to(self.folder.resolve()))

    def prefill(self, file, prompt, threads):
        """Tokens a second."""
        done = self._run("llama-bench", "-m", self._inside(file), "-p", prompt, "-n", 0, "-t", threads, "-r", 1,
                         "-o", "json")
        return json.loads(done.stdout)[0]["avg_ts"]

    def decode(self, file, prompt, generate, batch, threads):
        """Tokens a second of all sequences together, after prompts of the given length. The sequences share their prompt's
        pages, which saves the time to read it again for each; decoding is the same work."""
        done = self._run("llama-batched-bench", "-m", self._inside(file), "-c", (prompt + generate) * batch + 256,
                         "-b", 2048, "-ub", 512, "-npp", prompt, "-ntg", generate, "-npl", batch, "-t", threads, "-pps",
                         "--output-format", "jsonl")
        line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
        return json.loads(line)["speed_tg"]

    def server_command(self, file, port, threads, slots, slot_tokens):
        """The command of a llama-server with so many slots of so many tokens each."""
        return [str(self.folder / "sid"), "llama-server", "-m", self._inside(file), "--host", "127.0.0.1", "--port",
                str(port), "-t", str(threads), "-tb", str(threads), "--parallel", str(slots), "-c",
                str(slots * slot_tokens)]

    @contextlib.contextmanager
    def rpc_servers(self, count):
        """So many servers with one thread each; yields what decode_over_rpc needs."""
        servers, ports = [], []
        try:
            for _ in range(count):
                port = random.randrange(20000, 30000)
                servers.append(subprocess.Popen([str(self.folder / "sid"), RPC_SERVER, "-H", "127.0.0.1", "-p", str(port),
                                                 "-t", "1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                                stderr=subprocess.DEVNULL))
                ports.append(port)
            for port in ports:
                wait_for_port(port)
            yield ",".join(f"127.0.0.1:{port}" for port in ports)
        finally:
            for server in servers:
                server.kill()
                server.wait()

    def decode_over_rpc(self, file, generate, servers):
        done = self._run("llama-bench", "-m", self._inside(file), "--rpc", servers, "-ngl", 99, "-p", 0, "-n", generate,
                         "-r", 1, "-t", 1, "-o", "json")
        return json.loads(done.stdout)[0]["avg_ts"]


def wait_for_port(port, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on port {port} after {timeout_s} s") from None
            time.sleep(0.05)
