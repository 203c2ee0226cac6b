"""What the command says about what it cannot do: models, ports, words; and what it leaves behind."""

import json
import os
import pathlib
import socket
import struct
import subprocess
import tempfile
import unittest

from harness import TROUPE, Cluster, free_port, wait_ended
from topologies import ONE_PROCESS

CONFIG = {"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
          "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 32, "torch_dtype": "float32"}
SHAPES = {
    "model.embed_tokens.weight": [8, 4],
    "model.layers.0.input_layernorm.weight": [4],
    "model.layers.0.self_attn.q_proj.weight": [4, 4],
    "model.layers.0.self_attn.k_proj.weight": [4, 4],
    "model.layers.0.self_attn.v_proj.weight": [4, 4],
    "model.layers.0.self_attn.o_proj.weight": [4, 4],
    "model.layers.0.post_attention_layernorm.weight": [4],
    "model.layers.0.mlp.gate_proj.weight": [4, 4],
    "model.layers.0.mlp.up_proj.weight": [4, 4],
    "model.layers.0.mlp.down_proj.weight": [4, 4],
    "model.norm.weight": [4],
    "lm_head.weight": [8, 4],
}


def write_model(directory, spoil=lambda header: None, cut_bytes=0):
    """A whole model of a few kilobytes without a tokenizer; `spoil` changes the header of its safetensors file."""
    header, data = {}, b""
    for name, shape in SHAPES.items():
        elements = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = struct.pack(f"<{elements}f", *((index % 7 - 3) / 4 for index in range(elements)))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    spoil(header)
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + data
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "model.safetensors").write_bytes(content[:len(content) - cut_bytes])


class BadModels(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="troupe-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = self.folder / "model"
        self.model.mkdir()

    def failure(self, *arguments):
        """The output of a command that must fail by itself and leave no process behind."""
        process = subprocess.Popen([TROUPE, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                   env=dict(os.environ, TROUPE_RUN_DIR=str(self.folder / "run")))
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, output)
        wait_ended(self.started(), 5, "no process is left behind")
        return output

    def started(self):
        """The processes that carry this test's environment."""
        found = []
        for environment in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if str(self.folder).encode() in environment.read_bytes():
                    found.append(int(environment.parent.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass
        return found

    def failures(self):
        """Outputs of `serve` and of `up`."""
        topology = self.folder / "topology.yaml"
        topology.write_text(ONE_PROCESS.format(model=self.model, port=free_port(), name="bad"))
        return [self.failure("serve", self.model, "--port", "0"), self.failure("up", topology)]

    def test_a_file_that_ends_early_is_named_with_its_tensor(self):
        write_model(self.model, cut_bytes=1)
        for output in self.failures():
            self.assertRegex(output, "model/model.safetensors: byte [0-9]+: tensor 'lm_head.weight' has data_offsets")

    def test_a_tensor_of_another_shape_is_named_with_its_offset(self):
        def spoil(header):
            header["model.layers.0.mlp.up_proj.weight"]["shape"] = [2, 8]
        write_model(self.model, spoil)
        for output in self.failures():
            self.assertRegex(output, "model.safetensors: tensor 'model.layers.0.mlp.up_proj.weight' at offset [0-9]+: "
                                     r"has the shape \[2, 8\]; the model.s config calls for \[4, 4\]")

    def test_a_missing_tensor_is_named(self):
        def spoil(header):
            header["another"] = header.pop("model.norm.weight")
        write_model(self.model, spoil)
        for output in self.failures():
            self.assertIn("tensor 'model.norm.weight' is missing", output)

    def test_a_taken_port_is_named(self):
        write_model(self.model)
        topology = self.folder / "topology.yaml"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            topology.write_text(ONE_PROCESS.format(model=self.model, port=port, name="taken"))
            for arguments in (["serve", self.model, "--port", port], ["up", topology]):
                self.assertRegex(self.failure(*arguments),
                                 f"(?m)^troupe: gateway on node .*: cannot listen on 127.0.0.1 port {port}: "
                                 "Address already in use")


class CommandLine(unittest.TestCase):
    def test_wrong_words_are_told_with_the_verb(self):
        for arguments, expected in ((["up"], "troupe up: file is required; see troupe up --help"),
                                    (["help"], "troupe: there is no verb 'help'; did you mean '--help'?"),
                                    ([], "troupe: name a verb: check, plan, up"),
                                    (["serve", "m", "--port", "x"], "troupe serve: Could not convert: --port = x"),
                                    (["down", "c", "--deadline-ms", "-5"], "troupe down: --deadline-ms: ")):
            done = subprocess.run([TROUPE, *arguments], capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(expected, done.stderr)


class TokenIds(unittest.TestCase):
    def test_a_prompt_longer_than_a_step_is_rated_token_by_token(self):
        with tempfile.TemporaryDirectory(prefix="troupe-test-") as folder:
            write_model(pathlib.Path(folder))
            tight = ONE_PROCESS + "limits: {{max_batch_tokens: 8, max_batch_sequences: 3, kv_memory: 64KiB}}\n"
            with Cluster(tight, model=folder, name="rated") as cluster:
                def rated(prompt):
                    status, answer = cluster.post("/v1/completions", {
                        "model": pathlib.Path(folder).name, "prompt": prompt, "max_tokens": 0, "echo": True,
                        "logprobs": 2})
                    self.assertEqual(status, 200, answer)
                    return answer["choices"][0]["logprobs"]
                prompt = [index * 5 % 8 for index in range(20)]
                whole = rated(prompt)
                self.assertEqual(whole["tokens"], [f"token_id:{token}" for token in prompt])
                self.assertIsNone(whole["token_logprobs"][0])
                # Rated in pieces or not, together with others or not: what precedes a token decides.
                for length in (2, 8, 9, 19):
                    self.assertEqual(rated(prompt[:length])["token_logprobs"], whole["token_logprobs"][:length])


if __name__ == "__main__":
    unittest.main(verbosity=2)
