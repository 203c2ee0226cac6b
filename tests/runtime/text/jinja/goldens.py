#!/usr/bin/env python3
"""Writes goldens.json: templates, and what Jinja2 prints for them as Hugging Face's transformers set it up.

usage: goldens.py > goldens.json      (needs the Python package jinja2)
"""
import datetime
import json
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

GLOBALS = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " What is 2+2? \n"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n4"},
        {"role": "user", "content": "Und 3·3? Größer als “8”?"},
    ],
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "tools": None,
    "n": 3,
    "x": 2.5,
    "text": "  Héllo wörld, \t日本 \n",
    "list": [3, 1, 2],
    "names": ["b", "A", "c"],
    "dict": {"b": 1, "a": [1, 2.0, None, True, "it's"]},
    "flag": True,
    "nothing": None,
}

# Layout: what becomes of white space around tags.
LAYOUT = [
    "a\n{% if flag %}\nb\n{% endif %}\nc\n",
    "a\n  {% if flag %}\n  b\n  {% endif %}\n  c\n\n",
    "a  {% if flag %}  b  {% endif %}  c",
    "a\n  {%- if flag -%}\n  b\n  {%- endif -%}\n  c\n",
    "a\n  {%+ if flag +%}\n  b\n  {%+ endif %}\n  c\n",
    "a\n  {{ n }}\n  {{- n }}\n  {{ n -}}\n  b\n",
    "a {# comment #}\n b {#- another -#} c\n  {# third #}\n d",
    "a {# has {{ tags }} and {% more #}b",
    "{% raw %}{{ n }} {% if %}{% endraw %}{{ n }}",
    "a\r\nb\r\n{% if flag %}\r\nc{% endif %}",
    "\n\n{{ n }}\n\n",
    "{{ '}}' }}{{ \"%}\" }}{{ {'a': {'b': 1}}['a']['b'] }}",
    "{",
    "{ { x } }",
    "  {% set a = 1 %}  {{ a }}",
    "{%- set a = 1 %}\n{%- set b = 2 %}\n\n{{ a }}{{ b }}",
    "a\t {% if flag %}b{% endif %} \t\n",
    "x{{+n}}",
]

