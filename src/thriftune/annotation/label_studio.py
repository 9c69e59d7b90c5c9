"""`thriftune label-studio`: a selection into a Label Studio project, and the answers back, through its SDK."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from thriftune.annotation.export import rows
from thriftune.annotation.formats import label_studio_task
from thriftune.annotation.ingest import Imported, store
from thriftune.annotation.parse import Answer, Broken, from_json
from thriftune.errors import AnnotationError, require
from thriftune.progress import progress
from thriftune.study import Study

KEY = "LABEL_STUDIO_API_KEY"
_BATCH = 200
_PROMPT = {
    False: '<Text name="prompt" value="$prompt"/>',
    True: '<Paragraphs name="prompt" value="$messages" nameKey="role" textKey="content" layout="dialogue"/>',
}
_CONFIG = """<View>
  <Header value="Prompt"/>
  {prompt}
  <Header value="Write the best response"/>
  <TextArea name="response" toName="prompt" rows="12" maxSubmissions="1" editable="true" required="true"/>
</View>"""


@dataclass(frozen=True)
class Pushed:
    """What `push` did.

    Args:
        project: its number.
        address: where people open it.
        new: tasks made.
        there: prompts that had a task already.
    """

    project: int
    address: str
    new: int
    there: int


def push(
    study: Study,
    url: str,
    project: str,
    *,
    selection: str | None = None,
    draft: bool = True,
    guidelines: str = "",
) -> Pushed:
    """Make a task of each prompt of a selection, in pick order; prompts that have one are passed over.

    Args:
        study: where the selection is.
        url: address of the server.
        project: title or number; a title that is not there is made, with a labelling config for written responses.
        selection: its name; None for the latest.
        draft: give the model's own answer as a prediction.
        guidelines: shown to annotators of a new project.

    Returns:
        What was made.

    Raises:
        AnnotationError: the server refuses or cannot be reached, or the title is ambiguous.
    """
    from thriftune.annotation.export import latest

    found = rows(study, selection or latest(study), draft=draft)
    chats = any(row.turns is not None for row in found)
    with _server(url) as server:
        number = _find(server, project)
        if number is None:
            made = server.projects.create(
                title=project,
                label_config=_CONFIG.format(prompt=_PROMPT[chats]),
                expert_instruction=guidelines,
                show_instruction=bool(guidelines),
            )
            number = made.id
        known = {
            (task.data or {}).get("thriftune_id") for task in server.tasks.list(project=number, fields="task_only")
        }
        tasks = []
        for row in found:
            if row.id not in known:
                task = label_studio_task(row)
                # Answers that the study has are not pushed: they would come back as someone else's.
                task.pop("annotations", None)
                if chats:
                    task["data"]["messages"] = row.chat
                tasks.append(task)
        with progress("pushing", len(tasks), "tasks") as advance:
            for start in range(0, len(tasks), _BATCH):
                batch = tasks[start : start + _BATCH]
                server.projects.import_tasks(number, request=batch, return_task_ids=True)
                advance(len(batch))
    return Pushed(number, f"{url.rstrip('/')}/projects/{number}/data", len(tasks), len(found) - len(tasks))


def pull(study: Study, url: str, project: str) -> Imported:
    """Bring a project's answers back with annotator (e-mail) and lead time; a second pull changes nothing.

    An annotation that its author changed since the last pull takes the place of what was pulled, which is kept as
    history. Answers by other people are left alone.

    Args:
        study: where to.
        url: address of the server.
        project: title or number.

    Returns:
        What was stored; tasks that are not the study's are among ``skipped``.

    Raises:
        AnnotationError: the server refuses or cannot be reached, or there is no such project.
    """
    parsed: list[Answer | Broken] = []
    with _server(url) as server:
        number = _find(server, project)
        if number is None:
            raise AnnotationError(f"{url} has no project {project!r}: thriftune label-studio push makes it")
        people = {user.id: user.email for user in server.users.list() if isinstance(user.email, str)}
        total = server.projects.get(number).task_number or 0
        with progress("pulling", total, "tasks") as advance:
            for task in server.tasks.list(project=number, fields="all"):
                line = task.id if isinstance(task.id, int) else 0
                if not isinstance(task.data, dict):
                    parsed.append(Broken(line, "no thriftune_id among the task's data"))
                    continue
                given = task.annotations
                if isinstance(given, list) and all(isinstance(a, Mapping) for a in given):
                    given = [{**a, "completed_by": _person(people, a.get("completed_by"))} for a in given]
                parsed += from_json(line, {"data": task.data, "annotations": given})
                advance(1)
    with study.lock("import"):
        return store(study, parsed, f"{url} project {number}", "", "human", replace=True, skip_bad=True)


def _person(people: Mapping[Any, str], who: Any) -> Any:
    return people.get(who, who) if isinstance(who, int) else who


@contextlib.contextmanager
def _server(url: str) -> Iterator[Any]:
    sdk = require("label_studio_sdk", command="thriftune label-studio", install="'thriftune[label-studio]'")
    import httpx

    key = os.environ.get(KEY, "").strip()
    if not key:
        raise AnnotationError(f"{KEY} is not set: put your access token (Label Studio, Account & Settings) into it")
    if not (key.isascii() and key.isprintable()):
        raise AnnotationError(f"the token in {KEY} has characters that no token has: set it again")
    if "@" in urlsplit(url).netloc:
        raise AnnotationError("the address holds a user or a password, which would be printed: give it without")
    try:
        yield sdk.LabelStudio(base_url=url, api_key=key)
    except sdk.core.api_error.ApiError as error:
        if error.status_code in (401, 403):
            raise AnnotationError(f"{url} refuses the token in {KEY} (status {error.status_code})") from None
        raise AnnotationError(f"{url} answers with status {error.status_code}: {_detail(error.body, key)}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AnnotationError(
            f"{url} cannot be reached ({str(error).replace(key, '[token]')}): is Label Studio running there?"
        ) from None


def _detail(body: Any, key: str) -> str:
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    return " ".join(str(body).replace(key, "[token]").split())[:300]


def _find(server: Any, project: str) -> int | None:
    if project.isdigit():
        return int(project)
    found = [p.id for p in server.projects.list(title=project) if p.title == project]
    if len(found) > 1:
        raise AnnotationError(f"{len(found)} projects are called {project!r}: give the number of one, {found}")
    return found[0] if found else None
