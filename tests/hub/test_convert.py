"""From a hub to a checkpoint, by the real clients: what is fetched, checked, recorded, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import ckptfmt
from ckptfmt import conversion
from tests.helpers.children import run_child, run_cli
from tests.helpers.models import equal_bits
from tests.hub.places import FOREIGN, PARTITIONS, Place, environment
from tests.hub.server import COMMIT, TOKEN, Fault

SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


@pytest.fixture(params=[False, True], ids=["fetched", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def provenance(target: Path) -> dict[str, object]:
    return json.loads((target / "ckptfmt.json").read_text())["provenance"]["source"]


def test_a_repository_becomes_what_its_folder_becomes(
    place: Place, stream: bool, tmp_path: Path
) -> None:
    report = place.convert(stream=stream)
    local = ckptfmt.convert(place.folder, tmp_path / "local.ckpt", **PARTITIONS)
    assert ckptfmt.verify(place.target, against=place.folder).problems == []
    ours, theirs = ckptfmt.load(place.target), ckptfmt.load(tmp_path / "local.ckpt")
    assert list(ours) == list(theirs)
    assert all(equal_bits(ours[name], theirs[name]) for name in ours)
    assert report.sidecars == local.sidecars
    assert set(report.left_out) == set(local.left_out)
    for name in report.sidecars:
        assert (place.target / name).read_bytes() == (place.folder / name).read_bytes()


def test_only_what_is_needed_is_fetched(place: Place, stream: bool) -> None:
    report = place.convert(stream=stream)
    assert {"pytorch_model.bin", "model.gguf", "onnx/model.onnx", "tf_model.h5"} <= set(
        report.left_out
    )
    for name in ("pytorch_model.bin", "model.gguf", "model.onnx", "tf_model.h5"):
        assert place.hub.count(f"resolve/{COMMIT}/{name}") == 0
        assert place.hub.count(f"FilePath={name}") == 0
        assert not list(place.target.parent.rglob(name))


def test_provenance_names_repository_commit_and_hashes_and_nothing_of_the_person(
    place: Place, stream: bool
) -> None:
    place.hub.token = TOKEN
    place.convert(stream=stream, token=TOKEN, revision="v1")
    found = provenance(place.target)
    assert found["hub"] == place.kind
    assert (found["repository"], found["name"]) == ("org/model", "model")
    assert found["commit"] == COMMIT
    files = place.hub.repositories["org/model"]
    assert found["files"] == [
        {"name": name, "nbytes": files[name].nbytes, "sha256": files[name].sha256}
        for name in SHARDS
    ]
    for path in place.target.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes()
    assert place.hub.leaked == []


def test_fetched_and_streamed_give_the_same_bytes_under_any_name_of_the_revision(
    place: Place, tmp_path: Path
) -> None:
    place.convert()
    fetched = place.digests()
    ckptfmt.convert(
        "org/model", tmp_path / "second", hub=place.kind, revision="v1", stream=True, **PARTITIONS
    )
    ckptfmt.convert(
        f"{place.address}@v1", tmp_path / "third", stream=True, workers=1, **PARTITIONS
    )
    for name in ("second", "third"):
        place.target = tmp_path / name
        assert place.digests() == fetched


def test_a_streamed_file_is_on_no_disk(place: Place) -> None:
    place.convert(stream=True)
    found = [path for path in place.target.parent.rglob("*") if path.is_file()]
    assert not [path for path in found if path.suffix == ".safetensors"]
    # Nor under another name: what is there beside the target is sidecars and the index.
    others = sum(p.stat().st_size for p in found if place.target not in p.parents)
    assert others < 100_000


def test_a_second_conversion_takes_what_is_cached(place: Place, tmp_path: Path) -> None:
    place.convert()
    before = place.hub.sent_nbytes
    ckptfmt.convert(place.address, tmp_path / "again", **PARTITIONS)
    assert place.hub.sent_nbytes - before < 10_000


@pytest.mark.parametrize("options", [
    {"dtype": "fp32"}, {"dtype": "fp16", "workers": 1}, {"exclude": "layers.[0-3].*"},
    {"include": "layers.5.bias"}, {"partition_size": "1200KiB"}, {"alignment": "64KiB"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["modelscope"])
def test_options_mean_the_same_when_streamed(
    place: Place, options: dict[str, object], tmp_path: Path
) -> None:
    place.convert(stream=True, **options)
    ckptfmt.convert(place.folder, tmp_path / "local", **{**PARTITIONS, **options})
    ours, theirs = ckptfmt.load(place.target), ckptfmt.load(tmp_path / "local")
    assert list(ours) == list(theirs)
    assert all(equal_bits(ours[name], theirs[name]) for name in ours)


def test_a_plan_costs_the_headers_alone(place: Place) -> None:
    report = place.convert(stream=True, dry_run=True)
    assert len(report.plan.partitions) == 3
    assert place.hub.sent_nbytes < 1_000_000
    assert not place.target.exists()


@pytest.mark.parametrize("kind", ["modelscope"])
def test_what_is_cut_for_ranks_is_fetched_and_not_streamed(place: Place) -> None:
    given = {"tensor_parallel": 7, "tensor_parallel_plan": {"layers.*.bias": "colwise"}}
    error = place.failing(stream=True, **given)
    assert isinstance(error, ckptfmt.OptionError)
    assert "bytes that are streamed come once" in str(error)
    report = place.convert(**given)
    assert report.cutting is not None
    assert report.cutting.cut == 6
    assert ckptfmt.verify(place.target, against=place.folder).ok


def test_without_safetensors_bin_is_taken_and_not_streamed(place: Place, tmp_path: Path) -> None:
    tensors = {"a": torch.arange(9000, dtype=torch.float32)}
    torch.save(tensors, tmp_path / "weights.bin")
    files = place.hub.repositories["org/model"]
    for name in [*SHARDS, "model.safetensors.index.json"]:
        del files[name]
    place.replace("pytorch_model.bin", (tmp_path / "weights.bin").read_bytes())
    error = place.failing(stream=True)
    assert isinstance(error, ckptfmt.SourceError)
    assert "has no safetensors, and other weights cannot be streamed" in str(error)
    assert "without --stream" in error.hint
    place.convert()
    assert equal_bits(ckptfmt.load(place.target)["a"], tensors["a"])


# ---- log-in ----


def test_without_a_token_a_private_repository_says_how_to_log_in(place: Place) -> None:
    place.hub.token = TOKEN
    error = place.failing()
    assert isinstance(error, ckptfmt.HubError)
    assert error.status == 401
    assert "no such repository, or none that may be read without a login" in str(error)
    assert "--token" in error.hint


def test_a_token_that_is_not_enough_says_so_and_is_not_shown(place: Place) -> None:
    place.hub.token = TOKEN
    error = place.failing(token="hf_wrong")
    assert isinstance(error, ckptfmt.HubError)
    assert error.status == 403
    assert "this login may not read it" in str(error)
    shown: BaseException | None = error
    while shown is not None:
        assert "hf_wrong" not in f"{shown} {shown!r}"
        shown = shown.__cause__


def test_what_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(ckptfmt.HubError, match="no such repository") as caught:
        ckptfmt.convert(f"{place.address}-not", place.target)
    assert "no local path" not in caught.value.hint
    if place.kind == "huggingface":
        with pytest.raises(ckptfmt.OptionError, match="the client refuses this name"):
            ckptfmt.convert("hf://org/model.git", place.target)
    error = place.failing(revision="v2")
    assert isinstance(error, ckptfmt.HubError)
    assert "no revision 'v2'" in str(error)


@pytest.mark.parametrize("kind", ["huggingface"])
def test_a_mistyped_path_is_told_apart_from_a_repository(place: Place) -> None:
    with pytest.raises(ckptfmt.HubError, match="hf://models/qwen: no such repository") as caught:
        ckptfmt.convert("models/qwen", place.target)
    assert "there is no local path 'models/qwen' either" in caught.value.hint


def test_a_checkpoint_is_compared_with_its_repository(place: Place) -> None:
    place.convert(stream=True)
    assert ckptfmt.verify(place.target, against=place.address).problems == []
    data = bytearray((place.folder / SHARDS[2]).read_bytes())
    data[-3] ^= 1
    place.replace(SHARDS[2], bytes(data))
    shutil.rmtree(place.target.parent / "hf", ignore_errors=True)
    (problem,) = ckptfmt.verify(place.target, against=place.address).problems
    assert "differs from model at byte" in problem.message


# ---- a bad network ----


def on(place: Place, name: str) -> str:
    """Part of the line of requests for a file's bytes."""
    return f"GET /storage/org/model/{name}"


