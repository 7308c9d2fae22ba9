"""Times: every spelling that has one meaning is read, each other asks for what it lacks."""

import contextlib
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UsageError
from service.posts import times
from service.posts.times import BadTimeError, Instant, Times, ZoneNeededError

MAY = datetime(2016, 5, 1, 12, 37, 5, tzinfo=UTC).timestamp()
MINUTE = MAY - 5


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("2016-05-01T12:37:05Z", MAY),
        ("2016-05-01T12:37:05+00:00", MAY),
        ("2016-05-01T12:37:05.250Z", MAY + 0.25),
        ("2016-05-01T12:37:05.000000Z", MAY),
        ("2016-05-01T12:37:05,5Z", MAY + 0.5),
        ("2016-05-01T08:37:05-04:00", MAY),
        ("2016-05-01T08:37:05-0400", MAY),
        ("2016-05-01 12:37:05 UTC", MAY),
        ("2016-05-01 12:37:05 GMT", MAY),
        ("2016-05-01 12:37:05 utc", MAY),
        ("2016-05-01 14:37:05 GMT+2", MAY),
        ("2016-05-01 18:07:05 UTC+05:30", MAY),
        ("2016-05-01 12:37 +0000", MINUTE),
        ("2016/05/01 12:37:05Z", MAY),
        ("2016/5/1 12:37 +00:00", MINUTE),
        ("2016.05.01 12:37:05 Z", MAY),
        ("2016-05-01 9:07:05Z", MAY - 3.5 * 3600),
        ("2016-05-01 12:37:05 PM UTC", MAY),
        ("2016-05-01 1:37:05 pm +01", MAY),
        (" 2016-05-01T12:37:05Z ", MAY),
        ("Sun May 01 12:37:05 +0000 2016", MAY),
        ("Sun May 01 08:37:05 -0400 2016", MAY),
        ("sun may  1 12:37:05 UTC 2016", MAY),
        ("Sun, 01 May 2016 12:37:05 +0000", MAY),
        ("Sun, 1 May 2016 12:37:05 GMT", MAY),
        ("1 May 2016 12:37 Z", MINUTE),
        ("1462106225", MAY),
        ("1462106225.0", MAY),
        ("1462106225000", MAY),
        ("1462106225000000", MAY),
        ("1462106225000000000", MAY),
        (1462106225, MAY),
        (1462106225.5, MAY + 0.5),
        (1462106225000, MAY),
        (Instant(MAY, has_zone=True), MAY),
        (datetime(2016, 5, 1, 14, 37, 5, tzinfo=timezone(timedelta(hours=2))), MAY),
    ],
)
def test_a_time_that_needs_no_more_is_read(cell, seconds):
    assert Times().parse(cell) == seconds


@pytest.mark.parametrize("cell", ["2016-05-01", "2016/5/1", "2016-5-1", date(2016, 5, 1)])
def test_days_are_read_as_midnights_and_known_as_days(cell):
    found = Times()
    assert found.parse(cell) == datetime(2016, 5, 1, tzinfo=UTC).timestamp()
    assert (found.spelling, found.days_only, found.precision) == (times.DAYS, True, "days")


def test_times_that_are_all_at_midnight_have_no_hours():
    found = Times()
    for day in range(1, 31):
        assert found.days_only == (day > 20)  # a few may be at midnight by chance
        found.parse(f"2016-05-{day:02}T00:00:00Z")
    assert found.precision == "days"
    found.parse("2016-05-31T00:01:00Z")
    assert (found.days_only, found.precision) == (False, "minutes")


@pytest.mark.parametrize(
    "cell",
    [
        "2016-05-01 12:37:05",
        "2016-05-01T12:37:05",
        "2016-05-01 12:37",
        "2016/05/01 9:07",
        Instant(MAY, has_zone=False),
        datetime(2016, 5, 1, 12),
    ],
)
def test_a_time_without_a_zone_asks_for_one(cell):
    with pytest.raises(ZoneNeededError, match="--time-zone America/New_York"):
        Times().parse(cell)


