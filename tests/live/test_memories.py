"""A token reaches its own memories alone, by ids that are made here; files are whole and bounded."""

from pathlib import Path

import pytest

from hf_moshi_ttt.live.limits import Limits
from hf_moshi_ttt.live.memories import MemoryStore


def store(folder: Path, **bounds: int) -> MemoryStore:
    return MemoryStore(folder / "memories", Limits(**bounds))


def write(text: str):  # type: ignore[no-untyped-def]
    return lambda path: path.write_text(text)


def test_saved_memories_belong_to_the_token_that_made_them(tmp_path: Path) -> None:
    memories = store(tmp_path)
    first, second = memories.save("alice", write("one")), memories.save("alice", write("four"))
    assert memories.path_of("alice", first).read_text() == "one"
    assert {entry["id"]: entry["bytes"] for entry in memories.entries("alice")} == {first: 3, second: 4}
    assert memories.entries("bob") == [] and memories.num_bytes() == 7
    for owner, name in [("bob", first), ("alice", "../x"), ("alice", ""), ("alice", f"{first}.safetensors")]:
        for use in (memories.path_of, memories.delete):
            with pytest.raises(ValueError, match=r"^There is no saved memory of this id\.$"):
                use(owner, name)
    memories.delete("alice", first)
    assert [entry["id"] for entry in memories.entries("alice")] == [second]
    assert "alice" not in str([*tmp_path.rglob("*")])


def test_files_of_others_in_the_folder_are_not_memories(tmp_path: Path) -> None:
    memories = store(tmp_path)
    path = memories.path_of("alice", memories.save("alice", write("one")))
    (path.parent / "notes.safetensors").write_text("mine")
    assert len(memories.entries("alice")) == 1
    with pytest.raises(ValueError, match="no saved memory"):
        memories.path_of("alice", "notes")


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    memories = store(tmp_path, memory_bytes=10)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        memories.save("alice", fail)
    with pytest.raises(ValueError, match=r"^The memory has 11 bytes, but 10 are allowed\.$"):
        memories.save("alice", write("x" * 11))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_number_of_memories_is_bounded_for_each_token(tmp_path: Path) -> None:
    memories = store(tmp_path, memories=2)
    for _ in range(2):
        memories.save("alice", write("one"))
    with pytest.raises(ValueError, match=r"^There are 2 saved memories, the most: delete one first\.$"):
        memories.save("alice", write("one"))
    memories.save("bob", write("one"))


def test_a_file_that_grew_is_not_loaded(tmp_path: Path) -> None:
    memories = store(tmp_path, memory_bytes=10)
    name = memories.save("alice", write("one"))
    memories.path_of("alice", name).write_text("x" * 11)
    with pytest.raises(ValueError, match="has 11 bytes, but 10 are allowed"):
        memories.path_of("alice", name)
