"""Checks of the page for editors in headless Chromium: `python browser.py ADDRESS CHECK [TOKEN]`.

Run by the Python of `.tools/playwright`; tests/interop/test_page.py starts it. A check is a function of a Visit. One that needs
something done to the server yields what, which is printed, and goes on after a line on standard input.
"""

from __future__ import annotations

import csv
import json
import sys
from inspect import isgenerator
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
AXE = Path(__file__).parents[2] / ".tools" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
TEXTS = [
    "City votes on new park",
    "👩‍🚀 The zebra wins",
    "report says council over council",
    "zebra",
]  # of "zebra" no word is known
PATIENCE = 15_000  # ms

STORED = """async () => ({
  local: localStorage.length, session: sessionStorage.length, cookies: document.cookie,
  databases: (await indexedDB.databases()).length, caches: await caches.keys(),
})"""
WIDTH = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


class Visit:
    """The page in a window of its own, and what is to be seen there."""

    def __init__(self, browser, address, token="", /, *, size="desk", **options):
        self.address = address
        self.token = token
        self.context = browser.new_context(viewport=SIZES[size], timezone_id="America/New_York", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.asked, self.problems = [], []
        self.page.on("request", lambda request: self.asked.append(request))
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)
        expect(self.page.locator("#facts li").first if not token else self.page.locator("#token")).to_be_visible()

    def _note(self, message):
        # Chromium itself logs each answer that is not 2xx.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(message.text)

    def submit(self, *texts, outlet="gazette"):
        self.page.fill("#headlines", "\n".join(texts))
        self.page.fill("#outlet", outlet)
        if self.page.locator("#time").is_enabled():
            self.page.fill("#time", "2026-03-01T13:30")  # on a Sunday, in the browser's time zone
        self.page.press("#headlines", "Control+Enter")
        self.says("#status", f"{len(texts)} headline{'s' * (len(texts) > 1)}: ")

    def api(self, path, **body):
        """What the server answers itself."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        url = self.address + path
        answer = (
            self.context.request.post(url, data=body, headers=headers)
            if body
            else self.context.request.get(url, headers=headers)
        )
        assert answer.ok, answer.text()
        return answer.json()

    def predictions(self, texts, outlet="gazette"):
        """What the server answers to what the page asks for, by text."""
        headlines = [{"text": text, "outlet": outlet, "postedAt": "2026-03-01T18:30:00Z"} for text in texts]
        return dict(zip(texts, self.api("v1/predict", headlines=headlines)["predictions"], strict=True))

    @property
    def cards(self):
        return self.page.locator("#cards > li")

    @property
    def order(self):
        return self.page.locator("#cards .headline").all_text_contents()

    def card(self, text):
        return self.cards.nth(self.order.index(text))

    def says(self, selector, words):
        expect(self.page.locator(selector)).to_contain_text(words)

    def close(self):
        """End the visit. Nothing may be left behind, asked of anyone else, or against the page's own policy."""
        left = self.page.evaluate(STORED)
        assert left == {"local": 0, "session": 0, "cookies": "", "databases": 0, "caches": []}, left
        assert self.context.cookies() == []
        hosts = {it.url for it in self.asked if not it.url.startswith((self.address, "data:", "blob:" + self.address))}
        assert not hosts, hosts
        assert not self.problems, self.problems
        self.context.close()


def percent(share):
    return f"{round(100 * share)} %"


def submit(visit):
    visit.submit(*TEXTS)
    told = visit.predictions(TEXTS)
    for text in TEXTS:
        card = visit.card(text)
        expect(card.locator(".chance")).to_have_text(percent(told[text]["best"]))
        width = card.locator(".bar i").evaluate("fill => fill.getBoundingClientRect().width / fill.parentNode.clientWidth")
        assert abs(width - told[text]["best"]) < 0.01
    sentence = f"About {round(100 * told[TEXTS[0]]['best'])} of 100 made-up posts with this number had "
    expect(visit.card(TEXTS[0]).locator(".meaning")).to_contain_text(sentence)
    visit.says("#cards", "had more than 12 retweets and likes together")
    visit.says("#results-title", "Chance to beat a typical post")
    expect(visit.card("zebra").locator(".meaning")).to_have_text(
        "The model knows no word of this headline; the number comes from time and outlet alone."
    )
    expect(visit.card(TEXTS[1]).locator(".meaning")).to_contain_text("1 of 3 words unknown to the model.")
    visit.says("#context", "gazette, posted Sunday, 1 March 2026 at 13:30. Judged by words, time and outlet. Model version 1.")
    assert visit.page.locator("#outlets option").evaluate_all("all => all.map((it) => it.value)") == ["gazette", "herald"]
    visit.says("#skill", "it picks the better one 66 times in 100; a tossed coin, 50 times.")
    visit.says("#facts", "Tried on 10 later posts that it had not learned from.")
    visit.says("#facts", "Anticipating Attention")
    visit.says("#facts", "trained on 25 May 2016")


