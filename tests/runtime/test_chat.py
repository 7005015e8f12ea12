"""Chat templates: faithful to Hugging Face's dialect, and harmless whatever they contain."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trimix_edge.decoding.chat import Message, render_chat
from trimix_edge.errors import Notice, TemplateError, UsageError

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


def test_json_keeps_letters_signs_and_order() -> None:
    message: dict[str, object] = {"role": "user", "content": "<ཀ་ཁ>", "b": 1, "a": [None, True]}
    assert render_chat("{{ messages[0] | tojson }}", [message]) == (
        '{"role": "user", "content": "<ཀ་ཁ>", "b": 1, "a": [null, true]}'
    )
    assert render_chat("{{ {'b': 'ཀ'} | tojson(indent=2) }}", [USER]) == '{\n  "b": "ཀ"\n}'
    assert render_chat("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", [USER]) == (
        '{"a": 2, "b": 1}'
    )


def test_what_is_marked_as_generation_is_rendered_in_a_scope_of_its_own() -> None:
    template = (
        "{% set x = 'a' %}{% for m in messages %}{% generation %}{% set x = 'b' %}"
        "{{ m.content }}{{ x }}{% endgeneration %}{% endfor %}{{ x }}"
    )
    assert render_chat(template, [USER, ASSISTANT]) == "ཀ་ཁbགba"


def test_variables_reach_the_template() -> None:
    template = "{{ enable_thinking }} {{ tools[0].name }} {{ add_generation_prompt }}"
    shown = render_chat(
        template, [USER], enable_thinking=False, tools=[{"name": "f"}], add_generation_prompt=False
    )
    assert shown == "False f False"
    for name, value in {"messages": [], "tools": {1, 2}, "bos_token": "x"}.items():
        with pytest.raises(UsageError):
            render_chat(template, [USER], **{name: value})  # type: ignore[arg-type]


IGNORING = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.content }}]{% endfor %}"
)


@pytest.mark.parametrize("template", [IGNORING, REFUSING])
def test_a_system_message_without_a_place_goes_before_the_first_user_message(
    template: str,
) -> None:
    with pytest.warns(Notice, match="no place for a system message"):
        shown = render_chat(template, [SYSTEM, ASSISTANT, USER, USER])
    assert shown == "[ག][Be brief.\n\nཀ་ཁ][ཀ་ཁ]"


@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_a_system_message_with_a_place_stays_there(
    template: str, recwarn: pytest.WarningsRecorder
) -> None:
    assert render_chat(template, [SYSTEM, USER]).count("Be brief.") == 1
    assert not recwarn.list


def test_a_refusal_that_another_place_does_not_heal_is_the_templates_own() -> None:
    template = REFUSING + "{{ raise_exception('never') }}"
    with pytest.raises(TemplateError, match="no system"):
        render_chat(template, [SYSTEM, USER])


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([], ""),
        ("ཀ", "ཀ"),
    ],
)
def test_contents_are_texts_or_made_of_texts(content: object, shown: str) -> None:
    assert render_chat("{{ messages[0].content }}", [{"role": "user", "content": content}]) == shown


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("hello", "not str"),
        (b"hello", "not bytes"),
        ({"role": "user", "content": "x"}, "not dict"),
        (5, "not int"),
        ([], "is empty"),
        (["hello"], "message 1 is str"),
        ([USER, {"content": "x"}], "message 2: its role is None"),
        ([{"role": 5, "content": "x"}], "its role is 5"),
        ([{"role": "user"}], "message 1 has no content"),
        ([{"role": "user", "content": 5}], "its content is int"),
        ([{"role": "user", "content": b"x"}], "its content is bytes"),
        ([{"role": "user", "content": {"text": "x"}}], "its content is dict"),
        ([{"role": "user", "content": ["x"]}], "a part of its content is 'str'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "is 'image_url'"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "a part of its content"),
    ],
)
def test_messages_of_another_type_are_told(messages: Any, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        render_chat(CHATML, messages)


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
