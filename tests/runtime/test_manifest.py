"""trio.toml: what it may say, and what is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimix_edge.config import ContextParams, FusionWeights, Plausibility, Role, SamplingParams
from trimix_edge.errors import Notice, TrioConfigError
from trimix_edge.trios.manifest import PAPER_WEIGHTS, TrioManifest, embedded_trios
from trimix_edge.trios.saving import save_weights

FULL = """
name = "dz"
description = "English to Dzongkha"
normalizer = "NFC"
script = "tibt"

[models]
large_ins = "large.gguf"
small_cpt = "sub/cpt.gguf"

[fusion]
weights = [0.5, 1]
plausibility = "small_cpt:0.1"

[sampling]
temperature = 0
repeat_penalty = 1.1
seed = 7

[generation]
chat = true
max_tokens = 256
stop = ["\\n", "།"]

[context]
n_ctx = 1024
kv_type = "q8_0"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "trio.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    manifest = TrioManifest.read(write(tmp_path, FULL))
    assert manifest == TrioManifest(
        name="dz",
        description="English to Dzongkha",
        normalizer="NFC",
        script="Tibt",
        models={
            Role.LARGE_INS: tmp_path / "large.gguf",
            Role.SMALL_CPT: tmp_path / "sub/cpt.gguf",
        },
        weights=FusionWeights(0.5, 1.0),
        plausibility=Plausibility(Role.SMALL_CPT, 0.1),
        sampling=SamplingParams(temperature=0.0, repeat_penalty=1.1, seed=7),
        context=ContextParams(n_ctx=1024, kv_type="q8_0"),
        chat=True,
        max_tokens=256,
        stop=("\n", "།"),
    )


def test_silence_means_the_papers_weights_and_greedy(tmp_path: Path) -> None:
    manifest = TrioManifest.read(write(tmp_path, ""))
    assert manifest.name == tmp_path.name
    assert manifest.weights == PAPER_WEIGHTS == FusionWeights(0.1, 0.9)
    assert manifest.sampling.is_bare_argmax
    assert manifest.plausibility is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("models = 3", "models must be a table, not 3"),
        ("normalizer = 'nfc'", "normalizer is 'nfc': it must be NFC,"),
        ("script = 'Tibetan'", "script 'Tibetan' is no four-letter code"),
        ("script = 1", "script must be a string"),
        ('[fusion]\nweights = "auto:Xxxx"', "script 'Xxxx' is no four-letter code"),
        ('[fusion]\nweights = "best"', '"auto:all" or "entropy", not'),
        ("name = 3", "name must be a string, not 3"),
        ("[models]\nlarge_ins = 3", "models.large_ins must be a string"),
        ("[fusion]\nweights = 0.5", "fusion.weights must be a list of two numbers"),
        ("[fusion]\nweights = [1]", "two numbers"),
        ("[fusion]\nweights = [1, 2, 3]", "two numbers"),
        ('[fusion]\nweights = ["a", 1]', "two numbers"),
        ("[fusion]\nweights = [true, 1]", "two numbers"),
        ("[fusion]\nweights = [nan, 1]", "weights"),
        ('[fusion]\nplausibility = "x:1"', "no role is called 'x'"),
        ("[fusion]\nplausibility = 1", "fusion.plausibility must be a string"),
        ('[sampling]\ntemperature = "hot"', "sampling.temperature must be a number"),
        ("[sampling]\ntemperature = true", "sampling.temperature must be a number"),
        ("[sampling]\ntemperature = -1", "temperature is -1"),
        ("[sampling]\ntop_k = 1.5", "sampling.top_k must be a whole number"),
        ("[sampling]\ngrammar = 1", "sampling.grammar must be a string"),
        ("[generation]\nchat = 1", "generation.chat must be true or false"),
        ("[generation]\nmax_tokens = -2", "generation.max_tokens is -2"),
        ("[generation]\nmax_tokens = 1.0", "generation.max_tokens must be a whole number"),
        ("[generation]\nstop = 'x'", "generation.stop must be a list of strings"),
        ("[generation]\nstop = [1]", "generation.stop must be a list of strings"),
        ("[context]\nn_ctx = -1", "ctx is -1"),
        ("[context]\nkv_type = 'f8'", "kv_type 'f8'"),
        ("[", "is not TOML"),
        ("x = " + "[" * 3000, "nested too deeply"),
        (f"[fusion]\nweights = [1{'0' * 400}, 0]", "weights is too large"),
        (f"[sampling]\ntemperature = 1{'0' * 400}", "temperature is too large"),
        ("[generation]\nstop = ['']", "stop"),
    ],
)
def test_wrong_values_are_told_with_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TrioConfigError) as caught:
        TrioManifest.read(path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nam = 'x'", "unknown key nam; did you mean name?"),
        ("[model]", "unknown key model; did you mean models?"),
        ("[models]\nlarge = 'x'", "unknown key models.large; did you mean large_ins?"),
        ("[fusion]\nweigths = [1, 1]", "unknown key fusion.weigths; did you mean weights?"),
        (
            "[sampling]\ntemprature = 1",
            "unknown key sampling.temprature; did you mean temperature?",
        ),
        ("[context]\nn_threads = 1", "unknown key context.n_threads"),
        ("[generation]\nzzz = 1", "known: chat, draft, lines, max_tokens, stop"),
    ],
)
def test_unknown_keys_are_told_with_the_nearest_known(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(TrioConfigError) as caught:
        TrioManifest.read(write(tmp_path, text))
    assert complaint in str(caught.value)


def test_a_manifest_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "trio.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(TrioConfigError, match="not UTF-8"):
        TrioManifest.find(tmp_path)


def test_a_trio_is_found_by_manifest_or_folder(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    assert TrioManifest.find(path) == TrioManifest.find(tmp_path) == TrioManifest.find(str(path))


def test_files_replace_those_of_a_manifest(tmp_path: Path) -> None:
    own = {Role.SMALL_BASE: Path("b.gguf"), Role.LARGE_INS: Path("l.gguf")}
    manifest = TrioManifest.find(write(tmp_path, FULL), own)
    assert manifest.models == {**own, Role.SMALL_CPT: tmp_path / "sub/cpt.gguf"}
    assert manifest.name == "dz"


def test_files_alone_make_a_trio() -> None:
    manifest = TrioManifest.find(None, {Role.LARGE_INS: Path("l.gguf")})
    assert manifest.models == {Role.LARGE_INS: Path("l.gguf")}
    assert manifest.weights == PAPER_WEIGHTS


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrioConfigError, match=r"holds no trio\.toml"):
        TrioManifest.find(tmp_path)


def test_a_gguf_in_the_place_of_a_trio_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(TrioConfigError, match="--large-ins"):
        TrioManifest.find(path)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(TrioConfigError, match="no trio is called 'klingon'") as caught:
        TrioManifest.find("klingon")
    assert all(name in str(caught.value) for name in embedded_trios())


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\udcff", ""])
def test_what_can_be_no_path_is_no_trio(name: str) -> None:
    with pytest.raises(TrioConfigError):
        TrioManifest.find(name)


def test_a_folder_without_a_manifest_does_not_hide_an_embedded_trio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "dzongkha").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TrioManifest.find("dzongkha") == TrioManifest.find(None)
    assert TrioManifest.find("dzongkha").path == embedded_trios()["dzongkha"]
    assert not recwarn.list