def outlet(visit):
    visit.submit(*TEXTS, outlet="")
    visit.says("#verdict", "No outlet was named, so the words alone count.")
    visit.says("#context", "Judged by its words alone")
    expect(visit.card("zebra").locator(".meaning")).to_have_text(
        "The model knows no word of this headline, so it has no number for it."
    )
    expect(visit.card("zebra").locator(".chance")).to_have_text("–")
    visit.submit(*TEXTS, outlet="The Gazette")
    visit.says("#verdict", "The model does not know the outlet “The Gazette”, so the words alone count.")
    told = visit.predictions(TEXTS, "The Gazette")
    expect(visit.card(TEXTS[0]).locator(".chance")).to_have_text(percent(told[TEXTS[0]]["auxOutput"]))
    visit.says("#verdict", "Not compared, since the model knows no word of it: 1 headline.")
    visit.page.get_by_role("button", name="Use “gazette”").click()
    visit.says("#context", "gazette, posted Sunday")
    expect(visit.page.locator("#outlet")).to_have_value("gazette")


def made_up(visit):
    """That the model learned from made-up posts is in sight wherever one scrolls."""
    banner = visit.page.locator("#made-up")
    expect(banner).to_contain_text("its numbers say nothing about real headlines")
    visit.submit(*TEXTS * 5)
    for position in ("0", "document.body.scrollHeight"):
        visit.page.evaluate(f"scrollTo(0, {position})")
        expect(banner).to_be_in_viewport(ratio=1)


def tint(visit):
    """Words are marked by what they add or take away, at their places in code points, by more than colour."""
    texts = ["👩‍🚀 City votes zebra 🎉 market", "the  report,on park"]
    for outlet, effect in (("gazette", "mainEffect"), ("nobody", "auxEffect")):
        visit.submit(*texts, outlet=outlet)
        sent = [json.loads(it.post_data) for it in visit.asked if it.url.endswith("/v1/predict")][-1]
        explained = dict(zip(texts, visit.api("v1/explain", **sent)["explanations"], strict=True))
        for text in texts:
            card = visit.card(text)
            marks = card.locator(".headline span")
            words = explained[text]["words"]
            expect(marks).to_have_text([text[it["start"] : it["end"]] for it in words])
            assert card.locator(".headline").text_content() == text
            for mark, word in zip(marks.all(), words, strict=True):
                points = word["known"] * round(100 * word[effect])  # all that it does not know are one to it
                wanted = ["add"] * (points > 0) + ["take"] * (points < 0) + ["unknown"] * (not word["known"])
                assert mark.evaluate("it => [...it.classList]") == wanted, word
                style = mark.evaluate("it => getComputedStyle(it).textDecorationStyle")
                assert style == ("dashed" if points < 0 else "solid")
            listed = card.locator(".moves li").all_text_contents()
            assert set(listed) >= {
                f"{text[it['start'] : it['end']]} {round(100 * it[effect]):+}"
                for it in words
                if it["known"] and round(100 * it[effect])
            }
            assert any(it.startswith("outlet gazette") for it in listed) == (outlet == "gazette")
    assert visit.page.locator(".add").count()
    assert visit.page.locator(".take").count()


