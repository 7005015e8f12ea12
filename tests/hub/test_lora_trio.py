"""A trio whose small_cpt is small_base with an adapter: the same numbers from half the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hub.tiny import WIDE, adapter
from tiny_models import SMALL, random_tensors, retyped, write_checkpoint

from trimix_edge import FusionWeights, Role, TriMix, TrioManifest
from trimix_edge.cli import run
from trimix_edge.errors import ModelLoadError, TrioConfigError
from trimix_edge.hub import make_gguf

LORA = 'small_cpt = { model = "small_base", lora = "adapter.gguf" }\n'
FILES = '[models]\nlarge_ins = "large_ins.gguf"\nsmall_base = "small_base.gguf"\n'
WEIGHTS = FusionWeights(0.5, 0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, the adapter, and the model that the adapter makes, merged by hand."""
    folder = tmp_path_factory.mktemp("lora")
    base = random_tensors(WIDE, 2)
    source, deltas = adapter(folder / "adapter", "unused")
    merged = {name: tensor + deltas.get(name, 0) for name, tensor in base.items()}
    models = {"large_ins": random_tensors(WIDE, 1), "small_base": base, "merged": merged}
    for name, tensors in models.items():
        tensors = {n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}
        checkpoint = write_checkpoint(folder / name, WIDE, tensors)
        make_gguf(checkpoint, folder / f"{name}.gguf", outtype="f32")
    make_gguf(source, folder / "adapter.gguf", base=folder / "small_base")
    (folder / "lora.toml").write_text(FILES + LORA)
    (folder / "merged.toml").write_text(FILES + 'small_cpt = "merged.gguf"\n')
    return folder


def logits(trio: Path, roles: tuple[Role, ...]) -> dict[Role, np.ndarray]:
    with TriMix.load(trio, weights=WEIGHTS, roles=roles) as trimix:
        tokens = trimix.tokenize("save the file")
        rows = trimix.trio.sequence(roles).decode(tokens, len(tokens))
        return {role: row.copy() for role, row in rows.items()}


def test_logits_are_those_of_the_merged_model(folder: Path) -> None:
    with_adapter = logits(folder / "lora.toml", tuple(Role))
    merged = logits(folder / "merged.toml", tuple(Role))
    for role in Role:
        spread = merged[role].std()
        np.testing.assert_allclose(with_adapter[role], merged[role], atol=2e-3 * spread)
    different = np.abs(with_adapter[Role.SMALL_CPT] - with_adapter[Role.SMALL_BASE]).max()
    assert different > 0.1 * spread


def test_one_set_of_weights_serves_two_roles(folder: Path) -> None:
    with TriMix.load(folder / "lora.toml", weights=WEIGHTS) as trimix:
        models = trimix.trio.models
        assert models[Role.SMALL_CPT] is models[Role.SMALL_BASE]
        assert models[Role.LARGE_INS] is not models[Role.SMALL_BASE]
        with_adapter = trimix.generate("the file", max_tokens=8).token_ids
    with TriMix.load(folder / "merged.toml", weights=WEIGHTS) as trimix:
        assert trimix.generate("the file", max_tokens=8).token_ids == with_adapter


def test_the_base_is_loaded_where_only_the_adapter_is_needed(folder: Path) -> None:
    weights = FusionWeights(0.1, 0.9)
    with TriMix.load(folder / "lora.toml", weights=weights) as trimix:
        assert trimix.trio.roles == (Role.LARGE_INS, Role.SMALL_CPT)
        assert trimix.trio.models[Role.SMALL_CPT].path == folder / "small_base.gguf"


def test_a_file_on_the_command_line_replaces_the_adapter(folder: Path) -> None:
    manifest = TrioManifest.find(folder / "lora.toml", {Role.SMALL_CPT: folder / "merged.gguf"})
    assert manifest.adapters == {}
    assert manifest.models[Role.SMALL_CPT] == folder / "merged.gguf"
    other = TrioManifest.find(folder / "lora.toml", {Role.SMALL_BASE: folder / "merged.gguf"})
    assert other.adapters[Role.SMALL_CPT].base is Role.SMALL_BASE


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('small_cpt = { model = "small_base" }\n', "lora = FILE"),
        ('small_cpt = { lora = "adapter.gguf" }\n', "lora = FILE"),
        ('small_cpt = { model = "tiny", lora = "adapter.gguf" }\n', "no role is called 'tiny'"),
        ('small_cpt = { model = "small_base", lora = 3 }\n', "must be a string"),
        (LORA.replace("lora =", "scale = 2, lora ="), "unknown key models.small_cpt.scale"),
    ],
)
def test_manifests_that_are_wrong(entry: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "trio.toml"
    path.write_text(FILES + entry)
    with pytest.raises(TrioConfigError) as caught:
        TrioManifest.read(path)
    assert told in str(caught.value)


def test_an_adapter_without_its_base(folder: Path) -> None:
    path = folder / "no_base.toml"
    path.write_text('[models]\nlarge_ins = "large_ins.gguf"\n' + LORA)
    with pytest.raises(TrioConfigError, match="small_base is needed and has no file"):
        TriMix.load(path)


def test_files_that_are_no_adapter_for_the_model(folder: Path, tmp_path: Path) -> None:
    path = folder / "wrong.toml"
    path.write_text(FILES + LORA.replace("adapter.gguf", "merged.gguf"))
    with pytest.raises(ModelLoadError, match=r"merged\.gguf is no LoRA adapter"):
        TriMix.load(path)
    narrow = write_checkpoint(tmp_path / "narrow", SMALL, random_tensors(SMALL, 1))
    make_gguf(narrow, tmp_path / "small_base.gguf")
    path.write_text(FILES.replace('"small_base.gguf"', f'"{tmp_path}/small_base.gguf"') + LORA)
    with pytest.raises(ModelLoadError, match="is no adapter for"):
        TriMix.load(path)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes((folder / "adapter.gguf").read_bytes()[:-64])
    path.write_text(FILES + LORA.replace("adapter.gguf", str(damaged)))
    with pytest.raises(ModelLoadError, match="truncated"):
        TriMix.load(path)


def test_generate_with_an_adapter(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(folder / "lora.toml"), "the file", "-n", "4", "--json"]) == 0
    assert '"token_ids"' in capfd.readouterr().out


def test_an_adapter_of_a_type_that_is_no_weight_is_refused(folder: Path, tmp_path: Path) -> None:
    """It would end the process."""
    i32 = 26
    source = folder / "adapter.gguf"
    name = next(t.name for t in GGUFReader(source).tensors if t.name.endswith(".lora_a"))
    retyped(source, tmp_path / "adapter.gguf", name.encode(), i32)
    for model in ("large_ins.gguf", "small_base.gguf"):
        (tmp_path / model).symlink_to(folder / model)
    (tmp_path / "trio.toml").write_text(FILES + LORA)
    with pytest.raises(ModelLoadError, match=rf"lora_a is of type {i32}"):
        TriMix.load(tmp_path, weights=WEIGHTS)
