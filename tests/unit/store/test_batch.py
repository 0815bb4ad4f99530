"""Operations are cut into transactions that etcd accepts, none lost, in order."""

from holdfast.coordinator.store.batch import chunks
from holdfast.coordinator.store.port import MAX_OPERATIONS, Delete, Put
from hypothesis import given
from hypothesis import strategies as st

sizes = st.lists(st.sampled_from([0, 1, 1000, 300_000, 1_200_000]), max_size=400)


@given(sizes)
def test_chunks_keep_every_operation_in_order_within_the_limits(lengths: list[int]) -> None:
    operations = [Put(f"k{n}", bytes(length)) if length else Delete(f"k{n}") for n, length in enumerate(lengths)]
    cut = list(chunks(operations))
    assert [operation for chunk in cut for operation in chunk] == operations
    for chunk in cut:
        assert 1 <= len(chunk) <= MAX_OPERATIONS
        total = sum(len(operation.value) for operation in chunk if isinstance(operation, Put))
        assert total <= 1 << 20 or len(chunk) == 1
