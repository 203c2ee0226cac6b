"""Topologies of the cluster tests; {name}, {model} and {port} are filled in by the harness."""

ONE_PROCESS = """
cluster: {name}
model: {model}
nodes:
  - {{name: only, host: localhost, devices: [cpu:0]}}
place:
  gateway: {{node: only, listen: 127.0.0.1:{port}}}
"""

# Gateway, scheduler and each of 2 x 2 shards in a process of its own.
TWO_BY_TWO = """
cluster: {name}
model: {model}
nodes:
  - {{name: front, host: localhost}}
  - {{name: brain, host: localhost}}
  - {{name: a, host: localhost, devices: [cpu:0]}}
  - {{name: b, host: localhost, devices: [cpu:1]}}
  - {{name: c, host: localhost, devices: [cpu:0]}}
  - {{name: d, host: localhost, devices: [cpu:1]}}
place:
  gateway: {{node: front, listen: 127.0.0.1:{port}}}
  scheduler: {{node: brain}}
  stages:
    - {{layers: 0-2, shards: [a/cpu:0, b/cpu:1]}}
    - {{layers: 3-5, shards: [c/cpu:0, d/cpu:1]}}
limits: {{kv_memory: 64MiB, restart_backoff_ms: 50}}
"""

# Uneven layers over three stages, in two processes.
UNEVEN = """
cluster: {name}
model: {model}
nodes:
  - {{name: left, host: localhost, devices: [cpu:0, cpu:1]}}
  - {{name: right, host: localhost, devices: [cpu:0]}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
  scheduler: {{node: left}}
  stages:
    - {{layers: 0-0, shards: [left/cpu:0]}}
    - {{layers: 1-4, shards: [right/cpu:0]}}
    - {{layers: 5-5, shards: [left/cpu:1]}}
limits: {{kv_memory: 64MiB}}
"""

# Two stages of two ranks in two processes, placed by the planner: for models of any number of layers.
PLANNED = """
cluster: {name}
model: {model}
served_model_name: planned
nodes:
  - {{name: left, host: localhost, devices: [cpu:0, cpu:1]}}
  - {{name: right, host: localhost, devices: [cpu:0, cpu:1]}}
parallel: {{pipeline: 2, tensor: 2}}
place:
  gateway: {{node: left, listen: 127.0.0.1:{port}}}
limits: {{kv_memory: 16MiB}}
"""