@pytest.mark.parametrize("fault", [
    Fault("", status=503), Fault("", status=429, headers={"Retry-After": "0"}),
    Fault("", status=502, times=2), Fault("", keep=100_000),
], ids=["503", "429", "502 twice", "cut short"])  # fmt: skip
def test_what_passes_is_tried_again(place: Place, stream: bool, fault: Fault) -> None:
    place.hub.faults = [
        Fault(on(place, SHARDS[1]), fault.status, fault.headers, fault.keep, times=fault.times)
    ]
    place.convert(stream=stream)
    assert place.hub.faults[0].times == 0
    assert ckptfmt.verify(place.target, against=place.folder).problems == []


@pytest.mark.parametrize(("answered", "message"), [
    ("ignored", "asked for a range, and answers with status 200"),
    ("bytes=0-1500000", "more came than the"),
])  # fmt: skip
def test_another_range_than_was_asked_for_is_refused(
    place: Place, answered: str, message: str
) -> None:
    place.hub.faults = [Fault(on(place, SHARDS[0]), range=answered, times=1000)]
    error = place.failing(stream=True)
    assert message in str(error)
    assert place.hub.count(on(place, SHARDS[0])) == 1  # nor is it tried again


def test_what_stays_is_an_error_that_names_the_file(place: Place, stream: bool) -> None:
    place.hub.faults = [Fault(on(place, SHARDS[2]), status=503, times=1000)]
    error = place.failing(stream=stream)
    assert isinstance(error, ckptfmt.HubError)
    assert error.file == SHARDS[2]
    assert f"{place.address}: {SHARDS[2]}: " in str(error)


