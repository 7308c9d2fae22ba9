"""What is fuzzed in one process: each target takes bytes, answers what came of them, and raises what must never be.

    target = make("data", models, directory)
    target.run(target.seeds[0])   # "read"

Used by tests.resilience.fuzz, with random and with coverage-guided inputs, and for a moment by the tests.
"""

from __future__ import annotations

import asyncio
import bz2
import csv
import gzip
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import random
import shutil
import struct
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from harness.certificates import Authority
from harness.process import versions
from headlines.v1 import popularity_pb2 as pb
from service import status
from service.api import inference, inference_messages, popularity
from service.api.middleware import Received
from service.batcher import Batcher
from service.budget import Budget
from service.credentials import Certificate, Tokens
from service.description import ModelDescription
from service.drain import DrainGate
from service.errors import DataError, RequestError, UsageError, VersionError
from service.metrics import Metrics
from service.model import artifact, engines
from service.model.preprocessing import AUX_FEATURES, RULES, SEQUENCE_LENGTH, Headline, Preprocessor, is_blank
from service.model.version import Version
from service.predictor import Item, Limits, Predictor, Result
from service.repository import Repository
from service.web.app import App
from tests.resilience.fuzz.mutation import mutate, twisted
from training import dataset, inspect
from training.settings import Reading

MESSAGE_END = b"\x00--\x00"  # between the messages of a stream, in the input of the target "request"
WHEN = 1_464_000_000
TEXTS = (
    *("City votes on new park", "!!!", "東京 wins", "Don\u2019t park", "İSTANBUL \ufdfa ẞ", "x" * 300, "e\u0301 서울 \u202e"),
    *("RT @a.b: RT @c: A &amp;amp; B&#8217;s &#xd800; &#0;", "\ufeffhttps://t.co/x ที่ pic.twitter.com/x bit.ly/a\u200bb"),
)
Request = type[pb.PredictRequest] | type[pb.PredictStreamRequest] | type[pb.ExplainRequest]
_CODES = {0, 3, 4, 8, 14}  # what a call that bears a token may end with


@dataclass(frozen=True)
class Target:
    """Something that reads bytes; the first byte often says which of several files or methods they are for."""

    seeds: Sequence[bytes]
    run: Callable[[bytes], str]
    whole: float = 0.01  # share of the seeds that are tried as they are
    close: Callable[[], None] = lambda: None


def make(name: str, models: Path, directory: Path) -> Target:
    """Make a target ready; it may write into `directory`, and reads the highest version in `models`."""
    return _MAKERS[name](versions(models)[0], directory)


def _preprocessing(version: Path, directory: Path) -> Target:  # noqa: ARG001
    read = artifact.read(version)
    preprocessors = {rules: Preprocessor(read.vocabulary, read.info.outlet_levels, rules) for rules in RULES}
    outlet = next(iter(read.info.outlet_levels))
    codecs = (("utf-8", "surrogateescape"), ("utf-16-le", "surrogatepass"), ("utf-32-le", "replace"), ("latin-1", "strict"))
    times = (WHEN, math.nan, math.inf, -math.inf, 1e308, -1e-308, 253_402_300_800)

    def run(data: bytes) -> str:
        codec, errors = codecs[data[0] % 4] if data else codecs[0]
        (posted_at,) = struct.unpack("<d", data[1:9].ljust(8, b"\0"))
        text = data[9:].decode(codec, errors if codec != "utf-16-le" or not len(data[9:]) % 2 else "replace")
        text = text[: None if len(data) % 16 == 0 else 2000]  # a huge one takes as long as a hundred others
        rules = [*RULES][data[-1] % len(RULES)] if data else min(RULES)
        found, preprocessor = RULES[rules].words(text), preprocessors[rules]
        alone = preprocessor.encode([Headline(text, posted_at, text)])
        both = preprocessor.encode([Headline("park", WHEN, outlet), Headline(text, posted_at, text)])
        length = int(alone.lengths[0])
        assert alone.word_counts == [len(found)]
        assert length == len(alone.ids) == min(max(alone.word_counts[0], 1), SEQUENCE_LENGTH)
        assert ((alone.ids >= 1) & (alone.ids < len(read.vocabulary))).all()
        assert alone.unknown_word_counts[0] <= alone.word_counts[0]
        assert all(word and not any(map(str.isspace, word)) for word in found)
        assert alone.aux.shape == (1, len(AUX_FEATURES))
        assert np.isfinite(alone.aux).all() == math.isfinite(posted_at)
        assert np.array_equal(both.ids[-length:], alone.ids)
        assert np.array_equal(both.aux[1], alone.aux[0], equal_nan=True)
        return "blank" if is_blank(text) else "words" if alone.word_counts[0] else "no word"

    seeds = [
        bytes([i]) + struct.pack("<d", posted_at) + text.encode(codec)
        for i, (codec, _) in enumerate(codecs[:3])
        for text, posted_at in zip(TEXTS, itertools.cycle(times), strict=False)
    ]
    return Target(seeds, run)


