import csv
import gzip
import io
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.process import environment
from service.errors import DataError, UsageError
from service.model import engines
from service.posts import sources
from service.posts.flags import Format
from service.score import cutting, job, outputs, scorer, shards, workers
from service.score.manifest import Options
from service.score.outputs import OutputError

WORDS = ["city", "votes", "on", "new", "park", "the", "market", "wins", "council", "zebra"]
TIME = "2016-05-01T12:00:00Z"


def lines_of(rows, seed=1):
    choose = random.Random(seed).choice
    for i in range(rows):
        yield [
            f"{i}",
            " ".join(choose(WORDS) for _ in range(1 + i % 9)) + choose(["", '"', ", so", '\nand "more"', " é", "\r\n"]),
            choose(["gazette", "Herald", "nobody", ""]),
            choose([TIME, "2016-05-02T13:14:15+02:00", ""]),
        ]


def write_csv(path, rows, **how):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **how)
        writer.writerow(["id", "headline", "outlet", "posted_at"])
        writer.writerows(rows)
    return path


@pytest.fixture
def data(tmp_path):
    return write_csv(tmp_path / "headlines.csv", lines_of(300))


def options(models, data, out, **others):
    paths = [str(path) for path in (data if isinstance(data, list) else [data])]
    return Options(models=models, data=paths, out=str(out), **{"engine": "litert", "posted_at": 1_464_000_000.0, **others})


def table(out):
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*"))])


def score(models, *arguments, address="", **popen):
    command = [sys.executable, "-m", "headlines", "score", "--models", models, "--engine", "litert", *arguments]
    variables = environment(RAY_ADDRESS=address)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False, **popen)


def test_scores_are_those_of_predict(models, data, tmp_path):
    done = job.run(options(models, data, tmp_path / "out"))
    assert (done.rows, done.problems, done.failed) == (300, {}, [])
    scored = table(tmp_path / "out").to_pylist()
    version = workers.load(workers.find(models, None), engines.choose("litert"))
    with data.open(newline="", encoding="utf-8") as file:
        input_rows = list(csv.reader(file))[1:]
    for row, cells in zip(scored, input_rows, strict=True):
        assert [row["id"], row["headline"], row["outlet"], row["posted_at"]] == cells
        posted_at = 1_464_000_000.0 if not cells[3] else shards.Times().parse(cells[3])
        [single] = version.predict([(cells[1], posted_at, cells[2])]).rows()
        assert row["main_output"] == pytest.approx(single.main_output, abs=1e-6)
        assert row["aux_output"] == pytest.approx(single.aux_output, abs=1e-6)
        assert row["best"] == (row["main_output"] if row["outlet_known"] else row["aux_output"])
        assert (row["word_count"], row["unknown_word_count"], row["outlet_known"]) == single[2:]
        assert (row["model_version"], row["problem"]) == (1, None)
    others = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(("part-", "."))}
    assert others == {"_MANIFEST.json", "_SUCCESS"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "out").glob("[_p]*"))


AWKWARD = {
    "quotes": 'id,headline,outlet,posted_at\n1,"a\n""b"",\n\nc",gazette,\n\n2,5" park,"x",\n"3","votes\r\nwins","",\n4,é“”,,',
    "windows": 'id,headline,outlet,posted_at\r\n1,"a\r\n""b""",gazette,\r\n2,new park,,\r\n\r\n3,wins,,\r\n',
    "malformed": 'id,headline,outlet,posted_at\n1,a\n2,"a"b,,\n3,"c\nd",,,,9\n4,park,gazette,\n5,"never closed,,\n6,x,,\n',
    "quoted first": 'headline,outlet\n"a park, b",gazette\n"c, d"\n"e"x,gazette\n"f, g",x,y\n"h\ni",\r\n"park"\r\n',
    "excel": '\ufeffsep=;\nid;headline;outlet;posted_at\n1;"a;b";gazette;\n2;new\u00a0park;;;;\n3;;;\n',
    "one column": 'headline\nnew park\n\n"votes, \n wins"\n""\nmarket\n',
    "old mac": "headline,outlet\rnew park,gazette\rmarket,\r",
    "lines": '{"headline": "new park", "n": 1}\n\n{"headline": "market"}\nnot json\n{"headline": "a\\nb", "n": 2}\n',
}


