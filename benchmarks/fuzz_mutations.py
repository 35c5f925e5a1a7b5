"""Damage to files, as disks, strangers and slips of the pen do it: of bytes, of JSON and TOML, of archives."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import zipfile
from collections.abc import Callable
from typing import Any

PLANTED = "fuzz_planted"
"""A module that nothing may import; "this" and "antigravity" are others."""

NAMES = (f"{PLANTED}:run", "this:s", "antigravity:fly", "os:system", "builtins:eval", "emphasis.cli.main:main")
TOKENS: tuple[bytes, ...] = (
    b"\0",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"(",
    b")",
    b"[",
    b"]",
    b"{",
    b"}",
    b"t",
    b"R",
    b"b",
    b".",
    b"0",
    b"2",
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"\x85R",
    b"X\x02\x00\x00\x00O8",
    b"X\x02\x00\x00\x00V8",
    b"U\x02O8",
    b"U\x03V99",
    b"\x93NUMPY",
    b"PK\x03\x04",
    b"|O",
    b"<f8",
    b"'descr': '|O'",
    b"(99999999999,)",
    b"(-1,)",
    b"NaN",
    b"1e999",
    b"null",
    b"true",
    b'"',
    b"\\ud800",
    b"\n",
    b"\xe2\x80\xa8",
    b"[" * 3000,
    b'{"a":' * 500,
    b"9" * 5000,
    f'"{NAMES[0]}"'.encode(),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**7,
    10**400,
    -(10**400),
    0.5,
    -0.0,
    1e308,
    1e-320,
    math.nan,
    math.inf,
    "",
    "a",
    "none",
    "auto",
    "[/bold]",
    "$\\frac{$",
    "<script>",
    "\x1b[2J",
    "../../etc/passwd",
    "a" * 10_000,
    [],
    {},
    [[]],
    [None],
    ["a"],
    [1e400],
    {"family": "function", "function": NAMES[0]},
    {"family": "from_loss", "loss": NAMES[1], "derivative": NAMES[2]},
    {"family": "Scaled", "factor": 1e308, "weighting": {"family": "DM", "lam": 1e-300, "beta": 1e300}},
    {"family": "Sum", "terms": [{"family": "function", "function": NAMES[3]}]},
    {"family": "Spline", "points": [[0, 0], [1, 1e308]]},
    {"name": NAMES[0]},
    {"name": f"/tmp/{PLANTED}.py:Own"},
    {"name": "elr"},
    {"name": "elr", "lam": "x"},
    {"kind": "symmetric", "rate": 1.0},
    {"start": 0, "end": 1e308},
    *NAMES,
)


KEYS = ("training", "weighting", "options", "source", "extra", "", "[/bold]", "a" * 1000)


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return content with bytes changed, cut out, doubled, put in or cut off, a few times."""
    found = bytearray(content)
    for _ in range(1 + int(draw.expovariate(0.7))):
        place, length = draw.randrange(len(found) + 1), 1 + int(draw.expovariate(0.1))
        match draw.randrange(7):
            case 0 if found:
                found[min(place, len(found) - 1)] ^= 1 << draw.randrange(8)
            case 1 if found:
                found[min(place, len(found) - 1)] = draw.randrange(256)
            case 2:
                del found[place : place + length]
            case 3:
                found[place:place] = found[place : place + length] * draw.choice((1, 2, 50))
            case 4 | 5:
                token = draw.choice(TOKENS)
                found[place : place + draw.choice((0, len(token)))] = token
            case 6:
                if draw.random() < 0.3:
                    del found[place:]
    return bytes(found)


def of_values(tree: Any, draw: random.Random) -> Any:
    """Return JSON's values with some of them taken out, replaced, doubled, renamed, moved or buried."""
    tree = copy.deepcopy(tree)
    for _ in range(1 + int(draw.expovariate(0.8))):
        places = [place for place in _places(tree) if place]
        if not places:
            return draw.choice(VALUES)
        *path, key = draw.choice(places)
        holder = tree
        for step in path:
            holder = holder[step]
        match draw.randrange(8):
            case 0:
                del holder[key]
            case 1 | 2 | 3:
                holder[key] = other(holder[key], draw)
            case 4:
                elsewhere = draw.choice(places)
                value = tree
                for step in elsewhere:
                    value = value[step]
                holder[key] = copy.deepcopy(value)
            case 5 if isinstance(holder, dict):
                holder[draw.choice(KEYS)] = holder.pop(key)
            case 6 if isinstance(holder, list):
                holder += copy.deepcopy(holder)[: draw.choice((1, 100))]
            case 7:
                for _ in range(draw.choice((1, 5, 100, 900))):
                    holder[key] = draw.choice(([holder[key]], {"a": holder[key]}))
    return tree


def other(value: Any, draw: random.Random) -> Any:
    """Return another value, in half of the cases one of the same kind, which may be allowed."""
    if draw.random() < 0.5:
        match value:
            case bool():
                return not value
            case int():
                return draw.choice((0, 1, 2, 3, 7, value + 1, value // 2, 2 * value))
            case float():
                return draw.choice((0.0, 0.3, 1.0, value / 2, 2 * value, 10.0 ** draw.randrange(-9, 9)))
            case str():
                return draw.choice([one for one in VALUES if isinstance(one, str)])
    return copy.deepcopy(draw.choice(VALUES))


def _places(tree: Any) -> list[tuple[Any, ...]]:
    """Return the paths to all values; of long lists of numbers to a few."""
    found: list[tuple[Any, ...]] = []
    waiting: list[tuple[Any, ...]] = [()]
    while waiting and len(found) < 5000:
        path = waiting.pop()
        found.append(path)
        value = tree
        for step in path:
            value = value[step]
        if isinstance(value, dict):
            waiting += [(*path, key) for key in value]
        elif isinstance(value, list):
            waiting += [(*path, place) for place in range(min(len(value), 8))]
    return found


def damaged_values(content: bytes, draw: random.Random) -> bytes:
    """Return JSON damaged in its values; where they are buried too deep to be handled, what it would begin with."""
    try:
        return json.dumps(of_values(json.loads(content), draw)).encode()
    except RecursionError:
        return b'{"a":' * 2000


def of_json(content: bytes, draw: random.Random) -> bytes:
    """Return JSON that is damaged in its values, or in its bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    return damaged_values(content, draw)


def of_json_lines(content: bytes, draw: random.Random) -> bytes:
    """Return JSON Lines of which one is damaged, or all are in their bytes."""
    lines = content.splitlines()
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    place = draw.randrange(len(lines))
    lines[place] = damaged_values(lines[place], draw)
    return b"\n".join(lines) + draw.choice((b"\n", b""))


def of_zip(content: bytes, draw: random.Random, inside: Callable[[str, bytes], bytes] | None = None) -> bytes:
    """Return a zip archive with a damaged member whose checksum is right, or with damaged bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = draw.choice(sorted(members))
    members[name] = inside(name, members[name]) if inside else of_bytes(members[name], draw)
    if draw.random() < 0.1:
        del members[draw.choice(sorted(members))]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in members.items():
            archive.writestr(each, data)
    return file.getvalue()
