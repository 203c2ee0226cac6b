"""`troupe bench` against a running cluster: what it reports is what the server counted, in a closed loop, an open one and
at the times of a trace; and what it says when something is wrong."""

import json
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest

from harness import TROUPE, Cluster, free_port, wait_until
from topologies import ONE_PROCESS

COUNTERS = ("prompt_tokens_total", "generated_tokens_total", 'http_requests_total{endpoint="completions",status="200"}',
            'http_requests_total{endpoint="chat",status="200"}')
LENGTHS = ("--prompt-tokens", 40, "--max-tokens", 12, "--ignore-eos")


class Load(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(ONE_PROCESS + "limits: {{queue: 64}}\n", name="bench")
        cls.enterClassContext(cls.cluster)
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="troupe-test-")))
        cls.url = f"http://127.0.0.1:{cls.cluster.port}"

    def counters(self):
        _, text = self.cluster.get("/metrics")
        values = {}
        for name in COUNTERS:
            found = re.search(rf"^troupe_{re.escape(name)} (\S+)$", text, re.M)
            values[name] = float(found.group(1)) if found else 0
        return values

    def bench(self, *arguments, code=0, target=None):
        done = self.cluster.troupe("bench", target or self.url, *arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def report(self, *arguments):
        """The JSON of a run without warm-up, and what the server counted meanwhile."""
        before = self.counters()
        report = json.loads(self.bench(*arguments, "--warmup", 0, "--json").stdout)
        return report, {name: value - before[name] for name, value in self.counters().items()}

    def check(self, report, counted, requests, api="completions"):
        self.assertEqual((report["sent"], report["answered"], report["failed"]), (requests, requests, 0), report["errors"])
        self.assertEqual(report["prompt_tokens"], counted["prompt_tokens_total"])
        self.assertEqual(report["output_tokens"], counted["generated_tokens_total"])
        self.assertEqual(counted[f'http_requests_total{{endpoint="{api}",status="200"}}'], requests)
        self.assertAlmostEqual(report["output_tokens_per_s"] * report["wall_s"], report["output_tokens"], delta=1)
        self.assertEqual(report["ttft_ms"]["count"], requests)
        self.assertLessEqual(report["ttft_ms"]["p50"], report["e2e_ms"]["p50"])
        self.assertLessEqual(report["e2e_ms"]["max"], 1e3 * report["wall_s"] + 1)
        self.assertAlmostEqual(sum(report["output_tokens_over_time"]) * report["interval_s"], report["output_tokens"],
                               delta=1)

    def test_a_closed_loop_reports_what_the_server_counted(self):
        report, counted = self.report("--concurrency", 6, "--requests", 30, *LENGTHS, "--seed", 1)
        self.check(report, counted, 30)
        self.assertEqual(report["output_tokens"], 30 * 12)
        self.assertEqual(report["prompt_tokens"], 30 * 40)
        self.assertEqual(report["peak_in_flight"], 6)
        self.assertEqual(report["model"], "tutor")
        self.assertIsInstance(report["queue_wait_ms"], float)

    def test_an_open_loop_sends_at_its_rate(self):
        report, counted = self.report("--rate", 40, "--requests", 60, *LENGTHS, "--seed", 2, "--slo-ttft-ms", 60000)
        self.check(report, counted, 60)
        sent = [at for at, _ in report["ttft_over_time"]]
        self.assertEqual(len(sent), 60)
        # 59 exponential gaps of mean 1/40 s: the sum is within a factor of two but once in many thousand seeds.
        self.assertGreater(sent[-1], 59 / 40 / 2)
        self.assertEqual(report["goodput_share"], 1)
        self.assertAlmostEqual(report["goodput_requests_per_s"], report["requests_per_s"])

    def test_a_trace_with_blocks_shares_prefixes_as_its_hash_ids_say(self):
        prompts = [[1, 2, 3], [1, 2, 4], [5], [1, 2, 3], [5, 6], [1, 7]]
        trace = self.folder / "blocks.jsonl"
        trace.write_text("".join(json.dumps({"timestamp": 100 * i, "input_length": 512 * len(ids), "output_length": 3,
                                             "hash_ids": ids}) + "\n" for i, ids in enumerate(prompts)))
        # One after the other, so that each finds what those before it left.
        report, counted = self.report("--trace", trace, "--trace-block-tokens", 16, "--concurrency", 1, "--requests", 6,
                                      "--ignore-eos", "--seed", 3)
        self.check(report, counted, 6)
        self.assertEqual(report["prompt_tokens"], 16 * sum(map(len, prompts)))
        self.assertEqual(report["reusable_tokens"], 16 * (2 + 2 + 1 + 1))
        self.assertEqual(report["cached_tokens"], report["reusable_tokens"])

    def test_a_trace_arrives_at_its_own_times_and_is_clipped_to_the_model(self):
        trace = self.folder / "azure.csv"
        trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,4\n"
                         "2023-11-16 18:15:48.6805900,5000,4\n2023-11-16 18:15:50.6805900,20,4\n")
        report, counted = self.report("--trace", trace, "--trace-scale", 0.1, "--ignore-eos", "--seed", 4)
        self.check(report, counted, 3)
        self.assertEqual(report["clipped"], 1)
        self.assertEqual(report["prompt_tokens"], 374 + 1020 + 20)
        sent = [at for at, _ in report["ttft_over_time"]]
        for at, due in zip(sent, (0, 0.2, 0.4)):
            self.assertGreaterEqual(at, due)

    def test_a_chat_is_measured_alike(self):
        report, counted = self.report("--api", "chat", "--concurrency", 3, "--requests", 9, *LENGTHS)
        self.check(report, counted, 9, api="chat")
        self.assertEqual(report["output_tokens"], 9 * 12)

    def test_a_shared_prefix_is_found_in_the_cache(self):
        report, _ = self.report("--concurrency", 1, "--requests", 8, "--prompt-tokens", 60, "--shared-prefix", 48,
                                "--max-tokens", 2, "--seed", 5)
        self.assertEqual(report["cached_tokens"], 7 * 48)

    def test_a_topology_file_names_the_server_and_files_hold_the_report(self):
        names = [self.folder / name for name in ("a.json", "b.json", "a.html", "both.html")]
        for seed, name in ((6, names[0]), (7, names[1])):
            done = self.bench("--requests", 8, *LENGTHS, "--seed", seed, "--label", name.stem, "--json", name,
                              "--html", names[2], target=self.cluster.file)
            self.assertRegex(done.stdout, r"requests +8 sent, 8 answered in ")
            self.assertRegex(done.stdout, r"first token( +[0-9.]+){7}")
        self.assertEqual(names[2].read_text().count("<svg"), 8)
        self.assertNotIn("nothing was measured", names[2].read_text())
        compared = self.cluster.troupe("bench", "--compare", names[0], names[1], "--html", names[3])
        self.assertEqual(compared.returncode, 0, compared.stderr)
        self.assertRegex(compared.stdout, r"first token p50 +ms +[0-9.]+ +[0-9.]+ +[0-9.]+x")
        self.assertEqual(names[3].read_text().count("<svg"), 8)

    def test_ctrl_c_ends_a_run_and_reports_it(self):
        before = self.counters()["generated_tokens_total"]
        process = subprocess.Popen([TROUPE, "bench", self.url, "--concurrency", "2", "--duration", "600", "--seed", "8",
                                    "--warmup", "0", "--json"], stdout=subprocess.PIPE, text=True)
        wait_until(lambda: self.counters()["generated_tokens_total"] > before + 1000, 60, "the load runs")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130)
        report = json.loads(out)
        self.assertGreater(report["answered"], 2)
        self.assertLessEqual(report["unfinished"], 2)
        self.assertEqual(report["sent"], report["answered"] + report["unfinished"])

    def test_a_request_that_the_server_refuses_is_said_in_its_words(self):
        done = self.bench("--requests", 4, "--vocab-size", 100000, code=1)
        self.assertIn("no warm-up request was answered", done.stderr)
        self.assertIn("param prompt[", done.stderr)
        report = json.loads(self.bench("--requests", 4, "--vocab-size", 100000, "--warmup", 0, "--json", code=1).stdout)
        self.assertEqual([(error["kind"], error["count"]) for error in report["errors"]], [("http_400", 4)])