@pytest.mark.parametrize("block", [1, 16, 1 << 18])
@pytest.mark.parametrize("name", AWKWARD)
def test_a_boundary_at_each_byte_gives_the_same_rows(name, block, tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "_BLOCK", block)
    monkeypatch.setattr(cutting, "_AWKWARD", block)
    path = tmp_path / "headlines.txt"
    path.write_bytes(AWKWARD[name].encode())
    [source] = sources.expand([path])
    seen = set()
    for shard_bytes in range(1, path.stat().st_size + 2):
        found = shards.cut(source, Format(), shard_bytes)
        rows, first_rows = [], []
        for shard in found.shards:
            first_rows.append(len(rows) if found.kind != "lines" else shard.first_row)
            for batch in scorer.batches(source, found, shard, Format(), 0.0):
                own = batch.own.to_pydict().values() if isinstance(batch.own, pa.RecordBatch) else batch.own
                rows += zip(map(int, batch.lines), zip(*own, strict=True), batch.problems, strict=True)
        assert [shard.first_row for shard in found.shards] == first_rows
        seen.add(repr(rows))
    [whole] = seen
    if name != "old mac":
        assert len(shards.cut(source, Format(), 1).shards) > 2
    assert "park" in whole


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", '"', '""', ",", "\n", "\r\n", "\r", "é", '"x, ""y"""', ",\n", '"q\nz"', "new,park\n"]),
        max_size=40,
    ),
    st.sampled_from([8, 64, 1 << 18]),
)
def test_records_are_those_of_the_csv_module(parts, block):
    text = ("headline,outlet\n" + "".join(parts)).encode()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "_BLOCK", block)
        patch.setattr(cutting, "_AWKWARD", 1)
        for _ in range(2):
            csv_text = cutting.CsvText(io.BytesIO(text))
            try:
                found.append([list(zip(*stretch, strict=True)) for stretch in csv_text.records()])
            except cutting.CannotCutError:
                found.append(None)
            patch.setattr(cutting.CsvText, "_scan", lambda self, block: None)
    scanned, read = [None if it is None else list(itertools.chain(*it)) for it in found]
    assert scanned == read


def test_wrong_rows_are_kept_and_say_what_is_wrong(models, tmp_path):
    rows = [["1", "new park", "", "yesterday"], ["2", "", "", ""], ["3", "x" * 5000, "", ""], ["4", "new park", "", TIME]]
    path = write_csv(tmp_path / "a.csv", [["0", "votes", "gazette", TIME], *rows])
    with path.open("ab") as file:
        file.write(b"5,only two\n6,\xff\xfe,gazette,\n")
    done = job.run(options(models, path, tmp_path / "out"))
    assert (done.rows, done.problems.total()) == (7, 5)
    scored = table(tmp_path / "out").to_pylist()
    assert [row["problem"] is None for row in scored] == [True, False, False, False, True, False, False]
    assert [row["best"] is None for row in scored] == [row["problem"] is not None for row in scored]
    assert [row["id"] for row in scored] == ["0", "1", "2", "3", "4", None, "6"]
    assert scored[2]["problem"] == "headline is blank; write at least one character"
    assert "5000 bytes" in scored[3]["problem"]
    assert "2 cells" in scored[5]["problem"]
    assert "UTF-8" in scored[6]["problem"]
    said = "\n".join(job.describe(done))
    assert f"first at {path}:4" in said
    assert "yesterday" not in said


