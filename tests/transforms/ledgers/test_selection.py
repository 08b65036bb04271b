import pytest
from storage_emulator import storage_server

from transforms.formats.embedding_table import Provenance
from transforms.ledgers.selection import Choice, Scope, choose
from transforms.records import ImageRef, LedgerEntry, Origin
from transforms.storage.file_listing import list_files

MADE_BY = Provenance("handle", "model-a", "contract", "float32")
REF = ImageRef("/photos/a.jpg", 5, origin=Origin("2"))
UNKNOWN = ImageRef("https://photos.invalid/a.jpg")


def entry(generation="2", sha256="s2", model="model-a", run_id="r1", at=1.0, uri=REF.uri):
    return LedgerEntry(uri, generation, sha256, model, "contract", "float32", run_id, at)


def choice(ref, *ledgers, in_scope=False, prune=False):
    return choose(ref, ledgers, MADE_BY, in_scope=in_scope, prune=prune)


def test_an_image_that_no_ledger_knows_is_to_be_done():
    assert choice(REF, []) == Choice(todo=REF)


def test_an_image_of_the_same_generation_is_skipped_and_its_entry_kept():
    assert choice(REF, [entry()]) == Choice(skipped=True, kept=(entry(),))


def test_a_changed_image_is_to_be_done_and_its_entry_stays_live_until_then():
    old = entry(generation="1")
    assert choice(REF, [old]) == Choice(todo=REF, replaced=old)


@pytest.mark.parametrize(
    "other",
    [
        entry(model="model-b"),
        LedgerEntry(REF.uri, "2", "s2", "model-a", "other", "float32", "r1", 1.0),
        LedgerEntry(REF.uri, "2", "s2", "model-a", "contract", "bfloat16", "r1", 1.0),
    ],
)
def test_what_another_model_contract_or_precision_made_counts_for_nothing_and_is_kept(other):
    assert choice(REF, [other]) == Choice(todo=REF, kept=(other,))
    assert choice(REF, [other, entry()]) == Choice(skipped=True, kept=(other, entry()))
    assert choice(None, [other], in_scope=True, prune=True) == Choice(kept=(other,))


def test_every_ledger_must_have_the_image():
    assert choice(REF, [entry()], [entry()]) == Choice(skipped=True, kept=(entry(),))
    assert choice(REF, [entry()], []) == Choice(todo=REF, replaced=entry())
    # Entries of the second ledger are only asked; the table keeps its rows itself.
    assert choice(REF, [], [entry()]) == Choice(todo=REF)
    assert choice(REF, [entry()], [entry(generation="1")]) == Choice(todo=REF, replaced=entry())


def test_where_a_generation_is_unknown_the_bytes_tell_whether_the_image_is_new():
    known = ImageRef(UNKNOWN.uri, known_sha256="s2")
    old = entry(generation=None)
    assert choice(UNKNOWN, [old]) == Choice(todo=known, replaced=old)
    assert choice(UNKNOWN, [entry()]) == Choice(todo=known, replaced=entry())
    assert choice(REF, [old]).todo.known_sha256 == "s2"
    assert choice(REF, [entry()], [old]).todo.known_sha256 == "s2"


def test_ledgers_that_disagree_about_the_bytes_are_not_believed():
    one, other = entry(generation=None), entry(generation=None, sha256="s3")
    assert choice(UNKNOWN, [one], [other]) == Choice(todo=UNKNOWN, replaced=one)
    assert choice(UNKNOWN, [one], []) == Choice(todo=UNKNOWN, replaced=one)


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_entries_of_one_key_the_newest_counts_and_the_others_are_dropped(turned):
    old, new = entry(generation="1", at=1.0, run_id="r1"), entry(at=1.0, run_id="r2")
    assert choice(REF, [new, old] if turned else [old, new]) == Choice(skipped=True, kept=(new,))


def test_an_image_that_is_missing_where_the_inputs_look_is_gone():
    assert choice(None, [entry()], in_scope=True) == Choice(gone=entry(), kept=(entry(),))
    assert choice(None, [entry()], in_scope=True, prune=True) == Choice(gone=entry())
    assert choice(None, [], [entry()], in_scope=True) == Choice(gone=entry())


