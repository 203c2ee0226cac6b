#!/usr/bin/env python3
"""Asks a question and prints the answer as it comes: the OpenAI API with nothing but Python's standard library.

usage: ask.py [--url http://127.0.0.1:8080] [--key KEY] QUESTION
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def events(response):
    """The data of each server-sent event until [DONE]; a stream that ends without it was cut off."""
    for line in response:
        if line.startswith(b"data: "):
            data = line[len(b"data: "):].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise EOFError("the stream was cut off")


def ask(url, key, question):
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "stream": True,
            "model": json.load(open_url(url + "/v1/models", key))["data"][0]["id"]}
    for event in events(open_url(url + "/v1/chat/completions", key, body)):
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
    print()


def open_url(url, key, body=None):
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Bearer " + key
    return urllib.request.urlopen(urllib.request.Request(url, body and json.dumps(body).encode(), headers), timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", help="where the gateway asks for one")
    parser.add_argument("question")
    options = parser.parse_args()
    try:
        ask(options.url.rstrip("/"), options.key, options.question)
    except urllib.error.HTTPError as error:  # an OpenAI error object says what is wrong
        sys.exit(f"{error.code}: {json.load(error)['error']['message']}")
    except (OSError, EOFError, RuntimeError) as error:
        sys.exit(f"{options.url}: {error}")


if __name__ == "__main__":
    main()
