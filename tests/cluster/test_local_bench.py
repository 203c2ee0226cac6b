"""`troupe bench --local`: what it reports of a small model, and what it says about a wrong command line."""

import json
import math
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

from harness import TROUPE, TUTOR
from test_bad_models import write_model

SHORT = ("--prompt", "12", "--generate", "5", "--repetitions", "1")
CORES = len(os.sched_getaffinity(0))


def bench(*arguments):
    return subprocess.run([TROUPE, "bench", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def report_of(*arguments):
    done = bench(*arguments, "--json")
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


def stored_matrix_bytes(model):
    """Bytes in the file of the matrices that a decode step reads: a tied embedding table makes the logits."""
    with open(model / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tied = "lm_head.weight" not in header
    return sum(tensor["data_offsets"][1] - tensor["data_offsets"][0] for name, tensor in header.items()
               if name != "__metadata__" and len(tensor["shape"]) == 2 and (tied or "embed" not in name))


@unittest.skipUnless((TUTOR / "config.json").exists(), "the shipped model is missing")
class Reports(unittest.TestCase):
    def test_the_report_holds_every_figure_and_they_agree(self):
        report = report_of("--local", TUTOR, *SHORT)
        for key in ("load_s", "start_to_first_token_s", "time_to_first_token_s", "time_per_output_token_s",
                    "prefill_tokens_per_s", "decode_tokens_per_s", "weight_bytes_per_token", "file_bytes",
                    "read_bandwidth_bytes_per_s", "fraction_of_bound", "prefill_fraction_of_bound",
                    "multiply_add_peak"):
            self.assertIsInstance(report[key], (int, float), key)
            self.assertGreater(report[key], 0, key)
            self.assertTrue(math.isfinite(report[key]), key)
        self.assertEqual((report["model"], report["format"]), ("tutor", "BF16"))
        self.assertEqual((report["prompt"], report["generate"], report["batch"], report["shards"],
                          report["repetitions"], report["threads"]), (12, 5, 1, 1, 1, CORES))
        self.assertGreaterEqual(report["start_to_first_token_s"], report["load_s"])
        self.check_decode_bound(report)

    def check_decode_bound(self, report):
        if report["bound"] == "read_bandwidth":
            read = report["weight_bytes_per_token"] * report["decode_tokens_per_s"] / report["batch"]
            self.assertAlmostEqual(report["fraction_of_bound"], read / report["read_bandwidth_bytes_per_s"], places=6)

    def test_weights_are_counted_once_with_the_lm_head_and_without_the_embedding_rows(self):
        stored = stored_matrix_bytes(TUTOR)
        counted = report_of("--local", TUTOR, *SHORT)["weight_bytes_per_token"]
        # Panels are filled up with zeros; an implementation may widen what it packs, to float32 at most.
        self.assertGreaterEqual(counted, stored)
        self.assertLess(counted, 2.2 * stored)

    @unittest.skipIf(CORES < 2, "needs two cores")
    def test_two_shards_share_the_weights_and_the_threads(self):
        one, two = (report_of("--local", TUTOR, *SHORT, "--threads", 2, "--shards", shards) for shards in (1, 2))
        self.assertEqual((two["shards"], two["threads"]), (2, 2))
        self.assertAlmostEqual(two["weight_bytes_per_token"] / one["weight_bytes_per_token"], 1, delta=0.1)

    def test_a_batch_whose_prompts_take_several_steps_decodes_together(self):
        report = report_of("--local", TUTOR, "--prompt", 200, "--generate", 3, "--batch", 5, "--repetitions", 1)
        self.assertEqual((report["batch"], report["prompt"]), (5, 200))
        self.check_decode_bound(report)

    def test_without_generation_there_is_no_decode_speed(self):
        report = report_of("--local", TUTOR, "--prompt", 12, "--generate", 0, "--repetitions", 1)
        self.assertGreater(report["prefill_tokens_per_s"], 0)
        self.assertNotIn("decode_tokens_per_s", report)
        self.assertNotIn("fraction_of_bound", report)

    def test_people_get_a_table(self):
        done = bench("--local", TUTOR, *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr)
        for pattern in ("tutor, BF16: kernels ", r"prefill +[0-9.]+ tokens/s +[0-9]+ % of the ",
                        r"decode +[0-9.]+ tokens/s +[0-9]+ % of the ", r"this machine +[0-9.]+ GB/s"):
            self.assertRegex(done.stdout, pattern)


@unittest.skipUnless((TUTOR / "config.json").exists(), "the shipped model is missing")
class OnAnEmulatedGpu(unittest.TestCase):
    def setUp(self):
        os.environ["TROUPE_GPU"] = "emulated"
        self.addCleanup(os.environ.pop, "TROUPE_GPU")

    def test_speeds_are_shares_of_the_copy_bandwidth(self):
        report = report_of("--local", TUTOR, "--device", "cuda:0", "--prompt", 4, "--generate", 2, "--repetitions", 1)
        self.assertEqual((report["kernels"], report["device"], report["threads"], report["shards"]),
                         ("cuda (emulated)", "cuda:0", 0, 1))
        self.assertEqual((report["bound"], report["prefill_bound"]), ("copy_bandwidth", "copy_bandwidth"))
        read = report["weight_bytes_per_token"] * report["decode_tokens_per_s"]
        self.assertAlmostEqual(report["fraction_of_bound"], read / report["copy_bandwidth_bytes_per_s"], places=6)
        self.assertNotIn("multiply_add_peak", report)
        # As the kernels read them: two bytes a number.
        self.assertAlmostEqual(report["weight_bytes_per_token"] / stored_matrix_bytes(TUTOR), 1, delta=0.1)

    def test_several_gpus_are_ranks_and_people_get_a_table(self):
        done = bench("--local", TUTOR, "--device", "cuda:0,cuda:1", "--prompt", 2, "--generate", 1, "--repetitions", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        for pattern in ("tutor, BF16: kernels cuda .emulated., cuda:0,cuda:1; ",
                        r"decode +[0-9.]+ tokens/s +[0-9]+ % of the copy bandwidth", r"copies +[0-9.]+ GB/s"):
            self.assertRegex(done.stdout, pattern)

    def test_devices_that_are_none_are_refused(self):
        for arguments, message in ((("--device", "cpu:0"), "only GPUs are named"), (("--device", "gpu"), "--device: "),
                                   (("--device", "cuda:0", "--threads", 1), "--threads: of cores"),
                                   (("--device", "cuda:0", "--shards", 2), "--shards 2: --device names 1 GPU")):
            done = bench("--local", TUTOR, *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn(message, done.stderr)
        self.assertIn("cuda:9", bench("--local", TUTOR, "--device", "cuda:9").stderr)


class WrongCommandLines(unittest.TestCase):
    def refusal(self, *arguments, code=2):
        done = bench(*arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def test_what_to_measure_must_be_said(self):
        self.assertIn("--local MODEL", self.refusal())

    def test_numbers_out_of_range_are_named(self):
        for option in ("--prompt", "--batch", "--threads", "--shards", "--repetitions"):
            self.assertIn(option, self.refusal("--local", TUTOR, option, "0"))

    def test_more_threads_than_cores_are_refused(self):
        self.assertIn(f"may use {CORES} core", self.refusal("--local", TUTOR, "--threads", CORES + 1))

    def test_more_shards_than_threads_are_refused(self):
        self.assertIn("--shards 2", self.refusal("--local", TUTOR, "--threads", 1, "--shards", 2))

    def test_a_batch_that_fills_a_step_is_refused(self):
        self.assertRegex(self.refusal("--local", TUTOR, "--batch", 300), "a batch of 300 .* at most 256")

    def test_lengths_beyond_the_model_are_refused_with_its_key(self):
        with tempfile.TemporaryDirectory(prefix="troupe-test-") as folder:
            write_model(pathlib.Path(folder))
            self.assertIn("max_position_embeddings", self.refusal("--local", folder, "--prompt", 30, "--generate", 30))

    def test_a_model_that_is_not_there_is_named(self):
        self.assertIn("/nowhere", self.refusal("--local", "/nowhere", code=1))

    def test_a_broken_file_is_named_with_its_tensor(self):
        with tempfile.TemporaryDirectory(prefix="troupe-test-") as folder:
            write_model(pathlib.Path(folder), cut_bytes=1)
            self.assertRegex(self.refusal("--local", folder, "--prompt", 4, "--generate", 4, code=1),
                             "model.safetensors: byte [0-9]+: tensor 'lm_head.weight'")


if __name__ == "__main__":
    unittest.main(verbosity=2)
