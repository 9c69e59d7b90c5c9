"""Bad bytes, by category: what downloads, editors, spreadsheets, other programs and attackers make of a good file."""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Callable
from typing import Any

Spoiler = Callable[[random.Random, bytes], bytes]

ODD_IDS: tuple[Any, ...] = (
    *(
        "a/b",
        "../../etc/passwd",
        "/abs",
        "a\\b",
        "line\nbreak",
        "line\r\nbreak",
        "tab\tid",
        " ",
        "",
        "\u2028",
        "\x1b[2J",
    ),
    *("x" * 10_000, "é", "e\u0301", "\ufeff", "a\x00b", "\ud800", ".", "..", "-", "--help", "=1+1", "'", '"', "🧵"),
    *(0, -1, 10**30, 1.5, float("nan"), True, None, [], ["a"], {}, {"a": 1}),
)


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, left out, put in, doubled or moved."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(spoiled) + 1)
        length = rng.choice((1, 1, 2, 8, 40))
        piece = bytes(spoiled[at : at + length])
        spoiled[at : at + length] = rng.choice(
            (
                rng.randbytes(length),
                b"",
                piece * 2,
                rng.choice((b'"', b"\n", b"\r", b",", b"{", b"}", b"[", b"]", b"\\", b"\x00", b"\xff", b"null", b"-1")),
                bytes(b ^ (1 << rng.randrange(8)) for b in piece),
            )
        )
    return bytes(spoiled)


def truncated_gzip(rng: random.Random, data: bytes) -> bytes:
    """Cut off, damaged inside, with rubbish behind it, or of several members one of which is."""
    whole = gzip.compress(data, rng.choice((1, 9)))
    kind = rng.randrange(5)
    if kind == 0:
        return whole[: rng.randrange(2, len(whole))]
    if kind == 1:
        at = rng.randrange(2, len(whole))
        return whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
    if kind == 2:
        return whole + rng.randbytes(rng.randrange(1, 50))
    if kind == 3:
        return whole + whole[: rng.randrange(len(whole))]
    return zlib.compress(data) if rng.random() < 0.3 else whole[:-8] + rng.randbytes(8)


def marked(rng: random.Random, data: bytes) -> bytes:
    """Byte order marks: right, twice, of other encodings, in the middle, alone."""
    marks = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff", b"+/v8", b"\xef\xbb")
    mark = rng.choice(marks)
    kind = rng.randrange(4)
    if kind == 0:
        return mark + data
    if kind == 1:
        return mark * 2 + data
    if kind == 2:
        at = rng.randrange(len(data))
        return data[:at] + mark + data[at:]
    return mark


def utf16(rng: random.Random, data: bytes) -> bytes:
    """Another encoding than UTF-8, maybe cut in the middle of a character."""
    text = data.decode("utf-8", "replace")
    name = rng.choice(
        ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-7", "latin-1", "cp1252", "shift-jis")
    )
    spoiled = text.encode(name, "replace")
    return spoiled[: rng.randrange(len(spoiled))] if rng.random() < 0.3 else spoiled


def with_nul(rng: random.Random, data: bytes) -> bytes:
    """NUL bytes and their JSON escape."""
    spoiled = data
    for _ in range(rng.choice((1, 1, 3, 30))):
        at = rng.randrange(len(spoiled) + 1)
        spoiled = spoiled[:at] + rng.choice((b"\x00", b"\\u0000", b"\x00" * 100)) + spoiled[at:]
    return spoiled


def with_surrogates(rng: random.Random, data: bytes) -> bytes:
    """Half characters: as JSON escapes and as the bytes that some programs write for them."""
    halves = (
        b"\\ud800",
        b"\\udfff",
        b"\\udc00\\ud800",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\\uD83D",
        b"\xf4\x90\x80\x80",
    )
    spoiled = data
    for _ in range(rng.choice((1, 1, 3))):
        # Into a string, where there is one: elsewhere it is only broken JSON.
        places = [m.start() + 1 for m in re.finditer(rb"[A-Za-z ]{2}", spoiled)] or [0]
        at = rng.choice(places)
        spoiled = spoiled[:at] + rng.choice(halves) + spoiled[at:]
    return spoiled