EXPRESSIONS = [
    "1 + 2 * 3 - 4 // 3", "7 / 2", "-7 // 2", "-7 % 3", "7 % -3", "2 ** 10", "2 ** -1", "-2 ** 2", "1.5 * 2", "1e3", "1_000",
    "10 / 5", "n + x", "n * 'ab'", "'ab' * 2", "'a' + 'b' ~ 1 ~ None ~ 1.0", "'a' 'b'", "[1] + [2, 'x']", "(1, 2)", "()",
    "(1)", "[]", "{}", "{'a': 1, 'b': [1, {'c': none}]}", "true", "False", "none", "x", "flag", "nothing", "missing",
    "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0", "true == 1", "'a' < 'b'", "[1, 2] < [1, 3]", "'a' == 'a' and 'b' != 'a'",
    "'é' in 'aéb'", "'x' not in 'abc'", "3 in list", "'a' in dict", "not flag", "not not flag", "nothing or 'y'", "n and 'z'",
    "flag and nothing", "'p' if flag else 'q'", "'p' if nothing else 'q' if nothing else 'r'", "'p' if nothing",
    "list[0]", "list[-1]", "list[7]", "list[1:]", "list[:-1]", "list[::-1]", "list[-2:]", "list[5:1]", "list[0:3:2]",
    "text[2:5]", "text[-2]", "text[::-1]", "dict.a", "dict['b']", "dict.zz", "messages[0].role", "messages[1]['content']",
    "messages[-1].content[0:3]", "dict.items() | list", "dict.keys() | list", "dict.values() | list", "dict.get('a')",
    "dict.get('q')", "dict.get('q', 5)", "text.strip()", "text.lstrip()", "text.rstrip()", "'xxaxx'.strip('x')",
    "'abcab'.rstrip('ba')", "'a,b,,c'.split(',')", "' a  b c '.split()", "'a,b,c'.split(',', 1)", "' a b  c '.split(None, 1)",
    "'a,b,c'.rsplit(',', 1)", "'ab\\ncd\\n'.splitlines()", "'<think>a</think>b'.split('</think>')[-1]",
    "'abc'.startswith('ab')", "'abc'.endswith(('x', 'bc'))", "'Abc Def'.upper()", "'Abc'.lower()", "'abc dEf'.title()",
    "'abc DEF'.capitalize()", "'aXbX'.replace('X', 'yy')", "'aXbX'.replace('X', '', 1)", "'abcb'.find('b')", "'abc'.find('z')",
    "'abcb'.rfind('b')", "'abcb'.count('b')", "'-'.join(['a', 'b'])", "'12'.isdigit()", "'ab1'.isalpha()", "' '.isspace()",
    "'prefix-x'.removeprefix('prefix-')", "range(3) | list", "range(1, 7, 2) | list", "range(3, 0, -1) | list",
    "\"a'b\" ~ ['it\\'s', \"q\\\"\"]", "'tab\\tnew\\nline\\\\ \\u00e9 \\x41 \\q'", "['a\\n', 'é']", "0.1 + 0.2", "1e16", "1e-7", "100000.0",
    "3.0", "1 is defined", "missing is defined", "missing is not defined", "nothing is none", "n is number", "x is float",
    "n is integer", "flag is boolean", "text is string", "dict is mapping", "list is iterable", "text is iterable",
    "list is sequence", "n is odd", "n is even", "n is divisibleby 3", "n is divisibleby(2)", "n is eq 3", "n is gt(2)",
    "'a' is in ['a']", "'a' is equalto 'a'", "flag is true", "flag is false", "n is true", "not missing is defined",
    "missing is defined and missing.x", "nothing is not none or flag", "text | trim", "text | length", "list | length",
    "dict | length", "list | first", "list | last", "list | sort", "list | sort(reverse=true)", "names | sort",
    "names | sort(case_sensitive=true)", "list | reverse | list", "'abc' | reverse", "list | join(', ')", "list | join",
    "messages | map(attribute='role') | join('|')", "messages | selectattr('role', 'equalto', 'user') | list | length",
    "messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list", "[0, 1, 2, ''] | select | list",
    "[1, 2, 3] | select('odd') | list", "[1, 2, 3] | reject('odd') | list", "['a', 'b'] | map('upper') | list",
    "missing | default('d')", "'' | default('d')", "'' | default('d', true)", "nothing | d('e')", "text | upper", "text | lower",
    "'hello world' | title", "'hELLO' | capitalize", "'abab' | replace('a', 'x')", "'a\\nb\\n\\nc' | indent",
    "'a\\nb' | indent(2, true)", "dict | tojson", "dict | tojson(indent=2)", "'é\"\\n' | tojson", "[] | tojson", "{} | tojson(indent=4)",
    "[1, [2, {}]] | tojson(indent=1)", "1.0 | tojson", "dict | items | list", "dict | dictsort", "'12' | int", "'x' | int", "'x' | int(7)",
    "'3.7' | int", "3.7 | int", "'2.5' | float", "-3 | abs", "n | string ~ 'x'", "[1, 2, 1, 'a', 'a'] | unique | list", "list | string",
    "dict | string", "messages[0] | string", "namespace(a=1).a", "'%' ~ 5", "'a' ~ 'b' | upper", "('a' ~ 'b') | upper",
    "1 if 1 < 2 and not 3 < 2 else 0", "[1, 2,]", "'x' * 0", "loop is defined", "messages[missing is defined]", "list[true]",
]

STATEMENTS = [
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for m in messages %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if not loop.last }};{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | trim }}{% endfor %}",
    "{% for k, v in dict.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in dict %}{{ k }}{% endfor %}",
    "{% for c in 'añb' %}[{{ c }}]{% endfor %}",
    "{% for a in [] %}x{% else %}none{% endfor %}",
    "{% for a in missing %}x{% else %}none{% endfor %}",
    "{% for a in [1, 2, 3, 4] %}{% if a == 2 %}{% continue %}{% endif %}{% if a == 4 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% set a = 1 %}{% for i in [1, 2] %}{% set a = a + i %}{{ a }}{% endfor %}{{ a }}",
    "{% set a = 1 %}{% if flag %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% set ns = namespace(found=false, k=0) %}{% for i in [1, 2] %}{% set ns.found = true %}{% set ns.k = ns.k + i %}{% endfor %}{{ ns.found }}{{ ns.k }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a %}x{{ n }}y{% endset %}[{{ a }}]",
    "{% set a | upper %}x{{ n }}y{% endset %}[{{ a }}]",
    "{% filter upper | replace('X', '-') %}x{{ n }}y{% endfilter %}",
    "{% macro f(a, b=2, c=none) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ f(1) }}{{ f(1, c=5) }}{{ f('x', 'y', 'z') | upper }}",
    "{% set outer = 5 %}{% macro f() %}{{ outer }}{% endmacro %}{% set outer = 6 %}{{ f() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% for i in [1, 2] %}{% for j in ['a', 'b'] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% if n > 5 %}a{% elif n == 3 %}b{% elif flag %}c{% else %}d{% endif %}",
    "{% if nothing %}a{% else %}b{% endif %}{% if '' %}a{% elif [] %}b{% elif {} %}c{% elif 0 %}d{% elif 0.0 %}e{% endif %}",
    "{% generation %}x{{ n }}{% endgeneration %}",
    "{{ strftime_now('%d %b %Y') }}",
    "{{ 1, 2 }}",
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{{ index }}{%- endfor %}",
]

