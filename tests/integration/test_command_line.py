"""The command line as a whole: help, version, exit codes, pipes and signals."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from medseg import __version__
from medseg.cli.main import app, main
from medseg.errors import BundleError, ConfigError, GeometryError, InputError, MedsegError, ResourceError

PROBE = """
import sys, time, typer
from medseg.cli import console
from medseg.cli.main import app, run

@app.command()
def probe(what: str) -> None:
    if what == "table":
        console.print_table("numbers", ["n"], [[str(n)] for n in range(5_000)])
    elif what == "json":
        console.print_json(list(range(20_000)))
    elif what == "small":
        console.print_json([1])
    elif what == "sleep":
        print("asleep", flush=True)
        time.sleep(60)

run()
"""


def medseg(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medseg", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def verbs() -> list[list[str]]:
    """Every command and subcommand, as it is typed."""
    found: list[list[str]] = []

    def walk(command: object, words: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            found.append([*words, name])
            walk(child, found[-1])

    walk(typer.main.get_command(app), [])
    return found


@pytest.fixture
def probe() -> Iterator[Callable[[BaseException], None]]:
    """A command ``medseg fail``, which raises what the test wants."""
    raised: list[BaseException] = []
    registered = list(app.registered_commands)

    @app.command("fail")
    def fail(debug: bool = False) -> None:
        from medseg.cli import console

        console.settings.debug = debug
        raise raised[0]

    yield raised.append
    app.registered_commands[:] = registered


# Help and version


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "Usage: medseg" in captured.out
    assert captured.err == ""


def test_help_of_the_process_itself() -> None:
    result = medseg("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage: medseg" in result.stdout
    for words in verbs():
        if len(words) == 1:
            assert f" {words[0]} " in result.stdout


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_help_of_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: medseg {' '.join(words)}" in shown


def test_help_imports_nothing_heavy() -> None:
    calls = "\n".join(f"assert main({[*words, '--help']!r}) == 0" for words in [[], *verbs()])
    heavy = "torch", "monai", "lightning", "numpy", "nibabel", "SimpleITK", "scipy", "matplotlib"
    code = (
        "import sys\nfrom medseg.cli.main import main\n"
        f"{calls}\nfound = sorted(set({heavy!r}) & set(sys.modules))\nsys.exit(' '.join(found) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medseg {__version__}\n"
    result = medseg("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"medseg {__version__}\n", "")


def test_installed_command() -> None:
    command = Path(sys.executable).with_name("medseg")
    if not command.exists():
        pytest.skip("medseg is not installed beside this Python")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"medseg {__version__}\n")


# Wrong calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nope"], "--nope"),
        (["nope"], "nope"),
        (["--version=3"], "--version"),
        (["-x"], "-x"),
    ],
)
def test_wrong_calls_exit_64_with_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"medseg: .*{words}.*; see 'medseg --help'\n", captured.err)
    result = medseg(*arguments)
    assert (result.returncode, result.stdout, result.stderr) == (64, "", captured.err)


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_unknown_option_of_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--no-such-option"]) == 64
    captured = capsys.readouterr()
    name = f"medseg {' '.join(words)}"
    assert captured.out == ""
    assert re.fullmatch(rf"{name}: .*--no-such-option.*; see '{name} --help'\n", captured.err)


def test_missing_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict"]) == 64
    assert re.fullmatch(
        r"medseg predict: Missing option '--model'; see 'medseg predict --help'\n", capsys.readouterr().err
    )


def test_missing_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 64
    assert capsys.readouterr() == ("", "medseg data: Missing command; see 'medseg data --help'\n")


# Errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [(InputError, 2), (GeometryError, 3), (ResourceError, 4), (ConfigError, 5), (BundleError, 6)],
)
def test_errors_are_one_line_and_a_code(
    probe: Callable[[BaseException], None],
    kind: type[MedsegError],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    probe(kind("is odd", where="a.nii", fix="mend it"))
    assert main(["fail"]) == code
    assert capsys.readouterr() == ("", "medseg: a.nii: is odd; mend it\n")


def test_debug_shows_the_traceback_and_keeps_the_code(
    probe: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    probe(GeometryError("is odd"))
    assert main(["fail", "--debug"]) == 3
    captured = capsys.readouterr().err
    assert captured.startswith("Traceback")
    assert captured.endswith("\nmedseg: is odd\n")


def test_debug_does_not_outlive_its_call(
    probe: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    probe(GeometryError("is odd"))
    main(["fail", "--debug"])
    capsys.readouterr()
    main(["fail"])
    assert capsys.readouterr().err == "medseg: is odd\n"


def test_interruption(probe: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    probe(KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert capsys.readouterr() == ("", "medseg: interrupted\n")


def test_what_is_our_own_fault_is_not_hidden(probe: Callable[[BaseException], None]) -> None:
    probe(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_interrupted_process() -> None:
    command = [sys.executable, "-c", PROBE, "probe", "sleep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=30)
    assert (process.returncode, shown) == (130, "medseg: interrupted\n")


# Pipes


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
@pytest.mark.parametrize("what", ["table", "json", "small"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error_worth_a_word(what: str, unbuffered: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, "probe", what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("what", ["table", "json", "small"])
def test_full_standard_output_is_one_line(what: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", PROBE, "probe", what],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == ResourceError.exit_code
    assert re.fullmatch(r"medseg: standard output: no space left on the disk; .*\n", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--model", "closed/run", "--input", "a.nii.gz", "--out", "out"],
        ["evaluate", "--pred", "closed/a", "--ref", "closed/b", "--out", "out"],
        ["train", "--data", "closed/data", "--out", "out"],
    ],
)
def test_a_folder_that_may_not_be_looked_into_is_told_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look = Path.stat

    def refuse(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if "closed" in self.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return look(self, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patch:  # root may look into any folder, so the test must pretend
        patch.setattr(Path, "stat", refuse)
        assert main(arguments) == 4
    assert "closed" in (told := capsys.readouterr().err)
    assert told.endswith("permission denied; choose a place that you may read and write\n")
    assert told.count("\n") == 1