@pytest.mark.parametrize(
    ("cell", "zone", "utc"),
    [
        ("2016-05-01 12:37:05", "UTC", "2016-05-01T12:37:05"),
        ("2016-05-01 12:37:05", "America/New_York", "2016-05-01T16:37:05"),
        ("2016-01-01 12:37:05", "America/New_York", "2016-01-01T17:37:05"),
        ("2016-05-01 12:37:05 EDT", "America/New_York", "2016-05-01T16:37:05"),
        ("2016-01-01 12:37:05 EST", "America/New_York", "2016-01-01T17:37:05"),
        ("2016-05-01 12:37:05 IST", "Asia/Kolkata", "2016-05-01T07:07:05"),
        ("2016-05-01 12:37:05 IST", "Europe/Dublin", "2016-05-01T11:37:05"),
        ("2016-05-01 12:37:05 IDT", "Asia/Jerusalem", "2016-05-01T09:37:05"),
        ("2016-11-06 01:30:00 EDT", "America/New_York", "2016-11-06T05:30:00"),  # the hour that exists twice
        ("2016-11-06 01:30:00 EST", "America/New_York", "2016-11-06T06:30:00"),
        (Instant(MAY, has_zone=False), "America/New_York", "2016-05-01T16:37:05"),
        (datetime(2016, 5, 1, 12, 37, 5), "Asia/Kolkata", "2016-05-01T07:07:05"),
    ],
)
def test_a_local_time_is_read_in_the_zone_that_was_named(cell, zone, utc):
    found = Times(zone)
    assert datetime.fromtimestamp(found.parse(cell), UTC).replace(tzinfo=None).isoformat() == utc
    assert found.zone_name == zone


@pytest.mark.parametrize(
    ("cell", "zone"),
    [
        ("2016-05-01 12:37:05 EST", "America/New_York"),  # EDT in May
        ("2016-01-01 12:37:05 EDT", "America/New_York"),
        ("2016-05-01 12:37:05 IST", "America/New_York"),
        ("2016-03-13 02:30:00 EST", "America/New_York"),  # an hour that was passed over
        ("2016-05-01 12:37:05 CST", "Asia/Kolkata"),
    ],
)
def test_an_abbreviation_that_is_not_in_use_then_is_never_read_as_another(cell, zone):
    with pytest.raises(BadTimeError, match=f"not in use in {zone}"):
        Times(zone).parse(cell)


def test_an_abbreviation_asks_for_the_zone():
    with pytest.raises(ZoneNeededError, match="--time-zone"):
        Times().parse("2016-05-01 12:37:05 IST")


def test_an_hour_that_exists_twice_or_never_is_taken_as_the_first_and_counted():
    found = Times("America/New_York")
    twice, never = found.parse("2016-11-06 01:30:00"), found.parse("2016-03-13 02:30:00")
    assert datetime.fromtimestamp(twice, UTC).hour == 5  # EDT
    assert datetime.fromtimestamp(never, UTC).hour == 7  # as if clocks had not been put forward yet
    assert (found.twice, found.never) == (1, 1)
    assert "exist twice" in found.describe()
    assert "never were" in found.describe()


@pytest.mark.parametrize("cell", ["8/4/2016 11:52", "5/1/2016 12:00 PM", "01.05.2016", "1-5-16", "13/12/2016"])
def test_numbers_for_day_and_month_ask_for_their_order(cell):
    with pytest.raises(ZoneNeededError, match="--time-format"):
        Times().parse(cell)


