"""Extents tile the payloads: every way not to has a case."""

from __future__ import annotations

import pytest

from tests.helpers.indexes import MIB, Fields, broken, decode, make_index, plain, put, refused, spec

E = "expected bytes from"
EXTENTS = {
    "overlap of the one before": (put("tensors", 1, "extents", 0, 1, value=4096), E),
    "overlap of the header": (put("tensors", 0, "extents", 0, 1, value=0), E),
    "gap before": (put("tensors", 1, "extents", 0, 1, value=12288), E),
    "unaligned": (put("tensors", 1, "extents", 0, 1, value=8193), E),
    "in the padding": (put("tensors", 1, "extents", 0, 1, value=4126), E),
    "past the payload": (put("tensors", 1, "extents", 0, 2, value=4097), E),
    "of no bytes": (put("tensors", 1, "extents", 0, 2, value=0), E),
    "in the table": (put("tensors", 1, "extents", 0, 1, value=16384), E),
    "too short": (put("tensors", 0, "extents", 0, 2, value=29), "needs 30"),
    "too long": (put("tensors", 0, "extents", 0, 2, value=31), "needs 30"),
    "missing": (put("tensors", 0, "extents", value=[]), "needs 30"),
    "left out at the end": (put("tensors", 3, "extents", value=[]), "needs 3145745"),
    "of an empty tensor": (put("tensors", 2, "extents", value=[[1, 4096, 4]]), "needs 0"),
    "of an empty tensor, empty": (put("tensors", 2, "extents", value=[[0, 12288, 0]]), E),
    "in a partition that is not there": (put("tensors", 3, "extents", 1, 0, value=3), "of 3"),
    "back in an earlier partition": (put("tensors", 3, "extents", 1, 0, value=0), "expected 1 or"),
    "a partition left out": (put("tensors", 3, "extents", 0, 0, value=2), "expected 0 or 1"),
    "twice": (lambda f: f["tensors"][0]["extents"].append([0, 4096, 30]), "several extents"),
    "payload too large": (put("partitions", 0, "payload_nbytes", value=12288), "end at byte"),
    "payload too small": (put("partitions", 0, "payload_nbytes", value=4096), E),
    "payload unaligned": (put("partitions", 0, "payload_nbytes", value=8191), "end at byte"),
    "payload of nothing": (put("partitions", 0, "payload_nbytes", value=0), E),
    "table too large": (put("partitions", 0, "table_nbytes", value=16), "has a table of 16"),
    "table too small": (put("partitions", 2, "table_nbytes", value=8), "has a table of 8"),
    "no table": (put("partitions", 1, "table_nbytes", value=0), "has a table of 0"),
    "tensors in another order": (lambda f: f["tensors"].reverse(), "expected -1 or 0"),
    "a partition without tensors": (
        lambda f: f["partitions"].append(
            {"file": "part-00003.ckptfmt", "payload_nbytes": 0, "table_nbytes": 4}
        ),
        "part-00003.ckptfmt holds no tensor",
    ),
    "a tensor without its partition": (lambda f: f["partitions"].pop(), "is in partition 2"),
}


@pytest.mark.parametrize("case", EXTENTS)
def test_extents_that_do_not_tile_the_payloads_are_refused(case: str) -> None:
    change, message = EXTENTS[case]
    refused(broken(change), message)


def test_no_partitions_means_no_bytes() -> None:
    refused(broken(put("partitions", value=[])), "is in partition 0, expected -1 or 0 of 0")


def test_a_large_tensor_is_cut_between_whole_blocks() -> None:
    def cut(first: int) -> Fields:
        rest = 3 * MIB - first
        fields = plain(make_index([spec("big", "U8", 3 * MIB)], partition_nbytes=2 * MIB + 8192))
        assert len(fields["partitions"]) == 2
        blocks = [-(-n // MIB) for n in (first, rest)]
        padded = [-(-n // 4096) * 4096 for n in (first, rest)]
        fields["tensors"][0]["extents"] = [[0, 4096, first], [1, 4096, rest]]
        for partition, nbytes, count in zip(fields["partitions"], padded, blocks, strict=True):
            partition.update(payload_nbytes=nbytes, table_nbytes=4 * count + 4)
        return fields

    assert decode(cut(2 * MIB))
    assert decode(cut(MIB))
    refused(cut(MIB + 4096), "in whole blocks")
    refused(cut(MIB + 1), "in whole blocks")
    refused(cut(4096), "in whole blocks")


def test_a_large_tensor_is_cut_only_where_a_partition_ends() -> None:
    fields = plain(make_index([spec("big", "U8", 2 * MIB)]))
    fields["tensors"][0]["extents"] = [[0, 4096, MIB], [0, 4096 + MIB, MIB]]
    refused(fields, "must end and begin with their partitions")


def test_the_rest_of_a_large_tensor_is_the_first_of_its_partition() -> None:
    made = make_index([spec("a", "U8", 5), spec("big", "U8", 2 * MIB)])
    fields = plain(made)
    fields["partitions"] = [
        {"file": "part-00000.ckptfmt", "payload_nbytes": MIB, "table_nbytes": 8},
        {"file": "part-00001.ckptfmt", "payload_nbytes": MIB + 4096, "table_nbytes": 12},
    ]
    fields["tensors"] = [
        {"names": ["big"], "dtype": "U8", "shape": [2 * MIB],
         "extents": [[0, 4096, MIB], [1, 8192, MIB]]},
        {"names": ["a"], "dtype": "U8", "shape": [5], "extents": [[1, 4096, 5]]},
    ]  # fmt: skip
    refused(fields, "expected bytes from 4096")


def test_a_large_tensor_is_cut_between_whole_units_of_a_wide_alignment() -> None:
    # Padded to 2 MiB, the 3 MiB would end with their payload; in memory they would leave a gap.
    fields = plain(make_index([spec("big", "U8", 4 * MIB)], alignment=2 * MIB))
    fields["partitions"] = [
        {"file": "part-00000.ckptfmt", "payload_nbytes": 4 * MIB, "table_nbytes": 16},
        {"file": "part-00001.ckptfmt", "payload_nbytes": 2 * MIB, "table_nbytes": 8},
    ]
    fields["tensors"][0]["extents"] = [[0, 2 * MIB, 3 * MIB], [1, 2 * MIB, MIB]]
    refused(fields, "in whole blocks")