def nested(rng: random.Random, data: bytes) -> bytes:
    """JSON that goes deeper than any parser's stack, alone, inside a row or instead of one."""
    depth = rng.choice((50, 500, 1_000, 3_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]"), (b'{"messages":[', b"]}")))
    bomb = opening * depth + rng.choice((b"1", b"", b'"x"', b"{}")) + (closing * depth if rng.random() < 0.7 else b"")
    kind = rng.randrange(4)
    if kind == 0:
        return bomb
    if kind == 1:
        return data + b"\n" + bomb + b"\n"
    if kind == 2:
        strings = [m.span() for m in re.finditer(rb'"[^"\\]*"(?=[,}\]])', data)]
        if strings:
            start, end = rng.choice(strings)
            return data[:start] + bomb + data[end:]
    return json.dumps({"id": "x", "text": bomb.decode(), "messages": bomb.decode(), "prompt": bomb.decode()}).encode()


def bomb(rng: random.Random, data: bytes, size: int) -> bytes:
    """Kilobytes of gzip that unpack to ``size``: zeros, one line, empty lines, good rows; once or twice packed."""
    line = data.splitlines()[0] + b"\n" if data else b"x\n"
    filling = rng.choice(
        (b"\x00" * 64, b"a" * 64, b"\n" * 64, b"[" * 64, b'{"a":', line, b'"', b",", b'{"prompt": "' + b"a" * 64)
    )
    raw = (filling * (size // len(filling) + 1))[:size]
    if rng.random() < 0.3:
        raw = data + raw
    packed = gzip.compress(raw, 6)
    return gzip.compress(packed) if rng.random() < 0.2 else packed


BYTES: dict[str, Spoiler] = {
    "truncated": truncated,
    "mutated": mutated,
    "truncated gzip": truncated_gzip,
    "byte order marks": marked,
    "UTF-16 and others": utf16,
    "NUL bytes": with_nul,
    "lone surrogates": with_surrogates,
    "nested JSON bombs": nested,
}


def any_value(rng: random.Random, depth: int = 2) -> Any:
    """Any JSON value, often one that something expects elsewhere."""
    kind = rng.randrange(14 if depth else 11)
    if kind < 9:
        return (
            *(None, True, False, 0, -1, 1e308, float("nan"), 10**40, "", "x", "files-x", "../x", "NaN", "2026-01-01"),
            *("\ud800", "a\x00b", "line\nbreak", 1.5, float("inf"), [], {}, "default", "random", -(2**63), 2**31),
        )[rng.randrange(25)]
    if kind < 11:
        return "".join(rng.choice("ab \n\t\"'é\u2028🧵0=,;") for _ in range(rng.randrange(8)))
    if kind == 11:
        return [any_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = ("id", "role", "content", "model", "config", "base", "task", "value", "text", "created", "metrics", "prompt")
    return {rng.choice(keys): any_value(rng, depth - 1) for _ in range(rng.randrange(4))}


def other_tree(rng: random.Random, value: Any) -> Any:
    """A JSON value with one to three of its nodes replaced, left out, doubled or renamed."""
    copied = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        nodes: list[tuple[Any, Any]] = []

        def walk(node: Any, nodes: list[tuple[Any, Any]] = nodes) -> None:
            for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
                nodes.append((node, key))
                walk(node[key])

        walk(copied)
        if not nodes or rng.random() < 0.02:
            return any_value(rng)
        node, key = rng.choice(nodes)
        action = rng.randrange(4)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, list):
            node.insert(key, node[key])
        elif action == 1:
            node["x" + key] = node.pop(key)
        else:
            node[key] = any_value(rng)
    return copied
