"""Records of JSON text: an array, JSON Lines, objects one after another, pages of an API, or one object of columns.

Arrays and lines are decoded one record at a time, so memory does not grow with the file. One object that holds everything has
to be decoded whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

from service.errors import DataError
from service.posts.columns import plain

SAMPLE = 1000  # records whose columns decide how a file is read; later ones may change it

_HEAD = 1 << 16  # characters that tell the form
_LONGEST_RECORD = 4 << 20  # characters
_LONGEST_DOCUMENT = 512 << 20  # characters of one object that holds everything
_MOST_NAMES = 2000  # columns; more come from records that use keys as data
_DEEPEST = 4  # objects inside objects whose fields are columns
_LISTS = ("data", "statuses", "tweets", "posts", "items", "results", "records", "hits", "feed", "children", "value", "rows")
_TEXTS = {"headline", "text", "fulltext", "tweet", "title", "message", "content", "rawcontent", "record"}
_DECODER = json.JSONDecoder()
_ARCHIVE = re.compile(r"\s*window\.[\w.]+ = (?=\[)")  # how the archive that X gives to an account begins
_NO_OBJECT = "is not a JSON object"

Record = dict[str, Any]
Numbered = tuple[int, "Record | str"]  # line or number of the record, from 1; the record, or what is wrong with it


class Text(Protocol):
    """What lines are read from; see service.posts.files.Lines."""

    number: int

    def __iter__(self) -> Iterator[str]: ...

    def read(self, characters: int) -> str:
        """Text across lines; empty at the end."""
        ...

    def back(self, text: str) -> None:
        """Give this text again."""
        ...


class Path(NamedTuple):
    """Where a column stands in a record."""

    name: str
    parts: tuple[str, ...]


def path(column: str) -> Path:
    """The place of a column: a field of this name, or fields inside each other if it has dots."""
    return Path(column, tuple(column.split(".")))


def value(record: Mapping[str, Any], place: Path) -> Any:  # noqa: ANN401
    """What stands there; None if nothing does."""
    if len(place.parts) == 1 or place.name in record:
        return record.get(place.name)
    return inside(record, place.parts)


def inside(cell: Any, parts: Sequence[str]) -> Any:  # noqa: ANN401
    """What stands in objects inside each other, by their fields; None if nothing does."""
    for part in parts:
        cell = cell.get(part) if isinstance(cell, dict) else None
    return cell


class Union:
    """The columns of all records so far."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._seen: set[tuple[str, ...]] = set()
        self._records = 0

    @property
    def names(self) -> list[str]:
        """In the order in which they were seen first; fields of objects have dots, and the object is there too."""
        return list(self._names)

    def add(self, record: Record) -> bool:
        """Whether a record brings a column that was not there."""
        self._records += 1
        shape = tuple(record)
        # Behind the sample, only the outermost names are looked at: the others would cost half of the time of decoding.
        if (self._records > SAMPLE and shape in self._seen) or len(self._names) > _MOST_NAMES:
            return False
        self._seen.add(shape)
        before = len(self._names)
        self._names |= dict.fromkeys(_names(record))
        return len(self._names) > before


def _names(record: Mapping[str, Any], above: str = "", depth: int = 1) -> Iterator[str]:
    for name, inner in record.items():
        yield above + name
        if isinstance(inner, dict) and depth < _DEEPEST:
            yield from _names(inner, f"{above}{name}.", depth + 1)


def read(text: Text, name: str) -> tuple[str, Iterator[Numbered]]:
    """The form of a text, for people, and its records. Raises DataError if it is not JSON."""
    head = text.read(_HEAD)
    if archived := _ARCHIVE.match(head):
        head = head[archived.end() :]
    text.back(head)
    lines = [line for line in head.lstrip("\ufeff").split("\n") if not line.isspace() and line]
    if head.lstrip("\ufeff \t\r\n").startswith("["):
        return "JSON array", _elements(_Stream(text, name))
    whole = len(head) < _HEAD
    if len(lines) > 1 and (isinstance(_decoded(lines[0]), dict) or isinstance(_decoded(lines[1]), dict)):
        return "JSON Lines", of_lines(text)
    if whole and len(lines) == 1 and _decoded(lines[0]) is None:
        raise DataError(f"{name}:1: {_NO_OBJECT}; JSON Lines holds one a line")
    stream = _Stream(text, name)
    first = stream.value(_LONGEST_DOCUMENT)
    if not isinstance(first, dict):
        raise DataError(f"{name}:1: {_NO_OBJECT}")
    if stream.ended():
        form, records = _document(first)
        return form, ((number, record) for number, record in enumerate(records, 1))
    return "JSON objects", _numbered(chain(_expanded(first), chain.from_iterable(map(_expanded_or_bad, _rest(stream)))))


