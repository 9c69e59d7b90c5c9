"""`thriftune judge`: a model server compares two models' answers to the same prompts, each pair in both orders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np

from thriftune.artifacts import provenance, read_table
from thriftune.config import JudgeConfig
from thriftune.endpoint import Agree, Endpoint, Reply, Request, Say
from thriftune.errors import EndpointError, EvaluationError
from thriftune.evaluation.judge_prompt import judge_messages, read_verdict, template_digest
from thriftune.evaluation.judgements import Judgement, JudgementFile
from thriftune.evaluation.pairwise import Comparison, Item, compare, describe
from thriftune.study import Study
from thriftune.types import Prompt


@dataclass(frozen=True)
class _Pair:
    """A prompt, both answers, and the keys of the two judgements on them."""

    prompt: Prompt
    a: str
    b: str
    reference: str | None
    forward: str
    backward: str


def judge(
    study: Study, a: str, b: str, config: JudgeConfig, *, agree: Agree = lambda _: True, say: Say = print
) -> Comparison:
    """Compare the answers of two evaluations; every judgement is kept, a rerun asks only what is missing.

    Args:
        study: where the evaluations are.
        a: name of one.
        b: name of the other; the win rate is a's.
        config: which judge, which prompts, what it may cost.
        agree: is shown the cost in advance and may say no.
        say: receives the lines meant for people.

    Returns:
        The comparison, which is also in the record of ``evaluations/A-vs-B.judgements.parquet``.

    Raises:
        EvaluationError: an evaluation or its answers are not there, or they share no prompt.
        EndpointError: the server cannot be used, or some judgements are missing; what came is kept.
    """
    endpoint = Endpoint(config)
    if a == b:
        raise EvaluationError(f"{a!r} cannot be compared with itself: name two evaluations")
    pairs = _pairs(study, a, b, config, say)
    name = config.name or "-vs-".join(sorted((a, b)))
    place = study.evaluation_file(name)
    with study.lock(f"judge-{name}"):
        file = JudgementFile(place.with_name(f"{name}.judgements.parquet"))
        kept = {key: j for key, j in file.read().items() if not _again(j, config)}
        requests, meant = _requests(pairs, kept, a, b)
        different = sum(p.a != p.b for p in pairs)
        judged = 2 * different - len(requests)
        say(
            f"{len(pairs):,} prompts, {different:,} with different answers; "
            f"{len(requests):,} judgements to make, {judged:,} there"
        )
        unasked, failed = 0, dict[str, str]()
        if requests:
            estimate = endpoint.estimate(requests)
            say(str(estimate))
            if not agree(estimate):
                raise EndpointError("nothing was sent")

            def keep(reply: Reply) -> None:
                if reply.completion is None:
                    failed[meant[reply.key][0]] = reply.error
                else:
                    kept[reply.key] = _judgement(reply, *meant[reply.key], config)
                    file.add(kept[reply.key])

            unasked = endpoint.ask(requests, keep, description=f"{config.model} judges", say=say)
        verdicts = {key: judgement.verdict for key, judgement in kept.items()}
        items = [Item(verdicts.get(p.forward), verdicts.get(p.backward), len(p.a), len(p.b), p.a == p.b) for p in pairs]
        result = compare(a, b, config.model, items)
        settings = config.model_dump(exclude={"api_key_env", "endpoint"})
        if requests or file.unfinished.exists():
            origin = provenance(stage="judge", endpoint=endpoint.url, config=settings, template=template_digest())
            file.finish({**origin, "result": asdict(result)})
    for line in [*describe(result), *(endpoint.summary() if requests else [])]:
        say(line)
    if unasked:
        raise EndpointError(
            f"{unasked} of {len(requests)} judgements were not asked for: {endpoint.spending.limit()} is used up; "
            "the same command with a new limit asks for them"
        )
    if failed:
        id_, reason = next(iter(failed.items()))
        raise EndpointError(
            f"{len(failed)} prompts have judgements that failed, the first {id_!r}: {reason}; "
            "the same command asks for them again"
        )
    return result


def _pairs(study: Study, a: str, b: str, config: JudgeConfig, say: Say) -> list[_Pair]:
    answers = {name: _answers(study, name, say) for name in (a, b)}
    shared = sorted(answers[a].keys() & answers[b].keys())
    if not shared:
        raise EvaluationError(f"{a!r} and {b!r} have no prompt in common: evaluate both models on the same prompts")
    apart = len(answers[a]) + len(answers[b]) - 2 * len(shared)
    if apart:
        say(f"note: {apart} prompts were answered by one of the two only and are left out")
    if config.limit is not None and config.limit < len(shared):
        # The head of one permutation: a larger limit contains a smaller one's prompts and their judgements.
        order = np.random.default_rng(config.seed).permutation(len(shared))[: config.limit]
        shared = [shared[i] for i in sorted(order)]
    references = {} if config.reference is None else study.responses(config.reference)
    if config.reference is not None:
        without = sum(i not in references for i in shared)
        if without == len(shared):
            raise EvaluationError(f"no {config.reference} answer is there for any of the {len(shared)} prompts")
        if without:
            say(
                f"note: {without} of {len(shared)} prompts have no {config.reference} answer and are judged without one"
            )
    pairs = []
    for prompt in study.prompts(shared):
        first, second, reference = answers[a][prompt.id], answers[b][prompt.id], references.get(prompt.id)
        keys = (_key(config, prompt, x, y, reference) for x, y in ((first, second), (second, first)))
        pairs.append(_Pair(prompt, first, second, reference, *keys))
    return pairs


def _answers(study: Study, name: str, say: Say) -> dict[str, str]:
    place = study.evaluation_file(name)
    file = place.with_name(f"{name}.answers.parquet")
    if not file.exists():
        if place.exists():
            raise EvaluationError(f"evaluation {name!r} has no answers: evaluate that model again and let it generate")
        found = sorted(p.name.removesuffix(".answers.parquet") for p in place.parent.glob("[!.]*.answers.parquet"))
        raise EvaluationError(
            f"no evaluation {name!r} with answers in {study.path} (there: {', '.join(found) or 'none'})"
        )
    table = read_table(file, types={"id": "string", "answer": "string", "hit_limit": "bool?"})
    absent = [c for c in ("id", "answer") if c not in table.column_names]
    if absent:
        raise EvaluationError(f"{file} is damaged (no column {absent[0]!r}): evaluate that model again with --replace")
    if "hit_limit" in table.column_names:
        cut = sum(bool(v) for v in table["hit_limit"].to_pylist())
        if cut:
            say(f"note: {cut} of {table.num_rows} answers of {name} were cut by their token limit")
    return dict(zip(table["id"].to_pylist(), table["answer"].to_pylist(), strict=True))


def _key(config: JudgeConfig, prompt: Prompt, first: str, second: str, reference: str | None) -> str:
    turns = [[t["role"], t["content"]] for t in prompt.turns]
    parts = [config.model, template_digest(), config.temperature, turns, first, second, reference]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _again(judgement: Judgement, config: JudgeConfig) -> bool:
    """A judge that was stopped before its verdict may be asked again with more room."""
    return judgement.verdict == "none" and judgement.finish == "length" and judgement.max_tokens < config.max_tokens


def _requests(
    pairs: Sequence[_Pair], kept: dict[str, Judgement], a: str, b: str
) -> tuple[list[Request], dict[str, tuple[str, str, str]]]:
    """What is to be asked, and by key the prompt and who stands first and second."""
    requests: list[Request] = []
    meant: dict[str, tuple[str, str, str]] = {}
    for p in pairs:
        if p.a == p.b:
            continue
        for key, first, second, names in ((p.forward, p.a, p.b, (a, b)), (p.backward, p.b, p.a, (b, a))):
            if key not in kept and key not in meant:  # equal prompts with equal answers are judged once
                meant[key] = (p.prompt.id, *names)
                requests.append(Request(key, judge_messages(p.prompt.text, first, second, p.reference)))
    return requests, meant


def _judgement(reply: Reply, id_: str, first: str, second: str, config: JudgeConfig) -> Judgement:
    completion = reply.completion
    assert completion is not None
    tokens = completion.tokens
    return Judgement(
        key=reply.key,
        id=id_,
        judge=config.model,
        template=template_digest(),
        first=first,
        second=second,
        verdict=read_verdict(completion.text, cut=completion.cut),
        text=completion.text,
        finish=completion.finish,
        max_tokens=config.max_tokens,
        prompt_tokens=None if tokens is None else tokens.prompt,
        completion_tokens=None if tokens is None else tokens.completion,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
