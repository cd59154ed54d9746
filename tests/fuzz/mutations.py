"""Ways to damage a file: of its bytes, of its lines, and of the values of what it holds."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

# What JSON can say and its readers did not expect; as text, since some of it is no value of Python's.
JSON_VALUES = (
    "null true false 0 1 -1 2 0.5 -0.0 NaN Infinity -Infinity 1e400 -1e400 1e308 1e-320 2147483648 -2147483649 "
    '9223372036854775808 99999999999999999999 [] {} [[]] [null] [1] [NaN] {"a":null} "" " " "x" "1" "NaN" '
    '"\\u0000" "\\ud800" "a/b" "../../x" "\\u00a0" "e\\u0301" "\\u200b" "<eps>" "#0" "²" "\\n"'
).split(" ")
JSON_VALUES = [v.replace("\\u0020", " ") for v in JSON_VALUES if v] + ['" "', '"A B"']
LONG = {  # large ones, rarer since they cost time
    "digits": "9" * 5000,
    "deep list": "[" * 3000 + "]" * 3000,
    "deep object": '{"a":' * 3000 + "1" + "}" * 3000,
    "text": '"' + "a" * 200_000 + '"',
    "list": "[" + ",".join(["0"] * 20_000) + "]",
}
TOKENS = (
    "NaN nan inf -inf 1e400 -1 0 1.5 1e-400 99999999999999999999 2147483648 0x10 1_000 ² １２ ٣ x # #0 <eps> <s> </s> SIL "
    "SPN ;; \\end\\ \\data\\ a/b ../x a\u00a0b é e\u0301 ’ ' \" , | ( ) { } @ - a_S 1e999 -0 +1 A(2) * % = :"
).split(" ")
CHARACTERS = "\x00\r\x0b\x0c\x1c\x85\u00a0\u2028\u3000\u200b\ufeff\u00ad\u0301\u202e\ufffd²’'\"\\\t ,:;#{}[]()<>&%"
YAML_BITS = (
    "&a [1, 2]",
    "*a",
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!binary x",
    "2020-13-45",
    "0o9",
    "1:99:99",
    "~",
    "{a: 1, a: 2}",
    "? [1]\n: 2",
    "<<: 1",
    "=",
    "- - - x",
    "|",
    "%YAML 9.9",
    "---\na: 1\n---\nb: 2",
    "1e400",
    ".nan",
    ".inf",
    "0x" + "f" * 300,
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bytes become others."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] = rng.choice((0, 255, 127, 128, 10, 32, rng.randrange(256)))
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data) + 1)]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A stretch is left out, doubled or moved."""
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    end = min(end, begin + rng.choice((1, 4, 64, len(data))))
    place = rng.randrange(len(data) + 1)
    kept = data[:begin] + data[end:]
    return rng.choice((kept, data[:end] + data[begin:], kept[:place] + data[begin:end] + kept[place:]))


def empty(data: bytes, rng: random.Random) -> bytes:
    """Nothing is left, or something that is of no format."""
    return rng.choice(
        (b"", b"\n", b"\0" * 64, b" ", b"\xff\xfe", b"\x1f\x8b", b"PK\x03\x04", b"<html>\n", rng.randbytes(200))
    )


def integers(data: bytes, rng: random.Random) -> bytes:
    """A number in four or eight bytes becomes an extreme one, as in headers of binary files."""
    width = rng.choice((1, 2, 4, 8))
    place = rng.randrange(max(min(len(data), rng.choice((64, 1024, len(data) or 1))), 1))
    value = rng.choice((0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1))
    return data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def lines(data: bytes, rng: random.Random) -> bytes:
    """Lines are swapped, doubled, left out or joined."""
    rows = data.split(b"\n")
    i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
    kind = rng.randrange(5)
    if kind == 0:
        rows[i], rows[j] = rows[j], rows[i]
    elif kind == 1:
        rows.insert(j, rows[i])
    elif kind == 2:
        del rows[i]
    elif kind == 3:
        rows[i : i + 2] = [b" ".join(rows[i : i + 2])]
    else:
        rows.insert(j, rng.choice((b"", b" ", b"#", b";;", b"\t", b"x", b"a" * 100_000)))
    return b"\n".join(rows)


