"""How a manifest is cut into buckets."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.weights.packing import ParamInfo, plan_buckets, read_slot, write_slot

DTYPES = ["float32", "bfloat16", "float16", "int64", "bool", "uint8", "float64"]
manifests = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3).map(tuple)), max_size=12
).map(lambda rows: [ParamInfo(f"p{i}", dtype, shape) for i, (dtype, shape) in enumerate(rows)])


@given(manifests, st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_buckets_hold_every_parameter_once_in_order_and_do_not_overlap(manifest, bucket_bytes):
    buckets = plan_buckets(manifest, bucket_bytes)
    assert [info for bucket in buckets for info, _ in bucket.slots] == manifest
    for bucket in buckets:
        end = 0
        for info, offset in bucket.slots:
            assert offset >= end and offset % info.torch_dtype.itemsize == 0
            end = offset + info.nbytes
        assert end == bucket.nbytes
        assert bucket.nbytes <= bucket_bytes or len(bucket.slots) == 1


@given(manifests, st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_what_is_written_into_a_bucket_is_read_back_bit_for_bit(manifest, seed):
    generator = torch.Generator().manual_seed(seed)
    for bucket in plan_buckets(manifest, 256):
        buffer = bucket.allocate(torch.device("cpu"))
        tensors = []
        for info, offset in bucket.slots:
            raw = torch.randint(0, 2 if info.dtype == "bool" else 256, (info.nbytes,), generator=generator)
            tensors.append(raw.to(torch.uint8).view(info.torch_dtype).view(info.shape))
            write_slot(buffer, offset, tensors[-1])
        for (info, offset), tensor in zip(bucket.slots, tensors, strict=True):
            got = read_slot(buffer, offset, info)
            assert got.shape == tensor.shape and got.dtype == tensor.dtype
            assert torch.equal(got.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_a_transposed_tensor_is_written_by_value_not_by_memory():
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3).T
    buffer = torch.zeros(24, dtype=torch.uint8)
    write_slot(buffer, 0, tensor)
    assert torch.equal(read_slot(buffer, 0, ParamInfo.of("t", tensor)), tensor)