def test_every_format_gives_the_same_scores(models, data, tmp_path):
    with data.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = {
        "gz": tmp_path / "a.csv.gz",
        "wide": tmp_path / "b.csv",
        "lines": tmp_path / "c.jsonl",
        "array": tmp_path / "d.json",
    }
    files["gz"].write_bytes(gzip.compress(data.read_bytes()))
    files["wide"].write_bytes(data.read_bytes().decode().encode("utf-16"))
    files["lines"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    files["array"].write_text(json.dumps(rows))
    files["parquet"] = tmp_path / "e.parquet"
    pq.write_table(pa.Table.from_pylist(rows), files["parquet"], row_group_size=77)
    job.run(options(models, data, tmp_path / "csv"))
    expected = table(tmp_path / "csv")
    for name, path in files.items():
        job.run(options(models, path, tmp_path / name, shard_bytes=1000))
        assert table(tmp_path / name).equals(expected), name
    assert len(list((tmp_path / "parquet").glob("part-*"))) == 4
    assert len(list((tmp_path / "lines").glob("part-*"))) > 10


def test_columns_that_a_directorys_name_holds(models, tmp_path):
    for outlet in ("gazette", "nobody"):
        (tmp_path / "in" / f"outlet={outlet}").mkdir(parents=True)
        pq.write_table(
            pa.table({"headline": ["new park", "votes"], "n": [1, 2]}), tmp_path / "in" / f"outlet={outlet}" / "a.parquet"
        )
    job.run(options(models, tmp_path / "in", tmp_path / "out"))
    rows = table(tmp_path / "out").to_pylist()
    assert sorted((row["outlet"], row["outlet_known"], row["n"]) for row in rows) == [
        ("gazette", True, 1),
        ("gazette", True, 2),
        ("nobody", False, 1),
        ("nobody", False, 2),
    ]


def test_what_is_there_is_not_done_again_and_workers_write_the_same_bytes(models, data, tmp_path):
    job.run(options(models, data, tmp_path / "one", shard_bytes=2000))
    job.run(options(models, data, tmp_path / "two", shard_bytes=2000, workers=2))
    parts = sorted(path.name for path in (tmp_path / "one").glob("part-*"))
    assert len(parts) > 5
    assert parts == sorted(path.name for path in (tmp_path / "two").glob("part-*"))
    for name in parts:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    kept = (tmp_path / "one" / parts[0]).stat().st_mtime_ns
    (tmp_path / "one" / parts[1]).unlink()
    (tmp_path / "one" / "_SUCCESS").unlink()
    (tmp_path / "one" / ".tmp-9-of-a-killed-job").touch()
    job.run(options(models, data, tmp_path / "one", shard_bytes=5))  # the manifest's shards count
    assert (tmp_path / "one" / parts[0]).stat().st_mtime_ns == kept
    assert (tmp_path / "one" / parts[1]).read_bytes() == (tmp_path / "two" / parts[1]).read_bytes()
    assert not list((tmp_path / "one").glob(".tmp-*"))


def test_another_job_in_the_same_directory_is_refused(models, data, tmp_path):
    out = tmp_path / "out"
    job.run(options(models, data, out))
    for changed, flag in (
        ({"posted_at": 1.0}, "--posted-at"),
        ({"written": Format(time_zone="UTC")}, "--time-zone"),
        ({"version": 2}, "--models"),
    ):
        with pytest.raises(UsageError, match=flag):
            job.run(options(models, data, out, **changed))
    other = write_csv(tmp_path / "other.csv", lines_of(2))
    with pytest.raises(UsageError, match="--data"):
        job.run(options(models, [data, other], out))
    os.utime(data, (1, 1))
    with pytest.raises(DataError, match=r"headlines\.csv: has changed since the job began"):
        job.run(options(models, data, out))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").touch()
    with pytest.raises(UsageError, match=r"holds letter\.txt but no _MANIFEST\.json"):
        job.run(options(models, data, tmp_path / "else"))
    begun = (out / "_MANIFEST.json").read_text()
    (out / "_MANIFEST.json").write_text(begun.replace('"format": 1', '"format": 9', 1))
    with pytest.raises(DataError, match="another version of this program"):
        job.run(options(models, data, out))
    with pytest.raises(UsageError, match=r"--models: .* cannot be read"):
        job.run(options(data, data, tmp_path / "new"))
    (out / "_MANIFEST.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        job.run(options(models, data, out))


def test_two_jobs_at_once_in_one_directory(models, data, tmp_path):
    with outputs.output(str(tmp_path / "out")).for_one_job(), pytest.raises(UsageError, match="another job is writing"):
        job.run(options(models, data, tmp_path / "out"))


def test_a_new_version_changes_nothing(models, data, tmp_path):
    kept = tmp_path / "models"
    shutil.copytree(models, kept)
    out = tmp_path / "out"
    job.run(options(kept, data, out, shard_bytes=2000))
    next(out.glob("part-*")).unlink()
    shutil.copytree(kept / "1", kept / "2")
    assert job.run(options(kept, data, out)).version == 1
    assert job.run(options(kept, data, tmp_path / "new")).version == 2
    (kept / "2.withdrawn").touch()
    assert job.run(options(kept, data, tmp_path / "newer")).version == 1


def test_a_shard_that_cannot_be_read_is_named_and_the_rest_is_done(models, data, tmp_path):
    damaged = tmp_path / "damaged.csv.gz"
    content = gzip.compress(
        ("headline\n" + "new park\n" * 9 + "".join(f"{i * i * 7919} votes\n" for i in range(20000))).encode()
    )
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"damaged\.csv\.gz: is damaged"):
        job.run(options(models, damaged, tmp_path / "alone"))
    pq.write_table(pa.table({"headline": ["new park wins"] * 4000}), tmp_path / "b.parquet", row_group_size=1000)
    found = pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(2).column(0)
    with (tmp_path / "b.parquet").open("r+b") as file:
        file.seek(found.dictionary_page_offset or found.data_page_offset)
        file.write(b"\xff" * 16)
    result = score(models, "--data", data, tmp_path / "b.parquet", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "b.parquet: cannot be read" in result.stderr
    assert "row 2001" in result.stderr
    assert table_rows(tmp_path / "out") == 300 + 3000
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_cluster_is_asked_for_before_the_inputs_are_looked_at(models, data, tmp_path):
    """Whether Ray is installed or not, there is none at such an address."""
    job = ("--data", data, "--out", tmp_path / "out", "--on", "ray")
    result = score(models, *job, address="ray://127.0.0.1:10001")
    assert result.returncode == 2
    assert "RAY_ADDRESS: ray://127.0.0.1:10001 is an address of Ray Client" in result.stderr.splitlines()[-1]
    result = score(models, *job, address="127.0.0.1:1")
    assert result.returncode == 2
    sentence = result.stderr.splitlines()[-1]
    assert "cannot be joined: Connection refused" in sentence or "ray is not installed" in sentence
    assert list((tmp_path / "out").glob("[!.]*")) == []


def test_nothing_unfinished_is_left_behind(models, data, tmp_path):
    out = tmp_path / "out"
    job.run(options(models, data, out), lambda done, of: (out / ".tmp-of-a-node-that-was-lost").touch())
    assert (out / "_SUCCESS").exists()
    assert list(out.glob(".tmp-*")) == []


def test_the_manifest_of_parquet_depends_on_nothing_but_the_file(models, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"headline": ["new park"] * 10}), path)
    manifests = set()
    for name in ("one", "two"):
        result = score(models, "--data", path, "--out", tmp_path / name, "--posted-at", TIME)
        assert result.returncode == 0, result.stderr
        manifests.add((tmp_path / name / "_MANIFEST.json").read_text())
    assert len(manifests) == 1