@pytest.mark.parametrize(
    ("form", "cell", "utc"),
    [
        ("%m/%d/%Y %H:%M", "8/4/2016 11:52", "2016-08-04T11:52:00"),
        ("%d/%m/%Y %H:%M", "8/4/2016 11:52", "2016-04-08T11:52:00"),
        ("%m/%d/%Y %I:%M %p", "5/1/2016 1:14 PM", "2016-05-01T13:14:00"),
        ("%a, %b %d, %Y", "Sun, May 1, 2016", "2016-05-01T00:00:00"),
        ("%d.%m.%Y %H:%M %z", "01.05.2016 12:37 +0200", "2016-05-01T10:37:00"),
    ],
)
def test_a_format_is_followed(form, cell, utc):
    found = Times("UTC", form)
    assert datetime.fromtimestamp(found.parse(cell), UTC).replace(tzinfo=None).isoformat() == utc
    assert found.hours == (utc[11:] != "00:00:00")
    with pytest.raises(BadTimeError, match="not written as --time-format"):
        found.parse("2016-05-01T12:37:05Z")


def test_a_format_without_a_zone_asks_for_one():
    with pytest.raises(ZoneNeededError, match="--time-zone"):
        Times("", "%m/%d/%Y %H:%M").parse("8/4/2016 11:52")


@pytest.mark.parametrize("form", ["%H:%M", "%d/%m", "%Q", "plain", "%d/%m/%y/%", "%j"])
def test_a_format_that_fixes_no_day_is_refused(form):
    with pytest.raises(UsageError, match=r"must (be a format|hold a year)"):
        Times("", form)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("EST5", ""), ("America/New York", "America/New_York"), ("Berlin", "Europe/Berlin"), ("../etc/passwd", "")],
)
def test_a_zone_that_is_none_is_refused_with_the_nearest(name, hint):
    with pytest.raises(UsageError, match=f"must be a zone's name.*{hint}"):
        Times(name)


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "",
            " ",
            None,
            "yesterday",
            "2016-02-30T00:00:00Z",
            "2016-13-01T00:00:00Z",
            "2016-05-01T25:00:00Z",
            "2016-05-01 13:00 PM UTC",
        ),
        *(
            "2016-05-01T12:00:00+99:00",
            "2016",
            "16-05-01",
            "12:37",
            "42491.5",
            "1e9",
            "-1462106225",
            "12",
            True,
            [],
            {},
            float("nan"),
        ),
        *(
            "0001-01-01T00:00:00+05:00",
            "9999-12-31T23:59:59-05:00",
            Instant(1e300, has_zone=True),
            Instant(-1e15, has_zone=False),
        ),
    ],
)
def test_what_is_no_time_is_a_bad_row(cell):
    with pytest.raises((BadTimeError, ZoneNeededError)):
        Times("UTC").parse(cell)


@pytest.mark.parametrize(
    "later", ["2016-05-01 12:00", "2016-05-01", "1462106225", "Sun May 01 12:37:05 +0000 2016", "5/1/2016 12:00"]
)
def test_a_file_has_one_spelling(later):
    found = Times("UTC")
    found.parse("2016-05-01T12:37:05Z")
    with pytest.raises(BadTimeError):
        found.parse(later)


def test_a_missing_time_decides_no_spelling():
    found = Times()
    for cell in ("0", 0, "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"):
        assert found.parse(cell) < times.EARLIEST
    assert found.parse("1462106225000") == MAY
    assert found.parse("0") == 0
    with pytest.raises(BadTimeError):
        found.parse("1462106225")  # seconds among milliseconds


@given(st.datetimes(datetime(2004, 1, 1), datetime(2099, 1, 1)), st.integers(-840, 840), st.sampled_from("T "))
def test_isoformat_is_read_back(moment, minutes, between):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert Times().parse(moment.isoformat(between)) == moment.timestamp()


@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"[0-9]{1,4}[-/. ][0-9]{1,2}[-/. :T][0-9]{1,2}.{0,20}"),
        st.floats(),
        st.integers(),
    )
)
def test_any_cell_is_a_time_or_refused(cell):
    for zone in ("", "America/New_York"):
        with contextlib.suppress(BadTimeError, ZoneNeededError):
            assert isinstance(Times(zone).parse(cell), float)


def test_a_column_that_knows_times_is_as_precise_as_text():
    found = Times()
    found.parse(Instant(MAY, has_zone=True))
    assert found.precision == "seconds"