async def _live(version: Path) -> tuple[Predictor, Repository]:
    """What answers with this version, on the event loop that runs."""
    engine = engines.choose("litert")
    batcher: Batcher[Item, Result] = Batcher(capacity=4096, largest_batch=256, executor=None, observer=Metrics())
    repository = Repository(version.parent, engine)
    repository.live = Version.load(artifact.read(version), engine)
    return Predictor(repository, batcher, Limits()), repository


def _request(version: Path, directory: Path) -> Target:  # noqa: ARG001
    """What handlers make of raw bytes, without gRPC around them."""
    loop = asyncio.new_event_loop()
    predictor, repository = loop.run_until_complete(_live(version))
    description = ModelDescription(repository, "m", predictor.limits, 4 << 20)
    service = popularity.Popularity(predictor, description, stream_age=1000.0, gate=DrainGate())
    context: Any = SimpleNamespace(time_remaining=lambda: 5.0)
    budget = Budget(1 << 20, 1)
    predict, predict_stream, explain, get_model = (
        cast(Any, service.handlers())[name] for name in ("Predict", "PredictStream", "Explain", "GetModel")
    )

    async def call(data: bytes) -> list[int]:
        """The status of the call, or those of a stream's answers."""
        kind, body = data[:1], data[1:]
        if kind != b"S":
            try:
                await {b"G": get_model, b"E": explain}.get(kind, predict).unary_unary(body, context)
            except RequestError as error:
                return [status.of(error).code.value[0]]
            return [0]
        messages = body.split(MESSAGE_END)

        async def requests() -> AsyncIterator[Received]:
            for it in messages:
                lease = budget.try_reserve(str)
                assert lease
                yield Received(it, lease)

        answers = [pb.PredictStreamResponse.FromString(it) async for it in predict_stream.stream_stream(requests(), context)]
        assert len(answers) == len(messages)
        return [it.error.code for it in answers]

    def run(data: bytes) -> str:
        codes = sorted(set(loop.run_until_complete(call(data))))
        assert _CODES.issuperset(codes), f"status {codes}"
        return f"{'stream' if data[:1] == b'S' else 'status'} {'+'.join(map(str, codes))}"

    seeds = [b"G"]
    for kind, request in ((b"P", pb.PredictRequest), (b"E", pb.ExplainRequest), (b"S", pb.PredictStreamRequest)):
        bad = messages(request)
        good = [message(random.Random(number), request) for number in range(2 * len(bad))]
        some = (*good, *bad) if kind != b"S" else map(MESSAGE_END.join, zip(good, bad, good[len(bad) :], strict=False))
        seeds += [kind + it for it in some]
    return Target(seeds, run, whole=0.1, close=loop.close)


