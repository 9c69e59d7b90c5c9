"""The page in real Chromium, against a real server; skipped where there is no browser."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from web_browser import BROWSER, DRIVER, Person
from web_server import Server, make_study

from thriftune.study import Study

pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver")

ESCAPE, DOWN = "\ue00c", "\ue015"
_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": "Another."},
]


@pytest.fixture(scope="module")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Person]]:
    """Browsers by number, each started once."""
    opened: dict[int, Person] = {}

    def browser(number: int) -> Person:
        if number not in opened:
            opened[number] = Person(tmp_path_factory.mktemp("profile"))
        return opened[number]

    yield browser
    for person in opened.values():
        person.quit()


@pytest.fixture
def ann(browsers: Callable[[int], Person]) -> Iterator[Person]:
    person = browsers(0)
    person.size(1280, 800)
    yield person
    # A page that is left asks nothing, and leaves nothing behind for the next test.
    person.js("localStorage.clear()")
    person.driver.get("about:blank")


@pytest.fixture
def bob(browsers: Callable[[int], Person]) -> Iterator[Person]:
    person = browsers(1)
    yield person
    person.js("localStorage.clear()")
    person.driver.get("about:blank")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    texts = [f"Question number {i}: what is {i} plus {i}?" for i in range(16)]
    return make_study(tmp_path / "study", texts, 12, messages={2: _TURNS})


@pytest.fixture
def serve(study: Study) -> Iterator[Callable[..., Server]]:
    running = []

    def start(*arguments: str) -> Server:
        running.append(Server(study.path, "--port", "0", *arguments))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def responses(study: Study) -> dict[str, str]:
    return {i: a.response for i, a in study.annotations.final().items()}


def test_ten_answers_by_keyboard(ann: Person, serve: Callable[..., Server], study: Study) -> None:
    server = serve("--reserve", "0")
    ann.enter(server.address, "Ann  Lee")
    for rank in range(1, 11):
        ann.at(rank)
        if rank == 3:  # a chat, turn by turn
            roles = ann.js("return [...document.querySelectorAll('.role')].map(n => n.textContent)")
            assert roles == ["System", "User", "Assistant", "User"]
            assert ann.prompt == "Another."
        if rank == 4:  # the draft, edited
            ann.keys(ESCAPE, "d")
            ann.wait(lambda: ann.answer == "Draft 3", "the draft is in the editor")
            ann.keys(", edited")
        else:
            ann.keys(f"Answer {rank}\n- with a line")
        ann.submit()
    ann.at(11)
    assert ann.text("#counts") == "10 of 12"
    expected = {f"p{i:03d}": f"Answer {i + 1}\n- with a line" for i in range(10)} | {"p003": "Draft 3, edited"}
    assert responses(study) == expected
    assert {a.annotator for a in study.annotations.in_force()} == {"Ann Lee"}
    spent = [a.seconds for a in study.annotations.in_force()]
    assert all(s is not None and 0 < s < 60 for s in spent)
    # Back, change one, forward to where she was.
    ann.keys(ESCAPE, "b")
    ann.at(10)
    assert ann.answer == "Answer 10\n- with a line"
    ann.keys(" more")
    ann.submit()
    ann.at(11)
    assert responses(study)["p009"].endswith("a line more")
    for rank in (11, 12):
        ann.at(rank)
        ann.keys("last ones")
        ann.submit()
    ann.until("return document.querySelector('.blank h1')?.textContent === 'Everything is answered'")
    assert ann.complaints() == []


def test_a_reload_in_the_middle_of_a_sentence_loses_nothing(
    ann: Person, serve: Callable[..., Server], study: Study
) -> None:
    server = serve("--reserve", "0")
    ann.enter(server.address, "Ann")
    ann.at(1)
    ann.keys("The sum of two eq")
    ann.driver.refresh()
    ann.at(1)
    ann.wait(lambda: ann.answer == "The sum of two eq", "the text is back")
    ann.keys("ual numbers is even")
    ann.until("return document.getElementById('saved').textContent === 'Saved'")
    # Within a second of the last key, and on the server's disk: another browser has it.
    assert server.post("open", name="Ann", id="p000")["item"]["text"] == "The sum of two equal numbers is even"
    ann.submit()
    ann.at(2)
    assert responses(study) == {"p000": "The sum of two equal numbers is even"}


def test_autosave_takes_less_than_a_second(ann: Person, serve: Callable[..., Server]) -> None:
    server = serve("--reserve", "0")
    ann.enter(server.address, "Ann")
    ann.at(1)
    for text in ("a", "b", "c"):
        ann.keys(text)
        began = time.monotonic()
        while not server.post("open", name="Ann", id="p000")["item"]["text"].endswith(text):
            assert time.monotonic() - began < 1
            time.sleep(0.02)


def test_what_is_typed_while_a_slow_save_is_under_way_is_saved_before_the_next_prompt(
    ann: Person, serve: Callable[..., Server]
) -> None:
    server = serve("--reserve", "0")
    ann.enter(server.address, "Ann")
    ann.at(1)
    ann.js(
        "const fetch = window.fetch; window.sent = 0;"
        "window.fetch = (...given) => { const slow = String(given[0]).includes('draft') && !window.sent;"
        " window.sent += slow; const later = new Promise((done) => setTimeout(done, slow ? 5000 : 0));"
        " return later.then(() => fetch(...given)) }"
    )
    ann.keys("ab")
    ann.until("return window.sent === 1")
    ann.keys(" and much more", ESCAPE, "n")
    ann.at(2)
    assert server.post("open", name="Ann", id="p000")["item"]["text"] == "ab and much more"


def test_the_server_dies_and_the_browser_keeps_the_text(
    ann: Person, serve: Callable[..., Server], study: Study
) -> None:
    server = serve("--reserve", "0")
    port = server.root.rsplit(":", 1)[1]
    ann.enter(server.address, "Ann")
    ann.at(1)
    ann.keys("saved before")
    ann.until("return document.getElementById('saved').textContent === 'Saved'")
    server.kill()
    ann.keys(", written while it was down")
    ann.until("return document.querySelector('.state.failed') !== null")
    ann.submit()
    ann.until("return document.getElementById('notice').textContent.includes('does not answer')")
    serve("--reserve", "0", "--port", port)
    ann.until("return document.getElementById('saved').textContent === 'Saved'")
    ann.submit()
    ann.at(2)
    assert responses(study) == {"p000": "saved before, written while it was down"}


def test_the_browser_dies_and_keeps_the_text(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve("--reserve", "0")
    person = Person(tmp_path / "profile")
    try:
        person.enter(server.address, "Ann")
        person.at(1)
        person.keys("a second ago")
        time.sleep(1)
        person.keys(", and just now")
    finally:
        # Not even a closing page's last word.
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if f"--user-data-dir={tmp_path / 'profile'}" in line.read_text(errors="replace"):
                    os.kill(int(line.parent.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue
        person.driver.service.stop()
    assert server.post("open", name="Ann", id="p000")["item"]["text"].startswith("a second ago")


def test_two_at_once_get_different_prompts_and_see_each_other(
    ann: Person, bob: Person, serve: Callable[..., Server], study: Study
) -> None:
    server = serve("--reserve", "0")
    ann.enter(server.address, "Ann")
    bob.enter(server.address, "Bob")
    ann.at(1)
    bob.at(2)
    ann.keys("Ann's")
    ann.submit()
    ann.at(3)
    bob.keys("Bob's")
    bob.submit()
    bob.at(4)
    assert {i: a.annotator for i, a in study.annotations.final().items()} == {"p000": "Ann", "p001": "Bob"}
    # Bob opens what Ann is at work on.
    bob.js("location.hash = '#/prompt/p002'")
    bob.at(3)
    bob.until("return document.getElementById('notice').textContent.includes('Ann is at work on this prompt')")
    ann.keys(ESCAPE, "o")
    ann.until("return document.querySelectorAll('.people tbody tr').length === 2")
    assert "2 of 12" in ann.text("dialog")


def test_two_windows_of_one_person_do_not_overwrite_each_other(
    ann: Person, bob: Person, serve: Callable[..., Server], study: Study
) -> None:
    server = serve("--reserve", "0")
    for person in (ann, bob):
        person.enter(server.address, "Ann")
        person.at(1)
    ann.keys("in the first window")
    ann.until("return document.getElementById('saved').textContent === 'Saved'")
    bob.keys("in the second")
    bob.until("return document.querySelector('dialog')?.textContent.includes('changed in another window')")
    assert "in the first window" in bob.text("dialog") and "in the second" in bob.text("dialog")
    bob.js("document.querySelector('dialog .sides section:last-child button').click()")
    bob.wait(lambda: bob.answer == "in the first window", "the other text was taken")
    bob.submit()
    bob.at(2)
    assert responses(study) == {"p000": "in the first window"}


def test_review_side_by_side(ann: Person, serve: Callable[..., Server], study: Study) -> None:
    server = serve("--overlap", "2", "--reserve", "0")
    for rank, (first, second) in enumerate([("two", "2"), ("four", "Four "), ("six", "seven")]):
        for name, text in (("Bob", first), ("Cy", second)):
            server.post("answer", name=name, id=f"p{rank:03d}", text=text, seconds=9, revision=0)
    server.post("skip", name="Bob", id="p004", seconds=1, reason="no sense", flag="unanswerable")
    ann.enter(server.address, "Ann")
    ann.keys(ESCAPE, "r")
    ann.until("return document.querySelectorAll('.hit').length === 4")
    assert "33 %" in ann.text(".figures")  # one pair of three is the same
    ann.keys("\n")
    ann.until("return document.querySelectorAll('.side').length === 2")
    assert [n for n in ann.text(".sides").split("\n") if n in ("Bob", "Cy")] == ["Bob", "Cy"]
    ann.keys("2")  # the second answer
    ann.until("return document.querySelector('.place')?.textContent.includes('Prompt 2')")
    ann.js("document.querySelector('.side:nth-child(1) .quiet').click()")  # Edit it
    ann.keys(" and no more")
    ann.submit()
    ann.until("return document.querySelector('.place')?.textContent.includes('Prompt 3')")
    assert {i: r for i, r in responses(study).items() if i != "p002"} == {"p000": "2", "p001": "four and no more"}
    # The flag is taken off, and the prompt is to be answered after all.
    ann.keys(ESCAPE, "r")
    ann.until("return document.querySelectorAll('.hit').length === 4")
    ann.js("[...document.querySelectorAll('.hit')].find(n => n.textContent.includes('number 4')).click()")
    ann.until("return document.querySelector('.reason')?.textContent.includes('no sense')")
    ann.js("[...document.querySelectorAll('button')].find(n => n.textContent.startsWith('It can be')).click()")
    ann.until("return document.querySelector('.reason') === null")
    assert server.get("standing")["flagged"] == 0
    assert ann.complaints() == []


def test_flagged_prompts_are_replaced_by_the_next_of_the_ranking(
    ann: Person, serve: Callable[..., Server], study: Study
) -> None:
    server = serve("--reserve", "3")
    ann.wait(lambda: server.get("standing")["reserve"] == 3, "the reserve is chosen", 60)
    ann.enter(server.address, "Ann")
    ann.at(1)
    ann.keys(ESCAPE, "f")
    ann.until("return document.querySelector('dialog input:checked')?.value === 'unanswerable'")
    ann.keys(DOWN, "\ue004", "the same as another", "\n")  # one down: duplicate; Tab; why
    ann.at(2)
    assert "flagged as duplicate" in ann.text("#notice")
    for rank in range(2, 13):
        ann.at(rank)
        ann.keys("an answer")
        ann.submit()
    ann.at(13)
    assert "number 12" in ann.prompt  # next by the strategy's score
    assert "takes the place" in ann.text(".place")
    ann.keys("an answer")
    ann.submit()
    ann.until("return document.querySelector('.blank h1')?.textContent === 'Everything is answered'")
    assert sorted(responses(study)) == [f"p{i:03d}" for i in range(1, 13)]


def test_undo_skip_find_and_put_off(ann: Person, serve: Callable[..., Server], study: Study) -> None:
    server = serve("--reserve", "0")
    ann.enter(server.address, "Ann")
    ann.at(1)
    ann.keys("too early")
    ann.submit()
    ann.at(2)
    ann.keys(ESCAPE, "u")
    ann.at(1)
    assert ann.answer == "too early"
    assert responses(study) == {}
    ann.keys(", now right")
    ann.submit()
    ann.at(2)
    ann.keys(ESCAPE, "s", "\n")
    ann.at(3)
    ann.keys(ESCAPE, "n")  # put off
    ann.at(4)
    ann.keys(ESCAPE, "/", "number 7:")
    ann.until("return document.querySelectorAll('dialog .hit').length === 1")
    ann.keys("\n")
    ann.at(8)
    ann.driver.back()
    ann.at(4)
    ann.keys(ESCAPE, "?")
    ann.until("return document.querySelectorAll('.keys tr').length > 12")
    ann.keys(ESCAPE)
    assert responses(study) == {"p000": "too early, now right"}


HOSTILE = (
    "<script>window.owned = 1</script>",
    "<img src=x onerror='window.owned = 1'>",
    "[click](javascript:window.owned=1) ![x](http://127.0.0.1:9/x.png) <svg onload=window.owned=1>",
    "</textarea></dialog><iframe srcdoc='<script>parent.owned=1</script>'>",
    "```html\n<script>window.owned = 1</script>\n```\n| <b onclick=1>a</b> |\n|---|\n| <style>*{x:y}</style> |",
)


def test_nothing_that_people_or_models_wrote_ever_runs(ann: Person, tmp_path: Path) -> None:
    study = make_study(tmp_path / "hostile", HOSTILE, len(HOSTILE), HOSTILE, messages={
        0: [{"role": "<b>role</b>", "content": HOSTILE[0]}, {"role": "user", "content": HOSTILE[1]}]
    })  # fmt: skip
    (study.path / "guidelines.md").write_text("\n\n".join(HOSTILE))
    server = Server(study.path, "--port", "0", "--overlap", "3", "--reserve", "0")
    name = "<img src=x onerror=owned=1>"
    try:
        for i, text in enumerate(HOSTILE):
            for who in (name, f"Bob{HOSTILE[0]}"):
                server.post("answer", name=who, id=f"p{i:03d}", text=text, seconds=1, revision=0)
        server.post("skip", name="Cy<b>", id="p000", seconds=1, reason=HOSTILE[1], flag="duplicate")
        ann.driver.get_log("performance")
        ann.enter(server.address, "Ann<script>owned=1</script>")
        ann.keys(ESCAPE, "g", "m")
        for i in range(len(HOSTILE)):
            ann.js("location.hash = `#/prompt/${arguments[0]}`", f"p{i:03d}")
            ann.at(i + 1)
            ann.keys(ESCAPE, "d")
            ann.wait(lambda i=i: ann.answer == HOSTILE[i], "the draft as it is")  # type: ignore[misc]
            ann.js("[...document.querySelectorAll('.tabs button')].at(-1).click()")
            assert ann.js("return document.querySelector('.preview').innerText.trim().length") > 0
        ann.keys(ESCAPE, "/", "window")
        ann.until("return document.querySelectorAll('dialog .hit').length > 0")
        ann.keys(ESCAPE, "o")
        ann.until("return document.querySelectorAll('.people tbody tr').length === 3")
        ann.keys(ESCAPE, "r")
        ann.until("return document.querySelectorAll('.hit').length === 5")
        ann.keys("\n")
        ann.until("return document.querySelectorAll('.side').length === 2")
        assert ann.js("return window.owned") is None
        assert (
            ann.js("return document.querySelectorAll('main img, aside img, iframe, svg, main script, b').length") == 0
        )
        assert ann.js(
            "return [...document.querySelectorAll('a')].every(a => /^https?:|#/.test(a.getAttribute('href')))"
        )
        assert ann.complaints() == []  # the policy had nothing to stop either
        events = [json.loads(entry["message"])["message"] for entry in ann.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert asked and all(url.startswith(server.root) for url in asked), asked
    finally:
        server.stop()


def test_markdown_is_rendered_as_nodes(ann: Person, serve: Callable[..., Server]) -> None:
    ann.enter(serve("--reserve", "0").address, "Ann")
    cases = {
        "# One\n\ntwo *three* **four** `five`": "<h3>One</h3>"
        "<p dir='auto'>two <em>three</em> <strong>four</strong> <code>five</code></p>",
        "- a\n- b\n  - c": "<ul><li dir='auto'>a</li><li dir='auto'>b<ul><li dir='auto'>c</li></ul></li></ul>",
        "3. x\n4. y": "<ol start='3'><li dir='auto'>x</li><li dir='auto'>y</li></ol>",
        "```py\na < b\n\n  c\n```": "<pre><code>a &lt; b\n\n  c</code></pre>",
        "> a\n> b": "<blockquote><p dir='auto'>a\nb</p></blockquote>",
        "2 * 3 * 4 and snake_case_name": "<p dir='auto'>2 * 3 * 4 and snake_case_name</p>",
        "|a|b|\n|-|-|\n|1|`2`|": "<div class='scroll'><table><thead><tr><th dir='auto'>a</th>"
        "<th dir='auto'>b</th></tr></thead>"
        "<tbody><tr><td dir='auto'>1</td><td dir='auto'><code>2</code></td></tr></tbody></table></div>",
        "a\n\n---\n\nb": "<p dir='auto'>a</p><hr><p dir='auto'>b</p>",
        "[x](https://a.example/b_(c))": "<p dir='auto'><a href='https://a.example/b_(c)' target='_blank' "
        "rel='noopener noreferrer nofollow'>x</a></p>",
        "\\*not\\* ~~gone~~ <b>": "<p dir='auto'>*not* <s>gone</s> &lt;b&gt;</p>",
    }  # fmt: skip
    script = """
    const [text, done] = arguments
    import('/static/markdown.js').then(({markdown}) => {
      const node = document.createElement('div')
      node.append(markdown(text))
      done(node.innerHTML.replaceAll('"', "'"))
    })
    """
    for text, expected in cases.items():
        assert ann.driver.execute_async_script(script, text) == expected
    # Texts made to take long do not.
    for text in (
        "*" * 20000,
        "[" * 20000,
        "`" * 20001,
        "> " * 5000,
        "- " * 5000,
        "a_" * 20000,
        "|-" * 20000,
        "**a" * 9000,
    ):
        began = time.monotonic()
        ann.driver.execute_async_script(script, text)
        assert time.monotonic() - began < 3, text[:10]


def test_hidden_drafts_are_not_even_sent(serve: Callable[..., Server]) -> None:
    assert serve("--hide-drafts", "--reserve", "0").post("next", name="Ann")["item"]["draft"] is None


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_and_everything_is_labelled(
    ann: Person, serve: Callable[..., Server], study: Study, width: int, dark: bool
) -> None:
    (study.path / "guidelines.md").write_text("# Guidelines\n\n" + "word " * 200 + "x" * 300)
    server = serve("--overlap", "2", "--reserve", "0")
    for name in ("Bob", "Cy"):
        server.post("answer", name=name, id="p000", text="x" * 400, seconds=1, revision=0)
    ann.size(width, dark=dark)
    ann.enter(server.address, "Ann")

    def check(where: str) -> None:
        assert ann.js("return document.documentElement.scrollWidth") <= width, where
        nameless = ann.js(
            "return [...document.querySelectorAll('button, input, textarea, [role]')].filter(n => n.offsetParent && "
            "!(n.getAttribute('aria-label') || n.labels?.length || n.textContent.trim() || "
            "n.matches('[aria-live]'))).map(n => n.outerHTML)"
        )
        assert nameless == [], where
        assert ann.js(CONTRAST) == [], where

    check("work")
    for act in ("find", "standing", "help", "skip", "guidelines", "review"):
        ann.js("document.querySelector(`[data-do=${arguments[0]}]`).click()", act)
        time.sleep(0.4)
        check(act)
        ann.keys(ESCAPE)
        ann.until("return document.querySelector('dialog') === null")
    ann.js("document.querySelector('.hit').click()")
    ann.until("return document.querySelectorAll('.side').length === 2")
    check("sides")
    assert ann.complaints() == []


# Text against the nearest opaque background, WCAG 2.2: at least 4.5, 3 for large text; disabled buttons are exempt.
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data]; };
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const bad = [];
const top = document.querySelector('dialog') ?? document.body;
for (const node of top.querySelectorAll('*')) {
  if (node.closest(':disabled, .unseen, kbd, .jump') || !node.offsetParent) continue;
  if (![...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  let under = node;
  while (under && rgb(getComputedStyle(under).backgroundColor)[3] < 255) under = under.parentElement;
  const style = getComputedStyle(node);
  const pair = [rgb(style.color), rgb(getComputedStyle(under ?? document.body).backgroundColor)].map(luminance);
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) bad.push([node.outerHTML.slice(0, 90), ratio]);
}
return bad;
"""
