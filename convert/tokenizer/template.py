"""The chat template for other llama.cpp programs: ChatGLM2's rounds, in Jinja. GLM Edge never renders it.

The prompt is the official one (`build_prompt` in ChatGLM2-6B's `modeling_chatglm.py`). Before it come the texts of
[gMASK] and sop, which a program that parses special tokens turns into the two ids. llama.cpp's template engine has no
integer division, so a namespace counts the rounds. Every tag strips the white space on both sides, so nothing depends
on `trim_blocks` or `lstrip_blocks`.
"""

from __future__ import annotations

# A system message goes before the first question, with an empty line between. Messages of one role in a row are joined
# by a line break. An answer without a question gets an empty question.
_TEMPLATE = """
{%- set ns = namespace(system='', systems=0, question='', answer='', last='', round=1) -%}
{{- 'PREFIX' -}}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {%- set ns.system = ns.system ~ ('\\n' if ns.systems else '') ~ (message['content'] or '') -%}
    {%- set ns.systems = ns.systems + 1 -%}
  {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- set content = message['content'] or '' -%}
  {%- if message['role'] == 'user' -%}
    {%- if ns.last == 'assistant' -%}
      {{- '[Round ' ~ ns.round ~ ']\\n\\n问：' ~ ns.system ~ ('\\n\\n' if ns.system and ns.question else '') -}}
      {{- ns.question ~ '\\n\\n答：' ~ ns.answer ~ '\\n\\n' -}}
      {%- set ns.round = ns.round + 1 -%}
      {%- set ns.system = '' -%}
      {%- set ns.answer = '' -%}
    {%- endif -%}
    {%- set ns.question = (ns.question ~ '\\n' ~ content) if ns.last == 'user' else content -%}
    {%- set ns.last = 'user' -%}
  {%- elif message['role'] == 'assistant' -%}
    {%- set ns.answer = (ns.answer ~ '\\n' ~ content) if ns.last == 'assistant' else content -%}
    {%- set ns.last = 'assistant' -%}
  {%- endif -%}
{%- endfor -%}
{{- '[Round ' ~ ns.round ~ ']\\n\\n问：' ~ ns.system ~ ('\\n\\n' if ns.system and ns.question else '') -}}
{{- ns.question ~ '\\n\\n答：' -}}
{%- if ns.last == 'assistant' -%}
  {{- ns.answer -}}
  {%- if add_generation_prompt -%}
    {{- '\\n\\n[Round ' ~ (ns.round + 1) ~ ']\\n\\n问：\\n\\n答：' -}}
  {%- endif -%}
{%- endif -%}
"""


def chat_template(prefix: str) -> str:
    """The template whose output starts with `prefix`, the texts of [gMASK] and sop."""
    return _TEMPLATE.strip().replace("PREFIX", prefix.replace("\\", "\\\\").replace("'", "\\'"))