def _web(version: Path, directory: Path) -> Target:  # noqa: ARG001
    """What the web port makes of a body, beside what protobuf's own JSON makes of it."""
    loop = asyncio.new_event_loop()
    predictor, repository = loop.run_until_complete(_live(version))
    app = App(
        predictor,
        repository,
        ModelDescription(repository, "m", predictor.limits, 4 << 20),
        hosts=(),
        gate=DrainGate(),
        metrics=Metrics(),
        tokens=None,
        version="0",
    )
    routes: tuple[tuple[str, Request, type[pb.PredictResponse | pb.ExplainResponse]], ...] = (
        ("/v1/predict", pb.PredictRequest, pb.PredictResponse),
        ("/v1/explain", pb.ExplainRequest, pb.ExplainResponse),
    )
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]

    async def call(path: str, body: bytes) -> tuple[int, bytes]:
        sent: list[Any] = []
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(event: Any) -> None:
            sent.append(event)

        length = [(b"content-length", str(len(body)).encode())]
        await app({"method": "POST", "path": path, "headers": headers + length}, receive, send)
        return sent[0]["status"], sent[1]["body"]

    def run(data: bytes) -> str:
        path, request, response = routes[data[0] % 2 if data else 0]
        code, answer = loop.run_until_complete(call(path, data[1:]))
        if code == 200:
            told = json_format.Parse(answer, response())
            try:
                asked = json_format.Parse(data[1:], request())
            except json_format.ParseError:  # a name twice, or a tenth digit of a second's fraction
                return "status 200, where protobuf is stricter"
            answers = told.predictions if isinstance(told, pb.PredictResponse) else told.explanations
            assert len(answers) == len(asked.headlines)
        else:
            assert code in {400, 413}, f"status {code}"
            assert json.loads(answer)["error"]["code"] == code
        return f"status {code}"

    good = [json_format.MessageToDict(request.FromString(it)) for _, request, _ in routes for it in messages(request)[1:4]]
    others = {"headlines": [{"text": "a", "posted_at": "2016-05-23T09:30:00.5+14:00", "outlet": None}, {"text": "\U0001f525"}]}
    seeds = [bytes([i]) + json.dumps(it).encode() for it in (*good, others) for i in range(2)]
    seeds += [bytes([i]) + it for i, value in enumerate((good[0], others)) for it in twisted(value)]
    return Target(seeds, run, whole=0.2, close=loop.close)


def _inference(version: Path, directory: Path) -> Target:  # noqa: ARG001
    """What the Open Inference Protocol makes of raw bytes."""
    loop = asyncio.new_event_loop()
    predictor, repository = loop.run_until_complete(_live(version))
    service = inference.Inference(
        predictor, repository, model_name="m", server_version="0", ready=lambda: True, gate=DrainGate()
    )
    context: Any = SimpleNamespace(time_remaining=lambda: 5.0)
    handlers = list(cast(Any, service.handlers()).values())

    async def call(data: bytes) -> int:
        try:
            await handlers[data[0] % len(handlers) if data else 0].unary_unary(data[1:], context)
        except RequestError as error:
            code: int = status.of(error).code.value[0]
            return code
        return 0

    def run(data: bytes) -> str:
        code = loop.run_until_complete(call(data))
        assert code in {*_CODES, 5}, f"status {code}"
        return f"status {code}"

    texts = [text.encode() for text in TEXTS]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    ids, aux = np.zeros((2, 100), "<i4"), np.full((2, 5), 0.5, "<f4")
    ids[:, ::7] = 1
    text = [{"name": "headline", "datatype": "BYTES", "shape": [len(texts)]}]
    numbers = [
        {"name": "main_input", "datatype": "INT32", "shape": [2, 100]},
        {"name": "aux_input", "datatype": "FP32", "shape": [2, 5]},
    ]
    requests: list[dict[str, Any]] = [
        {"model_name": "m", "inputs": text, "raw_input_contents": [raw], "id": "7"},
        {"model_name": "m", "inputs": [{**text[0], "contents": {"bytes_contents": texts}}], "outputs": [{"name": "best"}]},
        {"model_name": "m-arrays", "inputs": numbers, "raw_input_contents": [ids.tobytes(), aux.tobytes()]},
        {
            "model_name": "m-arrays",
            "model_version": "1",
            "inputs": numbers[::-1],
            "raw_input_contents": [aux.tobytes(), ids.tobytes()],
        },
    ]
    names = list(service.handlers())
    infer = names.index("ModelInfer")
    seeds = [bytes([infer]) + inference_messages.ModelInferRequest(**request).SerializeToString() for request in requests]
    seeds += [bytes([i]) + b"\x0a\x01m\x12\x011" for i in range(len(names)) if i != infer]
    return Target(seeds, run, whole=0.1, close=loop.close)


