"""Attacks through a real browser: other sites, names that point here, hostile text wherever people see it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_browser import BROWSER, DRIVER, Person
from web_server import Server, make_study

from thriftune.artifacts import provenance, write_table

pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver")

TOKEN = "a-token-of-the-attacks"
RUN = "window.owned = 1"
HOSTILE = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror='{RUN}'>",
    f"'\"><svg/onload={RUN}>",
    f"</title></textarea></script><script>{RUN}</script>",
    f"[a](javascript:{RUN}) [b](  jaVa\tscript:{RUN}) [c](data:text/html,<script>{RUN}</script>) <javascript:{RUN}>",
    f"![x](http://127.0.0.1:9/leak.png) ![y]('onerror={RUN})",
    f"[x]: javascript:{RUN}\n\n[x] [x][x]",
    f"`<img src=x onerror={RUN}>` **<b onmouseover={RUN}>b</b>**",
    f'```"><img src=x onerror={RUN}>\n```\n| <td onclick={RUN}> |\n|---|\n| {{{{7*7}}}} ${{7*7}} |',
    f"<base href=//evil.example/><meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    f"<iframe srcdoc='<script>parent.owned=1</script>'></iframe><object data=javascript:{RUN}>",
    "\u202e\u2066gnp.exe\u2069 \ufeff\u200b\x0b\x1b[31m",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<a href='&#106;avascript:{RUN}'>x</a> &lt;script&gt;{RUN}&lt;/script&gt;",
)


class Evil(BaseHTTPRequestHandler):
    """Another site, which has the browser try what it can."""

    target = ""
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers}")
        body = _EVIL.replace("TARGET", self.target).encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_EVIL = """<!doctype html><title>evil</title><iframe id=frame src="TARGET/"></iframe>