def table_rows(out):
    return sum(pq.read_metadata(path).num_rows for path in out.glob("part-*"))


def test_a_job_that_is_killed_goes_on(models, tmp_path):
    data = write_csv(tmp_path / "headlines.csv", lines_of(40_000))
    whole, out = tmp_path / "whole", tmp_path / "out"
    job.run(options(models, data, whole))
    command = [sys.executable, "-c", KILLED, models, data, out]
    moments = random.Random(5)
    for _ in range(6):
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        time.sleep(0.3 + moments.random() * 1.5)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        for path in out.glob("part-*"):
            pq.read_table(path)  # whole, from the moment that its name is there
    subprocess.run(command, env=environment(), check=True, timeout=120)
    assert table(out).equals(table(whole))
    assert (out / "_SUCCESS").exists()


KILLED = """
import sys
from pathlib import Path
from service.score import job
from service.score.manifest import Options
models, data, out = sys.argv[1:]
job.run(Options(models=Path(models), data=[data], out=out, engine="litert", posted_at=1_464_000_000.0,
                shard_bytes=100_000, workers=2)) if __name__ == "__main__" else None
"""


def test_a_full_disk_and_a_file_in_the_way(models, data, tmp_path):
    limited = f"ulimit -f 8; exec {sys.executable} -m headlines score --models {models} --data {data} --out {tmp_path / 'out'}"
    made = subprocess.run(["bash", "-c", limited], env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode != 0
    assert "Traceback" not in made.stderr
    assert not list((tmp_path / "out").glob("part-*"))
    result = score(models, "--data", data, "--out", data)
    assert result.returncode == 2
    assert "is not a directory" in result.stderr


def test_scored_files_are_scored_again(models, data, tmp_path):
    job.run(options(models, data, tmp_path / "first"))
    [part] = (tmp_path / "first").glob("part-*")
    result = score(models, "--data", part, "--out", tmp_path / "again", "--posted-at", "2016-05-23T10:40:00Z")
    assert result.returncode == 0
    assert "scores already" in result.stderr
    assert table(tmp_path / "again").column_names == table(tmp_path / "first").column_names


def test_a_list_is_best_first_within_its_groups(models, tmp_path):
    path = tmp_path / "candidates.csv"
    path.write_text(
        "Group,Headline,outlet\nb,new park,gazette\na,The market wins,\nb,council votes,herald\na,,\nb,zebra,nobody\n"
    )
    result = score(models, path, "--posted-at", "2016-05-01T00:00Z")
    assert result.returncode == 1  # one of them has no score
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["Group"] for row in rows] == ["b", "b", "b", "a", "a"]
    best = [float(row["best"]) for row in rows[:3]]
    assert best == sorted(best, reverse=True)
    assert rows[4]["best"] == ""
    assert rows[4]["problem"].startswith("headline is blank")
    as_json = [
        json.loads(line) for line in score(models, path, "--json", "--posted-at", "2016-05-01T00:00Z").stdout.splitlines()
    ]
    assert [row["Headline"] for row in as_json] == [row["Headline"] for row in rows]
    assert as_json[0]["best"] == pytest.approx(best[0], abs=1e-6)
    nothing = score(models, "-", input="id,headline\n")
    assert (nothing.returncode, nothing.stdout.split(",")[:3]) == (0, ["id", "headline", "main_output"])
    piped = score(models, "-", input="headline\nnew park\n")
    assert piped.returncode == 0
    assert len(piped.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a file of headlines"),
        ([""], "name a file of headlines"),
        (["nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--data", "x.csv", "--workers", "2"], "--workers is for --out"),
        (["--out", "o", "--json", "x.csv"], "--json is for a list"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, said, models, tmp_path):
    result = score(models, *arguments, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_column_that_may_be_the_headline_is_not_guessed(models, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Title,when\nnew park,2016\n")
    result = score(models, path)
    assert result.returncode == 1
    assert "--column headline='Title'" in result.stderr
    assert score(models, path, "--column", "headline=Title").returncode == 0


def test_it_needs_neither_grpc_nor_tensorflow(models, data, tmp_path):
    script = (
        "import sys\nfrom headlines.__main__ import main\n"
        f"code = main(['score', '--models', {str(models)!r}, '--data', {str(data)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "print(code, [name for name in ('grpc', 'tensorflow', 'prometheus_client', 'google.protobuf') if name in sys.modules])"
    )
    made = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert made.stdout.splitlines()[-1] == "0 []", made.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_standard_input_beside_a_file(models, data, tmp_path, workers):
    command = [sys.executable, "-m", "headlines", "score", "--models", models, "--engine", "litert", "--workers", str(workers)]
    done = subprocess.run(
        [*command, "--data", data, "--data", "-", "--out", tmp_path / "out"],
        input="headline\nnew park\n",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "301 headlines are scored" in done.stdout


def test_scores_that_went_elsewhere_are_missed(models, data, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "run", lambda tasks, worker, pool: ("" for task in tasks))
    with pytest.raises(OutputError, match="lacks the scores of 1 shards that were done; do all nodes have the same --out"):
        job.run(options(models, data, tmp_path / "out"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_no_directory_for_temporary_files_is_needed(models, data, tmp_path):
    """As in a container whose file system is read-only."""
    program = (
        "import sys, tempfile\ntempfile.tempdir = '/nowhere'\nfrom headlines.__main__ import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())"
    )
    (tmp_path / "program.py").write_text(program)
    flags = ("--models", models, "--engine", "litert", "--data", data, "--out", tmp_path / "out", "--workers", "2")
    command = [sys.executable, tmp_path / "program.py", "score", *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
