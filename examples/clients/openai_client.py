#!/usr/bin/env python3
"""The same with the openai library (pip install openai), unchanged: only the base URL differs."""

import sys

import openai

client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="unused")
question = " ".join(sys.argv[1:]) or "What is 27 + 45?"
stream = client.chat.completions.create(
    model=client.models.list().data[0].id, messages=[{"role": "user", "content": question}], temperature=0,
    stream=True, stream_options={"include_usage": True})
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\n({chunk.usage.prompt_tokens} tokens read, {chunk.usage.completion_tokens} written)")
