"""What an annotator's flag and a page's reserve leave in a study."""

from __future__ import annotations

import pyarrow as pa

from thriftune.annotations import put
from thriftune.artifacts import provenance, write_table
from thriftune.reserve import digest, reserve_file
from thriftune.study import Study
from thriftune.types import Annotation


def flag(study: Study, prompt_id: str) -> None:
    with study.annotations.connect() as connection:
        skip = Annotation(prompt_id, "", source="human", status="skipped")
        put(connection, skip, "2026-01-01T00:00:00+00:00", replace=False, flag="unanswerable")


def keep_reserve(study: Study, name: str, ids: list[str]) -> None:
    record = provenance(selection=digest(study.selection(name)[0]))
    write_table(reserve_file(study, name), pa.table({"rank": range(1, len(ids) + 1), "id": ids}), record)