def compare(visit):
    """Each is told from the highest, or from one that is chosen, only if the gap is one that the evaluation can tell."""
    visit.submit(*TEXTS, outlet="nobody")
    known = {
        text: it["best"] for text, it in visit.predictions(TEXTS, "nobody").items() if it["unknownWordCount"] < it["wordCount"]
    }
    gap = visit.api("v1/model")["evaluation"]["aux_pair_gap"]
    ranked = sorted(known, key=known.get, reverse=True)
    assert visit.order == [*ranked, "zebra"]

    def expected(text, reference, name):
        if abs(known[text] - known[reference]) < gap:
            return f"about the same as {name}"
        points = round(100 * known[text]) - round(100 * known[reference])
        return f"{abs(points)} point{'s' * (abs(points) != 1)} {'behind' if points < 0 else 'ahead of'} {name}"

    expect(visit.card(ranked[0]).locator(".gap")).to_have_text("the highest")
    for text in ranked[1:]:
        expect(visit.card(text).locator(".gap")).to_have_text(expected(text, ranked[0], "the highest"))
    expect(visit.card("zebra").locator(".gap")).to_have_text("not compared")
    chosen = visit.card(ranked[-1]).get_by_role("button")
    chosen.click()
    expect(chosen).to_have_attribute("aria-pressed", "true")
    for text in ranked[:-1]:
        expect(visit.card(text).locator(".gap")).to_have_text(expected(text, ranked[-1], "the one compared with"))
    same = [expected(text, ranked[0], "") == "about the same as " for text in ranked[1:]]
    assert {*same} == {True, False}, same  # so that both were tried
    visit.says("#verdict", f"The {1 + sum(same)} highest of 3 are about the same.")
    visit.says("#verdict", f"Numbers less than {round(100 * gap)} points apart are about the same")
    visit.says("#verdict", "which of two wordings of one story is better it cannot tell")


def sort(visit):
    visit.submit(*TEXTS)
    ranked = visit.order
    visit.page.get_by_label("as typed").check()
    assert visit.order == TEXTS
    visit.page.get_by_label("highest first").check()
    assert visit.order == ranked != TEXTS


def copy(visit):
    visit.submit(*TEXTS)
    wanted = [f"{visit.card(text).locator('.chance').text_content()}\t{text}" for text in visit.order[:3]]
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.get_by_role("button", name="Copy").click()
    visit.says("#status", "Copied.")
    check_copy(visit.page.evaluate("navigator.clipboard.readText()"), wanted)
    # On plain http from another machine there is no clipboard.
    visit.page.evaluate("navigator.clipboard.writeText('')")
    visit.page.evaluate(
        "window.real = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    )
    visit.page.get_by_role("button", name="Copy").click()
    visit.says("#status", "Copied.")
    check_copy(visit.page.evaluate("real.readText()"), wanted)
    visit.page.evaluate("document.execCommand = () => false")
    visit.page.get_by_role("button", name="Copy").click()
    expect(visit.page.locator("#copied")).to_be_focused()
    check_copy(visit.page.evaluate("getSelection().toString()"), wanted)


def check_copy(text, rows):
    banner, source, *lines = text.split("\n")
    assert "made-up" in banner
    assert source.startswith("Chance to beat a typical post by headline-popularity version 1, for gazette, posted ")
    assert lines[:3] == rows
    assert lines[3].endswith("\tzebra (no word known)")
    assert any("are about the same" in line for line in lines[4:])


def download(visit):
    """A CSV file whose cells no spreadsheet program takes for formulas."""
    texts = ["=1+1 park", "+1 park", "-5 degrees, park", "@city votes", 'He said: "the park"', "東京 wins"]
    visit.submit(*texts)
    visit.page.get_by_label("as typed").check()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download CSV").click()
    data = Path(download.value.path()).read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(data.decode("utf-8-sig").splitlines(keepends=True), strict=True))
    assert [row["headline"] for row in rows] == [f"'{text}" for text in texts[:4]] + texts[4:]
    told = visit.predictions(texts)
    assert [int(row["percent"]) for row in rows] == [round(100 * told[text]["best"]) for text in texts]
    assert {(row["outlet"], row["outlet known"], row["model version"], row["warning"]) for row in rows} == {
        ("gazette", "yes", "1", "MADE-UP POSTS")
    }


