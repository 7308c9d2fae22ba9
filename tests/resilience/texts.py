"""The costliest legal texts beside Cyrillic text of the same bytes, and a lone caller beside the largest request of them.

    python -m tests.resilience.texts [--models models] [--seconds 5]

A search over Unicode: a character of each kind (by category, combining class, decomposition, case folding and bytes), repeated
and mixed with a space, a letter and an apostrophe, and what rules number 2 clean, then the costliest ones in pairs, then
mixtures by hypothesis. All of them also behind Q with a dot above, a mark that does not combine: with it NFKC reads the whole
text twice; and behind what starts each step of cleaning. What the service refuses is left out. The cost is the CPU of checking
a text and of turning it into numbers, the least of several passes, per byte. Rules number 2 read 1,000 characters: so Cyrillic
text has 1,000 bytes, all of which they read, and others have 1,000 and as many as a request may hold. Then a server gets
requests as large as it takes, of Cyrillic and of the costliest text, while one caller asks for one headline at a time and
/healthz is read. It ends with 1 if a text costs more than five times as much as Cyrillic, or if /healthz was not 200.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable

from harness import report
from harness.process import ServerProcess, serving
from harness.wire import PREDICT

BYTES = 4080  # of a text; 1,024 of them are 4 MB, the largest message
SIZES = (1000, BYTES)
HEADLINES = 1024
MOST = 5.0  # times the cost of Cyrillic
CYRILLIC = "Правительство объявило о новых мерах поддержки экономики в 2016 году: «Это надолго», — сказал министр. "
PREFIXES = ("", "Q\u0307", "/&@\u0e01Q\u0307")
SHAPES = ("{}", "{} ", "{}a", "{}a ", "{}é", "{}'a", "{}\u0301", "{}東", "{}が")
# Entities, also of characters that NFKC makes long, links, marks of retweets, and beginnings of them.
CLEANED = (  # noqa: SIM905 (a list of strings is hard to read)
    "&|a&|&#|&#1;|&#9|&lt;|&gt;|&amp;|&a;|&aa;|&die;|&half;|&qint;|&fflig;|&ll;|&#38;|&#x3300;|&#xfdfa;|&#13056;|&#1e3;|"
    "&CounterClockwiseContourIntegral;|&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|RT @|RT @a: |RT @a:|RT @a|@|@:|@a|"
    "http|http://|http:// |http://a |http://é|://|://é|/|/ |a/|a/é|t.co/|t.co/ |t.co/é|at.co/ |.co/|.co/é|.co |a.c|.it/é|"
    ".com/é|. |.l|pic.twitter.com/é|xpic.twitter.com/ |1.usa.gov/ |\u200b|a\u200b|a\u00ad|é\ufeff|\u202e\u202c|"
    "\u0e17|\u0e17 |\u0e17a|\u0e17\u0e35\u0e48|\u0e33|\u0eb3|\u1019\u103c|\u1b06\u1b35"
).split("|")
SHOWN = 20
PAIRED = 20


def fill(unit: str, prefix: str = "", size: int = BYTES) -> str:
    """A text of about `size` bytes."""
    return prefix + unit * ((size - len(prefix.encode())) // len(unit.encode()))


def kinds() -> list[str]:
    """The last character of each kind: NFKC takes the longer the higher a character is."""
    last = {}
    for character in map(chr, itertools.chain(range(0x80, 0xD800), range(0xE000, 0x110000))):
        category = unicodedata.category(character)
        if category in ("Cn", "Co"):
            continue
        script = unicodedata.name(character, "?").split()[0] if category == "Lo" else ""
        kind = (
            category,
            unicodedata.combining(character),
            len(unicodedata.normalize("NFD", character)),
            len(unicodedata.normalize("NFKD", character)),
            len(unicodedata.normalize("NFKC", character)),
            unicodedata.is_normalized("NFKC", character),
            len(character.casefold()),
            len(character.encode()),
            script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL"),
        )
        last[kind] = character
    return list(last.values())


class Search:
    """Measures texts, and remembers the costliest."""

    def __init__(self) -> None:
        from service.model.preprocessing import VOCABULARY_HEAD, Headline, Preprocessor, expands

        encode = Preprocessor([*VOCABULARY_HEAD, "the"], {}).encode
        self.costs: dict[str, float] = {}  # times Cyrillic, by text

        def handle(text: str) -> None:
            if not expands(text):
                encode([Headline(text, 0.0)])

        self._handle = handle
        self._expands = expands
        self._cyrillic = fill(CYRILLIC, size=min(SIZES))

    def measure(self, text: str, passes: int = 2) -> float:
        """The cost of a text in Cyrillic texts of as many bytes; 0 if it is refused. Both are measured in turn."""
        if self._expands(text) or not text or text.isspace():
            return 0.0
        times = [(self._time(text), self._time(self._cyrillic)) for _ in range(passes)]
        cost, base = (
            min(some) / len(it.encode()) for some, it in zip(zip(*times, strict=True), (text, self._cyrillic), strict=True)
        )
        if cost / base > 0.9 * MOST and passes < 20:  # was it a moment's?
            return self.measure(text, 20)
        ratio: float = cost / base
        self.costs[text] = ratio
        return ratio

    def costliest(self, number: int) -> list[str]:
        """So many texts, the costliest first."""
        return heapq.nlargest(number, self.costs, key=lambda text: self.costs[text])

    def _time(self, text: str) -> float:
        began = time.thread_time()
        self._handle(text)
        return time.thread_time() - began


def search(mixtures: int) -> Search:
    """Try kinds of characters, pairs of the costliest, and mixtures of all."""
    found = Search()
    units = [*CLEANED, *(shape.format(character) for character in kinds() for shape in SHAPES)]
    print(f"{len(units) * len(PREFIXES) * len(SIZES):,} texts of one kind of character", file=sys.stderr)
    measure_all(found, units)
    characters = list(dict.fromkeys(text[len(text) // 2] for text in found.costliest(40 * PAIRED)))[:PAIRED]
    measure_all(found, ("".join(pair) for pair in itertools.permutations(characters, 2)))
    mix(found, list(dict.fromkeys([*characters, *kinds(), *"a é'東が", *CLEANED])), mixtures)
    return found


def measure_all(found: Search, units: Iterable[str]) -> None:
    """Measure texts of these units, with each prefix and of each size."""
    for unit in units:
        for prefix, size in itertools.product(PREFIXES, SIZES):
            found.measure(fill(unit, prefix, size))


def mix(found: Search, parts: list[str], examples: int) -> None:
    """Let hypothesis look for mixtures that cost most."""
    from hypothesis import HealthCheck, Phase, given, settings, target
    from hypothesis import strategies as st

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(parts), min_size=1, max_size=8), st.sampled_from(PREFIXES), st.sampled_from(SIZES))
    def costly(unit: list[str], prefix: str, size: int) -> None:
        target(found.measure(fill("".join(unit), prefix, size)))

    costly()


def beside(server: ServerProcess, name: str, text: str, seconds: float) -> tuple[list[float], int, list[str]]:
    """Latencies of a lone caller in seconds, how many large requests were answered, and what was wrong with /healthz."""
    import grpc

    from headlines.v1.popularity_pb2 import Headline, PredictRequest

    cheap = PredictRequest(headlines=[Headline(text="City votes on new park")]).SerializeToString()
    large = PredictRequest(headlines=[Headline(text=text)] * HEADLINES).SerializeToString()
    latencies: list[float] = []
    problems: list[str] = []
    answered = 0
    until = time.perf_counter() + seconds

    def ask(channel: grpc.Channel, request: bytes) -> float:
        began = time.perf_counter()
        channel.unary_unary(PREDICT.decode(), None, None)(request, timeout=60)
        return time.perf_counter() - began

    def ask_large() -> None:
        nonlocal answered
        with grpc.insecure_channel(server.target) as channel:
            while time.perf_counter() < until:
                ask(channel, large)
                answered += 1

    def read_health() -> None:
        while time.perf_counter() < until:
            try:
                server.get("/healthz", 10)
            except OSError as error:
                problems.append(f"/healthz beside {name}: {error}")
            time.sleep(0.05)

    threads = [threading.Thread(target=ask_large), threading.Thread(target=read_health)]
    with grpc.insecure_channel(server.target) as channel:
        ask(channel, cheap)
        for thread in threads:
            thread.start()
        while time.perf_counter() < until:
            latencies.append(ask(channel, cheap))
        for thread in threads:
            thread.join()
    return latencies, answered, problems


def main() -> None:
    """Search, measure and print."""
    parser = report.models_parser(__doc__)
    parser.add_argument("--mixtures", type=int, default=3000, help="texts that hypothesis tries")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a lone caller beside large requests, for each text")
    args = parser.parse_args()

    import numpy as np

    found = search(args.mixtures)
    table = sorted(((found.measure(text, 40), text) for text in found.costliest(SHOWN)), reverse=True)
    print(f"{len(found.costs):,} texts; the costliest, in Cyrillic texts of the same bytes (at most {MOST:g}):")
    for ratio, text in table:
        print(f"{ratio:6.2f}  {len(text.encode()):5,} bytes  {text[:12]!a}")
    problems = [f"a text costs {ratio:.2f} Cyrillic ones: {text[:12]!a}" for ratio, text in table if ratio > MOST]
    columns = {"p50 ms": ".1f", "p99 ms": ".1f", "calls": "", "large ones": ""}
    shown = report.Table("a lone caller beside requests of 1,024", columns, width=40)
    texts = {"Cyrillic": fill(CYRILLIC), "the costliest": fill(table[0][1])}
    with serving(args.models, "--engine", "litert") as server:
        for name, text in texts.items():
            latencies, answered, broken = beside(server, name, text, args.seconds)
            shown.row(name, *np.quantile(latencies, [0.5, 0.99]) * 1e3, len(latencies), answered)
            problems += broken
    report.require_none(problems)


if __name__ == "__main__":
    report.run(main)
