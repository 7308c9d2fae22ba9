"""Files: the same posts out of every format, delimiter, encoding, compression and shape of JSON; what is none is named."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import threading
import zipfile
from datetime import UTC, datetime
from decimal import Decimal

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.errors import DataError
from service.posts import json_records
from training import dataset
from training.settings import Reading

NAMES = ["headline", "posted_at", "outlet", "retweets", "likes"]
ROWS = [
    dict(zip(NAMES, (f"Mayor{i} says “nein”, éé", f"2016-05-01T{i:02}:00:00Z", "CNN", i, 10 * i), strict=True))
    for i in range(12)
]


def as_csv(rows=ROWS, delimiter=",", end="\r\n"):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerow(NAMES)
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def as_lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


def zipped(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_csv", ".csv").replace("MACOSX_", "__MACOSX/"), text)
    return data.getvalue()


def workbook(rows=ROWS, **sheets):
    book = openpyxl.Workbook()
    book.active.append(NAMES)
    for row in rows:
        book.active.append([*row.values()])
    for name, value in sheets.items():
        book.create_sheet(name).append([value])
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def parquet(rows=ROWS, types=()):
    table = pa.Table.from_pylist(rows)
    for name, kind in dict(types).items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table.column(name).cast(kind))
    data = io.BytesIO()
    pq.write_table(table, data)
    return data.getvalue()


def read(path, **options):
    return dataset.read([path], Reading(min_age=0, **options))


def check(posts, rows=ROWS):
    assert posts.texts(range(len(posts))) == [row["headline"] for row in rows]
    assert posts.engagement.tolist() == [row["retweets"] + row["likes"] for row in rows]
    assert posts.outlets == ["cnn"]
    assert posts.posted_at.tolist() == [datetime.fromisoformat(row["posted_at"]).timestamp() for row in rows]
    assert posts.bad == 0


UTF8 = as_csv().encode()
BY_INDEX = {str(i): row for i, row in enumerate(ROWS)}
BY_COLUMN = {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in NAMES}
CONTENTS = {
    "commas": UTF8,
    "semicolons": as_csv(delimiter=";").encode(),
    "tabs": as_csv(delimiter="\t").encode(),
    "bars": as_csv(delimiter="|").encode(),
    "told by sep=": b"sep=;\r\n" + as_csv(delimiter=";").encode(),
    "told by sep= in quotes": b'"sep=\t"\n' + as_csv(delimiter="\t").encode(),
    "any delimiter that is told": b"sep=~\n" + as_csv(delimiter="~").encode(),
    "unix lines": as_csv(end="\n").encode(),
    "old Mac lines": as_csv(end="\r").encode(),
    "byte-order mark": b"\xef\xbb\xbf" + UTF8,
    "UTF-16 as Excel writes it": as_csv(delimiter="\t").encode("utf-16"),
    "UTF-16, big endian": b"\xfe\xff" + as_csv().encode("utf-16-be"),
    "delimiters behind the last column": as_csv().replace("\r\n", ",,\r\n").encode(),
    "gzip": gzip.compress(UTF8),
    "gzip in two parts": gzip.compress(UTF8[:300]) + gzip.compress(UTF8[300:]),
    "bzip2": bz2.compress(UTF8),
    "xz": lzma.compress(UTF8),
    "zstd": pa.compress(UTF8, "zstd", asbytes=True),
    "gzip of UTF-16": gzip.compress(as_csv().encode("utf-16")),
    "gzip of JSON Lines": gzip.compress(as_lines().encode()),
    "ZIP": zipped(posts_csv=as_csv()),
    "ZIP of a Mac": zipped(posts_csv=as_csv(), MACOSX_posts_csv="x"),
    "JSON Lines": as_lines().encode(),
    "JSON Lines with blank ones and a mark": b"\xef\xbb\xbf" + as_lines().replace("\n", "\n\n").encode(),
    "JSON Lines in UTF-16": as_lines().encode("utf-16"),
    "JSON array": json.dumps(ROWS).encode(),
    "JSON array, indented": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "JSON objects, indented": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "JSON page": json.dumps({"meta": {"count": 12}, "data": ROWS}).encode(),
    "JSON page, indented": json.dumps({"posts": ROWS}, indent=1).encode(),
    "JSON pages, one a line": "\n".join(json.dumps({"data": ROWS[i : i + 5], "meta": {}}) for i in (0, 5, 10)).encode(),
    "an account's own archive of X": b"window.YTD.tweets.part0 = " + json.dumps(ROWS, indent=1).encode(),
    "JSON listing": json.dumps({"kind": "Listing", "data": {"after": None, "children": ROWS}}).encode(),
    "JSON object of columns": json.dumps(BY_COLUMN).encode(),
    "JSON object of columns, indented": json.dumps(BY_COLUMN, indent=1).encode(),
    "JSON object of lists": json.dumps({name: [row[name] for row in ROWS] for name in NAMES}).encode(),
    "JSON object of rows": json.dumps(BY_INDEX).encode(),
    "JSON, columns and rows apart": json.dumps({"columns": NAMES, "data": [[*row.values()] for row in ROWS]}).encode(),
    "Parquet": parquet(),
    "Excel": workbook(),
    "Excel with times of its own": workbook(
        [{**row, "posted_at": datetime.fromisoformat(row["posted_at"]).replace(tzinfo=None)} for row in ROWS]
    ),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_the_same_posts_come_out_of_every_format_whatever_the_file_is_called(tmp_path, content):
    path = tmp_path / "posts.bin"
    path.write_bytes(CONTENTS[content])
    posts = read(path, time_zone="UTC" if "times of its own" in content else "")
    check(posts)
    inner = hashlib.sha256(CONTENTS[content]).hexdigest()
    assert posts.checksum == hashlib.sha256(inner.encode()).hexdigest()  # every byte, in whatever order they were read


@pytest.mark.parametrize("encoding", ["windows-1252", "latin-1", "utf-16-le", "cp1250"])
def test_another_encoding_is_told(tmp_path, encoding):
    rows = [{**row, "headline": row["headline"].replace("“nein”", "nein")} for row in ROWS]
    path = tmp_path / "posts.csv"
    path.write_bytes(as_csv(rows).encode(encoding))
    check(read(path, encoding=encoding), rows)
    with pytest.raises(DataError, match="--encoding"):
        read(path)


TYPES = {
    "retweets": [pa.int8(), pa.uint16(), pa.float32(), pa.float64(), pa.decimal128(19, 0), pa.decimal128(21, 2), pa.string()],
    "headline": [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
    "outlet": [pa.string_view(), pa.dictionary(pa.int8(), pa.large_string()), pa.binary()],
}


@pytest.mark.parametrize(("column", "kind"), [(name, kind) for name, kinds in TYPES.items() for kind in kinds], ids=str)
def test_every_type_of_parquet_is_read(tmp_path, column, kind):
    path = tmp_path / "posts.parquet"
    path.write_bytes(parquet(types={column: kind}))
    check(read(path))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", None])
def test_times_of_parquet_are_read(tmp_path, unit, zone):
    seconds = [int(datetime.fromisoformat(row["posted_at"]).timestamp()) for row in ROWS]
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    table = pa.Table.from_pylist(ROWS).drop_columns("posted_at")
    table = table.append_column("posted_at", pa.array([it * scale for it in seconds], pa.timestamp(unit, zone)))
    pq.write_table(table, tmp_path / "posts.parquet")
    check(read(tmp_path / "posts.parquet", time_zone="" if zone else "UTC"))


def test_days_of_parquet_have_no_hours(tmp_path):
    table = pa.Table.from_pylist(ROWS).drop_columns("posted_at").append_column("posted_at", pa.array([16922] * 12, pa.date32()))
    pq.write_table(table, tmp_path / "posts.parquet")
    posts = read(tmp_path / "posts.parquet")
    assert not posts.hours
    assert posts.posted_at[0] == datetime(2016, 5, 1, tzinfo=UTC).timestamp()


def nested(row):
    return {
        "text": row["headline"],
        "created_at": row["posted_at"],
        "author": {"username": row["outlet"]},
        "public_metrics": {"retweet_count": row["retweets"], "like_count": row["likes"]},
    }


def test_fields_inside_objects_are_read_from_json_and_parquet(tmp_path):
    rows = [nested(row) for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "posts.parquet")
    (tmp_path / "posts.json").write_text(json.dumps({"data": rows}))
    flat = [{"text": it["text"], "created_at": it["created_at"], "author.username": "CNN"} for it in rows]
    for it, row in zip(flat, rows, strict=True):
        it |= {f"public_metrics.{name}": number for name, number in row["public_metrics"].items()}
    (tmp_path / "flat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat))
    for name in ("posts.parquet", "posts.json", "flat.jsonl"):
        check(read(tmp_path / name))


def test_authors_that_a_page_names_apart_are_joined(tmp_path):
    rows = [{key: value for key, value in nested(row).items() if key != "author"} | {"author_id": "7"} for row in ROWS]
    page = {"data": rows, "includes": {"users": [{"id": "7", "username": "CNN"}, {"id": "8", "username": "bbc"}]}}
    (tmp_path / "posts.json").write_text(json.dumps(page))
    check(read(tmp_path / "posts.json"))


@pytest.mark.parametrize("late", [3, json_records.SAMPLE + 5])
@pytest.mark.parametrize("form", ["lines", "array"])
def test_the_columns_are_those_of_all_records(tmp_path, late, form):
    rows = [{"headline": f"Number {i}", "posted_at": f"2016-05-01T00:00:{i % 60:02}Z", "likes": 1} for i in range(late)]
    rows += [{**row, "headline": f"Late {row['headline']}", "outlet": "CNN"} for row in rows[:2]]
    text = "".join(json.dumps(row) + "\n" for row in rows) if form == "lines" else json.dumps(rows)
    (tmp_path / "posts.json").write_text(text)
    posts = read(tmp_path / "posts.json")
    assert (posts.read, len(posts), posts.outlets) == (late + 2, late + 2, ["cnn"])  # none twice, though it was read again
    assert int((posts.outlet == 0).sum()) == 2
    assert posts.files[0].plan.outlet == "outlet"


def test_nulls_in_the_first_record_do_not_matter(tmp_path):
    first = {"headline": None, "posted_at": None, "outlet": None, "retweets": None, "likes": None}
    (tmp_path / "posts.json").write_text(json.dumps([first, *ROWS]))
    posts = read(tmp_path / "posts.json")
    assert (len(posts), posts.dropped) == (12, {"no_text": 1})


def test_a_directory_of_spark_is_read_without_its_marks(tmp_path):
    for i in range(3):
        (tmp_path / f"part-0000{i}.snappy.parquet").write_bytes(parquet(ROWS[4 * i : 4 * i + 4]))
    for name in ("_SUCCESS", "_committed_1", ".part-00000.snappy.parquet.crc"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "part-00003.snappy.parquet").touch()  # a task without rows
    check(read(tmp_path))


def test_directories_of_hive_give_columns(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "outlet"} for row in ROWS]
    none = "outlet=__HIVE_DEFAULT_PARTITION__"
    for outlet, part in (("outlet=CNN", rows[:6]), ("outlet=the%20times", rows[6:]), (none, rows[:1])):
        (tmp_path / "year=2016" / outlet).mkdir(parents=True)
        (tmp_path / "year=2016" / outlet / "part-0.parquet").write_bytes(parquet(part))
    posts = read(tmp_path)
    assert posts.outlets == ["cnn", "the times"]
    assert (len(posts), int((posts.outlet < 0).sum())) == (13, 1)


def test_a_pattern_is_expanded_and_no_file_is_read_twice(tmp_path, caplog):
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text(as_csv(ROWS[4 * i : 4 * i + 4]))
    (tmp_path / "link.csv").symlink_to("0.csv")
    posts = dataset.read([f"{tmp_path}/*.csv", tmp_path / "0.csv"], Reading(min_age=0))
    check(posts)
    assert posts.read == 12
    assert caplog.text.count("is named more than once") == 2


def test_standard_input_and_pipes_are_read(tmp_path):
    code = """