def paste(visit):
    """A list from elsewhere becomes headlines, and what was changed is said."""
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    table = 'Headline\tDesk\n"The park\nopens"\tcity\n"We won", says the council\tsport'
    for pasted, wanted, words in (
        ("1. City votes\n2. Park opens\n3. 5 photos", "City votes\nPark opens\n5 photos", "took off the numbers"),
        ("• City votes\n\n• Park opens\n", "City votes\nPark opens", "took off the bullets"),
        (table, 'The park opens\n"We won", says the council', "took column 1 of the table"),
        ('"The park\nopens"\nCity votes', "The park opens\nCity votes", "joined the lines of a cell"),
        ("- City votes\n-5 degrees", "- City votes\n-5 degrees", ""),
        ("10 photos\n11 parks", "10 photos\n11 parks", ""),
        ("1. City votes", "1. City votes", ""),
    ):
        visit.page.fill("#headlines", "")
        visit.page.evaluate("text => navigator.clipboard.writeText(text)", pasted)
        visit.page.focus("#headlines")
        visit.page.keyboard.press("Control+V")
        expect(visit.page.locator("#headlines")).to_have_value(wanted)
        if words:
            visit.says("#status", words)
            visit.page.keyboard.press("Control+Z")
            expect(visit.page.locator("#headlines")).to_have_value("")

    numbered = "\n".join(f"{number}. City report {number}" for number in range(1, 3001))
    visit.page.evaluate("text => navigator.clipboard.writeText(text)", numbered)
    visit.page.keyboard.press("Control+V")
    visit.says("#count", "3,000 headlines")
    visit.says("#status", "took off the numbers")


def keyboard(visit):
    """Everything can be reached and used by keys alone, and where the focus is can be seen."""
    page = visit.page

    def tab_to(selector):
        for _ in range(20):
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#headlines")
    page.keyboard.type("City votes\nthe park", delay=1)
    tab_to("#outlet")
    page.keyboard.type("herald")
    tab_to("#time")
    tab_to("#submit")
    page.keyboard.press("Enter")
    expect(visit.cards).to_have_count(2)
    tab_to("#best-first")
    page.keyboard.press("ArrowRight")
    assert visit.order == ["City votes", "the park"]
    tab_to("#copy")
    tab_to("#save")
    with page.expect_download():
        page.keyboard.press("Enter")
    tab_to("#cards button")
    page.keyboard.press("Space")
    expect(page.locator("#cards button").first).to_have_attribute("aria-pressed", "true")
    tab_to("#cards summary")
    page.keyboard.press("Enter")
    expect(page.locator("#cards .moves").first).to_be_visible()
    tab_to("#report")


def phone(visit):
    """At 360 pixels nothing has to be scrolled sideways, whatever the headline."""
    visit.submit("W" * 300, "city " * 60, "ที่" * 100, outlet="gazette")
    expect(visit.page.locator("#cards .why").first).to_be_visible()
    for state in ("results", "error"):
        scroll, client = visit.page.evaluate(WIDTH)
        assert scroll == client == SIZES["phone"]["width"], state
        visit.page.fill("#headlines", "")
        visit.page.press("#headlines", "Control+Enter")


def accessible(visit):
    """axe finds nothing in any state."""
    page = visit.page
    check_axe(page, "empty")
    visit.submit(*TEXTS)
    expect(page.locator("#cards .add, #cards .take").first).to_be_visible()
    page.locator("#cards summary").first.click()
    page.locator("#cards button").first.click()
    page.fill("#headlines", "something else")
    check_axe(page, "old results")
    visit.submit(*TEXTS, outlet="nobody")
    check_axe(page, "unknown outlet")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined }); document.execCommand = () => false")
    page.get_by_role("button", name="Copy").click()
    check_axe(page, "copied by hand")
    page.fill("#headlines", "")
    page.press("#headlines", "Control+Enter")
    visit.says("#problem", "Type at least one headline.")
    check_axe(page, "error")
    page.route("**/v1/*", answering({"status": 401, "json": {"error": {"code": 401, "message": "no token"}}}))
    page.fill("#headlines", "City votes")
    page.press("#headlines", "Control+Enter")
    expect(page.locator("#token")).to_be_visible()
    check_axe(page, "token")


def check_axe(page, state):
    if not page.evaluate("typeof axe === 'object'"):
        page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")
    violations = [(it["id"], [node["html"] for node in it["nodes"]]) for it in found["violations"]]
    assert not violations, (state, violations)


