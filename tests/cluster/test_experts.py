"""A model with experts: its answers through running clusters, however it is stored and split."""

import concurrent.futures
import json
import pathlib
import subprocess
import tempfile
import unittest

from harness import ROOT, TROUPE, Cluster
from mixtral_gguf import write_mixtral_gguf
from topologies import ONE_PROCESS, PLANNED, TWO_BY_TWO, UNEVEN

TUTOR_MOE = ROOT / "examples/models/tutor-moe"
QUESTIONS = [json.loads(line) for line in (ROOT / "examples/models/held_out.jsonl").read_text().splitlines()]


@unittest.skipUnless((TUTOR_MOE / "config.json").exists(), "the shipped model is missing")
class Experts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="troupe-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.file = pathlib.Path(folder.name) / "tutor-moe.gguf"
        write_mixtral_gguf(TUTOR_MOE, cls.file)

    def right_answers(self, name, topology, questions, model=TUTOR_MOE):
        if "served_model_name" not in topology:
            topology += "served_model_name: planned\n"
        with Cluster(topology, model=model, name=name) as cluster:
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda item: cluster.ask(item["question"], model="planned"), questions))
        right = sum(answer.strip() == item["answer"].strip() for answer, item in zip(answers, questions))
        print(f"{model.name}, {name}: {right} of {len(questions)} held-out questions right")
        return right

    def test_it_answers_95_percent_of_held_out_questions_exactly(self):
        whole = self.right_answers("one", ONE_PROCESS, QUESTIONS)
        self.assertGreaterEqual(whole, 0.95 * len(QUESTIONS))
        self.assertEqual(self.right_answers("gguf", ONE_PROCESS, QUESTIONS, self.file), whole)
        for quantised, kept in {"q8": 0.98, "q4": 0.95}.items():
            model = self.file.with_name(quantised)
            done = subprocess.run([TROUPE, "quantize", str(TUTOR_MOE), "--format", quantised, "--out", str(model)],
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreaterEqual(self.right_answers(quantised, ONE_PROCESS, QUESTIONS, model), kept * whole)

    def test_stages_and_ranks_answer_as_well(self):
        some = QUESTIONS[::4]
        for name, topology in {"two-by-two": TWO_BY_TWO, "uneven": UNEVEN, "planned": PLANNED}.items():
            for model in (TUTOR_MOE, self.file):
                self.assertGreaterEqual(self.right_answers(name, topology, some, model), 0.95 * len(some), name)

    def weight_bytes(self, batch):
        """Bytes of weights that a step of so many tokens reads, as the bench counts them."""
        done = subprocess.run([TROUPE, "bench", "--local", str(self.file), "--prompt", "12", "--generate", "2",
                               "--repetitions", "1", "--batch", str(batch), "--json"], capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["weight_bytes_per_token"]

    def test_a_step_reads_the_experts_that_its_tokens_are_routed_to(self):
        one, two, eight = (self.weight_bytes(batch) for batch in (1, 2, 8))
        left_out = 1 - 2 / 8  # of the experts, by one token
        self.assertAlmostEqual((eight - one) / (two - one), (left_out - left_out ** 8) / (left_out - left_out ** 2),
                               places=4)


if __name__ == "__main__":
    unittest.main()