def encoding(data: bytes, rng: random.Random) -> bytes:
    """The text stands in another encoding, form of Unicode, or has other ends of lines."""
    text = data.decode("utf-8", "replace")
    return rng.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-16-be", "replace"),
            lambda: text.encode("utf-32"),
            lambda: text.encode("utf-8-sig"),
            lambda: text.encode("latin-1", "replace") + b"\xe9\n",
            lambda: unicodedata.normalize("NFD", text + "é\n").encode(),
            lambda: text.replace("\n", "\r").encode(),
            lambda: text.replace("\n", "\r\n").encode(),
            lambda: text.replace(" ", "\u00a0").encode(),
            lambda: text.replace(" ", "\t").encode(),
            lambda: text.swapcase().encode(),
            lambda: text.rstrip("\n").encode(),
        )
    )()


def characters(data: bytes, rng: random.Random) -> bytes:
    """Characters that are not seen, or mean something, come in between."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(CHARACTERS) + text[place + rng.randrange(2) :]
    return text.encode()


def fields(data: bytes, rng: random.Random) -> bytes:
    """Fields of lines become others."""
    parts = re.split(r"([\s,;:|]+)", data.decode("utf-8", "replace"))
    for _ in range(rng.choice((1, 1, 2))):
        i = rng.randrange(0, len(parts), 2)
        parts[i] = rng.choice((*TOKENS, parts[rng.randrange(0, len(parts), 2)], "", "9" * 5000))
    return "".join(parts).encode()


def yaml_bits(data: bytes, rng: random.Random) -> bytes:
    """Values become what YAML has and JSON does not."""
    if rng.random() < 0.05:
        return BOMB.encode()
    rows = data.decode("utf-8", "replace").split("\n")
    i = rng.randrange(len(rows))
    rows[i] = rows[i].partition(":")[0] + ": " + rng.choice((*YAML_BITS, *JSON_VALUES, LONG["deep list"]))
    return "\n".join(rows).encode()


class _Raw:
    """Text that stands in a JSON file as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of all values inside of a JSON value."""
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for key in range(len(value)):
            yield value, key
            yield from _places(value[key])


def _damage(value: Any, rng: random.Random) -> Any:
    """One value inside of a JSON value is replaced, left out, doubled or exchanged."""
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return _Raw(rng.choice(JSON_VALUES))
    # Few files have but few long lists: shallow values are as likely as those of a list of a thousand.
    where, key = rng.choice(places[:40]) if rng.random() < 0.5 else rng.choice(places)
    kind = rng.random()
    old = where[key]
    if kind < 0.1:
        del where[key]
    elif kind < 0.2 and isinstance(where, dict):
        where[rng.choice(("", "x", "id", "\ud800", "type"))] = where.pop(key) if rng.random() < 0.5 else old
    elif kind < 0.25:
        other, other_key = rng.choice(places)
        where[key] = json.loads(json.dumps(other[other_key], default=str)) if other_key in _keys(other) else None
    elif kind < 0.3 and isinstance(where, list):
        where.insert(rng.randrange(len(where) + 1), old)
    elif kind < 0.4 and isinstance(old, (int, float)) and not isinstance(old, bool):
        where[key] = rng.choice((-old, old + 1, old - 1, str(old), [old], old * 1000, old + 0.5, float(old)))
    elif kind < 0.43:
        where[key] = _Raw(rng.choice(list(LONG.values())))
    else:
        where[key] = _Raw(rng.choice(JSON_VALUES))
    return value


def _keys(where: Any) -> Any:
    return where if isinstance(where, dict) else range(len(where))


def _dumped(value: Any) -> str:
    raws: list[str] = []

    def stand_in(raw: _Raw) -> str:
        raws.append(raw.text)
        return f"\x1a{len(raws) - 1}\x1a"

    text = json.dumps(value, ensure_ascii=False, default=stand_in)
    return re.sub(r'"\\u001a(\d+)\\u001a"', lambda found: raws[int(found[1])], text)


def json_values(data: bytes, rng: random.Random) -> bytes:
    """A value of a JSON file becomes another."""
    try:
        value = json.loads(data)
    except ValueError:
        return flip(data, rng)
    return _dumped(_damage(value, rng)).encode("utf-8", "surrogatepass")


def jsonl_values(data: bytes, rng: random.Random) -> bytes:
    """A value of one line of a JSON-lines file becomes another."""
    rows = data.split(b"\n")
    i = rng.randrange(len(rows))
    rows[i] = json_values(rows[i], rng) if rows[i] else rng.choice(JSON_VALUES).encode()
    return b"\n".join(rows)


def tensors(data: bytes, rng: random.Random) -> bytes:
    """The header or the arrays of a safetensors file are damaged, so that the rest still fits."""
    length = int.from_bytes(data[:8], "little")
    header, arrays = data[8 : 8 + length], bytearray(data[8 + length :])
    if rng.random() < 0.5 and arrays:
        for _ in range(rng.choice((1, 2, 16))):
            width = rng.choice((1, 4, 8))
            place = rng.randrange(max(len(arrays) // width, 1)) * width
            values = (
                b"\xff" * 8,
                b"\0" * 8,
                b"\0\0\xc0\x7f" * 2,
                b"\0\0\x80\xff" * 2,
                b"\x01" + b"\0" * 7,
                rng.randbytes(8),
            )
            arrays[place : place + width] = rng.choice(values)[:width]
    elif rng.random() < 0.2:
        same = rng.choice(
            ((b"I32", b"F32", b"U32"), (b"F32", b"I32", b"BF16"), (b"I64", b"F64", b"U64"), (b"F16", b"I16"))
        )
        header = header.replace(same[0], rng.choice(same[1:]), rng.choice((1, 1, 20)))
    else:
        held = json.loads(header)
        about = held.get("__metadata__", {})
        texts = [key for key, text in about.items() if text[:1] in ("{", "[")]
        if texts and rng.random() < 0.5:
            key = rng.choice(texts)
            about[key] = json_values(about[key].encode(), rng).decode("utf-8", "replace")
            header = json.dumps(held).encode()
        else:
            header = json_values(header, rng)
    return len(header).to_bytes(8, "little") + header + bytes(arrays)


def archive(data: bytes, rng: random.Random) -> bytes:
    """Entries of a zip archive are damaged, renamed, doubled or left out; its check sums are right."""
    blob = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(blob, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        chosen, kind = rng.choice(names), rng.randrange(8)
        for name in names:
            content = old.read(name)
            if name == chosen and kind == 0:
                continue
            if name == chosen and kind > 1:
                content = rng.choice(mutations_of(name))(content, rng)
            entry = zipfile.ZipInfo(name)
            if name == chosen and kind == 1:
                entry.filename = rng.choice(
                    ("../x", "/tmp/x", "model/../../x", "lang/x", "model\\x", "x/y/z", name.upper())
                )
                entry.external_attr = rng.choice((0o120777 << 16, 0o644 << 16))  # a link among them
            new.writestr(entry, content)
    return blob.getvalue()


def gzipped(inside: Mutation) -> Mutation:
    """The same inside of a compressed file."""

    def mutation(data: bytes, rng: random.Random) -> bytes:
        return gzip.compress(inside(gzip.decompress(data), rng), 1, mtime=0)

    mutation.__name__ = f"gzipped_{inside.__name__}"
    return mutation


BYTES = (flip, cut, splice, empty)
TEXT = (lines, encoding, characters, fields)
# By suffix, the likelier ones more than once.
KINDS: dict[str, tuple[Mutation, ...]] = {
    ".json": (*BYTES, encoding, characters, *[json_values] * 8),
    ".jsonl": (*BYTES, *TEXT, *[jsonl_values] * 10),
    ".yaml": (*BYTES, *TEXT, *TEXT, *[yaml_bits] * 4),
    ".safetensors": (*BYTES, integers, *[tensors] * 7),
    ".fsm": (*BYTES, integers, *[archive] * 6),
}
BINARY = (*BYTES, *BYTES, *[integers] * 4)
BINARIES = (".wav", ".flac", ".sph", ".ogg", ".mp3", ".bin", ".model", ".tar", ".npy", ".aiff", ".w64", ".au")


def mutations_of(name: str) -> tuple[Mutation, ...]:
    """What damages a file of this name."""
    if name.endswith(".gz"):
        return (*BYTES, *map(gzipped, mutations_of(name.removesuffix(".gz"))))
    suffix = "." + name.rpartition(".")[2]
    if suffix in BINARIES:
        return BINARY
    return KINDS.get(suffix, (*BYTES, *TEXT, *TEXT))


def damaged(name: str, data: bytes, rng: random.Random) -> bytes:
    """A file damaged once or, seldom, twice; never as it was."""
    out = data
    for _ in range(rng.choice((1, 1, 1, 2))):
        try:
            out = rng.choice(mutations_of(name))(out, rng)
        except Exception:  # the first damage has left nothing of its format
            out = flip(out, rng)
    return out if out != data else flip(flip(data, rng), rng)
