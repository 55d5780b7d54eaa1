"""Finding sources: every file ends as an entry, a manifest's words go with it, and nothing outside the folder is touched."""

import hashlib
import os
from pathlib import Path

import pytest

from components.config import load_config
from components.ingest.sources import find_sources, list_sources, listing_digest, require_accepted
from tests.footage import FOLDER, needs_footage

LIMITS = load_config().footage


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def named(entries) -> dict:
    return {Path(entry.uri).name: entry for entry in entries}


def test_every_file_becomes_an_entry_but_for_what_is_plainly_no_media(tmp_path):
    names = ["a.mp4", "deep/er/b c \u00fc.MKV", "-dash.webm", "still.JPG", "odd.xyz", "none", "notes.txt", "list.csv", ".hidden.mp4"]
    fill(tmp_path, {name: name for name in names})
    found = named(find_sources(tmp_path, None, LIMITS))
    assert set(found) == {"a.mp4", "b c \u00fc.MKV", "-dash.webm", "still.JPG", "odd.xyz", "none"}
    assert found["odd.xyz"].status == found["none"].status == "rejected"
    assert "`.xyz` is not an extension that is read" in found["odd.xyz"].reason
    assert found["still.JPG"].kind == "image"
    assert found["a.mp4"].video_id == hashlib.sha256(b"a.mp4").hexdigest()
    assert found["a.mp4"].uri == str(tmp_path / "a.mp4")


def test_a_manifest_lends_source_licence_rights_and_caption(tmp_path):
    rows = (
        "file,source_repo,license,rights,caption_or_label,notes\nin/a.mp4,o/r@1,MIT,A,a red ball,n\nin/b.mp4,,,,,\nin/gone.mp4,s,CC0,,,\n"
    )
    fill(tmp_path, {"manifest.csv": rows, "in/a.mp4": "a", "in/b.mp4": "b", "in/c.mp4": "c"})
    found = named(find_sources(tmp_path / "in", None, LIMITS))
    a = found["a.mp4"]
    assert (a.source, a.licence, a.rights, a.label_caption) == ("o/r@1", "MIT", "A", "a red ball")
    assert a.label_by == f"manifest:{hashlib.sha256(b'a red ball').hexdigest()[:8]}"
    assert found["b.mp4"].label_caption is found["b.mp4"].label_by is found["c.mp4"].licence is None
    assert (found["gone.mp4"].status, found["gone.mp4"].licence) == ("missing", "CC0")


def test_a_manifest_one_folder_up_speaks_only_of_files_below_the_folder(tmp_path):
    rows = "file,licence\nin/a.mp4,MIT\nother/b.mp4,MIT\n"
    fill(tmp_path, {"manifest.csv": rows, "in/a.mp4": "a", "other/b.mp4": "b"})
    assert set(named(find_sources(tmp_path / "in", None, LIMITS))) == {"a.mp4"}


def test_a_manifest_can_be_named(tmp_path):
    fill(tmp_path, {"lists/mine.csv": "file,caption\n../in/a.mp4,a cat\n", "in/a.mp4": "a"})
    assert named(find_sources(tmp_path / "in", tmp_path / "lists" / "mine.csv", LIMITS))["a.mp4"].label_caption == "a cat"


@pytest.mark.parametrize(
    ("name", "files", "tip"),
    [
        ("mine.csv", "b.mp4\na.mp4\n", "the manifest's folder; did you mean `in/a.mp4`?"),
        ("in/mine.csv", "in/a.mp4\n", "the manifest's folder; did you mean `a.mp4`?"),
        ("lists/mine.csv", "in/deep/c.mp4\n", "the manifest's folder; did you mean `../in/deep/c.mp4`?"),
        ("mine.csv", "s3://films/x.mp4\n", "the manifest's folder `{}`, where `s3://films/x.mp4` is no file of the source"),
        ("mine.csv", "other/b.mp4\n", "the manifest's folder `{}`, where `other/b.mp4` is no file of the source"),
    ],
)
def test_a_named_manifest_that_speaks_of_no_file_of_the_source_is_one_sentence(tmp_path, name, files, tip):
    fill(tmp_path, {name: f"file\n{files}", "in/a.mp4": "a", "in/deep/c.mp4": "c", "other/b.mp4": "b"})
    for look in (list_sources, find_sources):
        with pytest.raises(ValueError, match="names a file of") as refused:
            look(tmp_path / "in", tmp_path / name, LIMITS)
        said = f"no row of the manifest `{tmp_path / name}` names a file of `{tmp_path / 'in'}`; hint: `file` is relative to "
        assert str(refused.value) == said + tip.format(tmp_path)