<form id=form method=post enctype=text/plain target=frame2 action="TARGET/api/answer">
<input name='{"name":"mallory","id":"p000","text":"' value='owned","seconds":1,"revision":0}'></form><iframe name=frame2></iframe>
<script>
window.results = {}
const body = JSON.stringify({name: 'mallory', id: 'p000', text: 'owned', seconds: 1, revision: 0})
const attempts = {
  plain: () => fetch('TARGET/api/answer', {method: 'POST', body, credentials: 'include', mode: 'no-cors'}),
  json: () => fetch('TARGET/api/answer', {method: 'POST', body, credentials: 'include', headers: {'content-type': 'application/json'}}),
  read: () => fetch('TARGET/api/study', {credentials: 'include'}),
  opaque: () => fetch('TARGET/api/study', {credentials: 'include', mode: 'no-cors'}),
  beacon: async () => navigator.sendBeacon('TARGET/api/answer', new Blob([body], {type: 'text/plain'})),
  beaconJson: async () => navigator.sendBeacon('TARGET/api/answer', new Blob([body], {type: 'application/json'})),
  script: () => new Promise((ok, no) => { const s = document.createElement('script'); s.src = 'TARGET/static/main.js'; s.type = 'module'; s.onload = ok; s.onerror = no; document.head.append(s) }),
  image: () => new Promise((ok, no) => { const i = new Image(); i.src = 'TARGET/static/icon.svg'; i.onload = ok; i.onerror = no }),
}
;(async () => {
  for (const [name, attempt] of Object.entries(attempts)) {
    try { const r = await attempt(); window.results[name] = r && r.text ? (r.type + ' ' + r.status + ' ' + await r.text().catch(() => '')) : String(r?.type ?? r) }
    catch (error) { window.results[name] = 'blocked' }
  }
  document.getElementById('form').submit()
  window.done = true
})()
</script>"""  # noqa: E501


@pytest.fixture(scope="module")
def evil() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    # The attacker's names lead to this machine, as they do after DNS rebinding.
    person = Person(tmp_path_factory.mktemp("profile"), "--host-resolver-rules=MAP *.example 127.0.0.1")
    yield person
    person.quit()


@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "token"])
def test_another_site_reads_and_changes_nothing(
    person: Person, evil: ThreadingHTTPServer, tmp_path: Path, token: str | None
) -> None:
    study = make_study(tmp_path / "study", ["The secret question?", "Two?"], 2)
    server = Server(study.path, "--port", "0", "--reserve", "0", *(["--token", token] if token else []))
    try:
        person.enter(server.address, "Ann")  # logged in, her cookie set
        person.at(1)
        Evil.target = server.root
        for site in (f"http://evil.example:{evil.server_port}", f"http://127.0.0.1:{evil.server_port}"):
            person.driver.get(site)
            person.until("return window.done === true", seconds=30)
            time.sleep(0.5)
            results = person.js("return window.results")
            assert "secret" not in json.dumps(results) and "selection" not in json.dumps(results), results
            assert results["json"] == "blocked" and results["read"] == "blocked", results
            assert results["script"] == "blocked" and results["image"] == "blocked", results
            # Framed, it shows nothing, and says nothing to the page around it.
            assert person.js("try { return frame.contentDocument?.body?.innerText ?? '' } catch { return '' }") == ""
        # The attacker's own name for this server, as if it had been rebound.
        port = server.root.rsplit(":", 1)[1]
        person.driver.get(f"http://rebound.example:{port}/" + (f"?token={token}" if token else ""))
        assert "does not go by the name" in person.text("body")
        read = "const r = await fetch('/api/study'); return [r.status, await r.text()]"
        status, text = person.driver.execute_script(f"return (async () => {{ {read} }})()")
        assert status == 421 and "selection" not in text
    finally:
        server.stop()
    assert study.annotations.in_force() == []
    # Cookies know hosts and not ports: what else runs under the server's own name gets them, another name does not.
    assert token is None or not any(token in asked for asked in Evil.asked if "Host: evil.example" in asked)


def test_the_token_leaves_neither_in_history_nor_in_referrers(
    person: Person, evil: ThreadingHTTPServer, tmp_path: Path
) -> None:
    study = make_study(tmp_path / "study", [f"See http://127.0.0.1:{evil.server_port}/followed", "Two?"], 2)
    server = Server(study.path, "--port", "0", "--reserve", "0", "--token", TOKEN)
    try:
        person.driver.get("about:blank")
        person.enter(server.address, "Ann")
        person.at(1)
        assert TOKEN not in person.js("return location.href + document.referrer + document.cookie + document.title")
        assert TOKEN not in person.js("return JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
        entries = person.driver.execute_cdp_cmd("Page.getNavigationHistory", {})["entries"]
        assert not any(TOKEN in entry["url"] for entry in entries if entry["url"].startswith(server.root)), entries
        Evil.asked.clear()
        person.js(f"location.href = 'http://127.0.0.1:{evil.server_port}/followed'")
        person.wait(lambda: any("/followed" in a for a in Evil.asked), "the link was followed")
        # Chromium may have asked that site for its icon by now, naming the site itself as the referrer.
        told = next(a for a in Evil.asked if a.startswith("/followed"))
        assert "token=" not in told and "referer" not in told.lower(), told
    finally:
        server.stop()


def test_hostile_text_is_text_wherever_it_stands(person: Person, tmp_path: Path) -> None:
    folder = tmp_path / f"study <img src=x onerror={RUN.replace(' ', '')}>"
    turns = [{"role": f"<b onclick={RUN}>", "content": HOSTILE[1]}, {"role": "user", "content": HOSTILE[8]}]
    study = make_study(folder, HOSTILE, len(HOSTILE), HOSTILE[::-1], messages={0: turns})
    (study.path / "guidelines.md").write_text("\n\n".join(HOSTILE))
    server = Server(study.path, "--port", "0", "--overlap", "3", "--reserve", "0")
    names = ["<img src=x onerror=owned=1>", "'\"><svg/onload=owned=1>", "\u202eevil"]
    escape = "\ue00c"
    try:
        for name in names:
            for i, text in enumerate(HOSTILE):
                server.post("answer", name=name, id=f"p{i:03d}", text=text, seconds=1, revision=0)
        server.post("skip", name="<b>Cy</b>", id="p001", seconds=1, reason=HOSTILE[0], flag="duplicate")
        person.driver.get("about:blank")
        person.enter(server.address, "Ann<script>owned=1</script>")
        assert person.js("return document.querySelector('datalist option, [id=names] *') !== undefined")
        person.keys(escape, "g", "m")
        for i in range(len(HOSTILE)):
            person.js("location.hash = `#/prompt/${arguments[0]}`", f"p{i:03d}")
            person.at(i + 1)
            person.js("[...document.querySelectorAll('.tabs button')].at(0).click()")
            person.js(
                "const a = document.getElementById('text'); a.value = arguments[0];a.dispatchEvent(new Event('input'))",
                HOSTILE[i],
            )
            person.js("[...document.querySelectorAll('.tabs button')].at(-1).click()")
        for keys, shown in ((("o",), "dialog .people"), (("r",), ".hit"), (("/", "owned"), "dialog .hit")):
            person.keys(escape, *keys)
            person.until("return document.querySelector(arguments[0]) !== null", shown)
            person.keys(escape)
        person.keys(escape, "r")
        person.until("return document.querySelector('.hit') !== null")
        person.js("document.querySelector('.hit').click()")
        person.until("return document.querySelector('.side') !== null")
        time.sleep(0.3)
        assert person.js("return window.owned") is None
        foreign = person.js(
            "return [...document.querySelectorAll('script, iframe, object, embed, base, img, svg, style, form, meta')]"
            ".filter(n => !n.closest('head') && !n.src?.startsWith(location.origin)).map(n => n.outerHTML)"
        )
        assert foreign == []
        links = person.js("return [...document.querySelectorAll('a')].map(n => n.protocol)")
        assert set(links) <= {"http:", "https:", "mailto:"}
        inline = "return [...document.querySelectorAll('*')].flatMap(n => [...n.attributes]).map(a => a.name)"
        assert not [name for name in person.js(inline) if name.startswith("on")]
        assert person.complaints() == []
        asked = [
            json.loads(entry["message"])["message"]["params"]["request"]["url"]
            for entry in person.driver.get_log("performance")
            if '"Network.requestWillBeSent"' in entry["message"]
        ]
        assert all(url.startswith((server.root, "data:", "about:", "chrome")) for url in asked), asked
    finally:
        server.stop()


def test_the_report_shows_hostile_text_as_text(person: Person, tmp_path: Path) -> None:
    from thriftune.report.page import write_report
    from thriftune.types import Annotation

    study = make_study(tmp_path / "<img src=x onerror=owned=1>", HOSTILE, len(HOSTILE), HOSTILE)
    study.annotations.add(
        Annotation(f"p{i:03d}", text, annotator=f"</script><script>{RUN}</script>") for i, text in enumerate(HOSTILE)
    )
    file = study.score_directory("default") / "scores.parquet"
    scores = pq.read_table(file)
    ends = pa.array([[len(text)] for text in HOSTILE], pa.list_(pa.int32()))
    one = pa.array([[0.5]] * len(HOSTILE), pa.list_(pa.float32()))
    for name, values in (("token_ids", ends), ("token_ends", ends), ("token_entropies", one), ("token_margins", one)):
        scores = scores.append_column(name, values)
    write_table(file, scores, provenance(model=HOSTILE[0]))
    write_report(study)
    person.driver.get("about:blank")
    person.driver.get_log("browser")
    person.driver.get((study.path / "report.html").as_uri())
    time.sleep(0.5)
    assert person.js("return window.owned") is None
    assert (
        person.js("return document.querySelectorAll('iframe, object, embed, base, img[onerror], [onload]').length") == 0
    )
    assert "script" in person.text("body").lower()  # it is there to be read
    assert not [m for m in person.complaints() if "SyntaxError" in m or "Uncaught" in m]
