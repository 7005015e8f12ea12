"""Chat templates: faithful to Hugging Face's dialect, and harmless whatever they contain."""

from __future__ import annotations

import re

import pytest

from trimix_edge.decoding.chat import Message, render_chat
from trimix_edge.errors import TemplateError

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if tools is not none %}
    {{- raise_exception("no tools here") }}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

USER: Message = {"role": "user", "content": "ཀ་ཁ"}
SYSTEM: Message = {"role": "system", "content": " Be brief. "}
ASSISTANT: Message = {"role": "assistant", "content": "ག"}


def test_chatml_template() -> None:
    assert render_chat(CHATML, [SYSTEM, USER]) == (
        "<|im_start|>system\n Be brief. <|im_end|>\n"
        "<|im_start|>user\nཀ་ཁ<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_llama3_template() -> None:
    shown = render_chat(LLAMA3, [SYSTEM, USER, ASSISTANT, USER], bos="<|begin_of_text|>")
    assert shown == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nཀ་ཁ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nག<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nཀ་ཁ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_blocks_are_trimmed_as_by_transformers() -> None:
    template = (
        "{% for m in messages %}\n    {% if m %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
    )
    assert render_chat(template, [USER, ASSISTANT]) == "ཀ་ཁ\nག\n"


def test_loop_controls_and_dates_are_known() -> None:
    template = "{% for m in messages %}{% break %}{% endfor %}{{ strftime_now('%Y') }}"
    assert re.fullmatch(r"\d{4}", render_chat(template, [USER]))


def test_a_refusal_by_the_template_is_told() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render_chat(LLAMA3, [USER, USER])


@pytest.mark.parametrize("template", [None, ""])
def test_a_missing_template_is_told(template: str | None) -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        render_chat(template, [USER])


BROKEN = {
    "syntax": "{% for m in messages %}",
    "unknown_tag": "{% explode %}",
    "unknown_filter": "{{ messages | explode }}",
    "division": "{{ 1 // 0 }}",
    "wrong_type": "{{ messages + 1 }}",
    "deep_nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "endless_recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_template_is_one_line(kind: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render_chat(BROKEN[kind], [USER])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


ESCAPES = {
    "class": "{{ ''.__class__ }}",
    "class_by_item": "{{ ''['__class__'] }}",
    "class_by_filter": "{{ '' | attr('__class__') }}",
    "subclasses": "{{ ().__class__.__base__.__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "function_globals": "{{ strftime_now.__globals__['__builtins__'] }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "format_map": "{{ '{m.__class__}'.format_map({'m': messages}) }}",
    "cycler": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "self": "{{ self.__init__.__globals__ }}",
    "mutate": "{{ messages.append(1) }}",
    "mutate_message": "{{ messages[0].update(role='system') }}",
}


@pytest.mark.parametrize("kind", ESCAPES)
def test_a_template_reaches_nothing_of_pythons(kind: str) -> None:
    """Refused, or rendered as Jinja's undefined: nothing of Python's own shows."""
    messages: list[Message] = [{"role": "user", "content": "x"}]
    try:
        shown = render_chat(ESCAPES[kind], messages)
    except TemplateError:
        shown = ""
    assert "class" not in shown
    assert "built" not in shown
    assert messages == [{"role": "user", "content": "x"}]


BOMBS = {
    "repetition": "{{ 'a' * 10**10 }}",
    "list_repetition": "{{ [0] * 10000000000 }}",
    "repetition_by_name": "{% set n = 9999999999 %}{{ 'a' * n }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "range": "{{ range(10000000000) | list }}",
    "doubling": "{% set ns = namespace(x='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling_by_plus": "{% set ns = namespace(x='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling_a_list": "{% set ns = namespace(x=[1]) %}"
    "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "replace": "{% set ns = namespace(x='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "center": "{{ 'a' | center(10000000000) }}",
    "indent": "{{ 'a\nb' | indent(10000000000) }}",
    "endless_output": "{% set line = 'a'.ljust(9999) %}"
    "{% for i in range(99999) %}{{ line }}{% endfor %}",
    "size": "{{ 1 }}" * 100_000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_template_cannot_fill_the_memory(kind: str) -> None:
    with pytest.raises(TemplateError):
        render_chat(BOMBS[kind], [USER])