def test_a_refusal_is_not_tried_again(place: Place, stream: bool) -> None:
    place.hub.faults = [Fault(on(place, SHARDS[0]), status=403, times=1000)]
    error = place.failing(stream=stream)
    assert isinstance(error, ckptfmt.HubError)
    assert error.status == 403
    assert place.hub.count(on(place, SHARDS[0])) <= 4


@pytest.mark.parametrize("name", [SHARDS[1], "config.json", "big.json"])
def test_a_flipped_byte_is_noticed(place: Place, stream: bool, name: str) -> None:
    data = bytearray((place.folder / name).read_bytes())
    data[-3] ^= 1
    place.replace(name, bytes(data), publish=name)
    error = place.failing(stream=stream)
    assert isinstance(error, ckptfmt.HubError)
    assert error.file == name
    assert "the hub says" in str(error)
    assert not list(place.target.parent.glob("*.partial/ckptfmt.json"))


# ---- a hostile hub ----


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a/../../evil", "a//b", "a\\b",
                                  "config.json/evil"])  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(place: Place, name: str) -> None:
    place.hub.listed_too = [name]
    error = place.failing()
    assert isinstance(error, ckptfmt.SourceError)
    assert repr(name) in str(error) or "as a file and as a folder" in str(error)
    assert not list(place.target.parent.rglob("*evil*"))
    assert place.hub.count("/storage/") == 0


@pytest.mark.parametrize("kind", ["huggingface"])
def test_more_tensors_than_a_checkpoint_may_have_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptfmt.sources import limits

    index = "model.safetensors.index.json"
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_INDEX_NBYTES", 100)
        found = str(place.failing())
        assert f"{place.address}: {index}: an index of 680 bytes, at most 100 can be" in found
    monkeypatch.setattr(limits, "MAX_TENSORS", 3)
    found = str(place.failing())
    assert f"{place.address}: {index}: lists 13 tensors, at most 3 can be stored" in found
    del place.hub.repositories["org/model"][index]
    error = place.failing(stream=True)
    assert f"{SHARDS[0]}: lists 4 tensors, at most 3 can be stored" in str(error)
    assert place.hub.count("/storage/") <= 2