from training import dataset
from training.settings import Reading
print(len(dataset.read(["-"], Reading(min_age=0))))"""
    for content in (as_csv().encode(), parquet(), gzip.compress(as_lines().encode())):
        done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True, timeout=120)
        assert done.stdout.split() == [b"12"]
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(UTF8,))
    writer.start()
    check(read(fifo))
    writer.join()


def delta(directory):
    (directory / "_delta_log").mkdir(parents=True)
    (directory / "part-0.parquet").write_bytes(parquet())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 14\n", "is a pointer of Git LFS.*git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>Sign in", "is a web page"),
        (b"<html>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is a web page"),
        (gzip.compress(b"<html>"), "is a web page"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"Excel 97 to 2003 \(\.xls\); save it as"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (b"%PDF-1.7", "is a PDF"),
        (b"ARROW1\0\0", "Arrow or Feather"),
        (zipped(a_csv="x", b_csv="y"), "is a ZIP archive with 2 files; unpack it"),
        (zipped(), "cannot be read|is damaged|ZIP archive with 0 files"),
        (workbook(More="x"), "has 2 sheets with cells"),
        (as_csv().encode("utf-16-le"), "looks like UTF-16 without the mark that says so; add --encoding utf-16-le"),
        (as_csv().encode("utf-16-be"), "--encoding utf-16-be"),
        (bytes(range(256)) * 9, "is a binary file"),
        (gzip.compress(UTF8)[:-30], "is damaged or incomplete, as a compressed file"),
        (bz2.compress(UTF8)[:-9], "is damaged or incomplete, as a compressed file"),
        (lzma.compress(UTF8)[:-9], "is damaged or incomplete, as a compressed file"),
        (pa.compress(UTF8 * 99, "zstd", asbytes=True)[:-9], "is damaged|cannot be read|hold no rows|bad"),
        (workbook()[:-30], "is damaged or incomplete"),
        (parquet()[:-9], "cannot be read as Parquet"),
        (b"", "is empty; its first line must name the columns"),
        (b"\n\n\n", "is empty|has no column"),
        (json.dumps(ROWS).encode()[:-20], "ends in the middle|is not JSON"),
        (b'{"data": []}', "has no column"),
        (b'[{"headline": "a"} {"headline": "b"}]', "after 1 records there is no ','"),
    ],
    ids=lambda it: ascii(it)[:30],
)
def test_what_is_no_file_of_posts_is_named_as_what_it_is(tmp_path, content, words):
    path = tmp_path / "posts.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value) or "no rows" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (delta, "d", "is a Delta table"),
        (lambda it: it.mkdir(), "d", "is a directory without a file to read"),
        (lambda _: None, "no/such.csv", "No such file"),
        (lambda _: None, "*.tsv", "matches no file"),
        (lambda _: None, "a\0b", "cannot be read"),
        (lambda _: None, "x" * 5000, "cannot be read"),
        (lambda it: it.symlink_to(it), "loop", "cannot be read"),
    ],
    ids=lambda it: ascii(it)[:20],
)
def test_a_name_that_stands_for_no_file_is_told(tmp_path, make, name, words):
    make(tmp_path / name)
    with pytest.raises(DataError, match=words):
        read(tmp_path / name)


def test_an_encoding_holds_inside_an_archive_too(tmp_path):
    rows = [{**row, "headline": "Café"[:3] + f"é {i}"} for i, row in enumerate(ROWS)]
    (tmp_path / "posts.zip").write_bytes(zipped(posts_csv=as_csv(rows).encode("windows-1252")))
    check(read(tmp_path / "posts.zip", encoding="windows-1252"), rows)


def test_a_pipe_among_files_is_told_and_not_waited_for(tmp_path):
    (tmp_path / "posts.csv").write_text(as_csv())
    os.mkfifo(tmp_path / "zpipe")
    with pytest.raises(DataError, match="zpipe: is not a regular file"):
        read(tmp_path)


def test_a_file_of_few_posts_or_none_does_not_switch_the_time_off(tmp_path):
    (tmp_path / "a.csv").write_text(as_csv())
    (tmp_path / "b.csv").write_text(as_csv([{**ROWS[0], "headline": "At midnight"}]))
    (tmp_path / "c.csv").write_text(as_csv([{**ROWS[1], "headline": "RT @a: b"}]))
    assert read(tmp_path).hours


def test_a_file_without_permission_is_told(tmp_path, monkeypatch):
    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "posts.csv").write_text(as_csv())
    monkeypatch.setattr("pathlib.Path.open", forbid)
    with pytest.raises(DataError, match=r"posts\.csv: cannot be read: Permission denied"):
        read(tmp_path / "posts.csv")


def test_an_object_store_that_knows_nothing_of_the_name_is_told():
    with pytest.raises(DataError, match=r"nosuch://bucket/x: cannot be read"):
        dataset.read(["nosuch://bucket/x"])


def test_counts_of_decimal_types_are_whole_numbers(tmp_path):
    rows = [{**row, "retweets": Decimal(row["retweets"])} for row in ROWS]
    (tmp_path / "posts.parquet").write_bytes(parquet(rows))
    check(read(tmp_path / "posts.parquet"))