class WrongCommandLines(unittest.TestCase):
    def refusal(self, *arguments, code=2):
        done = subprocess.run([TROUPE, "bench", *map(str, arguments)], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def test_nobody_at_the_url_is_said(self):
        url = f"http://127.0.0.1:{free_port()}"
        self.assertIn(url.removeprefix("http://"), self.refusal(url, code=1))

    def test_what_is_no_server_is_refused(self):
        self.assertIn("https is not spoken", self.refusal("https://example.org"))
        self.assertIn("http://HOST:PORT", self.refusal("/nowhere.yaml"))

    def test_options_that_do_not_go_together_are_named(self):
        url = "http://127.0.0.1:1"
        for arguments, named in (((url, "--rate", 5, "--concurrency", 5), "--concurrency and --rate"),
                                 ((url, "--trace-scale", 2), "--trace"),
                                 ((url, "--prompt", 5), "--prompt"),
                                 (("--local", "x", "--rate", 5), "--rate"),
                                 (("--compare", "a", "b", "--seed", 1), "--seed"),
                                 ((url, "--rate", "nan"), "--rate"),
                                 ((url, "--rate", 0), "--rate"),
                                 ((url, "--prompt-tokens", "9-3"), "--prompt-tokens"),
                                 ((url, "--max-tokens", 0), "--max-tokens"),
                                 ((url, "--extra", "[1]"), "--extra"),
                                 ((url, "--api", "chat", "--prompt-kind", "ids", "--model", "m", "--vocab-size", 100,
                                   "--max-model-len", 100), "--prompt-kind")):
            with self.subTest(named):
                self.assertIn(named, self.refusal(*arguments))

    def test_a_broken_trace_is_named_with_its_line(self):
        with tempfile.TemporaryDirectory(prefix="troupe-test-") as folder:
            trace = pathlib.Path(folder) / "broken.csv"
            trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,5,5\n2,many,5\n")
            self.assertIn(f"{trace}:3: ContextTokens is 'many'", self.refusal("http://127.0.0.1:1", "--trace", trace))

    def test_reports_that_are_none_are_named(self):
        with tempfile.TemporaryDirectory(prefix="troupe-test-") as folder:
            report = pathlib.Path(folder) / "report.json"
            report.write_text('{"format": "troupe-bench-1", "label": 3}')
            self.assertIn(f'{report}: "label"', self.refusal("--compare", report, report))
            self.assertIn("/nowhere.json", self.refusal("--compare", "/nowhere.json", report))


if __name__ == "__main__":
    unittest.main(verbosity=2)