def message(rng: random.Random, request: Request = pb.PredictRequest) -> bytes:
    """A request that keeps all rules, with hostile text."""
    headlines = [
        pb.Headline(
            text=mutate([text.encode() for text in TEXTS], rng)[:4000].decode(errors="replace") + rng.choice(TEXTS),
            posted_at=Timestamp(seconds=rng.randrange(-62_135_596_800, 253_402_300_800), nanos=rng.randrange(10**9)),
            outlet=rng.choice(("gazette", " HERALD\u00a0", "\ufdfa" * rng.randrange(50), "")),
        )
        for _ in range(rng.choice((1, 1, 2, 9)))
    ]
    return request(headlines=headlines).SerializeToString()


def messages(request: Request = pb.PredictRequest) -> list[bytes]:
    """Requests as bytes: three good ones after an empty one, then ones that break a rule, and ones that are none."""
    good = [
        pb.Headline(text=text, posted_at=Timestamp(seconds=WHEN, nanos=5), outlet="Gazette" if i % 2 else "")
        for i, text in enumerate(TEXTS)
    ]
    tag = bytes((request.DESCRIPTOR.fields_by_name["headlines"].number << 3 | 2,))
    last = {"id": -(2**63)} if request is pb.PredictStreamRequest else {}
    times = [
        pb.Headline(text="a", posted_at=Timestamp(seconds=seconds, nanos=nanos))
        for seconds in (-(2**63), 2**63 - 1, -62_135_596_800, -62_135_596_801, 253_402_300_799, 253_402_300_800)
        for nanos in (0, -1, 999_999_999, 2**31 - 1, -(2**31))
    ]
    odd = [pb.Headline(text=text) for text in ("", " \u3000", "x" * 4096, "x" * 4097, "東" * 1366, "\0", "a " * 2048)]
    wire_types = [bytes([field << 3 | kind]) for field in (1, 2, 3, 15) for kind in range(8)]
    return [
        b"",
        request(headlines=good[:1]).SerializeToString(),
        request(headlines=good).SerializeToString(),
        request(headlines=good[:2], **last).SerializeToString(),
        *(request(headlines=[it]).SerializeToString() for it in (*times, *odd)),
        request(headlines=good[:1] * 64).SerializeToString(),
        request(headlines=good[:1] * 1025).SerializeToString(),
        (tag + b"\x00") * 2000,
        tag + b"\x04\x0a\x02\xed\xa0",  # half of a surrogate
        tag + b"\x05\x0a\x03\xed\xa0\x80",
        tag + b"\x05\x0a\x03\xff\xfe\xfd",
        tag + b"\xff\xff\xff\xff\x07",  # a length of 2 GiB
        tag + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number that does not end
        b"\x7b" * 90 + b"\x7c" * 90,  # groups in groups that nobody knows
        b"\x7b" * 5000 + b"\x7c" * 5000,
        b"\x7b" * 5000,
        b"\x7c",
        b"\x00\x00",  # field 0
        *(wire_type + payload for wire_type in wire_types for payload in (b"\x01", b"\x04abcd", b"\xff" * 9 + b"\x01")),
    ]


def _version(version: Path, directory: Path) -> Target:
    """A version of which one file is damaged after it was made."""
    files = _copy(version, directory / "1")
    (directory / "1" / "assets" / "link").symlink_to("/etc/hostname")
    (directory / "1" / "assets" / "endless").symlink_to("/dev/zero")
    (directory / "1" / "assets" / "loop").symlink_to("loop")
    os.mkfifo(directory / "1" / "assets" / "pipe")
    names = [artifact.CHECKSUMS, *(name for name in files if name != artifact.CHECKSUMS)]

    def run(data: bytes) -> str:
        name = names[(data[0] if data else 0) % len(names)]
        path = directory / "1" / name
        path.write_bytes(data[1:])
        try:
            read = artifact.read(directory / "1")
        except VersionError:
            return "VersionError"
        finally:
            path.write_bytes(files[name])
        # A list that was cut off between two lines may only lack what the engine then misses.
        assert all(data == files[it] for it, data in read.files.items()), f"{name} was read although damaged"
        return "read"

    sums = files[artifact.CHECKSUMS]
    more = (
        "../1/" + artifact.INFO,
        "/etc/hostname",
        "assets/link",
        "assets/endless",
        "assets/loop",
        "assets/pipe",
        "a\0b",
        "x" * 300,
    )
    lines = [b"%s  %s\n" % (b"0" * 64, name.encode()) for name in (*more, "assets", ".", "a" + "/a" * 3000)]
    seeds = [bytes([i]) + files[name][: 1 << 16] for i, name in enumerate(names)]
    return Target([*seeds, *[b"\0" + sums] * len(names), *(b"\0" + line + sums for line in lines)], run)