def test_what_is_gone_is_told_by_the_entry_of_the_last_ledger_that_has_one():
    older, newer = entry(at=1.0, run_id="r1"), entry(at=2.0, run_id="r2")
    assert choice(None, [newer], [older], in_scope=True).gone == older
    assert choice(None, [newer], [], in_scope=True).gone == newer


def test_an_image_that_the_inputs_do_not_look_for_is_kept_also_when_pruning():
    assert choice(None, [entry()], prune=True) == Choice(kept=(entry(),))


def test_a_folder_answers_for_the_images_below_it():
    scope = Scope(("/photos/", "gs://bucket/in"))
    inside = ["/photos/a.jpg", "/photos/b/c.PNG", "gs://bucket/in/a/b.jpg", "/photos/no_extension"]
    outside = ["/photos2/a.jpg", "gs://bucket/in2/a.jpg", "gs://other/in/a.jpg", "/photos/a.txt"]
    hidden = ["/photos/.a.jpg", "/photos/.b/c.jpg"]
    assert [uri for uri in inside + outside + hidden if uri in scope] == inside


def test_an_image_of_a_kind_that_the_job_no_longer_lists_is_left_alone():
    assert "/photos/a.png" not in Scope(("/photos",), extensions=(".jpg",))


def test_relative_locations_and_file_uris_are_taken_as_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/photos/a.jpg" in Scope(("photos",))
    # The listing writes names that are no UTF-8 as file:// URIs.
    assert f"file://{tmp_path}/photos/%FF.jpg" in Scope((f"file://{tmp_path}/photos",))


def test_a_pattern_answers_for_what_it_matches():
    with storage_server() as server:
        scope = Scope((f"{server.address}/**/*.jpg", "/photos/*.dat"))
    assert f"{server.address}/a/b.jpg" in scope
    assert "/photos/.hidden.dat" in scope
    assert f"{server.address}/a.png" not in scope
    assert "/photos/b/c.dat" not in scope


def test_a_path_that_exists_is_no_pattern_whatever_its_name(tmp_path):
    folder = tmp_path / "[2024]"
    folder.mkdir()
    scope = Scope((str(folder),))
    assert f"{folder}/a.jpg" in scope
    assert f"{tmp_path}/2" not in scope


@pytest.mark.parametrize(
    ("stored", "inside", "outside"),
    [
        # What lies in the bucket under the name decides what the name means.
        ("[2024]/a.jpg", ["[2024]/b.jpg", "[2024]/c/d.png"], ["2", "2/b.jpg"]),
        ("[2024]", ["[2024]", "[2024]/b.jpg"], ["2"]),
        ("other", ["2", "0"], ["[2024]", "[2024]/b.jpg"]),
    ],
)
def test_in_a_bucket_a_name_means_what_it_means_to_the_listing(stored, inside, outside):
    with storage_server() as server:
        server.put(stored, b"x")
        for name in ("2", "other.jpg") if stored != "other" else ("2",):
            server.put(name, b"x")
        location = f"{server.address}/[2024]"
        scope = Scope((location,))
        listed = {file.ref.uri for file in list_files(location)}
    assert listed
    assert all(uri in scope for uri in listed)
    assert all(f"{server.address}/{name}" in scope for name in inside)
    assert not any(f"{server.address}/{name}" in scope for name in outside)


def test_a_local_file_that_is_still_there_is_never_gone(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    scope = Scope((str(tmp_path), f"{tmp_path}/*"))
    names = ("a.jpg", "dangling.jpg", "gone.jpg")
    assert [scope.misses(f"{tmp_path}/{name}") for name in names] == [False, False, True]
    assert [scope.misses(f"file://{tmp_path}/{name}") for name in names] == [False, False, True]
    assert not scope.misses("/other/gone.jpg")


def test_a_file_answers_for_itself():
    scope = Scope(("/photos/a.dat",))
    assert "/photos/a.dat" in scope
    assert "/photos/b.dat" not in scope


@pytest.mark.parametrize(
    "location",
    [
        "@/photos",
        "@/photos/list.csv",
        "tfrecord:/photos/*",
        "bq://project.dataset.table",
        "https://photos.invalid/",
    ],
)
def test_lists_tables_and_urls_make_nothing_gone(location):
    scope = Scope((location,))
    uris = ["/photos/a.jpg", "/photos/list.csv", "https://photos.invalid/a.jpg", "a.jpg"]
    assert not any(uri in scope for uri in uris)
