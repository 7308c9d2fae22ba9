"""Times as exports write them, each file in one spelling.

    >>> times = Times()
    >>> times.parse("2016-02-24T05:00:00Z"), times.spelling
    (1456290000.0, 'ISO 8601 with a zone')

A file's first time that can be read decides how the others must be written: a time is never read as the most likely of several
meanings. What has no zone needs one by name; what writes day and month as numbers needs its format.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from service.errors import UsageError
from service.model.preprocessing import is_time

# The spellings, as they are told to people.
ZONED = "ISO 8601 with a zone"
LOCAL = "ISO 8601 without a zone"
ABBREVIATED = "ISO 8601 with an abbreviated zone"
DAYS = "days without hours"
TWITTER = "as X's API v1 writes them"
MAIL = "as mail writes them"
# Numbers since 1970-01-01 UTC; their range tells the unit.
EPOCH = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}

EARLIEST = 1_072_915_200.0  # 2004, when nobody posted yet; in seconds since 1970-01-01 UTC
_LATEST = 4_102_444_800.0  # 2100: what lies between both tells the unit of a number
_ISO = re.compile(
    r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})"
    r"(?:(?:T|\s+|\s*,\s*)([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?)?"
    r"\s*([AP]M)?\s*(Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?|(?:UTC|GMT)[+-][0-9]{1,2}(?::?[0-9]{2})?|[A-Z]{2,5})?",
    re.IGNORECASE,
)
_MONTHS = {name: i for i, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}  # noqa: SIM905
_MONTH = "(" + "|".join(_MONTHS) + ")"
_TWITTER = re.compile(
    rf"[a-z]{{3}} {_MONTH} +([0-9]{{1,2}}) ([0-9]{{1,2}}):([0-9]{{2}}):([0-9]{{2}}) ([+-][0-9]{{4}}|UTC|GMT) ([0-9]{{4}})",
    re.IGNORECASE,
)
_MAIL = re.compile(
    rf"(?:[a-z]{{3}}, +)?([0-9]{{1,2}}) {_MONTH} ([0-9]{{4}}) ([0-9]{{1,2}}):([0-9]{{2}})(?::([0-9]{{2}}))?"
    r" ([+-][0-9]{4}|UTC|GMT|Z)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"0(?:\.0*)?|[0-9]{9,19}(?:\.[0-9]*)?")
_NUMERIC_DATE = re.compile(r"[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{2,4}\b.*")
_YEARS = re.compile(r"(?<!%)(?:%%)*%[YyGcx]")  # directives of strptime that hold a year
_NO_DAY = "must hold a year, a month and a day, such as '%d/%m/%Y %H:%M'"
_HOURS = re.compile(r"(?<!%)(?:%%)*%[-]?[HIcXTR]")  # directives of strptime that hold an hour
_MANY_MIDNIGHTS = 20  # a day has 1,440 minutes, so that so many are no chance
_OUTSIDE = "posted_at is outside the years 1 to 9999"


class BadTimeError(Exception):
    """What is wrong with a time, and what would be right."""


class ZoneNeededError(Exception):
    """A time can be read only with what the user must say: its zone, or its format."""


class Instant(NamedTuple):
    """A time of a column that knows times."""

    seconds: float  # since 1970-01-01 UTC; without a zone, as if it were UTC
    has_zone: bool


def zone(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of this name in the tz database. Raises ValueError."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        from difflib import get_close_matches

        near = get_close_matches(name, sorted(zoneinfo.available_timezones()), 1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"must be a zone's name, such as America/New_York or UTC{hint}") from None


def check_format(given: str) -> str:
    """A format of strptime that fixes a day. Raises ValueError."""
    if not _YEARS.search(given):  # strptime of Python 3.13 and later warns of a day without a year
        raise ValueError(_NO_DAY)
    try:
        sample = datetime(2016, 11, 22, 13, 44, 55, tzinfo=UTC).strftime(given)
        read = datetime.strptime(sample, given)
    except (ValueError, re.error) as error:
        raise ValueError(f"must be a format of strptime, such as '%d/%m/%Y %H:%M' ({error})") from None
    if (read.year, read.month, read.day) != (2016, 11, 22):
        raise ValueError(_NO_DAY)
    return given


class Times:
    """Reads the times of one file."""

    def __init__(self, zone_name: str = "", time_format: str = "", spelling: str = "") -> None:
        """`zone_name` is that of times without a zone; `time_format` is strptime's; `spelling` is known from another part.

        Raises UsageError.
        """
        try:
            self._zone: tzinfo | None = zone(zone_name) if zone_name else None
            self._format = check_format(time_format) if time_format else ""
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._told = f"as --time-format {time_format}" if time_format and "%z" not in time_format else None
        self.spelling = spelling  # that of the first time that could be read; empty: none yet
        self._midnights = 0  # times at midnight
        self.hours = False  # some time is not at midnight, so that hours mean something
        self.twice = 0  # local times that exist twice, taken as the first
        self.never = 0  # local times that the zone passes over, taken as if it had not
        self.seconds_precise = False  # some time is not at a whole minute

    def parse(self, cell: object) -> float:
        """Seconds since 1970-01-01 UTC.

        Raises BadTimeError if the cell is no time in the file's spelling, and ZoneNeededError if no time of the file can be
        read without its zone or its format.
        """
        try:
            spelling, seconds = self._read(cell)
        except OverflowError:
            raise BadTimeError(_OUTSIDE) from None
        if not is_time(seconds):
            raise BadTimeError(_OUTSIDE)
        if not self.spelling:
            self.spelling = spelling if seconds >= EARLIEST else ""  # 0 for "missing" decides nothing
        elif spelling != self.spelling:
            raise BadTimeError(f"posted_at is written otherwise than the file's first time ({self.spelling})")
        return seconds

    @property
    def zone(self) -> tzinfo | None:
        """The zone in which times without one were read; None: they have one."""
        return self._zone if self.spelling in (LOCAL, ABBREVIATED, self._told) else None

    @property
    def zone_name(self) -> str:
        """Its name; empty if there is none."""
        return str(self.zone) if self.zone else ""

    def describe(self) -> str:
        """How the file writes its times, for people."""
        said = [self.spelling or "none that could be read"]
        if self.zone:
            said.append(f"in {self.zone_name}")
        if self.twice:
            said.append(f"{self.twice} exist twice, as clocks were put back, and are taken as the first")
        if self.never:
            said.append(f"{self.never} never were, as clocks were put forward")
        return ", ".join(said)

    @property
    def days_only(self) -> bool:
        """Whether the times are days: written so, or many and all at midnight. A few may be at midnight by chance."""
        return not self.hours and (self.spelling == DAYS or self._midnights >= _MANY_MIDNIGHTS)

    @property
    def precision(self) -> str:
        """The finest unit in which the times differ: days, minutes or seconds."""
        return "days" if self.days_only else "seconds" if self.seconds_precise else "minutes"

    def _read(self, cell: object) -> tuple[str, float]:
        if isinstance(cell, str):
            return self._of_text(cell.strip())
        if isinstance(cell, Instant):
            if cell.has_zone:
                self._note(cell.seconds % 86_400, cell.seconds % 60)
                return ZONED, cell.seconds
            return LOCAL, self._local(datetime.fromtimestamp(0, UTC).replace(tzinfo=None) + timedelta(seconds=cell.seconds))
        if isinstance(cell, datetime):
            if cell.tzinfo:
                self._note(cell.hour or cell.minute or cell.second, cell.second)
                return ZONED, cell.timestamp()
            return LOCAL, self._local(cell)
        if isinstance(cell, date):
            return DAYS, datetime(cell.year, cell.month, cell.day, tzinfo=UTC).timestamp()
        if isinstance(cell, int | float) and not isinstance(cell, bool):
            return self._of_number(float(cell))
        raise BadTimeError("posted_at is empty" if cell is None else "posted_at is not a time")

    def _of_text(self, text: str) -> tuple[str, float]:
        if not text:
            raise BadTimeError("posted_at is empty")
        if self._format:
            return self._by_format(text)
        try:  # the commonest first: a tenth of the time
            read = datetime.fromisoformat(text) if len(text) > 10 else None
        except ValueError:
            read = None
        if read is not None and read.tzinfo is not None:
            self._note(read.hour or read.minute or read.second, read.second)
            return ZONED, read.timestamp()
        if match := _ISO.fullmatch(text):
            return self._of_iso(match)
        if match := _TWITTER.fullmatch(text):
            month, day, hour, minute, second, offset, year = match.groups()
            return TWITTER, self._zoned((year, _MONTHS[month.lower()], day, hour, minute, second), offset)
        if match := _MAIL.fullmatch(text):
            day, month, year, hour, minute, second, offset = match.groups()
            return MAIL, self._zoned((year, _MONTHS[month.lower()], day, hour, minute, second or 0), offset)
        if _NUMBER.fullmatch(text):
            return self._of_number(float(text))
        if _NUMERIC_DATE.fullmatch(text) and not self.spelling:
            raise ZoneNeededError(
                "posted_at writes day and month as numbers, in an order that only you know: name it, such as --time-format"
                " '%m/%d/%Y %H:%M' or '%d/%m/%Y %H:%M', and if there is no zone, also --time-zone"
            )
        raise BadTimeError(
            "posted_at is not a time that can be read without being told how, such as 2016-02-24T05:00:00Z; see --time-format"
        )

    def _by_format(self, text: str) -> tuple[str, float]:
        try:
            read = datetime.strptime(text, self._format)
        except ValueError:
            raise BadTimeError(f"posted_at is not written as --time-format {self._format}") from None
        spelling = f"as --time-format {self._format}"
        if not _HOURS.search(self._format):
            return DAYS, read.replace(tzinfo=UTC).timestamp()
        if read.tzinfo is not None:
            self._note(read.hour or read.minute or read.second, read.second)
            return spelling, read.timestamp()
        return spelling, self._local(read)

    def _of_iso(self, match: re.Match[str]) -> tuple[str, float]:
        year, _, month, day, hour, minute, second, fraction, half, zone_ = match.groups()
        if hour is None:
            if zone_ or half:
                raise BadTimeError("posted_at has a zone but no hour")
            return DAYS, self._moment((year, month, day), "").replace(tzinfo=UTC).timestamp()
        read = self._moment((year, month, day, hour, minute, second or 0), half or "")
        read += timedelta(seconds=float(f"0.{fraction}") if fraction else 0)
        offset = _offset(zone_) if zone_ else None
        if offset is not None:
            self._note(read.hour or read.minute or read.second, read.second)
            return ZONED, read.replace(tzinfo=offset).timestamp()
        return (ABBREVIATED, self._abbreviated(read, zone_.upper())) if zone_ else (LOCAL, self._local(read))

    def _moment(self, fields: tuple[object, ...], half: str) -> datetime:
        year, month, day, hour, minute, second = (int(str(field)) for field in (*fields, 0, 0, 0)[:6])
        if half:
            if not 1 <= hour <= 12:
                raise BadTimeError("posted_at has an hour that no clock with AM and PM shows")
            hour = hour % 12 + (12 if half.upper() == "PM" else 0)
        try:
            return datetime(year, month, day, hour, minute, second)
        except ValueError as error:
            raise BadTimeError(f"posted_at is not a time: {error}") from None

    def _zoned(self, fields: tuple[object, ...], offset: str) -> float:
        read = self._moment(fields, "")
        self._note(read.hour or read.minute or read.second, read.second)
        return read.replace(tzinfo=_offset(offset)).timestamp()

    def _of_number(self, number: float) -> tuple[str, float]:
        for unit, scale in EPOCH.items():
            seconds = number / scale
            if EARLIEST <= seconds < _LATEST:
                self._note(seconds % 86_400, seconds % 60)
                return f"{unit} since 1970", seconds
        for unit, scale in EPOCH.items():
            if self.spelling == f"{unit} since 1970":
                return self.spelling, number / scale  # before 2004, such as 0 for "missing"
        if number == 0 or 1e8 <= number < EARLIEST:  # a smaller one is a year, or a spreadsheet's day
            return "seconds since 1970", number
        raise BadTimeError("posted_at is a number, but no time in seconds to nanoseconds since 1970")

    def _local(self, read: datetime) -> float:
        """A time without a zone: in the zone that was named."""
        if self._zone is None:
            raise ZoneNeededError(
                "posted_at has no zone: name the one that the times are in, such as --time-zone America/New_York or --time-zone"
                " UTC"
            )
        self._note(read.hour or read.minute or read.second, read.second)
        first, second = read.replace(tzinfo=self._zone), read.replace(tzinfo=self._zone, fold=1)
        seconds = first.timestamp()
        if first.utcoffset() != second.utcoffset():
            if datetime.fromtimestamp(seconds, self._zone).replace(tzinfo=None) == read:
                self.twice += 1
            else:
                self.never += 1
        return seconds

    def _abbreviated(self, read: datetime, abbreviation: str) -> float:
        """A time with an abbreviation, which means something in the named zone alone: IST is in use in three."""
        if self._zone is None:
            raise ZoneNeededError(
                "posted_at has an abbreviated zone, which several places may use: name yours, such as --time-zone"
                " America/New_York"
            )
        self._note(read.hour or read.minute or read.second, read.second)
        for fold in (0, 1):
            local = read.replace(tzinfo=self._zone, fold=fold)
            if (
                local.tzname() == abbreviation
                and datetime.fromtimestamp(local.timestamp(), self._zone).replace(tzinfo=None) == read
            ):
                return local.timestamp()
        raise BadTimeError(f"posted_at has an abbreviation that is not in use in {self._zone} on its date")

    def _note(self, past_midnight: float, past_minute: float = 0) -> None:
        self.hours = self.hours or bool(past_midnight)
        self._midnights += not past_midnight
        self.seconds_precise = self.seconds_precise or bool(past_minute)


def _offset(text: str) -> timezone | None:
    """The offset that Z, UTC, GMT, +hh, +hhmm, +hh:mm or UTC+h says; None: an abbreviation."""
    text = text.upper()
    digits = re.sub("UTC|GMT|Z|:", "", text)
    if not digits:
        return UTC
    if digits[0] not in "+-":
        return None
    hours, minutes = (digits[1:3], digits[3:]) if len(digits) != 2 else (digits[1:], "")
    try:
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        return timezone(-offset if digits[0] == "-" else offset)
    except ValueError:
        raise BadTimeError("posted_at has an offset of a day or more") from None