def test_a_folder_that_hides_an_embedded_trio_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dzongkha").mkdir()
    write(tmp_path / "dzongkha", "name = 'mine'")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(Notice, match="folder dzongkha is used, not the embedded trio"):
        assert TrioManifest.find("dzongkha").name == "mine"
    assert TrioManifest.find(None).path == embedded_trios()["dzongkha"]


def test_a_byte_order_mark_is_no_part_of_a_manifest(tmp_path: Path) -> None:
    assert TrioManifest.read(write(tmp_path, "\ufeffname = 'x'")).name == "x"


SAVED = FusionWeights(0.123456, -0.5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[fusion]\nweights = [1, 2] # mine\n", "[fusion]\nweights = [0.1235, -0.5] # mine\n"),
        ('[fusion]\nweights = "auto"\n', "[fusion]\nweights = [0.1235, -0.5]\n"),
        ("[fusion]\nweights = [\n  1,\n  2,\n]\n", "[fusion]\nweights = [0.1235, -0.5]\n"),
        ('name = "x"\n', 'name = "x"\n\n[fusion]\nweights = [0.1235, -0.5]\n'),
        (
            '[fusion] # a\nplausibility = "small_cpt:0.1"\n\n[context]\nn_ctx = 9\n',
            "[fusion] # a\nweights = [0.1235, -0.5]\n"
            'plausibility = "small_cpt:0.1"\n\n[context]\nn_ctx = 9\n',
        ),
    ],
)
def test_saved_weights_leave_the_rest_as_it_is(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "trio.toml"
    path.write_text(before, encoding="utf-8")
    save_weights(path, SAVED)
    assert path.read_text(encoding="utf-8") == after
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["fusion = { weights = [1, 2] }\n", "fusion.weights = [1, 2]\n"])
def test_a_place_that_is_not_found_is_left_to_the_user(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trio.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TrioConfigError, match=r"0\.1235, -0\.5\] by hand"):
        save_weights(path, SAVED)
    assert path.read_text(encoding="utf-8") == text


def test_an_embedded_trio_is_not_changed() -> None:
    with pytest.raises(TrioConfigError, match="part of the installation"):
        save_weights(embedded_trios()["dzongkha"], SAVED)


def test_saving_follows_links_and_keeps_the_mode(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = write(tmp_path / "real", "[fusion]\nweights = [1, 2]\n")
    real.chmod(0o640)
    link = tmp_path / "trio.toml"
    link.symlink_to("real/trio.toml")
    save_weights(link, SAVED)
    assert link.is_symlink()
    assert TrioManifest.read(link).weights == FusionWeights(0.1235, -0.5)
    assert real.stat().st_mode & 0o777 == 0o640
    assert list(real.parent.iterdir()) == [real]


@pytest.mark.parametrize(
    "text", ["\ufeff[fusion] # a\r\n# b\r\n", "name = 'x'\r\n", "[fusion]\r\nweights = [1, 2]\r\n"]
)
def test_saving_keeps_line_ends_and_the_byte_order_mark(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trio.toml"
    path.write_bytes(text.encode())
    save_weights(path, SAVED)
    after = path.read_bytes().decode()
    assert after.startswith(text[:3])
    assert after.count("\n") == after.count("\r\n")
    assert TrioManifest.read(path).weights == FusionWeights(0.1235, -0.5)


def test_an_embedded_trio_behind_a_link_is_not_changed(tmp_path: Path) -> None:
    link = tmp_path / "trio.toml"
    link.symlink_to(embedded_trios()["dzongkha"])
    with pytest.raises(TrioConfigError, match="dzongkha is part of the installation"):
        save_weights(link, SAVED)
