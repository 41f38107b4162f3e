"""What ``inspect`` shows."""

from __future__ import annotations

import json

import pytest

from ckptfmt import rendering
from tests.helpers.indexes import ID, MIB, make_index, sized, small_index, spec


def test_plain_values_hold_the_whole_index() -> None:
    made = small_index()
    found = json.loads(json.dumps(rendering.to_dict(made)))
    assert found["format"] == "ckptfmt"
    assert found["version"] == [1, 0]
    assert found["id"] == ID
    assert found["nbytes"] == made.nbytes == 34 + 3 * MIB + 17
    assert [p["file"] for p in found["partitions"]] == [p.file for p in made.partitions]
    assert found["tensors"][0] == {
        "names": ["embed", "head"], "dtype": "BF16", "shape": [3, 5], "nbytes": 30,
        "extents": [[0, 4096, 30]],
    }  # fmt: skip
    assert len(found["tensors"][3]["extents"]) == 2
    assert found["metadata"] == {"format": "pt"}
    assert found["provenance"]["tool"] == "test"


def test_dtypes_are_summed_up_with_tied_tensors_once() -> None:
    assert rendering.dtype_sums(small_index()) == {
        "BF16": {"tensors": 1, "nbytes": 30},
        "F32": {"tensors": 2, "nbytes": 4},
        "U8": {"tensors": 1, "nbytes": 3 * MIB + 17},
    }


def test_the_summary_has_a_line_for_each_question() -> None:
    lines = dict(rendering.summary("model.ckpt", small_index()))
    assert lines == {
        "checkpoint": "model.ckpt",
        "id": ID,
        "format": "1.0, alignment 4096",
        "tensors": "4, 3.15 MB",
        "dtypes": "BF16 30 B in 1, F32 4 B in 2, U8 3.15 MB in 1",
        "partitions": "3, 3.16 MB",
        "source": "live (live)",
        "converted by": "test, dtype -",
    }


def test_the_summary_names_a_repository_and_its_commit() -> None:
    source = {"kind": "safetensors", "name": "m", "hub": "huggingface", "repository": "o/m",
              "commit": "0123abc"}  # fmt: skip
    made = make_index(sized([1]), provenance={"source": source})
    line = dict(rendering.summary("m", made))["source"]
    assert line == "o/m on huggingface, commit 0123abc (safetensors)"


@pytest.mark.parametrize(
    "provenance",
    [
        {}, {"source": None, "options": None}, {"source": 5, "options": [1], "tool": {"a": 1}},
        {"source": {}, "options": {}}, {"source": {"name": ["x"], "kind": 7}},
        {"source": {"repository": 5, "hub": [], "commit": {}}},
        {"source": {"repository": 5, "hub": [1], "commit": {}}},
    ],
)  # fmt: skip
def test_any_provenance_can_be_shown(provenance: dict[str, object]) -> None:
    lines = dict(rendering.summary("m", make_index(sized([1]), provenance=provenance)))
    assert set(lines) >= {"source", "converted by"}


def test_an_empty_checkpoint_can_be_shown() -> None:
    made = make_index([])
    assert dict(rendering.summary("m", made))["dtypes"] == "-"
    assert rendering.tensor_rows(made) == []
    assert rendering.module_tree(made).children == {}


def test_rows_of_the_table() -> None:
    rows = rendering.tensor_rows(small_index())
    assert rows == [
        ("embed = head", "BF16", "3×5", "30 B", "0:4096"),
        ("scale", "F32", "scalar", "4 B", "0:8192"),
        ("empty", "F32", "0×5", "0 B", "-"),
        ("big", "U8", "3145745", "3.15 MB", "1:4096, 2:4096"),
    ]


def test_the_tree_is_cut_at_dots_and_sizes_add_up() -> None:
    made = make_index(
        [
            spec(("model.embed.weight", "head.weight"), "U8", 100),
            spec("model.layers.0.w", "U8", 10),
            spec("model.layers.1.w", "U8", 20),
            spec("bias", "U8", 1),
            spec("a..b", "U8", 2),
        ]
    )
    root = rendering.module_tree(made)
    assert (root.nbytes, root.tensors) == (133, 5)
    assert list(root.children) == ["model", "head", "bias", "a"]
    model = root.children["model"]
    assert (model.nbytes, model.tensors) == (130, 3)
    assert model.children["layers"].children["1"].children["w"].nbytes == 20
    # Tied tensors count where they are named first, and are shown at both places.
    assert root.children["head"].nbytes == 0
    assert list(root.children["head"].children) == ["weight"]
    assert root.children["a"].children[""].children["b"].nbytes == 2
