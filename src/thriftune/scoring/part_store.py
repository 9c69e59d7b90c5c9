"""Parts that machines of a cluster leave where an fsspec URL points: a bucket, a server, a shared directory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.artifacts import atomic_path, make_directory, with_record
from thriftune.errors import ScoreError, require

if TYPE_CHECKING:
    import pyarrow as pa


class PartStore:
    """The parts of one run below a URL.

    Args:
        url: as fsspec takes it, ``s3://bucket/folder`` or ``file:///folder``; credentials come from the environment.
        plan: digest of the run's plan, which names its folder: several runs may share a URL.
    """

    def __init__(self, url: str, plan: str) -> None:
        self.url = f"{url.rstrip('/')}/{plan[:16]}"

    def put(self, part: int, table: pa.Table, record: Mapping[str, Any]) -> None:
        """Write a part; one that is there is replaced.

        Raises:
            ScoreError: the URL cannot be written.
        """
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(with_record(table, record), buffer, compression="zstd", write_page_checksum=True)
        with _Telling(self.url, "written"):
            files, folder = self._open()
            files.makedirs(folder, exist_ok=True)
            # Half a file, where a machine dies on it, is found out by its checksums and made again.
            files.pipe_file(f"{folder}/{part:06d}.parquet", buffer.getvalue())

    def fetch(self, directory: Path) -> None:
        """Copy the parts that ``directory`` has not yet.

        Raises:
            ScoreError: the URL cannot be read.
        """
        make_directory(directory)
        with _Telling(self.url, "read"):
            files, folder = self._open()
            there = files.ls(folder, detail=False) if files.exists(folder) else []
            for path in there:
                mine = directory / Path(path).name
                if mine.suffix == ".parquet" and not mine.exists():
                    with atomic_path(mine) as temporary:
                        files.get_file(path, str(temporary))

    def remove(self) -> None:
        """Remove the parts.

        Raises:
            ScoreError: the URL cannot be written.
        """
        with _Telling(self.url, "written"):
            files, folder = self._open()
            if files.exists(folder):
                files.rm(folder, recursive=True)

    def _open(self) -> tuple[Any, str]:
        fsspec = require("fsspec", command="--parts-url", install="fsspec")
        files, folder = fsspec.core.url_to_fs(self.url)
        files.invalidate_cache()
        return files, folder


class _Telling:
    """Whatever a file system raises becomes one sentence."""

    def __init__(self, url: str, what: str) -> None:
        self.url, self.what = url, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        # Each kind of URL has its own library with its own errors.
        if isinstance(error, Exception) and not isinstance(error, ScoreError):
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise ScoreError(
                f"--parts-url {self.url} cannot be {self.what} ({why}): see that it exists, that its fsspec package is "
                "installed and that its credentials are in the environment of every machine"
            ) from None
