"""Two 'hosts': network namespaces joined by a veth pair. Needs root and iproute2, else it is skipped."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from harness import ROOT, TROUPE, TUTOR, descendants, wait_ended, wait_until

TOPOLOGY = ROOT / "examples/topologies/two-hosts.yaml"
SCRIPT = ROOT / "examples/topologies/two-hosts-netns.sh"
PROMPT = "Once upon a time"


class TwoHosts(unittest.TestCase):
    def setUp(self):
        if not (TUTOR / "config.json").exists():
            self.skipTest(f"{TUTOR} is not there")
        if os.geteuid() != 0 or shutil.which("ip") is None:
            self.skipTest("network namespaces need root and iproute2 (cluster/dependencies.sh --tools)")
        made = subprocess.run([SCRIPT, "up"], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest("no network namespaces here: " + made.stderr.strip())
        self.addCleanup(subprocess.run, [SCRIPT, "down"], check=True)
        run_directory = tempfile.TemporaryDirectory(prefix="troupe-test-")
        self.addCleanup(run_directory.cleanup)
        self.log = pathlib.Path(run_directory.name) / "log"
        self.environment = dict(os.environ, TROUPE_RUN_DIR=run_directory.name + "/run")
        with open(self.log, "w") as log:
            self.root = subprocess.Popen([TROUPE, "up", TOPOLOGY], stdin=subprocess.DEVNULL, stdout=log,
                                         stderr=subprocess.STDOUT, env=self.environment)
        self.addCleanup(self.end)
        self.wait_ready(after_epoch=0)

    def end(self):
        members = descendants(self.root.pid)
        self.root.terminate()
        try:
            self.root.wait(40)
        finally:
            self.root.kill()
        wait_ended(members, 5, "no process is left behind")

    def status(self):
        done = subprocess.run([TROUPE, "status", TOPOLOGY, "--json"], env=self.environment, capture_output=True,
                              text=True, timeout=30)
        self.last_status = done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout else {"ready": False, "epoch": 0, "actors": []}

    def wait_ready(self, after_epoch):
        def ready():
            if self.root.poll() is not None:
                raise AssertionError("the cluster ended\n" + self.log.read_text())
            status = self.status()
            return status["ready"] and status["epoch"] > after_epoch
        try:
            wait_until(ready, 60, f"ready in an epoch after {after_epoch}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.last_status}\n{self.log.read_text()[-4000:]}") from None

    def generate(self, *options):
        """A client inside the namespace 'left', where the gateway listens."""
        return subprocess.Popen(["ip", "netns", "exec", "troupe-left", TROUPE, "generate", PROMPT, "--temperature", "0",
                                 *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def answer(self):
        """The pieces of one answer, each of at least one token."""
        client = self.generate("--json", "--max-tokens", "32")
        events, errors = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 0, errors)
        choices = [choice for event in events.splitlines() for choice in json.loads(event)["choices"]]
        return [choice["text"] for choice in choices if choice["text"]]

    def crossed_bytes(self):
        shown = subprocess.run(["ip", "-n", "troupe-left", "-json", "-statistics", "link", "show", "tr-left"],
                               capture_output=True, text=True, check=True)
        counters = json.loads(shown.stdout)[0]["stats64"]
        return counters["tx"]["bytes"]

    def set_link(self, state):
        subprocess.run(["ip", "-n", "troupe-right", "link", "set", "tr-right", state], check=True)

    def test_steps_cross_the_link_and_the_cluster_outlives_its_loss(self):
        hidden_size = json.loads((TUTOR / "config.json").read_text())["hidden_size"]
        before = self.crossed_bytes()
        answer = self.answer()
        self.assertGreater(len(answer), 0)
        # Every token's hidden state goes from the first stage to the second, as float32.
        self.assertGreater(self.crossed_bytes() - before, len(answer) * hidden_size * 4)

        whole, errors = self.generate("--max-tokens", "400").communicate(timeout=60)
        self.assertNotEqual(whole, "", errors)

        epoch = self.status()["epoch"]
        self.set_link("down")
        cut_off = self.generate("--max-tokens", "400")
        wait_until(lambda: "its connection is gone" in self.log.read_text(), 30, "the other side is declared dead")
        self.set_link("up")
        self.wait_ready(after_epoch=epoch)
        text, errors = cut_off.communicate(timeout=60)
        self.assertEqual((cut_off.returncode, text), (0, whole), "a request outlives the link's loss: " + errors)
        self.assertEqual(self.answer(), answer)


if __name__ == "__main__":
    unittest.main(verbosity=2)
