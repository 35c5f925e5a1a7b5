from __future__ import annotations

import io
import tarfile

import pytest

from emphasis.datasets import DamagedFileError, UnsafeFileError
from emphasis.datasets.archives import check_digest, read_members

CONTENT = {"folder/a": b"alpha" * 1000, "folder/b": bytes(range(256)) * 50, "c": b""}


def archive(path, extra=(), mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in CONTENT.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_wanted_members_are_read_and_no_others(mode, tmp_path):
    path = archive(tmp_path / "a.tar", [member("folder", tarfile.DIRTYPE)], mode)
    assert dict(read_members(path, lambda name: True)) == CONTENT
    assert dict(read_members(path, lambda name: name.endswith("a"))) == {"folder/a": CONTENT["folder/a"]}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("../evil"), "leads out"),
        (member("folder/../../evil"), "leads out"),
        (member("..\\evil"), "leads out"),
        (member("/etc/evil"), "leads out"),
        (member("C:\\evil"), "leads out"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "link or device"),
        (member("link", tarfile.LNKTYPE, "folder/a"), "link or device"),
        (member("pipe", tarfile.FIFOTYPE), "link or device"),
        (member("device", tarfile.CHRTYPE), "link or device"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_member_that_leads_out_or_is_no_file_condemns_the_archive(bad, why, tmp_path):
    path = archive(tmp_path / "a.tar.gz", [bad])
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(UnsafeFileError, match=why):
        list(read_members(path, lambda name: name == "folder/a"))
    assert set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_compressed_archive_is_a_clear_error(share, tmp_path):
    whole = archive(tmp_path / "a.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedFileError, match="cut off or no tar archive"):
        list(read_members(cut, lambda name: True))


def test_a_truncated_plain_archive_is_a_clear_error(tmp_path):
    path = archive(tmp_path / "a.tar", mode="w")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DamagedFileError, match="cut off"):
        list(read_members(path, lambda name: True))


def test_what_is_no_archive_is_a_clear_error_and_an_absent_file_is_named(tmp_path):
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(DamagedFileError, match="no tar archive"):
        list(read_members(tmp_path / "page.tar.gz", lambda name: True))
    with pytest.raises(FileNotFoundError):
        list(read_members(tmp_path / "absent", lambda name: True))


def test_a_digest_that_differs_is_an_error_with_both_values(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    check_digest(path, ("md5", "900150983cd24fb0d6963f7d28e17f72"))
    check_digest(path, ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"))
    with pytest.raises(DamagedFileError, match="its md5 is 900150983cd24fb0d6963f7d28e17f72, not 0000"):
        check_digest(path, ("md5", "0000"))