def malformed(visit):
    """The line that is wrong is named and selected."""
    long = "wins " * 1000
    visit.page.fill("#headlines", f"City votes\n\n  the park\n{long}\nnew park")
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#problem", "Line 4 ")
    expect(visit.page.locator("#headlines")).to_be_focused()
    assert visit.page.evaluate("getSelection().toString()") == long
    visit.page.fill("#headlines", "City votes")
    expect(visit.page.locator("#problem")).to_have_text("")


def many(visit):
    """Headlines go out in parts that every server takes; what words add is asked only for what is in sight."""
    texts = [f"city report {number}" for number in range(300)]
    visit.submit(*texts)
    assert [part(it) for it in visit.asked if it.url.endswith("/v1/predict")] == [128, 128, 44]
    visit.page.wait_for_selector("#cards .why:not([hidden])")
    visit.page.wait_for_load_state("networkidle")
    explained = sum(part(it) for it in visit.asked if it.url.endswith("/v1/explain"))
    assert 0 < explained < 50
    visit.page.locator("#cards > li").last.scroll_into_view_if_needed()
    expect(visit.page.locator("#cards > li").last.locator(".why")).to_be_visible()


def part(request):
    return len(json.loads(request.post_data)["headlines"])


def cancel(visit):
    """A new submission ends the one in flight."""
    held = []
    visit.page.route("**/v1/predict", lambda route: held.append(route), times=1)
    visit.page.fill("#headlines", "City votes")
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#status", "Asking")
    visit.page.wait_for_timeout(300)
    visit.submit("the park", "the market")
    assert sorted(visit.order) == ["the market", "the park"]
    assert [it.failure for it in visit.asked if it.post_data and "City" in it.post_data] == ["net::ERR_ABORTED"]


def proxy(visit):
    """What a proxy in between answers is told in a sentence, and results stay."""
    visit.submit(*TEXTS)
    for answer in (
        {"status": 502, "content_type": "text/html", "body": "<html><h1>Bad gateway</h1>"},
        {"status": 200, "content_type": "text/html", "body": "<html><h1>Log in</h1>"},
        {"status": 500, "body": ""},
    ):
        visit.page.route("**/v1/model", answering(answer), times=1)
        visit.page.press("#headlines", "Control+Enter")
        visit.says("#problem", f"What answers is not the headline server (HTTP {answer['status']})")
        expect(visit.cards).to_have_count(len(TEXTS))
        expect(visit.page.locator("#old")).to_be_hidden()
        visit.page.unroute_all()
    visit.page.fill("#headlines", "something else")
    expect(visit.page.locator("#old")).to_be_visible()


def answering(answer):
    return lambda route: route.fulfill(**answer)


def busy(visit):
    """A server with too much to do is asked again after the time that it names, a few times."""
    refusal = {"status": 429, "headers": {"Retry-After": "1"}, "json": {"error": {"code": 429, "message": "full"}}}
    visit.page.route("**/v1/predict", answering(refusal), times=2)
    visit.page.fill("#headlines", "City votes")
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#status", "Trying again in 1 second (2 of 4).")
    visit.says("#status", "Trying again in 1 second (3 of 4).")
    expect(visit.cards).to_have_count(1)
    visit.page.route("**/v1/predict", answering(refusal))
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#problem", "The server has more to do than it can. Try again later.")
    assert len([it for it in visit.asked if it.url.endswith("/v1/predict")]) == 7


def swap(visit):
    """The model changes under the open page: all numbers are of one version, and what the page says of the model is new."""
    visit.submit(*TEXTS)
    yield "version 2"  # whose numbers are all about the same
    visit.page.route("**/v1/predict", lambda route: route.abort(), times=1)
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#problem", "The server cannot be reached.")
    expect(visit.page.locator("#old")).to_be_visible()  # version 1's
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#context", "Model version 2.")
    expect(visit.page.locator("#old")).to_be_hidden()
    visit.says(
        "#verdict", "All numbers are about the same: the model ranks fewer than 60 in 100 pairs of posts of one account right."
    )
    expect(visit.page.locator("#made-up")).to_be_hidden()
    yield "version 3"  # which compares headlines of one story, and it is not known how near is the same
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#context", "Model version 3.")
    visit.says("#verdict", "How near two numbers must be to be about the same is not known for this model.")
    visit.says("#cards", "than the mean of the other headlines of the same story")
    assert "wordings" not in visit.page.locator("main").text_content()
    # In the middle of a long list.
    parts = []

    def hold_the_second(route):
        parts.append(route)
        if len(parts) != 2:
            route.continue_()

    visit.page.route("**/v1/predict", hold_the_second)
    visit.page.fill("#headlines", "\n".join(TEXTS * 50))
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#status", "128 of 200 headlines done")
    yield "version 4"
    parts[1].continue_()
    expect(visit.cards).to_have_count(200)
    visit.says("#context", "Model version 4.")
    counts = [part(it) for it in visit.asked if it.url.endswith("/v1/predict")]
    assert counts[-4:] == [128, 72, 128, 72], counts


