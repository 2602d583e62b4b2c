"""`mbrl doctor`: what this machine has, what is missing, and the command that mends it."""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

from mbrl.experiments.provenance import DISTRIBUTION, git_commit

IMPORTS = ("mbrl", "planners")
"""The names that this library is imported by."""


class Problem(NamedTuple):
    """Something that does not work here."""

    what: str
    mend: str
    """The command that mends it."""


@dataclass(frozen=True)
class Report:
    """What `diagnose` found; `str(report)` is what the command prints."""

    facts: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts]
        if self.ok:
            return "\n".join([*lines, "", "All is well."])
        found = [f"- {problem.what}\n    {problem.mend}" for problem in self.problems]
        return "\n".join([*lines, "", f"Found {len(found)} to mend:", *found])


def diagnose() -> Report:
    """Look at versions, devices, threads, rendering, optional extras and the owner of the import name.

    Changes nothing; rendering is tried in other processes, which takes a second or two.
    """
    facts: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for examine in (_ours, _libraries, _devices, _threads, _rendering):
        for finding in examine():
            if isinstance(finding, Problem):
                problems.append(finding)
            else:
                facts.append(finding)
    return Report(tuple(facts), tuple(problems))


Finding = tuple[str, str] | Problem


def _ours() -> Iterator[Finding]:
    commit = git_commit()
    yield DISTRIBUTION, f"{_version(DISTRIBUTION) or 'not installed'}" + (f" at commit {commit}" if commit else "")
    yield "python", f"{sys.version.split()[0]} ({sys.executable})"
    owners = metadata.packages_distributions()
    for name in IMPORTS:
        for other in sorted({owner for owner in owners.get(name, []) if _canonical(owner) != DISTRIBUTION}):
            yield Problem(
                f"the package {other!r} also installs the import name {name!r}; the two overwrite each other's files "
                f"and can't share an environment",
                f"pip uninstall {other} && pip install --force-reinstall --no-deps .",
            )


def _libraries() -> Iterator[Finding]:
    """Every requirement of the distribution, as its metadata lists them: nothing to keep in step by hand."""
    missing_extras: dict[str, list[str]] = {}
    extras: dict[str, list[str]] = {}
    for requirement in _requirements():
        installed = _version(requirement.name)
        if requirement.extra is not None:
            (extras if requirement.met_by(installed) else missing_extras).setdefault(requirement.extra, []).append(
                requirement.name
            )
            continue
        yield requirement.name, installed or "missing"
        if not requirement.met_by(installed):
            came = f"version {installed} is installed" if installed else "it is not installed"
            yield Problem(
                f"expected {requirement.name}{requirement.versions}, but {came}",
                f'pip install "{requirement.name}{requirement.versions}"',
            )
    for extra in sorted({*extras, *missing_extras} - {"dev"}):
        missing = missing_extras.get(extra)
        text = f'not installed (optional): pip install ".[{extra}]"' if missing else "installed"
        yield f"extra {extra}", text


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return  # already a problem of _libraries
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield "devices", ", ".join(["cpu", *(f"cuda:{index} ({name})" for index, name in enumerate(names))])
    if not names and shutil.which("nvidia-smi") and torch.version.cuda is None:
        yield Problem(
            "an NVIDIA driver is installed, but this build of torch can't use it",
            "pip install --upgrade --force-reinstall torch",
        )


def _threads() -> Iterator[Finding]:
    try:
        import torch

        from planners.cores import effective_cores
    except ImportError:
        return
    cores = effective_cores()
    yield "cores", f"{cores} usable of {os.cpu_count()}"
    threads = torch.get_num_threads()
    yield "torch threads", f"{threads} (OMP_NUM_THREADS changes it; small networks are fastest with 1)"
    if threads > cores:
        yield Problem(
            f"torch uses {threads} threads on {cores} cores, which makes small products many times slower",
            f"export OMP_NUM_THREADS={cores}",
        )


def _rendering() -> Iterator[Finding]:
    try:
        from mbrl.experiments.video import INSTALL, find_backend, trial
    except ImportError:
        return
    works = find_backend()
    yield "rendering", f"{works} works" if works else "none works: videos are left out, everything else runs"
    given = os.environ.get("MUJOCO_GL", "").strip()
    if works is None:
        yield Problem(f"no picture can be rendered (egl: {trial('egl')})", f"{INSTALL}  # as root, Debian or Ubuntu")
    elif given and given.lower() != works:
        yield Problem(f"MUJOCO_GL is {given!r}, which does not work here", f"export MUJOCO_GL={works}")
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        try:
            yield "ffmpeg", imageio_ffmpeg.get_ffmpeg_version()
        except RuntimeError as error:
            yield Problem(f"no video can be encoded ({error})", "pip install --force-reinstall imageio-ffmpeg")


class _Requirement(NamedTuple):
    name: str
    versions: str
    extra: str | None

    def met_by(self, version: str | None) -> bool:
        if version is None:
            return False
        for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", self.versions):
            is_less = _numbers(version) < _numbers(bound)
            if is_less != (sign == "<"):
                return False
        return True


def _requirements() -> Iterator[_Requirement]:
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        text, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", text.strip())
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if name is not None:
            versions = ",".join(sorted(re.findall(r"[<>=!~]=?\s*[\d.*]+", text), reverse=True))
            yield _Requirement(name.group(), versions, extra.group(1) if extra else None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """1.4.0a2 -> (1, 4); trailing zeros do not count, so that 2.0 is not newer than 2."""
    numbers = [int(part) for part in re.match(r"\d+(\.\d+)*", version or "0").group().split(".")]  # type: ignore[union-attr]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