def test_an_endless_listing_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptfmt.sources import repository

    monkeypatch.setattr(repository, "MAX_FILES", 300)
    place.hub.listed_too = [f"file-{i}" for i in range(1000)]
    error = place.failing()
    assert isinstance(error, ckptfmt.SourceError)
    assert "lists more than 300 files" in str(error)


@pytest.mark.parametrize(("name", "found"), [
    ("../x.safetensors", "outside its folder"),
    ("y.safetensors", "which is not in the repository"),
])  # fmt: skip
def test_an_index_that_names_other_files_is_refused(
    place: Place, name: str, found: str
) -> None:
    index = json.dumps({"weight_map": {"a": name}})
    place.replace("model.safetensors.index.json", index.encode())
    assert found in str(place.failing())


@pytest.mark.parametrize("header", [
    b"\xff" * 8, (1 << 40).to_bytes(8, "little"), (50).to_bytes(8, "little") + b"{" * 50, b"12",
], ids=["endless", "huge", "no json", "short"])  # fmt: skip
@pytest.mark.parametrize("kind", ["huggingface"])
def test_headers_that_lie_are_refused(place: Place, stream: bool, header: bytes) -> None:
    place.replace(SHARDS[0], header + bytes(20_000 if len(header) > 2 else 0))
    error = place.failing(stream=stream)
    assert isinstance(error, ckptfmt.SourceError)
    assert "not a " in str(error)
    assert SHARDS[0] in str(error)
    assert "ckptfmt-headers" not in str(error)


# ---- the command, and what only the environment says ----


def run(place: Place, *arguments: str, **env: str) -> dict[str, object]:
    """What the command prints on stdout, which is data and nothing else."""
    base = dict.fromkeys(FOREIGN, "") | environment(place.hub, place.target.parent)
    done = run_cli("convert", *arguments, str(place.target), "--json", **{**base, **env})
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_the_command_honours_endpoint_token_and_offline_cache(place: Place) -> None:
    place.hub.token = TOKEN
    token = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[place.kind]
    arguments = ["org/model"] + (["--from", "modelscope"] if place.kind == "modelscope" else [])
    found = run(place, *arguments, **{token: TOKEN})
    assert found["tensors"] == 12
    if place.kind == "huggingface":
        before, asked = place.digests(), len(place.hub.requests)
        assert run(place, *arguments, "--force", HF_HUB_OFFLINE="1")["id"] == found["id"]
        assert len(place.hub.requests) == asked
        assert place.digests() == before


def test_a_missing_client_is_one_line_with_the_command(place: Place) -> None:
    module = {"huggingface": "huggingface_hub", "modelscope": "modelscope_hub"}[place.kind]
    child = run_child(
        f"import sys\nsys.modules[{module!r}] = None\nfrom ckptfmt.cli import main\n"
        f"main(['convert', {place.address!r}, {str(place.target)!r}])"
    )
    assert child.returncode == 1
    assert f"{module}" in child.stderr
    assert "pip install 'ckptfmt[hub]'" in child.stderr
    assert len(child.stderr.splitlines()) == 1


@pytest.mark.parametrize(("source", "options", "message"), [
    ("hf://org", {}, "no repository of a hub"),
    ("s3://org/model", {}, "the scheme is 's3'"),
    ("hf://org/model", {"hub": "modelscope"}, "is on huggingface"),
    ("hf://org/model@a", {"revision": "b"}, "the revision is 'a', and 'b' beside it"),
    ("hf://org/model@", {}, "ends with @"),
    ("org/model", {"hub": "github"}, "expected one of huggingface, modelscope"),
    (".", {"stream": True}, "stream: only for a repository"),
    ({}, {"token": "x"}, "token: only for a repository"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    source: object, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ckptfmt.OptionError, match=message):
        conversion.convert(source, tmp_path / "target", **options)
