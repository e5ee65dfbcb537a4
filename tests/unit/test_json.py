"""Our JSON against the standard library's.

It refuses more, on purpose: documents nested deeper than DEPTH_LIMIT, numbers of more than 320
characters, numbers that no float can hold, NaN and Infinity. A lone surrogate, which UTF-8
cannot have, becomes U+FFFD.
"""

import json as standard
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cnm_core import json

SURROGATE = re.compile("[\ud800-\udfff]")

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
documents = st.builds(
    standard.dumps,
    values,
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 1, "\t", "\r\n"]),
)
fragments = st.text('{}[]",:\\/bfnrtu \t\n\r0123456789+-.eEINaNfinitytruefalsnul\x00\x7f')


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A document with a part of it replaced."""
    text = draw(documents)
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    return text[:start] + draw(fragments | st.sampled_from(["\\ud83d", "\\ude00"])) + text[end:]


def _strictly(text: str) -> Any:
    """What the standard library reads, where it and we are to agree."""
    return standard.loads(
        text,
        parse_constant=_refuse,
        parse_int=lambda token: int(token) if len(token) <= 320 else _refuse(token),
        parse_float=lambda token: (
            float(token) if abs(float(token)) != float("inf") else _refuse(token)
        ),
        object_pairs_hook=lambda pairs: {_repaired(key): value for key, value in pairs},
    )


def _refuse(token: str) -> Any:
    raise ValueError(token)


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {key: _repaired(member) for key, member in value.items()}
    return value


def _typed(value: Any) -> Any:
    """A value that differs where only its type does: 1, 1.0 and true."""
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, dict):
        return [(key, _typed(member)) for key, member in value.items()]
    return type(value), value


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_reads_what_the_standard_library_writes(
    value: Any, ensure_ascii: bool, indent: int | str | None
) -> None:
    """Every document comes back equal, with its keys in their order."""
    text = standard.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    assert _typed(json.loads(text)) == _typed(value)


@given(values, st.sampled_from(["", " ", "    ", "\t"]))
def test_writes_what_the_standard_library_reads(value: Any, indent: str) -> None:
    """Every value that we write is JSON, indented or not, and comes back equal."""
    text = json.dumps(value, indent=indent)
    assert _typed(standard.loads(text)) == _typed(value)
    assert _typed(json.loads(text)) == _typed(value)


@given(st.text() | fragments | damaged() | documents)
@example('"\\ud83d\\ude00"')
@example('"\\ud83d\\ud83d\\ude00\\ude00"')
@example('{"\\ud800": 1, "\\udfff": 2}')
@example("\ufeff1")
@example('"\ufeff\\ufeff"')
@example("-0.0e-0")
@example('"\x7f\u2028"')
def test_accepts_what_the_standard_library_accepts(text: str) -> None:
    """Any text means the same to both, or nothing to both."""
    try:
        expected = _strictly(text)
    except ValueError:
        with pytest.raises(ValueError, match=r", at line \d+ column \d+$") as caught:
            json.loads(text)
        line, column = map(int, re.findall(r"\d+", str(caught.value))[-2:])
        lines = text.split("\n")
        assert 1 <= line <= len(lines)
        assert 1 <= column <= len(lines[line - 1]) + 1
    else:
        assert _typed(json.loads(text)) == _typed(_repaired(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the document ends too early, at line 1 column 1"),
        ('{"a": [1,\n', "the document ends too early, at line 2 column 1"),
        ("{}\n {}", "text after the document, at line 2 column 2"),
        ("{1: 2}", "expected a key in double quotes, at line 1 column 2"),
        ('{"a" 1}', "expected ':' after a key, at line 1 column 6"),
        ('{"a": 1\n"b"', "expected ',' or '}', at line 2 column 1"),
        ("[1 2]", "expected ',' or ']', at line 1 column 4"),
        ('["abc', "a string without its closing quote, at line 1 column 2"),
        ('"a\tb"', "a control character in a string, at line 1 column 3"),
        ('"a\\x"', "an unknown escape in a string, at line 1 column 3"),
        ('"\\u12_4"', "expected four hexadecimal digits, at line 1 column 4"),
        ("[\n\n  NaN]", "expected a value, at line 3 column 3"),
        ("[-Infinity]", "expected a value, at line 1 column 2"),
        ("1e", "expected an exponent, at line 1 column 1"),
        ("-1e400", "a number too large, at line 1 column 1"),
        ("1" * 321, "a number of more than 320 characters, at line 1 column 1"),
    ],
)
def test_message(text: str, message: str) -> None:
    """An error says what was expected, and where."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        json.loads(text)


def test_depth() -> None:
    """Nesting is bounded, so that no document can overflow the stack."""
    deep = "[" * json.DEPTH_LIMIT + "]" * json.DEPTH_LIMIT
    assert json.loads(deep) == standard.loads(deep)
    with pytest.raises(ValueError, match=f"more than {json.DEPTH_LIMIT} levels of nesting"):
        json.loads(f'{{"a": {deep}}}')


@pytest.mark.parametrize("value", [{1}, b"1", object()])
def test_what_has_no_form(value: object) -> None:
    """A value that is not JSON's is a defect of the caller."""
    with pytest.raises(TypeError, match="has no JSON form"):
        json.dumps([value])


@given(values, st.integers(5, 80))
def test_shortened(value: Any, limit: int) -> None:
    """In messages a value is cut to a length, and only where it is longer."""
    whole, short = json.dumps(value), json.shorten(value, limit)
    assert short == whole if len(whole) <= limit else short == whole[:limit] + "..."
