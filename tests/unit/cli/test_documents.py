import pytest
from holdfast.coordinator.cli import documents
from holdfast.coordinator.cli.documents import Document, Unreadable
from holdfast.coordinator.cli.kinds import BY_NAME
from holdfast.coordinator.planning.desired import parse
from hypothesis import example, given
from hypothesis import strategies as st
from orjson import dumps

NODE = "kind: Node\nname: alpha\nspec: {address: 10.0.0.1}\n"


def read(text: str) -> list[Document | Unreadable]:
    return list(documents.read(text, "f"))


def only_document(text: str) -> Document:
    [found] = read(text)
    assert isinstance(found, Document), found
    return found


def only_reason(text: str) -> str:
    [found] = read(text)
    assert isinstance(found, Unreadable)
    return f"{found.where} {found.reason}"


def test_many_documents_in_a_file_are_read_with_their_lines() -> None:
    found = read(f"# nodes\n---\n{NODE}---\n{NODE.replace('alpha', 'beta')}")
    assert [(d.where, d.label) for d in found if isinstance(d, Document)] == [
        ("f:3", "node/alpha"),
        ("f:7", "node/beta"),
    ]


def test_a_list_stands_for_its_documents_in_yaml_and_in_json() -> None:
    in_json = dumps([{"kind": "Node", "name": n, "spec": {"address": "a"}} for n in ("alpha", "beta")]).decode()
    for text in (in_json, "- {kind: Node, name: alpha, spec: {}}\n- {kind: Node, name: beta, spec: {}}\n"):
        assert [d.name for d in read(text) if isinstance(d, Document)] == ["alpha", "beta"]


def test_a_vmid_may_be_written_as_number_or_text() -> None:
    for name in ("101", '"101"'):
        assert only_document(f"kind: Guest\nname: {name}\nspec: {{}}\n").name == "101"


def test_words_and_times_stay_text_as_yaml_1_2_and_json_have_it() -> None:
    spec = only_document(
        "kind: Node\nname: a\nspec: {a: on, b: no, c: 22:30, d: 2026-01-01, e: 0123, f: 1_000, g: 1e3}\n"
    ).spec
    assert set(map(type, spec.values())) == {str}


def test_numbers_booleans_and_nothing_keep_their_types() -> None:
    spec = only_document("kind: Node\nname: a\nspec: {a: 9223372036854775808, b: true, c: null, d: 1.5, e: }\n").spec
    assert list(spec.values()) == [2**63, True, None, 1.5, None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: Node\nname: a\nspec: {address: x, address: y}\n", "f:1 'address' is given twice (line 3)"),
        ('{"kind": "Node", "kind": "Guest"}', "'kind' is given twice"),
        ("kind: Node\nname: a\nspec: {}\nmetadata: {}\n", "unknown field 'metadata'"),
        ("kind: Node\nname: a\n", "spec missing"),
        ("{}", "kind and name and spec missing"),
        ("kind: Nodes\nname: a\nspec: {}\n", "kind 'Nodes' is not known (known: Node, Storage"),
        ("kind: [a]\nname: a\nspec: {}\n", "kind ['a'] is not known"),
        ("kind: Node\nname: true\nspec: {}\n", "name True must be text"),
        ("kind: Node\nname: a b\nspec: {}\n", "'a b' cannot name one of nodes"),
        ("kind: Node\nname: -rf\nspec: {}\n", "'-rf' cannot name"),
        ('kind: Node\nname: "a\\nb"\nspec: {}\n', r"'a\nb' cannot name"),
        ("kind: Storage\nname: a@b\nspec: {}\n", "'a@b' cannot name one of storage"),
        ("kind: Guest\nname: 0101\nspec: {}\n", "'0101' cannot name one of guests"),
        ("kind: Guest\nname: 99\nspec: {}\n", "cannot name one of guests"),
        ("kind: Node\nname: a\nspec: []\n", "spec must be a mapping"),
        ("just words\n", "a document is a mapping"),
        ("kind: Node\nname: a\nspec: {? [x] : y}\n", "a key must be plain text"),
        ("kind: Node\nname: a\nspec: !!python/object/apply:os.system [x]\n", "could not determine a constructor"),
        ("kind: Node\nname: a\nspec: {schedule: */15}\n", "f:3"),
        ("a: [\n", "the rest of the file was not read"),
        ("\x00", "f:1"),
        ("{a: " * 5000, "the rest of the file was not read"),
        ("[" * 20000 + "]" * 20000, "f:1 a document is a mapping"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line_and_reason(text: str, says: str) -> None:
    said = only_reason(text)
    assert says in said
    assert "\n" not in said


def test_a_bad_document_leaves_the_others_of_its_file_readable() -> None:
    found = read(f"{NODE}---\nkind: Node\nname: a\nname: b\nspec: {{}}\n---\n{NODE}")
    assert [type(each) for each in found] == [Document, Unreadable, Document]


def test_what_precedes_a_syntax_error_is_read() -> None:
    found = read(f"{NODE}---\na: [\n")
    assert [type(each) for each in found] == [Document, Unreadable]


@given(st.text())
def test_no_text_raises(text: str) -> None:
    for found in read(text):
        assert isinstance(found, Document | Unreadable)


@given(
    name=st.text(),
    definition=st.text(st.characters(exclude_categories=["Cs"])),
    tags=st.lists(st.sampled_from(["on", "1", "null", "a.b", "22_30"])),
)
@example(name="a\x85b", definition="\x85", tags=[])
@example(name="\u2028", definition="a\n\u2029b\r", tags=[])
def test_what_is_printed_as_yaml_is_read_back_the_same(name: str, definition: str, tags: list[str]) -> None:
    guest = parse("guests", "101", {"type": "lxc", "name": name, "definition": definition, "tags": tags})
    [found] = read(documents.dump([(BY_NAME["Guest"], "101", guest.sparse())]))
    assert isinstance(found, Document), found
    assert parse("guests", "101", found.spec) == guest
