"""Starts real clusters for tests: the troupe command, a topology file, HTTP. Standard library only."""

import http.client
import json
import os
import pathlib
import random
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TROUPE = os.environ.get("TROUPE_BIN", str(ROOT / "build/release/bin/troupe"))
TUTOR = ROOT / "examples/models/tutor"
FIXTURES = pathlib.Path(os.environ.get("TROUPE_FIXTURES", ROOT.parent / "shared/fixtures"))


def any_model():
    """The shipped model, or else a small one of the fixtures; skips the test when there is neither."""
    for model in (TUTOR, FIXTURES / "stories260K/hf-f32"):
        if (model / "config.json").exists():
            return model
    raise unittest.SkipTest(f"no model: neither {TUTOR} nor TROUPE_FIXTURES ({FIXTURES})")


def free_port():
    """One that nobody is given who asks for any port, such as the processes that are to be started."""
    first_given = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10_000, first_given)))
            except OSError:
                continue
            return probe.getsockname()[1]


def wait_until(condition, timeout_s, what):
    """Returns the first true value of condition(); fails after timeout_s. For what only asking can tell."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


def wait_ended(pids, timeout_s, what):
    """Returns when all these processes have ended, whoever's children they are; fails after timeout_s."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended, _, _ = select.select([process], [], [], max(0, deadline - time.monotonic()))
        finally:
            os.close(process)
        if not ended:
            raise AssertionError(f"not within {timeout_s} s: {what}")


def alive(pid):
    """Whether the process runs; one that has ended and only waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """All processes below pid."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


class Cluster:
    """A running cluster. Use as a context manager; leaving it ends the cluster."""

    def __init__(self, topology, model=TUTOR, name="test", arguments=()):
        """topology: YAML with {model}, {port} and {name} to fill in; arguments: more of `troupe up`."""
        self.arguments = arguments
        self.port = free_port()
        self.directory = tempfile.TemporaryDirectory(prefix="troupe-test-")
        self.file = pathlib.Path(self.directory.name) / "topology.yaml"
        self.file.write_text(topology.format(model=model, port=self.port, name=name))
        self.environment = dict(os.environ, TROUPE_RUN_DIR=str(pathlib.Path(self.directory.name) / "run"))
        self.log = pathlib.Path(self.directory.name) / "log"
        self.process = None

    def __enter__(self):
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.process.kill()  # its nodes die with it
            self.process.wait()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        self.directory.cleanup()

    def start(self):
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([TROUPE, "up", str(self.file), "--log-level", "info", *self.arguments],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                            env=self.environment)

    def stop(self):
        """Ends the cluster as Ctrl-C does; fails if anything is left behind."""
        left = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the cluster did not end\n" + self.output())
        wait_ended(left, 5, "no process is left behind")

    def output(self):
        return self.log.read_text(errors="replace")[-6000:]

    def troupe(self, *arguments, timeout=60):
        return subprocess.run([TROUPE, *map(str, arguments)], env=self.environment, capture_output=True, text=True,
                              timeout=timeout)

    def status(self):
        return json.loads(self.troupe("status", self.file, "--json").stdout)

    def wait_ready(self, timeout_s=60):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the cluster ended with {self.process.returncode}\n" + self.output())
            try:
                return self.get("/ready")[0] == 200
            except OSError:
                return False
        try:
            wait_until(ready, timeout_s, "the cluster is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None

    def wait_ready_after(self, epoch, timeout_s=60):
        """Returns when the cluster is ready in a later epoch: /ready alone may not know of a loss yet."""
        def ready():
            status = self.status()
            return status["ready"] and status["epoch"] > epoch
        wait_until(ready, timeout_s, f"ready in an epoch after {epoch}")
        self.wait_ready()

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path):
        connection = self.connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def post(self, path, body, timeout=60):
        connection = self.connection(timeout)
        try:
            connection.request("POST", path, body if isinstance(body, (str, bytes)) else json.dumps(body),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text)
        finally:
            connection.close()

    def ask(self, question, **options):
        """The whole answer to one question, greedily."""
        body = {"model": "tutor", "messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": 64, **options}
        status, answer = self.post("/v1/chat/completions", body)
        if status != 200:
            raise AssertionError(f"{status}: {answer}")
        return answer["choices"][0]["message"]["content"]

    def stream(self, path, body, timeout=60):
        """Yields the data of each server-sent event; raises http.client.IncompleteRead when the body is cut."""
        connection = self.connection(timeout)
        try:
            connection.request("POST", path, json.dumps(dict(body, stream=True)), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"{response.status}: {response.read().decode()}")
            buffer = b""
            while True:
                piece = response.read1(65536)
                if not piece:
                    break
                buffer += piece
                while b"\n\n" in buffer:
                    event, buffer = buffer.split(b"\n\n", 1)
                    if not event.startswith(b"data: "):
                        raise AssertionError(f"not an SSE data line: {event!r}")
                    yield event[6:].decode()
        finally:
            connection.close()


class Stream(threading.Thread):
    """Reads one stream of completions to whatever end it has."""

    def __init__(self, cluster, body):
        super().__init__(daemon=True)
        self.cluster, self.body, self.events, self.end = cluster, body, [], None
        self.first = threading.Event()
        self.start()

    def run(self):
        try:
            for event in self.cluster.stream("/v1/completions", self.body):
                self.events.append(event)
                self.first.set()
            self.end = "closed"
        except (http.client.HTTPException, OSError, AssertionError) as error:
            self.end = type(error).__name__
        self.first.set()

    def complete(self):
        return bool(self.events) and self.events[-1] == "[DONE]"

    def text(self):
        pieces = [json.loads(event) for event in self.events if event != "[DONE]"]
        return "".join(piece["choices"][0]["text"] for piece in pieces if piece["choices"])

    def failed(self):
        """It has an error event, or was cut."""
        if self.complete():
            return False
        return bool(self.events) and "error" in json.loads(self.events[-1]) or self.end not in (None, "closed")
