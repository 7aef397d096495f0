"""`run`: every setting is a flag with its words, and what is wrong is refused before anything starts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from imagestreams import app
from imagestreams.cli.main import invoke
from imagestreams.settings import TABLE, Settings


@pytest.fixture
def started(monkeypatch, environment) -> list[Settings]:
    """The settings that the controller was started with, in place of a controller."""
    found: list[Settings] = []

    def run(settings: Settings) -> int:
        found.append(settings)
        return 7

    monkeypatch.setattr(app, "run", run)
    return found


@pytest.fixture
def run(capsys):
    def call(*args: str) -> tuple[int, str, str]:
        return invoke(["run", *args], "imagestreams"), *capsys.readouterr()

    return call


def test_help_prints_the_table(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("--help")
    words = " ".join(out.split()).replace("- ", "-")
    assert code == 0
    for row in TABLE:
        assert f"  {row.flag}" in out
        assert f"[default: {row.shown or 'none'}; env: {row.variable}]".replace("- ", "-") in words
    assert "--interval DURATION" in out
    assert "--registry-endpoint HOST=URL,..." in out
    assert "--observe[=true|false]" in out
    assert "--config FILE" in out


def test_the_controller_gets_its_settings_and_gives_the_exit_code(run, started):
    assert run() == (7, "", "")
    assert started == [Settings()]


def test_flags_environment_and_file(run, started, monkeypatch, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("interval: 1h\nworkers: 2\nlogLevel: debug\n")
    monkeypatch.setenv("IMAGESTREAMS_WORKERS", "3")
    monkeypatch.setenv("IMAGESTREAMS_INTERVAL", "2h")
    run("--config", str(config), "--interval=3h", "--insecure-registry=a,b", "--insecure-registry", "c", "--observe")
    (settings,) = started
    assert (settings.interval, settings.workers, settings.log_level) == (timedelta(hours=3), 3, "debug")
    assert (settings.insecure_registry, settings.observe) == (("a", "b", "c"), True)


@pytest.mark.parametrize(
    ("args", "observe"), [(["--observe=false"], False), (["--observe=true"], True), (["--observe"], True), ([], False)]
)
def test_switches(run, started, args, observe):
    run(*args)
    assert started[0].observe is observe


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--intervall=5m"], "No such option"),
        (["--interval=5"], 'error: interval: "5" from flag --interval is no duration; write a number with a unit'),
        (["--interval=5m", "--interval=6m"], 'error: interval: "5m,6m" from flag --interval holds more than one value'),
        (["--interval=30s"], 'error: interval: "30s" from flag --interval is shorter than min-interval "1m" from the'),
        (["--config=/nowhere"], 'error: config: "/nowhere" from flag --config cannot be read: No such file'),
        (["now"], "Got unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(run, started, args, words):
    code, out, err = run(*args)
    assert (code, out, started) == (2, "", [])
    assert words in err


def test_every_problem_has_its_line(run, started):
    _, _, err = run("--workers=0", "--drift=maybe")
    assert [line.split('"')[0] for line in err.splitlines()] == ["error: drift: ", "error: workers: "]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"#" * ((1 << 20) + 1), "File too large"), (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff")],
)
def test_a_file_that_is_no_configuration(run, started, tmp_path, content, words):
    path = tmp_path / "config"
    path.write_bytes(content)
    code, _, err = run("--config", str(path))
    assert code == 2
    assert f"cannot be read: {words}" in err