ERRORS = [
    "{{ missing.x }}", "{{ missing.x.y }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1 < 'a' }}",
    "{{ [] < {} }}", "{{ 1 in 'a' }}", "{{ raise_exception('no') }}", "{{ missing() }}", "{{ 'a'.nothing() }}", "{% if %}{% endif %}",
    "{% for %}", "{% if flag %}", "{% endif %}", "{{ 1", "{{ 'a }}", "{% unknown %}", "{{ a | unknown }}", "{{ a is unknown }}", "{{ (1 }}",
    "{{ 1) }}", "{{ list.append(1) }}", "{% set dict.b = 2 %}", "{% set a, b = 1 %}", "{{ 'a' is divisibleby 2 }}", "{{ range(1000000) }}",
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% for a, b in [1] %}{% endfor %}", "{{ $ }}", "{# x", "{{ missing + 1 }}",
    "{{ list['a'].b }}", "{{ -'a' }}", "{{ ''.split('') }}", "{{ n.real.x.y }}", "{% break %}", "{{ missing | tojson }}",
]

CHATS = [
    # ChatML, and with a system message of its own.
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>"
    "\\n' }}{% endif %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}",
    # Headers around roles; turns that must alternate, the system message within the first.
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start|>' + message['role'] + '<|end|>"
    "\\n\\n' + message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start|>assistant<|end|>\\n\\n' if add_generation_prompt }}",
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n"
    "    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n\n"
    "{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
    "        {{- raise_exception('roles must alternate') }}\n    {%- endif %}\n    {%- if message['role'] == 'user' %}\n"
    "        {%- if loop.first and system_message is defined %}\n            {{- ' [INST] ' + system_message + '\\n\\n' + "
    "message['content'] + ' [/INST]' }}\n        {%- else %}\n            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n"
    "        {%- endif %}\n    {%- else %}\n        {{- ' ' + message['content'] + eos_token}}\n    {%- endif %}\n{%- endfor %}\n",
    # Thoughts are left out of all answers but the last, found by going backwards.
    "{%- set ns = namespace(last=messages|length - 1, on=true) %}\n{%- for message in messages[::-1] %}\n"
    "    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.on and message.role == \"user\" %}\n"
    "        {%- set ns.on = false %}\n        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- for message in messages %}\n    {%- set content = message.content %}\n    {%- set thought = '' %}\n"
    "    {%- if message.role == 'assistant' and '</think>' in content %}\n"
    "        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n"
    "        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n    {%- endif %}\n"
    "    {{- message.role + ':' + content + (' (' + thought + ')' if thought and loop.index0 > ns.last else '') + '\\n' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- 'assistant:' }}\n    {%- if enable_thinking is defined and "
    "enable_thinking is false %}\n        {{- 'no' }}\n    {%- endif %}\n{%- endif %}",
    # Roles by other names, contents that are texts or lists.
    "{{ bos_token }}{% macro turn(role, content) %}<turn>{{ 'model' if role == 'assistant' else role }}\n{% if content is string %}"
    "{{ content | trim }}{% elif content is iterable %}{% for item in content %}{{ item.text }}{% endfor %}{% endif %}</turn>\n"
    "{% endmacro %}{% for m in messages %}{{ turn(m['role'], m['content']) }}{% endfor %}{% if add_generation_prompt %}"
    "<turn>model\n{% endif %}",
]


class Generation(jinja2.ext.Extension):
    """{% generation %} as transformers have it, printing what is inside."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def environment():
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda text: datetime.datetime(2024, 7, 26, 12).strftime(text)
    return made


def main():
    templates = LAYOUT + ["{{ " + text + " }}" for text in EXPRESSIONS] + STATEMENTS + CHATS
    cases = []
    for source in templates:
        cases.append({"template": source, "text": environment().from_string(source).render(**GLOBALS)})
    for source in ERRORS:
        try:
            text = environment().from_string(source).render(**GLOBALS)
        except Exception:
            cases.append({"template": source, "text": None})
        else:
            sys.exit(f"no error, but {text!r}: {source}")
    json.dump({"globals": GLOBALS, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()