def no_model(visit):
    """Before there is a model the page says so, and it works as soon as there is one."""
    visit.says("#problem", "The server has no model to answer with.")
    visit.page.fill("#headlines", "City votes")
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#status", "The server is busy or not ready. Trying again in")
    yield "version 1"
    expect(visit.cards).to_have_count(1, timeout=PATIENCE)
    visit.says("#context", "Model version 1.")
    visit.says("#skill", "it picks the better one 66 times in 100")


def frozen(visit):
    """Hours that the model does not use cannot be chosen."""
    expect(visit.page.locator("#time")).to_be_disabled()
    visit.says("#time-hint", "This version of the model does not use the posting time.")
    visit.submit(*TEXTS)
    visit.says("#context", "Judged by words and outlet")
    assert "posting time" not in visit.page.locator("#cards").text_content()


def gone(visit):
    visit.submit(*TEXTS)
    yield "stop"
    visit.page.fill("#headlines", "City votes")
    visit.page.press("#headlines", "Control+Enter")
    visit.says("#problem", "The server cannot be reached. Is it running, and is the network up?")
    expect(visit.cards).to_have_count(len(TEXTS))
    expect(visit.page.locator("#old")).to_be_visible()
    yield "start"
    visit.page.press("#headlines", "Control+Enter")
    expect(visit.cards).to_have_count(1)
    expect(visit.page.locator("#old")).to_be_hidden()


def token(visit):
    """A token is asked for when it is needed, kept in memory alone, and a wrong one is said to be wrong."""
    page = visit.page
    field = page.locator("#token")
    expect(field).to_be_focused()
    visit.says("#problem", "This server asks for a token.")
    for wrong in ("wrong", "wrong–tökèn"):
        field.fill(wrong)
        field.press("Enter")
        visit.says("#problem", "The server does not accept this token.")
        expect(field).to_be_focused()
        expect(field).to_have_value("")
    page.fill("#headlines", "City votes")
    field.fill(visit.token)
    page.get_by_role("button", name="Use this token").click()
    expect(visit.cards).to_have_count(1)  # what was typed is asked for at once
    expect(field).to_be_hidden()
    assert visit.token not in page.evaluate("document.documentElement.outerHTML + location.href + history.length")
    assert field.input_value() == ""
    assert not any(visit.token in it.url for it in visit.asked)
    with page.expect_download() as download:  # a link could not carry the token
        page.locator("#report").click()
    assert "<h1>Report</h1>" in Path(download.value.path()).read_text("utf-8")


def report(visit):
    with visit.context.expect_page() as opened:
        visit.page.locator("#report").click()
    expect(opened.value.locator("h1")).to_have_text("Report")
    opened.value.close()


def no_report(visit):
    visit.page.locator("#report").click()
    visit.says("#report-note", "There is no report on this model.")


OPTIONS = {
    **{check: {"color_scheme": "dark"} for check in (tint, keyboard)},
    phone: {"size": "phone"},
}
# axe brings a script that the page's own policy refuses.
VARIANTS = {
    accessible: [{"bypass_csp": True, "color_scheme": scheme, "size": size} for scheme in ("light", "dark") for size in SIZES]
}


def run(check, address, *token):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for options in VARIANTS.get(check, [OPTIONS.get(check, {})]):
            visit = Visit(browser, address, *token, **options)
            steps = check(visit)
            for wanted in steps if isgenerator(steps) else ():
                print(wanted, flush=True)
                sys.stdin.readline()
            visit.close()
        browser.close()


if __name__ == "__main__":
    run(globals()[sys.argv[2]], sys.argv[1], *sys.argv[3:])