def _consistent_version(version: Path, directory: Path) -> Target:
    """A version that somebody made on purpose: its checksums are right. What passes must serve: Predict and GetModel."""
    files = _copy(version, directory / "1")
    engine = engines.choose("litert")
    good = artifact.read(version)
    model = Version.load(good, engine).model
    loaded = SimpleNamespace(predict=model.predict, warm=lambda: None)
    litert: Any = SimpleNamespace(name="litert", inline=True, load=lambda read: loaded, gpu_memory=lambda: None)
    repository = Repository(directory, litert)
    description = ModelDescription(repository, "m", Limits(), 4 << 20)
    names = (artifact.INFO, artifact.EXAMPLES, artifact.VOCABULARY)
    sums = files[artifact.CHECKSUMS].decode()
    lines = dict(zip([line[66:] for line in sums.splitlines()], sums.splitlines(), strict=True))

    def run(data: bytes) -> str:
        name = names[(data[0] if data else 0) % len(names)]
        path = directory / "1" / name
        path.write_bytes(data[1:])
        digest = hashlib.sha256(data[1:]).hexdigest()
        (directory / "1" / artifact.CHECKSUMS).write_text("\n".join((lines | {name: f"{digest}  {name}"}).values()) + "\n")
        try:
            read = artifact.read(directory / "1")
            made = Version.load(read, litert)
        except VersionError as error:
            pb.ModelVersion(error=str(error))  # GetModel tells it
            return "VersionError"
        finally:
            path.write_bytes(files[name])
        repository.live = made
        answer = pb.GetModelResponse.FromString(description.serialized())
        answer.trained_at.ToDatetime()
        Metrics().went_live(made.number, made.digest, "litert", made.info.created_at)
        outlets = ["", *made.info.outlet_levels]
        for main_output, aux_output, *_ in made.predict(
            [Headline(text, WHEN, it) for text in TEXTS[:2] for it in outlets]
        ).rows():
            assert 0 <= main_output <= 1 and 0 <= aux_output <= 1  # noqa: PT018  (NaN is neither)
        return "live"

    seeds = [bytes([i]) + files[name] for i, name in enumerate(names)]
    for i, name in enumerate((artifact.INFO, artifact.EXAMPLES)):
        seeds += [bytes([i]) + it for it in twisted(json.loads(files[name]))]
    return Target(seeds, run, whole=0.6)


def _cpu_model(version: Path, directory: Path) -> Target:
    """A model for LiteRT's own C++ to read, with right checksums: tests.resilience.fuzz says what is promised of it."""
    files = {name: (version / name).read_bytes() for name in _files(version)}
    good = artifact.read(version)

    def run(data: bytes) -> str:
        try:
            Version.load(
                artifact.Artifact(
                    directory, 1, "", files | {artifact.CPU_MODEL: data}, good.info, good.vocabulary, good.examples
                ),
                engines.choose("litert"),
            )
        except VersionError:
            return "VersionError"
        return "live"

    return Target([files[artifact.CPU_MODEL]], run)