def test_rows_of_a_named_manifest_that_name_no_file_are_counted_in_a_warning(tmp_path, caplog):
    names = ["in/a.mp4", "other/b.mp4", "in/gone.mp4", "odd.mp4", "s3://films/x.mp4"]
    fill(tmp_path, {"mine.csv": "\n".join(["file", *names]), "in/a.mp4": "a", "other/b.mp4": "b"})
    find_sources(tmp_path / "in", tmp_path / "mine.csv", LIMITS)
    hint = "hint: `file` is relative to the manifest's folder"
    first = "`in/gone.mp4`, `odd.mp4`, `s3://films/x.mp4`"
    assert caplog.messages == [f"3 of 5 rows of the manifest `{tmp_path / 'mine.csv'}` name no file: {first}; {hint}"]
    caplog.clear()
    list_sources(tmp_path / "in", tmp_path / "mine.csv", LIMITS)
    fill(tmp_path, {"manifest.csv": "file\nodd.mp4\nother/b.mp4\n"})
    assert set(named(find_sources(tmp_path / "in", None, LIMITS))) == {"a.mp4"}  # one that lies there may be of other footage
    fill(tmp_path, {"mine.csv": "file\nin/a.mp4\nother/b.mp4\n"})
    find_sources(tmp_path / "in", tmp_path / "mine.csv", LIMITS)  # as may those of several sources
    assert caplog.messages == []


def test_a_manifest_beside_a_link_to_the_footage_speaks_of_its_files(tmp_path):
    fill(tmp_path, {"disk/in/a.mp4": "a", "here/mine.csv": "file,caption\nin/a.mp4,a cat\nin/gone.mp4,a dog\n"})
    os.symlink(tmp_path / "disk" / "in", tmp_path / "here" / "in")
    found = named(find_sources(tmp_path / "here" / "in", tmp_path / "here" / "mine.csv", LIMITS))
    assert {name: (entry.status, entry.label_caption) for name, entry in found.items()} == {
        "a.mp4": ("found", "a cat"),
        "gone.mp4": ("missing", "a dog"),
    }


def test_one_content_in_two_places_is_one_entry_with_the_words_of_both(tmp_path):
    fill(tmp_path, {"manifest.csv": "file,licence,caption\nz.mp4,MIT,a cat\n", "a.mp4": "same", "z.mp4": "same"})
    (only,) = find_sources(tmp_path, None, LIMITS)
    assert [Path(place).name for place in only.places] == ["a.mp4", "z.mp4"]
    assert (only.licence, only.label_caption) == ("MIT", "a cat")


def test_links_that_leave_the_folder_are_refused_and_not_read(tmp_path):
    fill(tmp_path, {"outside/secret.mp4": "secret", "in/a.mp4": "a"})
    os.symlink(tmp_path / "outside" / "secret.mp4", tmp_path / "in" / "link.mp4")
    os.symlink(tmp_path / "in" / "a.mp4", tmp_path / "in" / "same.mp4")
    os.symlink(tmp_path / "outside", tmp_path / "in" / "folder")
    found = named(find_sources(tmp_path / "in", None, LIMITS))
    assert found["link.mp4"].status == found["folder"].status == "rejected"
    assert found["link.mp4"].video_id != hashlib.sha256(b"secret").hexdigest()
    assert len(found["a.mp4"].places) == 2


def test_a_pipe_is_a_row_with_a_reason_and_nobody_waits_for_it(tmp_path):
    fill(tmp_path, {"a.mp4": "a"})
    os.mkfifo(tmp_path / "pipe.mp4")
    found = named(find_sources(tmp_path, None, LIMITS))
    assert (found["pipe.mp4"].status, found["a.mp4"].status) == ("rejected", "found")
    assert "it is a pipe" in found["pipe.mp4"].reason


def test_words_beside_a_film_are_not_read_through_a_link(tmp_path):
    fill(tmp_path, {"outside/secret.json": "{}", "in/a.mp4": "a", "in/b.mp4": "b", "in/b.json": "{}"})
    os.symlink(tmp_path / "outside" / "secret.json", tmp_path / "in" / "a.json")
    found = named(find_sources(tmp_path / "in", None, LIMITS))
    assert found["a.mp4"].sidecar is None
    assert Path(found["b.mp4"].sidecar).name == "b.json"


def test_a_manifest_that_is_a_link_out_of_the_source_is_one_sentence(tmp_path):
    fill(tmp_path, {"far/secret.csv": "file,caption\n../near/in/a.mp4,secret\n", "near/in/a.mp4": "a"})
    os.symlink(tmp_path / "far" / "secret.csv", tmp_path / "near" / "in" / "manifest.csv")
    with pytest.raises(ValueError, match="is a link that leaves the source; hint: copy it there, or `--manifest FILE` names it"):
        find_sources(tmp_path / "near" / "in", None, LIMITS)
    named_by_hand = find_sources(tmp_path / "near" / "in", tmp_path / "near" / "in" / "manifest.csv", LIMITS)
    assert [entry.label_caption for entry in named_by_hand if entry.uri.endswith("a.mp4")] == ["secret"]