def _decoded(line: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def of_lines(text: Text) -> Iterator[Numbered]:
    """The records of JSON Lines."""
    for line in text:
        if line.isspace():
            continue
        record = _decoded(line.lstrip("\ufeff") if text.number == 1 else line)
        if not isinstance(record, dict):
            yield text.number, _NO_OBJECT
            continue
        for inner in _expanded(record):
            yield text.number, inner


def _elements(stream: _Stream) -> Iterator[Numbered]:
    """The elements of an array."""
    stream.skip("[")
    return _numbered(chain.from_iterable(map(_expanded_or_bad, _array(stream))))


def _array(stream: _Stream) -> Iterator[Any]:
    while not stream.at("]"):
        yield stream.value(_LONGEST_RECORD)
        if not stream.at("]"):
            stream.skip(",")


def _rest(stream: _Stream) -> Iterator[Any]:
    while not stream.ended():
        yield stream.value(_LONGEST_RECORD)


def _numbered(records: Iterable[Record | str]) -> Iterator[Numbered]:
    return iter(enumerate(records, 1))


def _expanded_or_bad(element: Any) -> Iterable[Record | str]:  # noqa: ANN401
    return _expanded(element) if isinstance(element, dict) else [_NO_OBJECT]


def _expanded(record: Record) -> Iterable[Record]:
    """The posts of a page of an API, or the record itself."""
    inner = _list_inside(record)
    if inner is None:
        return [record]
    users = {user.get("id"): user for user in _users(record)}
    if users:  # X's API v2 names authors apart
        for post in inner:
            if "author" not in post and post.get("author_id") in users:
                post["author"] = users[post["author_id"]]
    return inner


def _users(record: Record) -> list[Record]:
    includes = record.get("includes")
    users = includes.get("users") if isinstance(includes, dict) else None
    return [user for user in users if isinstance(user, dict)] if isinstance(users, list) else []


def _list_inside(record: Record) -> list[Record] | None:
    if any(plain(name) in _TEXTS for name in record):
        return None
    for name in _LISTS:
        inner = record.get(name)
        if isinstance(inner, list) and inner and all(isinstance(post, dict) for post in inner):
            return inner
        if isinstance(inner, dict) and (found := _list_inside(inner)) is not None:
            return found
    return None


def _document(document: Record) -> tuple[str, Iterable[Record]]:
    """The records of one object that holds everything."""
    if _list_inside(document) is not None:
        return "one JSON object with a list", _expanded(document)
    names, rows = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(rows, list):
        return "JSON, columns and rows apart", (
            dict(zip(map(str, names), row, strict=False)) for row in rows if isinstance(row, list)
        )
    columns = list(document.values())
    if len(columns) > 1 and all(isinstance(column, list) for column in columns):
        return "one JSON object of columns", _rows_of(document, [dict(enumerate(column)) for column in columns])
    if columns and all(isinstance(column, dict) for column in columns):
        if all(name.isdigit() for name in document):
            return "one JSON object of rows", columns
        if len(columns) > 1:
            return "one JSON object of columns", _rows_of(document, columns)
    return "one JSON object", [document]


def _rows_of(names: Iterable[str], columns: Sequence[Mapping[Any, Any]]) -> Iterator[Record]:
    keys = dict.fromkeys(chain.from_iterable(columns))
    return (dict(zip(names, (column.get(key) for column in columns), strict=True)) for key in keys)


class _Stream:
    """Values of a text one after another, decoded as they are asked for."""

    def __init__(self, text: Text, name: str) -> None:
        self._text = text
        self._name = name
        self._buffer = text.read(_HEAD).lstrip("\ufeff")
        self._at = 0
        self._values = 0

    def ended(self) -> bool:
        """Whether only white space is left."""
        return not self._next()

    def at(self, character: str) -> bool:
        """Whether this comes next."""
        following = self._next()
        if not following:
            raise DataError(f"{self._name}: ends in the middle, after {self._values} records; is it complete?")
        return following == character

    def skip(self, character: str) -> None:
        """Pass over this character, which must come next."""
        if not self.at(character):
            raise DataError(f"{self._name}: is not JSON: after {self._values} records there is no {character!r}")
        self._at += 1

    def value(self, longest: int) -> Any:  # noqa: ANN401
        """The value that comes next. Raises DataError if it is not JSON or longer than this many characters."""
        self._next()
        while True:
            try:
                found, self._at = _DECODER.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError):
                more = self._text.read(max(_HEAD, len(self._buffer) - self._at))
                if not more or len(self._buffer) - self._at > longest:
                    raise DataError(
                        f"{self._name}: record {self._values + 1} is not JSON, ends in the middle or is longer than {longest}"
                        " characters"
                    ) from None
                self._buffer, self._at = self._buffer[self._at :] + more, 0
            else:
                self._values += 1
                return found

    def _next(self) -> str:
        """The next character but white space, without passing over it; empty at the end."""
        while True:
            while self._at < len(self._buffer):
                if not self._buffer[self._at].isspace():
                    return self._buffer[self._at]
                self._at += 1
            self._buffer, self._at = self._text.read(_HEAD), 0
            if not self._buffer:
                return ""
