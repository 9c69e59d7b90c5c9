"""What a disk may hold after the power fails, made from a trace of what a program wrote and flushed.

``strace`` records every call of a process and its children that changes files below a directory, and what goes over
sockets. `Disk` plays them back. At any moment, POSIX promises only what was flushed: a file's bytes as of its last
fsync, and a name (created, renamed, removed) as of the last fsync of its directory. Of what came later any part may be
there: `Disk.after_failure` lays out one possibility, from nothing of it to all, bytes torn at sectors of 512.

Not simulated: disks that lie about flushing, and bytes that rot after they were flushed. Writes through memory maps are
not in the trace; SQLite's -shm, the only file of ours written so while a program runs, is rebuilt after a crash.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    *("openat", "open", "creat", "lseek", "write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate"),
    *("copy_file_range", "sendfile", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("rmdir", "mkdir", "mkdirat", "link", "linkat", "recvfrom", "recvmsg", "sendto", "sendmsg"),
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<((?:[^<>\\]|\\.)*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_SECTOR = 512


def attach(process: int, output: Path) -> subprocess.Popen[str]:
    """Trace a running process and its threads until it ends."""
    options = ["-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={','.join(_CALLS)}", "-e", "signal=none"]
    command = ["strace", *options, "-o", str(output), "-p", str(process)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        raise OSError(said)
    return tracer


def can_trace(output: Path) -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            tracer = attach(sleeper.pid, output)
        except OSError:
            return False
        finally:
            sleeper.kill()
        tracer.communicate()
    return True


@dataclass(frozen=True)
class Call:
    """One call of the system, in the order in which they ended; what was sent is where its sending began.

    Args:
        name: of the call.
        arguments: as strace writes them.
        result: what it returned.
    """

    name: str
    arguments: str
    result: int

    def data(self) -> bytes:
        """What was written or read."""
        return b"".join(self.strings())[: self.result or None]

    @property
    def descriptor(self) -> tuple[str, str]:
        """Number and path of the first argument."""
        found = _DESCRIPTOR.match(self.arguments)
        return (found[1], _text(found[2])) if found else ("", "")

    def strings(self) -> list[bytes]:
        return [bytes.fromhex(s.replace("\\x", "")) for s in _STRING.findall(self.arguments)]

    def paths(self) -> list[str]:
        """The paths among the arguments, made absolute by the directories they are relative to."""
        found = []
        base = ""
        for piece in re.finditer(rf"{_DESCRIPTOR.pattern}|{_STRING.pattern}", self.arguments):
            if piece[2] is not None:
                base = _text(piece[2])
            else:
                name = bytes.fromhex(piece[3].replace("\\x", "")).decode(errors="surrogateescape")
                found.append(name if name.startswith("/") else f"{base}/{name}")
        return found


def _text(path: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), path)


def calls(trace: Path) -> Iterator[Call]:
    """The calls that succeeded."""
    begun: dict[str, str] = {}
    for line in trace.open(encoding="utf-8", errors="surrogateescape"):
        text = line.rstrip("\n")
        if found := _BEGUN.match(text):
            if found[2] in ("sendto", "sendmsg"):  # what it tells may be known from now on
                yield Call(found[2], found[3], 0)
            begun[found[1]] = found[3]
        elif found := _RESUMED.match(text):
            if found[2] not in ("sendto", "sendmsg") and int(found[4]) >= 0:
                yield Call(found[2], begun.pop(found[1], "") + found[3], int(found[4]))
        elif (found := _LINE.match(text)) and int(found[4]) >= 0:
            yield Call(found[2], found[3], int(found[4]))


@dataclass(eq=False)
class _File:
    """Bytes as programs see them, as they were flushed, and the writes since; a number is a new length."""

    seen: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    since: list[tuple[int, bytes] | int] = field(default_factory=list)

    def write(self, at: int, data: bytes) -> None:
        _change(self.seen, (at, data))
        self.since.append((at, data))

    def truncate(self, length: int) -> None:
        _change(self.seen, length)
        self.since.append(length)

    def flush(self) -> None:
        self.kept, self.since = bytes(self.seen), []


def _change(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del data[change:]
        data.extend(bytes(change - len(data)))
    else:
        at, new = change
        data.extend(bytes(max(at - len(data), 0)))
        data[at : at + len(new)] = new


@dataclass(eq=False)
class _Directory:
    """Names as programs see them, as they were flushed, and the changes since."""

    seen: dict[str, _File | _Directory] = field(default_factory=dict)
    kept: dict[str, _File | _Directory] = field(default_factory=dict)
    since: list[_Names] = field(default_factory=list)


_Names = list[tuple[_Directory, str, "_File | _Directory | None"]]  # what happens together: None for a name that goes


class Disk:
    """The files below a directory, as a trace changes them.

    Args:
        root: the directory; what lies in it now counts as flushed.
        mapped: by the end of a file's name what it holds when it is flushed, for files that are written through maps.
    """

    def __init__(self, root: Path, mapped: Mapping[str, bytes] | None = None) -> None:
        self.root, self.mapped = str(root), mapped or {}
        self.top = _read(root)
        self._places: dict[str, int] = {}  # where the next write goes, by descriptor; -1 for the end

    def play(self, call: Call) -> bool:
        """Let a call change the disk; False if it has nothing to do with it."""
        name = call.name
        if name in ("openat", "open", "creat"):
            return self._open(call)
        if name in ("mkdir", "mkdirat"):
            return self._names((call.paths()[0], _Directory()))
        if name in ("unlink", "unlinkat", "rmdir"):
            return self._names((call.paths()[0], None))
        if name.startswith("rename"):
            old, new = call.paths()
            node = self._find(old)
            return node is not None and self._names((old, None), (new, node))
        number, path = call.descriptor
        node = self._find(path)
        if node is None:
            return False  # elsewhere, or removed and seen by nobody but who holds it open
        if name in ("fsync", "fdatasync"):
            for end, data in self.mapped.items():
                if path.endswith(end) and isinstance(node, _File):
                    node.seen[:] = data
            _flush(node)
        elif isinstance(node, _Directory) or name == "fallocate":
            return False
        elif name == "lseek":
            self._places[number] = call.result
            return False
        elif name == "ftruncate":
            node.truncate(int(call.arguments.rpartition(",")[2]))
        elif name == "pwrite64":
            node.write(int(call.arguments.rpartition(",")[2]), call.data())
        elif name in ("write", "writev"):
            data = call.data()
            at = self._places.get(number, 0)
            node.write(len(node.seen) if at < 0 else at, data)
            if at >= 0:
                self._places[number] = at + len(data)
        else:
            raise NotImplementedError(f"{name} on {path}")
        return True

    def differences(self) -> list[str]:
        """Where the trace led elsewhere than the program did: something wrote that it does not show."""
        return _compare(self.top, Path(self.root))

    def _find(self, path: str) -> _File | _Directory | None:
        if path == self.root:
            return self.top
        above, _, name = path.rpartition("/")
        directory = self._find(above) if above.startswith(self.root) else None
        return directory.seen.get(name) if isinstance(directory, _Directory) else None

    def _open(self, call: Call) -> bool:
        path, flags = call.paths()[0], call.arguments
        self._places[str(call.result)] = -1 if "O_APPEND" in flags else 0
        node = self._find(path)
        if node is None:
            return "O_CREAT" in flags and self._names((path, _File()))
        if "O_TRUNC" in flags and isinstance(node, _File) and node.seen:
            node.truncate(0)
            return True
        return False

    def _names(self, *changes: tuple[str, _File | _Directory | None]) -> bool:
        together: _Names = []
        for path, node in changes:
            above, _, name = path.rpartition("/")
            directory = self._find(above)
            if isinstance(directory, _Directory):
                together.append((directory, name, node))
        for directory, name, node in together:
            _name(directory.seen, name, node)
            directory.since.append(together)
        return bool(together)

    def after_failure(self, place: Path, rng: random.Random | None) -> None:
        """Lay out what may be on the disk if the power fails now.

        Args:
            place: an empty directory.
            rng: decides what of the unflushed is there; None for nothing of it.
        """
        share = 0.0 if rng is None else rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        names: dict[int, dict[str, _File | _Directory]] = {}
        directories = list(_directories(self.top))
        for directory in directories:
            names[id(directory)] = dict(directory.kept)
        for directory in directories if rng is not None else ():
            # A directory's changes reach the disk in their order.
            count = rng.choice((0, len(directory.since), rng.randint(0, len(directory.since))))
            for together in directory.since[:count]:
                for where, name, node in together:
                    _name(names.setdefault(id(where), dict(where.kept)), name, node)
        _lay(self.top, place, names, rng, share)


def _read(path: Path) -> _Directory:
    found: dict[str, _File | _Directory] = {}
    for entry in path.iterdir():
        data = b"" if entry.is_dir() else entry.read_bytes()
        found[entry.name] = _read(entry) if entry.is_dir() else _File(bytearray(data), data)
    return _Directory(found, dict(found))


def _compare(directory: _Directory, path: Path) -> list[str]:
    wrong = []
    real = {entry.name: entry for entry in path.iterdir()}
    for name in real.keys() | directory.seen.keys():
        node = directory.seen.get(name)
        if isinstance(node, _Directory) and name in real:
            wrong += _compare(node, real[name])
        elif not (isinstance(node, _File) and name in real and node.seen == real[name].read_bytes()):
            wrong.append(str(path / name))
    return wrong


def _name(names: dict[str, _File | _Directory], name: str, node: _File | _Directory | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _flush(node: _File | _Directory) -> None:
    if isinstance(node, _File):
        node.flush()
        return
    for together in node.since:
        for directory, name, named in together:
            _name(directory.kept, name, named)
        for directory, _, _ in together:
            if directory is not node and together in directory.since:
                directory.since.remove(together)
    node.since = []


def _directories(top: _Directory) -> Iterator[_Directory]:
    """All there are or were, flushed or not."""
    yield top
    ever = [*top.seen.values(), *top.kept.values(), *(n for t in top.since for _, _, n in t)]
    for node in {id(n): n for n in ever}.values():
        if isinstance(node, _Directory):
            yield from _directories(node)


def _lay(
    directory: _Directory,
    place: Path,
    names: dict[int, dict[str, _File | _Directory]],
    rng: random.Random | None,
    share: float,
) -> None:
    for name, node in sorted(names.get(id(directory), directory.kept).items()):
        if isinstance(node, _Directory):
            (place / name).mkdir()
            _lay(node, place / name, names, rng, share)
        else:
            (place / name).write_bytes(_surviving(node, rng, share))


def _surviving(file: _File, rng: random.Random | None, share: float) -> bytes:
    data = bytearray(file.kept)
    for change in file.since if rng is not None else ():
        if rng.random() >= share:
            continue
        if not isinstance(change, int) and len(change[1]) > _SECTOR and rng.random() < 0.2:
            at, new = change  # torn: some of its sectors
            for start in range(0, len(new), _SECTOR):
                if rng.random() < 0.5:
                    _change(data, (at + start, new[start : start + _SECTOR]))
        else:
            _change(data, change)
    return bytes(data)
