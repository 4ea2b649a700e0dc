"""What every test can use: markers that skip with a reason, slow tests left out, the coverage page held true.

A test says which requirements it proves with ``@pytest.mark.requirement("D1")``. When a whole run has passed, each
requirement that ``docs/coverage.md`` claims must have been proved by a test that ran and passed in this very run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
_PROPERTY = "requirement"
# A busy machine is slow by itself: neither a deadline nor slow generation is a fault of what is tested.
settings.register_profile("replkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("replkit")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--retell", action="store_true", help="write the transcripts of tests/scenarios anew")
    parser.addoption("--stores", default="disk-disk", help="of the sites in tests/recovery, as bucket-disk")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell or by CI: what the
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests start must still meet Ctrl-C
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist leaves the account to its controller
        config.pluginmanager.register(CoveragePage(config), "replkit-coverage-page")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A whole run takes a process for each processor, up to four, and each file stays in one; ``-n 0`` takes one."""
    options = config.option
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    if options.numprocesses is None and not options.usepdb and is_full_run(config):
        options.numprocesses = options.maxprocesses or min(os.cpu_count() or 1, 4)
        options.dist = "loadfile"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = set(_load(ROOT / "docs" / "coverage_page.py").read_page(ROOT).ids)
    for item in items:
        for requirement in sorted(requirements_of(item)):
            if requirement not in known:
                raise pytest.UsageError(f"{item.nodeid}: requirement {requirement!r} is not on docs/coverage.md")
            item.user_properties.append((_PROPERTY, requirement))
    leave_out_slow(config, items)


def requirements_of(item: pytest.Item) -> set[str]:
    return {name for mark in item.iter_markers("requirement") for name in mark.args}


def leave_out_slow(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run with ``--slow``, with any ``-m``, and when their file or they themselves are named."""
    if config.getoption("--slow") or config.getoption("markexpr"):
        return
    named = [Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args]
    files = {path for path in named if path.is_file()}
    slow = [item for item in items if item.get_closest_marker("slow") and item.path.resolve() not in files]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_tool"):
        for tool in mark.args:
            if find_tool(tool) is None:
                pytest.skip(f"needs the program {tool}")
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.skip("needs root")


def find_tool(name: str) -> str | None:
    """Where a program is; those for file systems are often outside an ordinary user's path."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class CoveragePage:
    """Compares what ran with what ``docs/coverage.md`` claims, at the end of a run that nothing narrowed.

    A claim whose tests were all skipped for a missing program is only told, so that the README's command passes on a
    bare machine; with ``REPLKIT_STRICT_COVERAGE`` set, as in .ci/run, it fails the run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.proved: set[str] = set()
        self.skipped: set[str] = set()
        self.unproved: list[str] = []
        self.unproved_is_fault = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        names = {str(value) for key, value in report.user_properties if key == _PROPERTY}
        if report.when == "call" and report.passed:
            self.proved |= names
        elif report.skipped:
            self.skipped |= names

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus != pytest.ExitCode.OK or not is_full_run(self.config):
            return
        page = _load(ROOT / "docs" / "coverage_page.py").read_page(ROOT)
        claimed = {row.id for row in page.rows if row.is_claimed and any(t.startswith("tests/") for t in row.tests)}
        missing = claimed - self.proved
        tolerated = set() if os.environ.get("REPLKIT_STRICT_COVERAGE") else self.skipped
        self.unproved_is_fault = bool(missing - tolerated)
        self.unproved = sorted(missing)
        if self.unproved_is_fault:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unproved:
            terminalreporter.section("docs/coverage.md", red=self.unproved_is_fault, yellow=not self.unproved_is_fault)
            for name in self.unproved:
                why = "its tests were skipped" if name in self.skipped else "no test that names it ran and passed"
                terminalreporter.line(f"{name} is claimed, but {why}")


def is_full_run(config: pytest.Config) -> bool:
    """Whether this run was asked for all the tests, by no argument or by naming the whole directory."""
    whole = (ROOT / "tests", ROOT)
    named = [Path(config.invocation_params.dir, arg).resolve() for arg in config.args]
    narrowing = ["keyword", "markexpr", "collectonly", "lf", "stepwise", "deselect", "ignore", "ignore_glob", "maxfail"]
    return all(path in whole for path in named) and not any(config.getoption(name, None) for name in narrowing)