def test_a_manifest_names_nothing_outside_its_folder(tmp_path):
    fill(tmp_path, {"in/manifest.csv": "file\n../out.mp4\n/etc/passwd\na.mp4\n", "out.mp4": "o", "in/a.mp4": "a"})
    found = find_sources(tmp_path / "in", None, LIMITS)
    assert sorted((entry.status, Path(entry.uri).name) for entry in found) == [
        ("found", "a.mp4"),
        ("rejected", "out.mp4"),
        ("rejected", "passwd"),
    ]


@pytest.mark.parametrize(
    ("files", "manifest", "message"),
    [
        (None, None, "is not there; hint: `--source DIR`"),
        ({}, None, "holds no video and no image; hint:"),
        ({"a.txt": "text"}, None, "holds no video and no image; hint:"),
        ({"a.doc": "text"}, None, "nothing in .* can be read, `a.doc` for one"),
        ({"a.mp4": "a"}, "no.csv", "the manifest `.*no.csv` is not there; hint: `--manifest FILE`"),
        ({"a.mp4": "a", "bad.csv": "name\nx\n"}, "bad.csv", "has no column `file`"),
    ],
)
def test_a_source_of_which_nothing_can_be_used_says_so_in_one_sentence(tmp_path, files, manifest, message):
    folder = tmp_path / "in"
    if files is not None:
        folder.mkdir()
        fill(folder, files)
    with pytest.raises(ValueError, match=message) as refused:
        find_sources(folder, folder / manifest if manifest else None, LIMITS)
    assert "\n" not in str(refused.value)


def test_a_manifest_that_is_no_text_is_refused(tmp_path):
    fill(tmp_path, {"a.mp4": "a"})
    (tmp_path / "manifest.csv").write_bytes(b"file\n\xff\xfe.mp4\n")
    with pytest.raises(ValueError, match="cannot be read"):
        find_sources(tmp_path, None, LIMITS)


def test_a_file_that_did_not_change_is_not_read_again(tmp_path):
    fill(tmp_path, {"a.mp4": "a", "b.mp4": "b"})
    known = [entry.as_dict() for entry in find_sources(tmp_path, None, LIMITS)]
    marked = [{**row, "video_id": f"known-{i}"} for i, row in enumerate(known)]
    again = find_sources(tmp_path, None, LIMITS, marked)
    assert [entry.video_id for entry in again] == ["known-0", "known-1"]
    (tmp_path / "b.mp4").write_text("other")
    assert find_sources(tmp_path, None, LIMITS, marked)[1].video_id == hashlib.sha256(b"other").hexdigest()


def test_the_listings_digest_changes_with_files_and_with_what_is_said_of_them(tmp_path):
    fill(tmp_path, {"a.mp4": "a", "b.mp4": "b"})
    seen = [listing_digest(list_sources(tmp_path, None, LIMITS))]
    assert listing_digest(find_sources(tmp_path, None, LIMITS)) == seen[0]
    for change in ({"c.mp4": "c"}, {"a.mp4": "longer"}, {"manifest.csv": "file,caption\na.mp4,a cat\n"}, {"b.json": "{}"}):
        fill(tmp_path, change)
        seen.append(listing_digest(list_sources(tmp_path, None, LIMITS)))
    (tmp_path / "c.mp4").unlink()
    seen.append(listing_digest(list_sources(tmp_path, None, LIMITS)))
    assert len(set(seen)) == len(seen)


def test_one_file_alone_is_a_source(tmp_path):
    fill(tmp_path, {"a.mp4": "a", "b.mp4": "b", "manifest.csv": "file,caption\na.mp4,a cat\nb.mp4,a dog\n"})
    (only,) = find_sources(tmp_path / "a.mp4", None, LIMITS)
    assert only.label_caption == "a cat"


def test_only_broken_files_are_refused_with_the_first_reason():
    require_accepted(
        [{"status": "rejected", "uri": "/x/a.mp4", "reason": "empty"}, {"status": "accepted", "uri": "/x/b.mp4", "reason": None}]
    )
    with pytest.raises(ValueError, match=r"none of 1 files can be used, the first one `a\.mp4`: empty; hint"):
        require_accepted([{"status": "rejected", "uri": "/x/a.mp4", "reason": "empty"}])


@needs_footage
def test_all_of_the_footage_is_listed_with_its_licences():
    found = find_sources(FOLDER, None, LIMITS)
    rows = (FOLDER / "manifest.csv").read_text().splitlines()[1:]
    assert len(found) == len(rows)
    assert all(entry.licence and entry.source for entry in found)
    assert sum(bool(entry.label_caption) for entry in found) >= 40