def _data(version: Path, directory: Path) -> Target:  # noqa: ARG001
    rows = [
        {
            "headline": text,
            "posted_at": datetime.fromtimestamp(WHEN + i, UTC).isoformat(),
            "retweets": i,
            "likes": 3,
            "outlet": "a",
        }
        for i, text in enumerate((*TEXTS, 'say "hi", she\nsaid'))
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    table = pa.Table.from_pylist(rows)
    exact = table.set_column(1, "posted_at", pa.array([WHEN] * len(rows), pa.timestamp("us", tz="UTC")))
    odd = table.set_column(2, "retweets", pa.array([{"a": [i, None]} for i in range(len(rows))]))
    plain = text.getvalue().encode()
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    by_column = {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
    exported = [{"text": "a", "created_at": "2016", "retweet_count": 1, "favorite_count": 2, "user": {"screen_name": "b"}}]
    contents = [
        plain,
        b"headline,posted_at,likes\n",
        b"sep=;\n" + plain.replace(b",", b";"),
        plain.replace(b",", b"\t"),
        plain.replace(b"3", b"1.2K"),
        text.getvalue().encode("utf-16", "surrogatepass"),
        lines,
        b"".join(list(twisted(rows[0]))[::7]),
        b"".join(it + b"\n" for it in twisted(dict(rows[0]))),
        *(json.dumps(it).encode() for it in (rows, {"data": rows}, by_column, exported)),
        gzip.compress(plain, mtime=0),
        gzip.compress(b'"' + b"\0" * (8 << 20), mtime=0),
        bz2.compress(plain),
        lzma.compress(lines),
        *(_parquet(it, compression) for it in (table, exact, odd) for compression in ("none", "snappy", "zstd")),
        _zip({"posts.csv": plain}),
        _zip({"xl/workbook.xml": b"<workbook/>"}),
    ]
    options = [
        Reading(min_age=0.0, max_bad_share=1.0),
        Reading(min_age=0.0),
        Reading(min_age=0.0, max_bad_share=1.0, time_zone="America/New_York", empty_counts="zero", bad_counts="skip"),
        Reading(min_age=0.0, max_bad_share=1.0, time_format="%d/%m/%Y %H:%M", time_zone="UTC", encoding="windows-1252"),
    ]

    def run(data: bytes) -> str:
        path = directory / "posts"
        path.write_bytes(data[1:])
        try:
            posts = dataset.read([path], options[(data[0] if data else 0) % len(options)])
            assert len(posts.texts(range(len(posts)))) == len(posts) == len(posts.engagement)
            assert np.isfinite(posts.engagement).all()
            assert np.isfinite(posts.posted_at).all()
            json.dumps(inspect.inspect(posts).facts, allow_nan=False)
        except DataError as error:
            str(error).encode()
            return "DataError"
        return "read"

    return Target([bytes([i]) + content for i in range(len(options)) for content in contents], run)


def _zip(members: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def _credentials(version: Path, directory: Path) -> Target:  # noqa: ARG001
    certificate, key = Authority().issue()
    tokens = b"# of the newsroom\n one  # a comment\r\ntwo\n"
    contents = {"certificate": certificate, "key": key, "ca": certificate, "tokens": tokens}
    names = list(contents)
    paths = [directory / name for name in names]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    before = Certificate(*paths[:3])

    def run(data: bytes) -> str:
        name = names[(data[0] if data else 0) % len(names)]
        (directory / name).write_bytes(data[1:])
        try:
            if name == "tokens":
                presented = data[1:40].decode("latin-1")
                Tokens(directory / name).admit([("authorization", presented), ("authorization", f"Bearer {presented}")])
            else:
                before.refresh()
                Certificate(*paths[:3]).for_server()
        except UsageError as error:
            str(error).encode()
            return "UsageError"
        finally:
            (directory / name).write_bytes(contents[name])
        return "read"

    return Target([bytes([i]) + contents[name] for i, name in enumerate(names)], run)


_MAKERS = {
    "preprocessing": _preprocessing,
    "request": _request,
    "inference": _inference,
    "web": _web,
    "version": _version,
    "consistent version": _consistent_version,
    "data": _data,
    "credentials": _credentials,
    "cpu model": _cpu_model,
}


def _files(version: Path) -> list[str]:
    return [artifact.CHECKSUMS, *artifact.read(version).files]


def _copy(version: Path, to: Path) -> dict[str, bytes]:
    """Copy a version, with stand-ins for the large files that nobody parses, and right checksums; its files."""
    files = {name: (version / name).read_bytes() for name in _files(version)}
    files = {name: data if len(data) < 1 << 20 else b"a stand-in" for name, data in files.items()}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items() if name != artifact.CHECKSUMS]
    files[artifact.CHECKSUMS] = "".join(lines).encode()
    shutil.rmtree(to, ignore_errors=True)
    for name, data in files.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(data)
    return files


def _parquet(table: pa.Table, compression: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression=compression, data_page_version="2.0")
    return out.getvalue()
