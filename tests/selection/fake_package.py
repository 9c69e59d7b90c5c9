"""What pip leaves behind when it installs a package with strategies."""

from __future__ import annotations

from pathlib import Path

from thriftune.selection import registry


def install(directory: Path, package: str, entry_points: str, module: str | None = None, code: str = "") -> None:
    """What pip would leave in ``directory``: metadata with entry points, and a module."""
    info = directory / f"{package}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\n{entry_points}\n")
    if module is not None:
        (directory / f"{module}.py").write_text(code)
