"""Bytes of tokens to the text a reader sees: whole characters, clean-up and stop strings, while streaming."""

import itertools

import pytest

from glm_edge.engine.text.detokenizer import AnswerText


def official(text: str) -> str:
    """What ChatGLM2's `process_response` makes of a finished answer."""
    return text.strip().replace("[[训练时间]]", "2023年")


def stream(pieces: list[bytes], stop: tuple[str, ...] = (), *, complete: bool = True) -> list[str]:
    text = AnswerText(stop)
    shown = []
    for piece in pieces:
        shown.append(text.feed(piece))
        if text.stopped:
            break
    return [*shown, text.end(complete=complete)]


def cut(text: str, size: int) -> list[bytes]:
    data = text.encode()
    return [data[i : i + size] for i in range(0, len(data), size)]


TEXTS = {
    "plain": "Hello there",
    "white space around": " \n 你好，世界。 \n\n",
    "placeholder": "截至[[训练时间]]的资料",
    "placeholder at the ends": "[[训练时间]] [[训练时间]]",
    "half a placeholder": "[[训练时 and [[ and [",
    "emoji": "👍🏽👨‍👩‍👧 ok",
    "only white space": " \n\t ",
    "empty": "",
    "inner white space": "a  b\n\n c",
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_pieces_together_equal_the_official_clean_up(text: str, size: int) -> None:
    assert "".join(stream(cut(text, size))) == official(text)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_piece_is_whole_characters(size: int) -> None:
    for piece in stream(cut("中文和😀表情", size)):
        assert "\ufffd" not in piece


def test_text_is_shown_as_soon_as_nothing_can_take_it_back() -> None:
    assert stream([b"Hello", b" wor", b"ld ", b"!"]) == ["Hello", " wor", "ld", " !", ""]


def test_bytes_that_are_no_character_become_replacement_characters() -> None:
    assert "".join(stream([b"a\xff", b"b", b"\xe4"])) == "a\ufffdb\ufffd"


def test_character_cut_by_the_token_limit_is_dropped() -> None:
    assert "".join(stream(["好".encode(), "坏".encode()[:2]], complete=False)) == "好"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("stop", "text", "expected"),
    [
        pytest.param(("STOP",), "one STOP two", "one", id="text before it, trailing space cleaned"),
        pytest.param(("STOP",), "one STO two STORE", "one STO two STORE", id="divergence gives the text back"),
        pytest.param(("STOP",), "one STO", "one STO", id="prefix of it at the end is text"),
        pytest.param(("b", "ab"), "xxab", "xx", id="the earliest of several"),
        pytest.param(("结束",), "故事结束了", "故事", id="Chinese"),
        pytest.param(("\n\n",), "\n\nfirst\n\nsecond", "first", id="not in leading white space"),
        pytest.param(("aab",), "aaab", "a", id="overlapping start"),
    ],
)
def test_stop_string_ends_the_text_and_is_never_shown(
    stop: tuple[str, ...], text: str, expected: str, size: int
) -> None:
    assert "".join(stream(cut(text, size), stop)) == expected


def test_after_a_stop_string_nothing_more_comes() -> None:
    text = AnswerText(("x",))
    assert text.feed(b"ax") == "a"
    assert text.stopped
    assert text.feed(b"more") == ""
    assert text.end(complete=True) == ""


def test_all_two_way_cuts_of_a_hard_text_agree() -> None:
    data = " 1[[训练时间]]2 END 3".encode()
    results = {"".join(stream([data[:i], data[i:j], data[j:]], ("END",)))
               for i, j in itertools.combinations(range(len(data) + 1), 2)}  # fmt: skip
    assert results == {"12023年2"}


def test_white_space_before_an_answer_that_goes_on_with_a_text_belongs_to_it() -> None:
    text = AnswerText(continues=True)
    assert text.feed(b" nice") + text.feed(b" day ") + text.end(complete=True) == " nice day"
